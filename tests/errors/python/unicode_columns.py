import attncc
from attncc import At, hooks


@attncc.variant
def fenêtre(at: At, *, größe: int = 128):
    return hooks(mask=(at.q >= at.k) & (größe and at.q - at.k < größe))


fenêtre()
