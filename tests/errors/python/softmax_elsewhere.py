import attncc
from attncc import At, hooks, softmax


@attncc.variant
def sink(at: At):
    return hooks(weight=softmax(sink=1.0))


sink()
