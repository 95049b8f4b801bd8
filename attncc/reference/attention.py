"""The oracle: what a variant computes, with numpy, hook by hook in the order of section 3 of the design.

Positions, indices and score-free float expressions are evaluated in f32, as a kernel computes them; dot products, what
follows from the score, the reduction and P·V in float64. With ``dtype`` the same formula is *eager*: every operation on
data rounded to that dtype, the reduction's internals in f32, which is what the accuracy bounds compare kernels with.

Work goes block by block over heads and rows, so memory does not grow with the square of the length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from attncc.diagnostics import LanguageError
from attncc.ir.extents import channel_lengths
from attncc.ir.nodes import SOFTMAX, Binary, Branch, Expr, Input, Reduce, Variant
from attncc.ir.walk import walk
from attncc.reference.blocks import pair_bytes, split
from attncc.reference.call import Block, Call, PerRequest, Sizes, default_sm_scale, make_call
from attncc.reference.evaluate import Scope, evaluate, is_data
from attncc.reference.reductions import finish, lift_softmax, lift_weighted
from attncc.reference.rounding import EXACT, PRECISIONS, Array

BLOCK_BYTES = 256 * 2**20
_PAIR_REDUCTIONS = ("expect", "rowmax", "colsum")


@dataclass(frozen=True)
class Result:
    """``out`` [batch, qo_len, num_heads, head_dim_v], ``lse`` [batch, qo_len, num_heads], both float64; each emit is
    [batch, qo_len, num_heads], or [batch, kv_len, num_heads] for one value per column.

    ``lse`` is None unless the variant is one softmax. Rows past a request's ``qo_lens`` hold out = 0, lse = −inf and
    emits of 0, columns past its ``kv_lens`` emits of 0.
    """

    out: Array
    lse: Array | None
    emits: dict[str, Array]


def attention(
    variant: Variant,
    q: Array,
    k: Array,
    v: Array,
    *,
    params: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    operands: Mapping[str, Any] | None = None,
    sm_scale: float | Array | None = None,
    q_start: PerRequest = None,
    k_start: PerRequest = None,
    qo_lens: PerRequest = None,
    kv_lens: PerRequest = None,
    dtype: str | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Result:
    """Evaluate ``variant`` on q [batch, qo_len, num_heads, head_dim], k [batch, kv_len, num_kv_heads, head_dim] and
    v [batch, kv_len, num_kv_heads, head_dim_v].

    ``params`` are scalars or [batch]; ``tensors`` the captured tensors; ``operands`` extra score operands, as q or k.
    Starts and lengths are an int or [batch]. ``dtype`` ("bf16", "f16", "f32") asks for the eager evaluation.
    ``require`` is the caller's to check. Raises ValueError where arrays do not fit.
    """
    sizes = _sizes(q, k, v)
    call = make_call(
        variant,
        sizes,
        params=params,
        tensors=tensors,
        operands=operands,
        sm_scale=sm_scale,
        q_start=q_start,
        k_start=k_start,
        qo_lens=qo_lens,
        kv_lens=kv_lens,
        precision=EXACT if dtype is None else PRECISIONS[dtype],
    )
    return _Attention(call, q, k, v, block_bytes).run()


def attended(
    variant: Variant,
    *,
    sizes: Sizes,
    params: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
    q_start: PerRequest = None,
    k_start: PerRequest = None,
    qo_lens: PerRequest = None,
    kv_lens: PerRequest = None,
    branch: str | None = None,
) -> Array:
    """The mask alone, bool [batch, num_heads, qo_len, kv_len]; False outside a request's rows and columns.

    ``branch`` names the branch of a variant that has several. What a ``logits`` of −inf hides is not looked at.
    """
    call = make_call(
        variant,
        sizes,
        params=params,
        tensors=tensors,
        operands={operand.name: np.zeros(0) for operand in variant.operands},
        q_start=q_start,
        k_start=k_start,
        qo_lens=qo_lens,
        kv_lens=kv_lens,
    )
    hooks = variant.branches[0] if branch is None else variant.branch(branch)
    found = np.zeros((sizes.batch, sizes.num_heads, sizes.qo_len, sizes.kv_len), np.bool_)
    for b in range(sizes.batch):
        block = Block(b, range(sizes.num_heads), range(int(call.qo_lens[b])), range(int(call.kv_lens[b])))
        found[b, :, : len(block.rows or ()), : len(block.cols or ())] = _mask(call, hooks, block)
    return found


@dataclass(frozen=True)
class _Rows:
    """What one branch gives for a block of rows. Arrays over pairs are over ``cols``, the columns looked at."""

    cols: range
    attend: Array
    logits: Array
    prob: Array | None
    out: Array
    total: Array
    lse: Array | None


@dataclass
class _Attention:
    call: Call
    q: Array
    k: Array
    v: Array
    block_bytes: int
    vectors: dict[tuple[str, str], Array] = field(default_factory=dict)

    def run(self) -> Result:
        call, sizes = self.call, self.call.sizes
        variant = call.variant
        self.value_length = self._length(variant.branches[0].value, sizes.head_dim_v, {})
        length = self._length(variant.output, self.value_length, {"head_dim_v": self.value_length})
        out = np.zeros((sizes.batch, sizes.qo_len, sizes.num_heads, length))
        softmax = len(variant.branches) == 1 and variant.reduction(variant.branches[0]) is SOFTMAX
        lse = np.full((sizes.batch, sizes.qo_len, sizes.num_heads), -np.inf) if softmax else None
        emits = {
            emit.name: np.zeros((sizes.batch, sizes.qo_len if emit.axis == "row" else sizes.kv_len, sizes.num_heads))
            for emit in variant.emits
        }
        weights = pair_bytes(variant, max(call.channels, 1))
        for b in range(sizes.batch):
            rows, cols = int(call.qo_lens[b]), int(call.kv_lens[b])
            for heads, parts in split(sizes.num_heads, rows, cols, weights, self.block_bytes):
                self.vectors.clear()
                sums: dict[Expr, Array] = {}
                for part in parts:
                    block = Block(b, heads, part, range(cols))
                    done = {branch.name: self._branch(branch, block) for branch in variant.branches}
                    out[b, part.start : part.stop, heads.start : heads.stop] = self._output(block, done)
                    if lse is not None:
                        only = next(iter(done.values())).lse
                        assert only is not None
                        lse[b, part.start : part.stop, heads.start : heads.stop] = only.T
                    self._emit_rows(block, done, emits, sums)
                self._emit_columns(Block(b, heads, None, range(cols)), sums, emits)
        return Result(out, lse, emits)

    # Hooks, in order --------------------------------------------------------------------------------------------------

    def _branch(self, branch: Branch, block: Block) -> _Rows:
        call = self.call
        assert block.cols is not None
        attend = _mask(call, branch, block)
        seen = np.flatnonzero(attend.any(axis=(0, 1)))
        first, last = (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, 0)
        attend = attend[:, :, first:last]
        pairs = Block(
            block.b, block.heads, block.rows, range(first, last)
        )  # columns nobody looks at need no evaluation
        shape = attend.shape
        score = _pairs(self._score(branch, pairs), shape)
        logits = score
        if branch.logits is not None:
            logits = _pairs(self._evaluate(branch, branch.logits, pairs, score=score), shape)
        attend = attend & (logits != -np.inf)
        values = self._vector(branch, "value", block)[:, first:last]
        if branch.weight is None:
            return self._softmax(branch, pairs, attend, logits, values)
        found = self._evaluate(branch, branch.weight, pairs, attend=attend, score=score, logits=logits)
        return self._weighted(branch, pairs, attend, logits, _pairs(found, shape), values)

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

    def _softmax(self, branch: Branch, block: Block, attend: Array, logits: Array, values: Array) -> _Rows:
        sink = None
        if branch.sink is not None:
            rows = attend.shape[:2]
            sink = np.broadcast_to(self._evaluate(branch, branch.sink, _without_columns(block))[..., 0, 0], rows)
        state = lift_softmax(logits, attend, values)
        done = finish(state, sink=sink)
        out, prob = done.out, None
        assert done.lse is not None
        if self.call.precision is not EXACT or self._reads_prob():
            with np.errstate(all="ignore"):
                prob = np.where(attend, np.exp(logits - done.lse[..., None].astype(logits.dtype)), 0)
        if self.call.precision is not EXACT:
            assert prob is not None
            prob = self.call.precision.round(prob)
            out = self.call.precision.round(np.matmul(prob, values))
        return _Rows(_columns(block), attend, logits, prob, out, done.total, done.lse)

    def _weighted(
        self, branch: Branch, block: Block, attend: Array, logits: Array, weight: Array, values: Array
    ) -> _Rows:
        state = lift_weighted(weight, attend, values)
        denominator = None
        if branch.normalize is not None:
            scope = self._scope(branch, _without_columns(block), total=state.values[0][..., None, None])
            denominator = np.broadcast_to(_internal(scope, branch.normalize)[..., 0, 0], attend.shape[:2])
        done = finish(state, denominator=denominator)
        # a row without a pair is 0 whatever its denominator
        out = np.where(attend.any(axis=2)[..., None], done.out, 0)
        prob = None
        if self._reads_prob():
            shares = np.ones(attend.shape[:2]) if denominator is None else denominator
            with np.errstate(all="ignore"):
                prob = np.where(attend & np.not_equal(shares, 0)[..., None], weight / shares[..., None], 0)
        return _Rows(_columns(block), attend, logits, prob, self.call.precision.round(out), done.total, None)

    def _output(self, block: Block, done: Mapping[str, _Rows]) -> Array:
        variant = self.call.variant
        if variant.output is None:
            found = next(iter(done.values())).out
        else:
            scope = self.call.scope(_without_columns(block), inputs=_row_results(done))
            value = evaluate(variant.output, scope)
            length = self._length(variant.output, self.value_length, {"head_dim_v": self.value_length})
            heads, rows = next(iter(done.values())).out.shape[:2]
            found = np.broadcast_to(_channels(value, length)[:, :, 0], (heads, rows, length))
        return found.swapaxes(0, 1)

    # Emits ------------------------------------------------------------------------------------------------------------

    def _reads_prob(self) -> bool:
        return any(
            (isinstance(node, Input) and node.name == "prob") or (isinstance(node, Reduce) and node.kind == "expect")
            for emit in self.call.variant.emits
            for node in walk(emit.value)
        )

    def _emit_rows(
        self, block: Block, done: Mapping[str, _Rows], emits: dict[str, Array], sums: dict[Expr, Array]
    ) -> None:
        """Row emits of a block, and the block's share of every ``colsum``."""
        assert block.rows is not None
        for emit in self.call.variant.emits:
            inputs = _row_results(done)
            for node in walk(emit.value):
                if not isinstance(node, Reduce) or node.kind not in _PAIR_REDUCTIONS:
                    continue
                part = done[_branch_of(node, done)]
                scope = self.call.scope(
                    Block(block.b, block.heads, block.rows, part.cols),
                    inputs={**inputs, **_pair_results(done)},
                    attend=part.attend,
                    prob=part.prob,
                )
                value = _internal(scope, node)
                if node.kind == "colsum":
                    if emit.axis != "col" or any(_is_colsum(below) for below in walk(node.body)):
                        raise _nested(node)
                    sums.setdefault(node, np.zeros((len(block.heads), 1, int(self.call.kv_lens[block.b]), 1)))
                    sums[node][:, :, part.cols.start : part.cols.stop] += value
                else:
                    inputs[node] = value
            if emit.axis == "row":
                value = _internal(self.call.scope(_without_columns(block), inputs=inputs), emit.value)
                shape = (len(block.heads), len(block.rows))
                target = emits[emit.name][block.b, block.rows.start : block.rows.stop]
                target[:, block.heads.start : block.heads.stop] = np.broadcast_to(value[..., 0, 0], shape).T

    def _emit_columns(self, block: Block, sums: Mapping[Expr, Array], emits: dict[str, Array]) -> None:
        assert block.cols is not None
        for emit in self.call.variant.emits:
            if emit.axis != "col":
                continue
            zero = np.zeros((1, 1, 1, 1))
            inputs = {node: sums.get(node, zero) for node in walk(emit.value) if _is_colsum(node)}
            value = _internal(self.call.scope(block, inputs=inputs), emit.value)
            shape = (len(block.heads), len(block.cols))
            target = emits[emit.name][block.b, : len(block.cols)]
            target[:, block.heads.start : block.heads.stop] = np.broadcast_to(value[:, 0, :, 0], shape).T

    # Values -----------------------------------------------------------------------------------------------------------

    def _scope(self, branch: Branch, block: Block, *, attend: Array | None = None, **inputs: Array) -> Scope:
        """A scope in which the branch's inputs are known with and without the branch's name."""
        named: dict[Expr, Array] = {}
        for name, value in inputs.items():
            four = value[..., None] if value.ndim == 3 else value
            named[Input(name)] = named[Input(name, branch.name)] = four
        return self.call.scope(block, inputs=named, attend=attend)

    def _evaluate(
        self, branch: Branch, expr: Expr, block: Block, *, attend: Array | None = None, **inputs: Array
    ) -> Array:
        return evaluate(expr, self._scope(branch, block, attend=attend, **inputs))

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
        value = self._evaluate(branch, branch.query, _without_columns(block), query=stored)
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
            vectors = np.broadcast_to(_channels(value, length), (len(heads), 1, cols, length))
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


