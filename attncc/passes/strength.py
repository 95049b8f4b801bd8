"""Expensive operations as cheaper ones of the same value: powers of two divide by shifting, squares multiply.

Knows the IR. Integer rules are exact; ``pow(2, x)`` and ``pow(x, 2)`` are as accurate as what they replace.
"""

from __future__ import annotations

from dataclasses import dataclass

from attncc.ir.extents import is_shape
from attncc.ir.nodes import Binary, Const, Expr, Unary, Variant
from attncc.ir.types import Type
from attncc.ir.walk import rewrite_variant


@dataclass(frozen=True)
class ReduceStrength:
    """The pass."""

    name: str = "strength"

    def apply(self, variant: Variant) -> Variant:
        return rewrite_variant(variant, _cheaper)


def _cheaper(node: Expr) -> Expr:
    match node:
        case Binary(op="floordiv" | "mod", right=Const() as right) if node.type.is_integer:
            size = int(right.value)
            if size <= 0 or size & (size - 1) or is_shape(node):
                return node  # shapes keep the few operations that the host evaluates
            # Floor division and an arithmetic shift round alike; & of two's complement is the floored remainder.
            if node.op == "mod":
                return Binary("bitand", node.left, Const(size - 1, node.type))
            return Binary("shr", node.left, Const(size.bit_length() - 1, node.type))
        case Binary(op="pow", left=base, right=Const(value=2.0)):
            return Binary("mul", base, base)
        case Binary(op="pow", left=Const(value=2.0), right=exponent) if node.type is Type.F32:
            return Unary("exp2", exponent)
    return node
