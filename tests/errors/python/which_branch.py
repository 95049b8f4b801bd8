import attncc
from attncc import At, branch, hooks


@attncc.variant
def differential(at: At, *, lam: float = 0.5):
    half = at.head_dim // 2
    return hooks(
        branches={
            "x": branch(query=at.query[:half], key=at.key[:half]),
            "y": branch(query=at.query[half:], key=at.key[half:]),
        },
        output=at.out - lam * at.branch("y").out,
    )


differential()