def _mask(call: Call, branch: Branch, block: Block) -> Array:
    """The mask over a block, [heads, rows, columns]."""
    assert block.rows is not None
    assert block.cols is not None
    shape = (len(block.heads), len(block.rows), len(block.cols))
    if branch.mask is None:
        return np.ones(shape, np.bool_)
    return _pairs(evaluate(branch.mask, call.scope(block)), shape)


def _internal(scope: Scope, expr: Expr) -> Array:
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


def _without_columns(block: Block) -> Block:
    return Block(block.b, block.heads, block.rows)


def _columns(block: Block) -> range:
    assert block.cols is not None
    return block.cols


def _row_results(done: Mapping[str, _Rows]) -> dict[Expr, Array]:
    found: dict[Expr, Array] = {}
    for name, part in done.items():
        found[Input("out", name)] = part.out[:, :, None]
        found[Input("total", name)] = part.total[..., None, None]
        if part.lse is not None:
            found[Input("lse", name)] = part.lse[..., None, None]
    return found


def _pair_results(done: Mapping[str, _Rows]) -> dict[Expr, Array]:
    found: dict[Expr, Array] = {}
    for name, part in done.items():
        found[Input("logits", name)] = part.logits[..., None]
        if part.prob is not None:
            found[Input("prob", name)] = part.prob[..., None]
    return found


