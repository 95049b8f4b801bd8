"""Logits as a kernel evaluates them: over the raw dot product, in the log2 domain, with few multiplications a pair.

Softmax needs exp(x) = exp2(x·log2 e), and every score starts as dot · sm_scale. Both factors, and every other factor
that is the same for all keys of a row, are moved together, so that plain attention is one multiplication by a hoisted
value and softcap is (c·log2 e) · tanh(dot · (sm_scale / c)). Products are reassociated: results agree to rounding, not
bit for bit. Knows the IR and the stages of dependence.py; it makes no code.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from attncc.ir.nodes import Binary, Branch, Const, Expr, Input, Reduce, Select, Unary, Variant
from attncc.ir.types import Type
from attncc.ir.walk import substitute, walk
from attncc.passes.canonicalize import default_score, simplified
from attncc.passes.dependence import Facts, facts, stage

LOG2E = math.log2(math.e)
_MAX_DEPTH = 150  # formulas nested deeper than this are scaled as a whole; the rewrite recurses


@dataclass(frozen=True)
class Factor:
    """const · Π num / Π den, where every expression is known once per row or work item."""

    const: float = 1.0
    num: tuple[Expr, ...] = ()
    den: tuple[Expr, ...] = ()

    def __mul__(self, other: Factor) -> Factor:
        return Factor(self.const * other.const, self.num + other.num, self.den + other.den)

    @property
    def number(self) -> float | None:
        """The value, where it is a number; one that only rounding keeps from 1 is 1."""
        if self.num or self.den:
            return None
        return 1.0 if abs(self.const - 1.0) < 1e-12 else self.const


ONE = Factor()


def fold_scale(branch: Branch, scale: Expr | None = None, variant: Variant | None = None) -> Expr | None:
    """log2(e) · logits of a canonical softmax branch, over ``Input("score", branch)`` that means the RAW dot product.

    ``scale`` stands for sm_scale; by default it stays ``Input("sm_scale", branch)``. None where the score hook is not a
    function of dot(query, key), so that no raw product exists.
    """
    return _fold(branch, _logits(branch), Factor(LOG2E), scale, variant)


def fold_weight(branch: Branch, scale: Expr | None = None, variant: Variant | None = None) -> Expr | None:
    """``weight`` of a branch that has one, over the raw dot product as in ``fold_scale``; not in the log2 domain."""
    if branch.weight is None:
        raise ValueError(f"branch {branch.name!r} is normalised by softmax and has no weight")
    weight = substitute(branch.weight, {Input("logits", branch.name): _logits(branch)})
    return _fold(branch, weight, ONE, scale, variant)


def is_scaled_dot(branch: Branch) -> bool:
    """Whether the score reads query and key through dot(query, key) alone; a kernel has no other product."""
    return _score_of(branch, Input("dot", branch.name)) is not None


def fold_sink(branch: Branch) -> Expr | None:
    """log2(e) · the sink logit, None without a sink."""
    if branch.sink is None:
        return None
    return simplified(Binary("mul", branch.sink, Const(LOG2E, Type.F32)))


def _logits(branch: Branch) -> Expr:
    return Input("score", branch.name) if branch.logits is None else branch.logits


def _fold(branch: Branch, expr: Expr, factor: Factor, scale: Expr | None, variant: Variant | None) -> Expr | None:
    raw = Input("dot", branch.name)
    score = _score_of(branch, raw)
    if score is None:
        return None
    sm_scale = Input("sm_scale", branch.name)
    expr = substitute(expr, {Input("score", branch.name): score})
    if scale is not None:
        expr = substitute(expr, {sm_scale: scale})
    known = facts(expr, variant=variant, branch=branch)
    folded = simplified(_Folder(expr, raw, known).scaled(expr, factor))
    return substitute(folded, {raw: Input("score", branch.name)})


def _score_of(branch: Branch, raw: Expr) -> Expr | None:
    """The score hook over the raw dot product, or None if it reads vectors in another way."""
    name = branch.name
    score = default_score(name) if branch.score is None else branch.score
    dot = next(node for node in walk(default_score(name)) if isinstance(node, Reduce))
    score = substitute(score, {dot: raw})
    reads = {node.name for node in walk(score) if isinstance(node, Input)}
    return score if reads <= {"dot", "sm_scale"} else None


class _Folder:
    """Pushes a factor down to where it costs least: into hoisted values, or onto the raw product."""

    def __init__(self, root: Expr, raw: Expr, known: dict[Expr, Facts]) -> None:
        self.facts = known
        self.reads: set[Expr] = set()
        self.linear = {raw}  # products of the raw score and uniform values
        self.done: dict[tuple[Expr, Factor], Expr] = {}
        self.users: Counter[Expr] = Counter()
        depth: dict[Expr, int] = {}
        for node in walk(root):
            self.users.update(node.operands)
            depth[node] = 1 + max((depth[operand] for operand in node.operands), default=0)
            if node is raw or any(operand in self.reads for operand in node.operands):
                self.reads.add(node)
                if self._is_product(node) and self._is_linear(node):
                    self.linear.add(node)
        self.raw = raw
        self.deep = depth[root] > _MAX_DEPTH

    def scaled(self, node: Expr, factor: Factor) -> Expr:
        """An expression equal to ``factor · node``."""
        key = (node, factor)
        if key not in self.done:
            self.done[key] = self._scaled(node, factor)
        return self.done[key]

    def _scaled(self, node: Expr, factor: Factor) -> Expr:
        if node is self.raw or self.deep:
            return self.times(node, factor)
        if node not in self.reads:
            return self._scaled_free(node, factor)
        if self.users[node] > 1 and factor.number != 1.0 and not self._is_product(node):
            return self.times(self.scaled(node, ONE), factor)  # computed once, used by all
        positive = factor.number is not None and factor.number > 0
        match node:
            case Unary(op="neg") | Binary(op="mul" | "div"):
                return self._product(node, factor)
            case Binary(op="add" | "sub"):
                return Binary(node.op, self.scaled(node.left, factor), self.scaled(node.right, factor))
            case Select():
                return Select(node.cond, self.scaled(node.then, factor), self.scaled(node.other, factor))
            case Binary(op="min" | "max") if positive:
                return Binary(node.op, self.scaled(node.left, factor), self.scaled(node.right, factor))
            case Unary(op="abs") if positive:
                return Unary("abs", self.scaled(node.operand, factor))
            case Unary(op="exp"):
                return self.times(Unary("exp2", self.scaled(node.operand, Factor(LOG2E))), factor)
            case Unary(op="log"):
                return self.times(Unary("log2", self.scaled(node.operand, ONE)), factor * Factor(1 / LOG2E))
        inside = (self.scaled(operand, ONE) for operand in node.operands)
        return self.times(node.with_operands(inside), factor)

    def times(self, node: Expr, factor: Factor) -> Expr:
        """``node · factor`` as one multiplication by a value of the earliest stage."""
        if factor.number in (1.0, -1.0):
            return node if factor.number == 1.0 else Unary("neg", node)
        return Binary("mul", node, self.value(factor))

    def value(self, factor: Factor) -> Expr:
        """The factor as an expression: what is uniform over the work item first, so that it is computed first."""
        parts: list[tuple[str, str, Expr]] = [("item", "mul", Const(factor.const, Type.F32))]
        parts += [(stage(self.facts[node]), "mul", node) for node in factor.num]
        parts += [(stage(self.facts[node]), "div", node) for node in factor.den]
        parts.sort(key=lambda part: (part[0] != "item", part[1] != "mul"))
        result: Expr = Const(1.0, Type.F32)
        for _, op, node in parts:
            result = Binary(op, result, node)
        return result

    def _is_product(self, node: Expr) -> bool:
        return isinstance(node, Unary | Binary) and node.op in ("neg", "mul", "div")

    def _is_linear(self, node: Expr) -> bool:
        if isinstance(node, Binary) and node.op == "mul" and self._uniform(node.left):
            return node.right in self.linear
        first, *others = node.operands
        return first in self.linear and all(self._uniform(other) for other in others)

    def _uniform(self, node: Expr) -> bool:
        return node not in self.reads and stage(self.facts[node]) in ("item", "row")

    def _product(self, node: Expr, factor: Factor) -> Expr:
        """A chain of products: uniform factors join ``factor``, which goes to the first factor that reads the score."""
        varying: list[tuple[str, Expr]] = []
        factor = self._collect(node, factor, varying)
        reading = [item for item in varying if item[1] in self.reads and item[0] == "mul"]
        first = reading[0] if reading else None
        if first is None:
            result = self.value(factor)
        else:
            varying.remove(first)
            result = self.scaled(first[1], factor)
        for op, item in varying:
            result = Binary(op, result, self.scaled(item, ONE))
        return result

    def _collect(self, node: Expr, factor: Factor, varying: list[tuple[str, Expr]]) -> Factor:
        stack = [node]
        while stack:
            item = stack.pop()
            shared = item is not node and self.users[item] > 1 and item not in self.linear
            if isinstance(item, Const):
                factor = factor * Factor(float(item.value))
            elif self._uniform(item) and (shared or not (isinstance(item, Binary) and item.op == "mul")):
                factor = factor * Factor(num=(item,))
            elif shared:
                varying.append(("mul", item))  # computed once, used by all
            elif isinstance(item, Unary) and item.op == "neg":
                factor = factor * Factor(-1.0)
                stack.append(item.operand)
            elif isinstance(item, Binary) and item.op == "mul":
                stack += (item.right, item.left)
            elif isinstance(item, Binary) and item.op == "div":
                stack.append(item.left)
                if isinstance(item.right, Const) and item.right.value:
                    factor = factor * Factor(1.0 / float(item.right.value))
                elif self._uniform(item.right):
                    factor = factor * Factor(den=(item.right,))  # x / 0 = 0 = x · (1 / 0)
                else:
                    varying.append(("div", item.right))
            else:
                varying.append(("mul", item))
        return factor

    def _scaled_free(self, node: Expr, factor: Factor) -> Expr:
        """A term that does not read the score: keys and rows scale theirs when they compute it."""
        if factor.number == 1.0:
            return node
        if isinstance(node, Const) and factor.number is not None:
            return Const(float(node.value) * factor.number, Type.F32)
        if isinstance(node, Select) and factor.number is not None:
            arms = (node.then, node.other)
            if all(isinstance(arm, Const) for arm in arms):
                return Select(node.cond, *(self._scaled_free(arm, factor) for arm in arms))
        if self._uniform(node) or not self._is_product(node):
            return self.times(node, factor)
        return self._product(node, factor)
