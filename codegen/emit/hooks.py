"""A variant's hooks as a kernel evaluates them: raw scores, log2 domain, storage indices, single channels.

Knows the IR and its passes, not C++.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attncc.codegen.emit.columns import by_step
from attncc.codegen.emit.diagonals import OnDiagonal, by_diagonal
from attncc.codegen.emit.expressions import score_dependent
from attncc.codegen.emit.params import over_tokens
from attncc.codegen.emit.positions import COL, COL_STEP, positions
from attncc.codegen.emit.screen import ScreenHook, screen_hook
from attncc.codegen.emit.stages import TRANSCENDENTAL, split_loads
from attncc.codegen.emit.vectors import VectorHook, vector_hook, with_reads
from attncc.codegen.emit.views import Element, Fetch
from attncc.ir.nodes import INPUTS, Binary, Branch, Expr, Input, Param, Select, Unary, Variant
from attncc.ir.types import Type
from attncc.ir.walk import substitute, walk
from attncc.passes.key_bias import key_bias_of
from attncc.passes.scale import fold_scale, fold_sink, fold_weight

SERVES = frozenset(
    {"sm_scale", "query", "key", "value", "score", "logits", "mask", "sink", "weight", "normalize", "output"}
)
SCORE, TOTAL, LSE = Input("score"), Input("total"), Input("lse")
REFERENCE = Input("reference")  # of a row: what a kernel subtracts from its logits, a value of the softmax's state
SM_SCALE = Param("$sm_scale", Type.F32)  # the block's value, uniform over heads; no user's name starts with $


@dataclass(frozen=True)
class Hooks:
    """The hooks as a kernel evaluates them: storage indices, the log2 domain, ``score`` the raw dot product.

    Either ``logits`` (``plain``: it only scales; ``special``: the score goes through a special function; ``added``: it
    is the sum of these two, a scaled score and a bias by key) and perhaps ``sink``, or ``weight``, which is not in the
    log2 domain, and perhaps ``normalize``. ``vectors`` by the vector they transform (query, key, value, out), and as
    they were ``written``.
    """

    logits: Expr | None
    plain: bool
    special: bool
    mask: Expr | None
    sink: Expr | None
    weight: Expr | None
    normalize: Expr | None
    vectors: Mapping[str, VectorHook]
    written: Mapping[str, Expr]
    screen: ScreenHook | None  # of the mask, where captured values can prove tiles empty
    added: tuple[Expr, Expr] | None = None

    @property
    def pairs(self) -> list[Expr]:
        """What is computed after a row's and a key's values are there."""
        hooks = (self.logits, self.weight, self.mask, self.normalize, *(self.added or ()))
        return [expr for expr in hooks if expr is not None]

    @property
    def rows(self) -> list[Expr]:
        """What is computed with a row's values."""
        return [self.sink] if self.sink is not None else []

    @property
    def channels(self) -> list[Expr]:
        """What is computed for single channels of vectors."""
        return [expr for hook in self.vectors.values() for expr in (hook.value, *hook.terms)]

    @property
    def screened(self) -> tuple[Expr, ...]:
        """What the screen computes of items, rows and columns."""
        return () if self.screen is None else self.screen.exprs


def kernel_hooks(variant: Variant) -> Hooks:
    """What the Variant's functions compute. Raises ValueError on hooks outside SERVES; families refuse them before."""
    if len(variant.branches) != 1 or variant.operands or variant.emits:
        raise ValueError(f"{variant.name}: only a single branch without operands and emits is emitted")
    (branch,) = variant.branches
    if unserved := branch.hooks().keys() - SERVES:
        raise ValueError(f"{variant.name}: no code for {', '.join(sorted(unserved))}")
    if variant.reduction(branch).order != "any":
        raise ValueError(f"{variant.name}: no code for after()")
    weighted = branch.weight is not None
    value = (fold_weight if weighted else fold_scale)(branch, _scale(branch), variant)
    if value is None:
        raise ValueError(f"{variant.name}: its score is no function of dot(query, key)")

    tokens = {tensor.name for tensor in variant.tensors if over_tokens(tensor)}

    mask = None if branch.mask is None else _rename(branch.mask, branch)
    value = _rename(value, branch)
    added = None if weighted else key_bias_of(value, branch, variant)
    if added is not None:
        value = Binary("add", *added)
    staged = by_diagonal([value] if mask is None else [value, mask], variant)

    def to_kernel(expr: Expr) -> Expr:
        return split_loads(positions(substitute(_rename(expr, branch), staged)), tokens)

    vectors = {"query": branch.query, "key": branch.key, "value": branch.value, "out": variant.output}
    written = {name: expr for name, expr in vectors.items() if expr is not None}
    hooks = {name: vector_hook(positions(_rename(expr, branch)), name) for name, expr in written.items()}
    if "out" in hooks:
        hooks["out"] = replace(hooks["out"], value=with_reads(hooks["out"].value, tokens))
    plain = not weighted and branch.logits is None and branch.score is None
    sink, made = fold_sink(branch), by_step(to_kernel(value))
    return Hooks(
        logits=None if weighted else made if plain else _relative(made),
        plain=plain,
        special=not weighted and any(_is_special(node) for node in score_dependent([made])),
        mask=None if mask is None else by_step(to_kernel(mask)),
        sink=None if sink is None else to_kernel(sink),
        weight=made if weighted else None,
        normalize=None if branch.normalize is None else to_kernel(branch.normalize),
        vectors=hooks,
        written=written,
        screen=screen_hook(None if mask is None else positions(mask), tokens),
        added=None if added is None else (to_kernel(added[0]), to_kernel(added[1])),
    )


def _is_special(node: Expr) -> bool:
    return isinstance(node, Unary | Binary) and node.op in TRANSCENDENTAL


def _relative(logits: Expr) -> Expr:
    """``logits`` minus REFERENCE, taken from what is known first of what is added to the score: where that is a row's,
    all of its pairs share the difference."""
    if isinstance(logits, Binary) and logits.op in ("add", "sub"):
        left, right = logits.left, logits.right
        if _late(left) <= _late(right):
            return Binary(logits.op, _relative(left), right)
        if logits.op == "add":
            return Binary("add", left, _relative(right))
        return Binary("sub", left, Binary("add", right, REFERENCE))
    return Binary("sub", logits, REFERENCE)


def _late(expr: Expr) -> int:
    """How late a summand is known: with the score, by pair, by the constant step of a column, before."""
    below = set(walk(expr))
    if SCORE in below:
        return 3
    if any(isinstance(node, OnDiagonal | Element | Fetch) for node in below):
        return 2
    return 1 if COL_STEP in below or COL in below else 0


def _scale(branch: Branch) -> Expr:
    """sm_scale of a call: the block's, unless the variant writes the hook and the block holds NaN ("not given")."""
    if branch.sm_scale is None:
        return SM_SCALE
    return Select(Binary("eq", SM_SCALE, SM_SCALE), SM_SCALE, branch.sm_scale)


def _rename(expr: Expr, branch: Branch) -> Expr:
    """The inputs of a named single branch as those of the unnamed one."""
    return substitute(expr, {Input(name, branch.name): Input(name) for name in INPUTS})
