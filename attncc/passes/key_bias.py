"""A bias by key: logits that are a score times a factor of the work item, and something that varies with the key alone.

Such a sum is a dot product of vectors with one more channel, so a kernel whose products run beside everything else may
have them add it. Knows the IR; whether a kernel does so is its family's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from attncc.ir.nodes import Binary, Branch, Expr, Input, Load, Unary, Variant
from attncc.ir.walk import walk
from attncc.passes.dependence import Facts, facts, stage
from attncc.passes.scale import fold_scale


def has_key_bias(variant: Variant) -> bool:
    """Whether the one branch of a canonical variant has logits that ``split_key_bias`` splits."""
    (branch, *others) = variant.branches
    if others or branch.weight is not None or (branch.logits is None and branch.score is None):
        return False
    logits = fold_scale(branch, variant=variant)
    if logits is None:
        return False
    known = facts(logits, variant=variant, branch=branch)
    return split_key_bias(logits, Input("score", branch.name), known) is not None


def key_bias_of(logits: Expr, branch: Branch, variant: Variant) -> tuple[Expr, Expr] | None:
    """The same two summands of logits over ``Input("score")``, of a branch whose inputs were renamed."""
    return split_key_bias(logits, Input("score"), facts(logits, variant=variant, branch=branch))


def split_key_bias(logits: Expr, score: Expr, known: Mapping[Expr, Facts]) -> tuple[Expr, Expr] | None:
    """``logits`` as (score · factor, bias): the factor known once a work item, the bias by key, from captured tensors.

    None where logits are not such a sum; a bias that reads no tensor costs a kernel nothing as it stands.
    """
    scaled: list[Expr] = []
    added: Expr | None = None
    reads = False
    stack = [(logits, False)]
    while stack:
        node, negative = stack.pop()
        match node:
            case Binary(op="add" | "sub" as op, left=left, right=right):
                stack += [(right, negative != (op == "sub")), (left, negative)]
            case Unary(op="neg", operand=operand):
                stack.append((operand, not negative))
            case _ if _is_scaled(node, score, known):
                scaled.append(Unary("neg", node) if negative else node)
            case _ if stage(known[node]) in ("item", "key"):
                by_key = stage(known[node]) == "key"
                reads = reads or (by_key and any(isinstance(below, Load) for below in walk(node)))
                if added is None:
                    added = Unary("neg", node) if negative else node
                else:
                    added = Binary("sub" if negative else "add", added, node)
            case _:
                return None
    return (scaled[0], added) if len(scaled) == 1 and added is not None and reads else None


def _is_scaled(node: Expr, score: Expr, known: Mapping[Expr, Facts]) -> bool:
    if node is score:
        return True
    if not isinstance(node, Binary) or node.op != "mul" or score not in node.operands:
        return False
    other = node.right if node.left is score else node.left
    return stage(known[other]) == "item"