def _is_colsum(node: Expr) -> bool:
    return isinstance(node, Reduce) and node.kind == "colsum"


def _branch_of(node: Reduce, done: Mapping[str, _Rows]) -> str:
    """Whose pairs a reduction runs over: the branch its body reads."""
    read = {below.branch for below in walk(node.body) if isinstance(below, Input)}
    if len(done) == 1:
        return next(iter(done))
    if len(read) != 1:
        raise LanguageError(
            "A0410",
            f"`{node.kind}` needs the pairs of one branch",
            expected="a body that reads one branch",
            got=", ".join(sorted(read)) or "none",
            help=f"write one `{node.kind}` per branch",
        )
    return read.pop()


def _nested(node: Reduce) -> LanguageError:
    return LanguageError(
        "A0410",
        "a sum over all rows is known after the last row only",
        expected="colsum(x) outside other reductions, in an emit per column",
        got=f"`{node.kind}` inside a reduction",
        help="emit the column sums, and combine them outside",
    )


def _sizes(q: Array, k: Array, v: Array) -> Sizes:
    if q.ndim != 4 or k.ndim != 4 or v.ndim != 4 or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ValueError(f"q {q.shape}, k {k.shape} and v {v.shape} are not one attention")
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"{q.shape[0]} requests in q, {k.shape[0]} in k")
    return Sizes(q.shape[0], q.shape[2], k.shape[2], q.shape[3], v.shape[3], q.shape[1], k.shape[1])
