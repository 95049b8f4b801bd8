"""Variants in the IR, random calls of them, and what the reference says: shared by the emitter's tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from attncc import grammar
from attncc.codegen.emit.params import over_tokens
from attncc.codegen.select import features
from attncc.ir import build
from attncc.ir.extents import evaluate as evaluate_extent
from attncc.ir.nodes import (
    Branch,
    Coord,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    ParamDecl,
    Reduce,
    Rotate,
    Slice,
    Tensor,
    Variant,
)
from attncc.ir.types import Storage, Type
from attncc.passes.canonicalize import canonicalize
from attncc.reference.call import Block, Sizes, make_call
from attncc.reference.evaluate import evaluate, scalar
from attncc.reference.rounding import PRECISIONS
from tests.unit import emitted

Array = np.ndarray[Any, Any]
SERVES = {"query", "key", "value", "logits", "mask", "sink", "weight", "normalize", "output"}

b, h, hk, row, col, q, k, own = (Coord(axis) for axis in ("b", "h", "hk", "row", "col", "q", "k", "own"))
score = Input("score")
causal = build.compare("<=", k, q)
NUM_HEADS, BATCH, KV_LEN, QO_LEN = (Extent(name) for name in ("num_heads", "batch", "kv_len", "qo_len"))


def op(symbol: str, left: Expr | float, right: Expr | float) -> Expr:
    left, right = (item if isinstance(item, Expr) else build.literal(item) for item in (left, right))
    return build.compare(symbol, left, right) if symbol in build.COMPARE else build.binary(symbol, left, right)


def fn(name: str, *arguments: Expr | float) -> Expr:
    return build.call(name, tuple(item if isinstance(item, Expr) else build.literal(item) for item in arguments))


def make(name: str, *, params: str = "", tensors: tuple[Tensor, ...] = (), **hooks: Expr) -> Variant:
    """``params`` is "softcap:f32=30.0 window:i32=7"."""
    declared = []
    for item in params.split():
        head, _, default = item.partition("=")
        param, _, kind = head.partition(":")
        declared.append(ParamDecl(param, Type(kind), _value(default, Type(kind))))
    return Variant(name, tuple(declared), tensors, branches=(Branch(**hooks),))


def _value(text: str, kind: Type) -> float | int | bool:
    return text == "true" if kind is Type.BOOL else float(text) if kind is Type.F32 else int(text)


def window(width: Expr) -> Expr:
    return build.both(causal, op("<", op("-", q, k), width))


def rotated_part(x: Expr, position: Expr) -> Expr:
    """The second quarter rotated in pairs by a table, scaled by the norm of the first: slices of equal length."""
    quarter = op("//", Extent("head_dim"), 4)
    first = Slice(x, build.i32(0), quarter)
    second = Slice(x, quarter, op("*", quarter, 2))
    turned = op("*", Rotate("pairs", second), Load("angle", (position, Coord("d")), Type.F32))
    norm = fn("sqrt", fn("dot", first, first))
    whole = op("*", Rotate("half", x), op("+", norm, 1.0))
    return op("+", whole, fn("dot", turned, second))


def norms(x: Expr) -> Expr:
    """Layer normalisation: the variance is over what the mean left."""
    size = fn("f32", Extent("head_dim_v"))
    mean = op("/", fn("dot", x, build.f32(1.0)), size)
    centred = op("-", x, mean)
    return op("*", centred, fn("rsqrt", op("+", op("/", fn("dot", centred, centred), size), 1e-3)))


def examples() -> dict[str, Variant]:
    """The variants people know, in the forms a kernel of the first family serves."""
    i = Coord("i0")
    softcap, width = Param("softcap", Type.F32), Param("window", Type.I32)
    slopes = Tensor("slopes", Storage.F32, (NUM_HEADS,))
    doc = Tensor("doc", Storage.I32, (BATCH, KV_LEN))
    span = Tensor("hidden", Storage.I64, (BATCH, KV_LEN, build.i32(2)))
    table = Tensor("table", Storage.BF16, (NUM_HEADS, Extent("buckets")))
    gate = Tensor("gate", Storage.F16, (BATCH, KV_LEN))
    chosen = Tensor("chosen", Storage.I16, (NUM_HEADS, Extent("n")))

    def document(token: Expr) -> Expr:
        return Load("doc", (b, token), Type.I32)

    distance = op("-", q, k)
    bucket = fn("clamp", distance, 0, op("-", Extent("buckets"), 1))
    found = [
        make("dense"),
        make("causal", mask=causal),
        make("nothing", mask=build.FALSE),
        make("gemma2", params="softcap:f32=50.0 window:i32=7", mask=window(width),
             logits=op("*", softcap, fn("tanh", op("/", score, softcap)))),
        make("alibi", tensors=(slopes,), mask=causal,
             logits=op("+", score, op("*", Load("slopes", (h,), Type.F32), op("-", k, q)))),
        make("documents", tensors=(doc,), mask=build.both(causal, op("==", document(own), document(col)))),
        make("gpt_oss", params="window:i32=5", tensors=(Tensor("sink", Storage.BF16, (NUM_HEADS,)),),
             mask=window(width), sink=Load("sink", (h,), Type.F32)),
        make("chunked", params="chunk:i32=4", mask=build.both(causal, op("==", op("//", q, Param("chunk", Type.I32)),
             op("//", k, Param("chunk", Type.I32))))),
        make("dilated", mask=build.both(causal, op("==", op("%", distance, 3), 0))),
        make("relative", tensors=(table,), mask=causal,
             logits=op("+", score, Load("table", (h, bucket), Type.F32))),
        make("forgetting", tensors=(gate,), mask=causal, logits=op("-", op("+", score, Load(
            "gate", (b, own), Type.F32)), Load("gate", (b, col), Type.F32))),
        make("columns", tensors=(span,), mask=build.invert(build.both(
            op("<=", Load("hidden", (b, col, build.i32(0)), Type.I32), row),
            op("<", row, Load("hidden", (b, col, build.i32(1)), Type.I32))))),
        make("vertical", tensors=(chosen,), mask=build.both(causal, build.either(op("<", distance, 3), Reduce(
            "any", op("==", k, Load("chosen", (h, i), Type.I32)), "i0", Extent("n"))))),
        make("temperature", mask=causal, sm_scale=op("/", fn("log", fn("f32", op("+", h, 2))), 8.0)),
        make("bits", tensors=(Tensor("word", Storage.U32, (KV_LEN,)),), mask=op("==", op("&", op(">>", Load(
            "word", (own,), Type.U32), build.cast(op("%", col, 32), Type.U32)), build.Const(1, Type.U32)),
            build.Const(1, Type.U32))),
        make("across_requests", tensors=(doc, Tensor("edge", Storage.F32, (BATCH, QO_LEN, KV_LEN))),
             mask=op("<=", Load("doc", (op("%", op("+", row, col), 3), col), Type.I32), document(row)),
             logits=op("+", score, Load("edge", (b, row, op("+", col, 2)), Type.F32))),
        make("flags", params="on:bool=true shift:u32=3", tensors=(Tensor("global_", Storage.BOOL, (KV_LEN,)),),
             mask=build.either(build.both(Param("on", Type.BOOL), Load("global_", (col,), Type.BOOL)), op("<=", op(
                 "&", build.cast(k, Type.U32), Param("shift", Type.U32)), build.cast(q, Type.U32)))),
        make("partial_rope", tensors=(Tensor("angle", Storage.F32, (Extent("n"), Extent("head_dim"))),),
             query=rotated_part(Input("query"), q), key=rotated_part(Input("key"), k)),
        make("two_norms", value=norms(Input("value"))),
        make("per_request", params="scale:f32=2.0", logits=op("*", score, op("+", Param("scale", Type.F32), b))),
    ]  # fmt: skip
    return {variant.name: variant for variant in found}


def acceptance() -> dict[str, Variant]:
    """The variants of tests/variants and of the examples folder that code is emitted for, by file and name."""
    found = {}
    for path in sorted([*emitted.ROOT.glob("tests/variants/v*.attn"), *emitted.ROOT.glob("examples/*.attn")]):
        for name, definition in grammar.read(path).definitions.items():
            variant = definition.instantiate()
            if features(canonicalize(variant)).hooks <= SERVES:
                found[f"{path.stem}-{name}"] = variant
    return found


SIZES = Sizes(batch=3, num_heads=4, num_kv_heads=2, head_dim=64, head_dim_v=64, qo_len=9, kv_len=14)


def random_case(variant: Variant, seed: int, sizes: Sizes = SIZES, *, starts: bool = True) -> emitted.Case:
    """A call with random lengths, starts, parameters (some per request) and tensors (of any strides)."""
    rng = np.random.default_rng(seed)
    extents = sizes.extents()
    values: dict[str, Array] = {}
    stored: dict[str, Array] = {}
    for tensor in variant.tensors:
        for dim in tensor.dims:
            if isinstance(dim, Extent):
                extents.setdefault(dim.name, int(rng.integers(1, 7)))
        shape = tuple(evaluate_extent(dim, extents) or 0 for dim in tensor.dims)
        stored[tensor.name], values[tensor.name] = random_tensor(rng, tensor.storage, shape)
    params: dict[str, Any] = {}
    for decl in variant.params:
        shape = (sizes.batch,) if rng.random() < 0.4 else ()
        params[decl.name] = random_params(rng, decl, shape)
    lengths: dict[str, Any] = {
        "qo_lens": rng.integers(1, sizes.qo_len + 1, sizes.batch),
        "kv_lens": rng.integers(1, sizes.kv_len + 1, sizes.batch),
    }
    if starts and rng.random() < 0.5:
        lengths["q_start"] = rng.integers(-5, 40, sizes.batch)
    if starts and rng.random() < 0.5:
        lengths["k_start"] = rng.integers(-5, 40, sizes.batch)
    call = make_call(variant, sizes, params=params, tensors=values, **lengths)
    return emitted.Case(call, stored, float(np.float32(rng.uniform(0.05, 0.5))))


def ragged(case: emitted.Case) -> emitted.Case:
    """``case`` with its tensors over tokens stored one request after another, two tokens of none before and after.

    Their last token fills the padding that the reference sees, for an index past it is clamped either way.
    """
    call = case.call
    stored, values, indptr = dict(case.stored), dict(call.tensors), {}
    for tensor in call.variant.tensors:
        if over_tokens(tensor):
            lens = call.qo_lens if tensor.dims[1] is QO_LEN else call.kv_lens
            padded, seen = stored[tensor.name], np.array(values[tensor.name])
            spare = np.full_like(padded[0, :1], 1 if padded.dtype == np.bool_ else 99).repeat(2, axis=0)
            parts = [padded[b, : lens[b]] for b in range(call.sizes.batch)]
            for b, length in enumerate(lens):
                seen[b, length:] = seen[b, length - 1]
            stored[tensor.name] = strided(np.random.default_rng(0), np.concatenate([spare, *parts, spare]))
            values[tensor.name], indptr[tensor.name] = seen, np.cumsum([2, *lens])
    return replace(case, call=replace(call, tensors=values), stored=stored, indptr=indptr)


def random_tensor(rng: np.random.Generator, storage: Storage, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """(what lies in memory, its values), the former with strides that are not those of a fresh array."""
    if storage in (Storage.F32, Storage.F16, Storage.BF16):
        values = rng.normal(size=shape).astype(np.float32)
        if storage is Storage.F32:
            return strided(rng, values), values
        if storage is Storage.F16:
            half = values.astype(np.float16)
            return strided(rng, half), half.astype(np.float32)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        return strided(rng, bits), (bits.astype(np.uint32) << 16).view(np.float32)
    if storage is Storage.BOOL:
        flags = rng.random(shape) < 0.5
        return strided(rng, flags), flags
    dtype = np.dtype({"u8": "u1", "i8": "i1", "i16": "i2", "i32": "i4", "i64": "i8", "u32": "u4"}[storage.value])
    numbers = rng.integers(0 if dtype.kind == "u" else -3, 12, shape).astype(dtype)
    if storage is Storage.U32:
        numbers = rng.integers(0, 2**32, shape, dtype=np.uint32)
    return strided(rng, numbers), numbers


def strided(rng: np.random.Generator, array: Array) -> Array:
    """Equal elements in another memory order: axes swapped, reversed or spread."""
    order = rng.permutation(array.ndim)
    buffer = np.zeros([2 * array.shape[axis] for axis in order], array.dtype)
    steps = [slice(None, None, 2) if rng.random() < 0.5 else slice(None, None, -2) for _ in order]
    view = buffer[tuple(steps)].transpose(np.argsort(order)) if array.ndim else buffer
    view[...] = array
    return view


def random_params(rng: np.random.Generator, decl: ParamDecl, shape: tuple[int, ...]) -> Any:
    if decl.type is Type.F32:
        value = rng.uniform(0.5, 30.0, shape).astype(np.float32)
    elif decl.type is Type.BOOL:
        value = rng.random(shape) < 0.5
    else:
        value = rng.integers(1, 9, shape)
    return value if shape else np.asarray(value).item()


def totals_of(scores: Array) -> Array:
    """Sums of weights [num_heads, rows] to normalise: some below 1, some negative."""
    totals: Array = scores.mean(axis=2).astype(np.float32)
    return totals


def expected(case: emitted.Case, b: int, scores: Array, precision: str = "") -> Mapping[str, Array]:
    """By the reference: logits (log2 domain) or weights and mask [num_heads, rows, cols], and of each row [num_heads,
    rows] the sink (log2 domain) or the denominator of ``totals_of``.

    ``precision`` is a key of the reference's PRECISIONS; by default what depends on the score is in float64.
    """
    call = replace(case.call, precision=PRECISIONS[precision]) if precision else case.call
    (branch,) = call.variant.branches
    block = Block(b, range(call.sizes.num_heads), range(int(call.qo_lens[b])), range(int(call.kv_lens[b])))
    plain = call.scope(block)
    scale = scalar(case.sm_scale, Type.F32)
    if branch.sm_scale is not None and np.isnan(case.sm_scale):
        scale = evaluate(branch.sm_scale, plain)
    scaled = scores.astype(np.float64)[..., None] * scale.astype(np.float64)
    scope = call.scope(block, inputs={score: scaled, Input("sm_scale"): scale})
    pair = evaluate(branch.logits if branch.logits is not None else score, scope)
    mask = evaluate(branch.mask, plain) if branch.mask is not None else np.ones((1, 1, 1, 1), np.bool_)
    factor = np.log2(np.e)
    if branch.weight is not None:
        inputs = {score: scaled, Input("sm_scale"): scale, Input("logits"): pair}
        pair, factor = evaluate(branch.weight, call.scope(block, inputs=inputs)), 1.0
        totals = totals_of(scores).astype(np.float64)[..., None, None]
        ends = call.scope(Block(b, block.heads, block.rows), inputs={Input("total"): totals})
        row = np.ones((1,) * 4) if branch.normalize is None else evaluate(branch.normalize, ends)
    else:
        row = evaluate(branch.sink, plain) if branch.sink is not None else np.full((1,) * 4, -np.inf)
    return {
        "logits": np.broadcast_to(pair[..., 0] * factor, scores.shape),
        "mask": np.broadcast_to(mask[..., 0], scores.shape),
        "row": np.broadcast_to(row.astype(np.float64)[..., 0, 0] * factor, scores.shape[:2]),
    }


def expected_vectors(case: emitted.Case, b: int, name: str, before: Array, state: Array) -> Array:
    """The reference's value of a vector hook, as ``Emitted.vectors`` has it."""
    call = case.call
    (branch,) = call.variant.branches
    root = call.variant.output if name == "out" else getattr(branch, name)
    after = np.empty(before.shape)
    share = call.sizes.group if name in ("key", "value") else 1
    for head in range(before.shape[0]):
        tokens, heads = range(before.shape[1]), range(head * share, head * share + 1)
        on_columns = name in ("key", "value")
        block = Block(b, heads, None if on_columns else tokens, tokens if on_columns else None)

        def shaped(values: Array, on_columns: bool = on_columns) -> Array:
            values = values.astype(np.float64)
            return values[None, None] if on_columns else values[None, :, None]

        inputs = {Input(name): shaped(before[head])}
        inputs |= {Input(end): shaped(state[head, :, i : i + 1]) for i, end in enumerate(("total", "lse"))}
        value = evaluate(root, call.scope(block, inputs=inputs))
        after[head] = np.broadcast_to(value, np.broadcast_shapes(value.shape, inputs[Input(name)].shape)).reshape(
            before.shape[1:]
        )
    return after
