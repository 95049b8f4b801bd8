import attncc


@attncc.variant
class Causal:
    pass
