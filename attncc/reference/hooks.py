"""One branch of a variant over a block of rows: query, key, score, logits, mask, weight, reduction, in that order.

Knows hooks and reductions, nothing of how a call is cut into blocks or of what is emitted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from attncc.ir.extents import channel_lengths
from attncc.ir.nodes import Binary, Branch, Expr, Input, Reduce, Variant
from attncc.ir.walk import walk
from attncc.reference.call import Block, Call, default_sm_scale
from attncc.reference.evaluate import Scope, evaluate, is_data
from attncc.reference.reductions import finish, lift_softmax, lift_weighted, probabilities
from attncc.reference.rounding import EXACT, PRECISIONS, Array


@dataclass(frozen=True)
class Rows:
    """What one branch gives for a block of rows. Arrays over pairs are over ``cols``, the columns looked at."""

    cols: range
    attend: Array
    logits: Array
    prob: Array | None
    out: Array
    total: Array
    lse: Array | None


@dataclass
class Hooks:
    """The hooks of a call. ``vectors`` keeps the keys and values of the heads being worked on."""

    call: Call
    q: Array
    k: Array
    v: Array
    vectors: dict[tuple[str, str], Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        variant, sizes = self.call.variant, self.call.sizes
        self.value_length = self._length(variant.branches[0].value, sizes.head_dim_v, {})
        self.out_length = self._length(variant.output, self.value_length, {"head_dim_v": self.value_length})
        self.keeps_prob = self.call.precision is not EXACT or reads_prob(variant)

    def next_heads(self) -> None:
        """Forget the vectors of the previous block of heads."""
        self.vectors.clear()

    def branch(self, branch: Branch, block: Block) -> Rows:
        call = self.call
        assert block.cols is not None
        attend = mask(call, branch, block)
        seen = np.flatnonzero(attend.any(axis=(0, 1)))
        first, last = (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, 0)
        attend = attend[:, :, first:last]
        pairs = Block(
            block.b, block.heads, block.rows, range(first, last)
        )  # columns nobody looks at need no evaluation
        shape = attend.shape
        score = _pairs(self._wide(self._score(branch, pairs)), shape)
        logits = score
        if branch.logits is not None:
            logits = _pairs(self._wide(self._evaluate(branch, branch.logits, pairs, score=score)), shape)
        attend = attend & (logits != -np.inf)
        values = self._vector(branch, "value", block)[:, first:last]
        if branch.weight is None:
            return self._softmax(branch, pairs, attend, logits, values)
        found = self._evaluate(branch, branch.weight, pairs, attend=attend, score=score, logits=logits)
        return self._weighted(branch, pairs, attend, logits, _pairs(self._wide(found), shape), values)

    def _score(self, branch: Branch, block: Block) -> Array:
        call = self.call
        query = self._query(branch, block)
        key = self._vector(branch, "key", Block(block.b, block.heads, None, range(int(call.kv_lens[block.b]))))
        assert block.cols is not None
        inputs = {
            "query": query,
            "key": key[:, None, block.cols.start : block.cols.stop],
            "sm_scale": self._sm_scale(branch, block),
            **self._operands(block),
        }
        expr = branch.score
        if expr is None:
            expr = Binary("mul", Input("sm_scale"), Reduce("dot", Binary("mul", Input("query"), Input("key"))))
        return self._evaluate(branch, expr, block, **inputs)

    def _softmax(self, branch: Branch, block: Block, attend: Array, logits: Array, values: Array) -> Rows:
        sink = None
        if branch.sink is not None:
            rows = attend.shape[:2]
            found = self._evaluate(branch, branch.sink, without_columns(block))
            sink = np.broadcast_to(self._wide(found)[..., 0, 0], rows)
        state = lift_softmax(logits, attend, values)
        done = finish(state, sink=sink)
        out, prob = done.out, None
        assert done.lse is not None
        if self.keeps_prob:
            prob = probabilities(state, logits, attend, sink=sink)
        if self.call.precision is not EXACT:
            assert prob is not None
            prob = self.call.precision.round(prob)
            out = self.call.precision.round(np.matmul(prob, values))
        return Rows(_columns(block), attend, logits, prob, out, done.total, done.lse)

    def _weighted(
        self, branch: Branch, block: Block, attend: Array, logits: Array, weight: Array, values: Array
    ) -> Rows:
        state = lift_weighted(weight, attend, values)
        denominator = None
        if branch.normalize is not None:
            scope = self._scope(branch, without_columns(block), total=state.values[0][..., None, None])
            found = self._wide(internal(scope, branch.normalize))
            denominator = np.broadcast_to(found[..., 0, 0], attend.shape[:2])
        done = finish(state, denominator=denominator)
        # a row without a pair is 0 whatever its denominator
        out = np.where(np.any(attend, axis=2, keepdims=True), done.out, 0)
        prob = None
        if self.keeps_prob:
            shares = np.ones(attend.shape[:2]) if denominator is None else denominator
            prob = np.where(attend & np.not_equal(shares, 0)[..., None], weight / shares[..., None], 0)
        return Rows(_columns(block), attend, logits, prob, self.call.precision.round(out), done.total, None)

    def output(self, block: Block, done: Mapping[str, Rows]) -> Array:
        variant = self.call.variant
        if variant.output is None:
            found = next(iter(done.values())).out
        else:
            scope = self.call.scope(without_columns(block), inputs=row_results(done))
            value = evaluate(variant.output, scope)
            heads, rows = next(iter(done.values())).out.shape[:2]
            found = np.broadcast_to(_channels(value, self.out_length)[:, :, 0], (heads, rows, self.out_length))
        return found.swapaxes(0, 1)

    def _scope(self, branch: Branch, block: Block, *, attend: Array | None = None, **inputs: Array) -> Scope:
        """A scope in which the branch's inputs are known with and without the branch's name."""
        named: dict[Expr, Array] = {}
        for name, value in inputs.items():
            four = value[..., None] if value.ndim == 3 else value
            if name != "sm_scale":
                four = self._wide(four)
            named[Input(name)] = named[Input(name, branch.name)] = four
        return self.call.scope(block, inputs=named, attend=attend)

    def _evaluate(
        self, branch: Branch, expr: Expr, block: Block, *, attend: Array | None = None, **inputs: Array
    ) -> Array:
        return evaluate(expr, self._scope(branch, block, attend=attend, **inputs))

    def _wide(self, values: Array) -> Array:
        """A hook's result in the work type: a formula without data gives f32, which the reduction must not sum in."""
        return values.astype(self.call.precision.work, copy=False)

    def _work(self, values: Array) -> Array:
        """Storage as the work type of the evaluation, [heads, tokens, channels]."""
        return np.moveaxis(values, 1, 0).astype(self.call.precision.work)

    def _sm_scale(self, branch: Branch, block: Block) -> Array:
        call = self.call
        if call.sm_scale is not None:
            return np.full((1, 1, 1, 1), call.sm_scale[block.b], np.float32)
        if branch.sm_scale is not None:
            return evaluate(branch.sm_scale, call.scope(Block(block.b, block.heads)))
        return np.full((1, 1, 1, 1), default_sm_scale(call.sizes.head_dim), np.float32)

    def _query(self, branch: Branch, block: Block) -> Array:
        assert block.rows is not None
        stored = self._work(self.q[block.b, block.rows.start : block.rows.stop, block.heads.start : block.heads.stop])[
            :, :, None
        ]
        if branch.query is None:
            return stored
        value = self._evaluate(branch, branch.query, without_columns(block), query=stored)
        return _channels(value, self._length(branch.query, self.call.sizes.head_dim, {}))

    def _vector(self, branch: Branch, name: str, block: Block) -> Array:
        """The transformed keys or values of a request, [heads, kv_len, channels]; the same for all blocks of rows."""
        known = self.vectors.get((branch.name, name))
        if known is not None:
            return known
        cols, group = int(self.call.kv_lens[block.b]), self.call.sizes.group
        stored = (self.k if name == "key" else self.v)[block.b, :cols]
        heads = [h // group for h in block.heads]
        vectors = self._work(stored[:, heads])[:, None]
        expr: Expr | None = getattr(branch, name)
        if expr is not None:
            length = self._length(expr, stored.shape[-1], {})
            value = self._evaluate(branch, expr, Block(block.b, block.heads, None, range(cols)), **{name: vectors})
            vectors = np.broadcast_to(_channels(self._wide(value), length), (len(heads), 1, cols, length))
        self.vectors[branch.name, name] = vectors[:, 0]
        return vectors[:, 0]

    def _operands(self, block: Block) -> dict[str, Array]:
        """Extra operands over the block, one vector per query head; fewer heads are shared by groups."""
        assert block.rows is not None
        assert block.cols is not None
        found = {}
        for operand in self.call.variant.operands:
            stored = self.call.operands[operand.name]
            tokens = block.rows if operand.role == "query" else block.cols
            heads = [h * stored.shape[2] // self.call.sizes.num_heads for h in block.heads]
            vectors = self._work(stored[block.b, tokens.start : tokens.stop][:, heads])
            found[operand.name] = vectors[:, :, None] if operand.role == "query" else vectors[:, None]
        return found

    def _length(self, expr: Expr | None, default: int, changed: Mapping[str, int]) -> int:
        if expr is None:
            return default
        length = channel_lengths(expr, self.call.variant, {**self.call.extents, **changed})[expr]
        return default if length is None else length


def mask(call: Call, branch: Branch, block: Block) -> Array:
    """The mask over a block, [heads, rows, columns]."""
    assert block.rows is not None
    assert block.cols is not None
    shape = (len(block.heads), len(block.rows), len(block.cols))
    if branch.mask is None:
        return np.ones(shape, np.bool_)
    return _pairs(evaluate(branch.mask, call.scope(block)), shape)


def internal(scope: Scope, expr: Expr) -> Array:
    """A value inside the reduction: in the work type, not rounded operation by operation."""
    inside = EXACT if scope.precision is EXACT else PRECISIONS["f32"]
    value = evaluate(expr, Scope(**{**vars(scope), "precision": inside}))
    return value.astype(scope.precision.work) if is_data(expr) else value


def _pairs(value: Array, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(value[..., 0], shape)


def _channels(value: Array, length: int) -> Array:
    """A channel vector of ``length``: a bare ``d`` is cut to it, a scalar repeated."""
    cut = value[..., :length]
    return np.broadcast_to(cut, (*cut.shape[:-1], length))


def without_columns(block: Block) -> Block:
    return Block(block.b, block.heads, block.rows)


def _columns(block: Block) -> range:
    assert block.cols is not None
    return block.cols


def row_results(done: Mapping[str, Rows]) -> dict[Expr, Array]:
    found: dict[Expr, Array] = {}
    for name, part in done.items():
        found[Input("out", name)] = part.out[:, :, None]
        found[Input("total", name)] = part.total[..., None, None]
        if part.lse is not None:
            found[Input("lse", name)] = part.lse[..., None, None]
    return found


def reads_prob(variant: Variant) -> bool:
    """Whether an emit needs the probability of each pair."""
    return any(
        (isinstance(node, Input) and node.name == "prob") or (isinstance(node, Reduce) and node.kind == "expect")
        for emit in variant.emits
        for node in walk(emit.value)
    )
