"""From the arguments of a call to a checked one, and to the plan that calls like it share. Knows variants."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from attncc.binding import BoundVariant, bind_extents, check_requires, is_array, over_tokens, refuses_starts, registered
from attncc.diagnostics import CallError, UnsupportedError
from attncc.ir.nodes import SOFTMAX, Param, Variant
from attncc.ir.walk import walk
from attncc.runtime import checks, descriptors, splits, tensors
from attncc.runtime.launch import Frame, Inputs, kernel, token_indptr
from attncc.runtime.layouts import layout_of
from attncc.runtime.plan import GIVEN, Plan
from attncc.runtime.tensors import View

if TYPE_CHECKING:
    from attncc.artifact import Artifact, LayoutKind
    from attncc.codegen.select import KernelSpec

log = logging.getLogger("attncc.runtime")

_artifacts: dict[tuple[Any, ...], tuple[Variant, Artifact]] = {}
_plans: dict[tuple[Any, ...], Plan] = {}
_KEPT = 4096  # of each; past it they start anew


class Options(NamedTuple):
    """What a caller may say about the kernel. ``arch`` None means the GPU the tensors are on."""

    arch: str | None = None
    family: str | None = None
    precise: bool = False


class Wanted(NamedTuple):
    """The arguments of a call that are neither tensors nor values: what it returns, and how."""

    return_lse: bool = False
    return_emits: bool = False
    partial: bool = False
    num_splits: int | None = None
    max_qo_len: int | None = None
    max_kv_len: int | None = None
    layout: str = "nhd"


def plain() -> BoundVariant:
    """Softmax attention without a mask."""
    return _PLAIN


def _plain() -> BoundVariant:
    from attncc.ir.definition import Definition

    variant = Variant("softmax")
    definition = Definition("softmax", (), lambda constants: variant)
    return BoundVariant(definition, {}, variant, handle=registered(definition, {}, variant))


_PLAIN = _plain()


# Calls like earlier ones ---------------------------------------------------------------------------------------------


def key_of(
    bound: BoundVariant, options: Options, q: Any, k: Any, v: Any, out: Any, given: tuple[Any, ...], wanted: Any
) -> tuple[Any, ...] | None:
    """All that decides how a call runs, apart from addresses and values; None for what plans do not know.

    A variant goes by its identity, which the plan keeps alive: hashing one costs more than a launch.
    """
    kind: Any = type(q)
    of = tensors.library(kind)
    if of is None or type(k) is not kind or type(v) is not kind:
        return None
    signature = of.signature
    variant = bound.variant
    try:
        values = given
        if tuple(map(type, given)) == _NOTHING_GIVEN:
            values = ()
        if bound.params or bound.tensors:
            values = (*values, *bound.params.values(), *bound.tensors.values())
        parts = [_signature(value, of) for value in values] if values else ()
        if out is not None:
            parts = (*parts, _signature(out, of))
        if variant.requires:
            parts = (*parts, *_read_by_requires(bound))
        key = (id(variant), options, wanted, kind, signature(q), signature(k), signature(v), out is None, *parts)
        hash(key)
    except (AttributeError, RuntimeError, TypeError):  # no dense tensor, or an unhashable argument: the checks say what
        return None
    return key


_NOTHING_GIVEN = (type(None),) * len(GIVEN)
_NUMBERS = frozenset((float, int, bool, type(None)))


def _signature(value: Any, of: tensors.Library) -> Any:
    """What the checks look at in an argument besides q, k and v. Raises TypeError for what plans do not know."""
    kind: Any = type(value)
    if kind in _NUMBERS:
        return kind
    if tensors.library(kind) is not of:
        raise TypeError(kind)
    return of.signature(value)


def known(key: tuple[Any, ...], bound: BoundVariant) -> Plan | None:
    """The plan of an earlier call of this key."""
    plan = _plans.get(key)
    return plan if plan is not None and plan.variant is bound.variant else None


def prepared(
    bound: BoundVariant, options: Options, inputs: Inputs, wanted: Wanted, key: tuple[Any, ...] | None
) -> Plan:
    """The plan of a checked call on a GPU, kept for ``key``.

    Raises UnsupportedError A0701–A0708, ToolchainError A10xx, CallError A0840, A0844.
    """
    kind = descriptors.layout_kind((inputs.k, inputs.kv_layout), (inputs.v, inputs.kv_layout))
    try:
        plan = _planned(bound, options, inputs, wanted, kind)
    except descriptors.Refused as refused:  # the driver has the last word on what it describes
        log.warning("no TMA descriptor of %s: `%s` runs on another kernel", refused, bound.name)
        plan = _planned(bound, options, inputs, wanted, "strided")
    if key is not None:
        if len(_plans) >= _KEPT:
            _plans.clear()
        _plans[key] = plan
    return plan


def _planned(bound: BoundVariant, options: Options, inputs: Inputs, wanted: Wanted, kind: LayoutKind) -> Plan:
    """A plan for a kernel that reads storage of that kind."""
    shapes = inputs.shapes
    artifact = artifact_for(bound, options, inputs.frame(), kind)
    manifest = artifact.manifest
    if manifest.merge is None and (wanted.partial or (wanted.num_splits or 1) > 1):
        raise UnsupportedError(
            "A0703",
            f"the kernel of `{bound.name}` does not split its keys",
            expected="a call without `partial` and `num_splits`",
            got=artifact.name,
            help="leave both out",
        )
    _check_ragged_captures(inputs, artifact)
    loaded = kernel(artifact, inputs.q.index)
    cut = splits.Splits(1, max(shapes.kv_len, 1))
    if manifest.merge is not None:
        cut = splits.choose(
            shapes,
            block_m=manifest.tile["block_m"],
            block_n=manifest.tile["block_n"],
            blocks=loaded.resident,
            wanted=wanted.num_splits,
        )
    of = tensors.library_named(inputs.q.library)
    return Plan(bound.variant, loaded, of, inputs, cut, partial=wanted.partial)


def artifact_for(bound: BoundVariant, options: Options, frame: Frame, kind: LayoutKind = "contiguous") -> Artifact:
    """The kernel of a call on a GPU; ``kind`` as KernelSpec.layout. Raises UnsupportedError A0701–A0708, ToolchainError
    A10xx.
    """
    from attncc.codegen.select import KernelSpec
    from attncc.codegen.targets import best
    from attncc.runtime.driver import device

    spec = KernelSpec(
        arch=options.arch if options.arch is not None else best(device(frame.index).capability),
        dtype=frame.dtype,
        head_dim=frame.shapes.head_dim,
        head_dim_v=frame.shapes.head_dim_v,
        layout=kind,
        family=options.family,
        precise=options.precise,
    )
    return artifact_of(bound.variant, spec)


def artifact_of(variant: Variant, spec: KernelSpec) -> Artifact:
    """The kernel of a variant, looked up by identity first."""
    key = (id(variant), spec)
    found = _artifacts.get(key)
    if found is not None and found[0] is variant:
        return found[1]
    from attncc.codegen.compile import compile_variant

    artifact = compile_variant(variant, spec)
    if len(_artifacts) >= _KEPT:
        _artifacts.clear()
    _artifacts[key] = (variant, artifact)
    return artifact


def _read_by_requires(bound: BoundVariant) -> tuple[Any, ...]:
    """The values that the variant's conditions read. Raises TypeError for arrays: they are looked at in every call."""
    variant = bound.variant
    found = _required.get(id(variant))
    if found is None or found[0] is not variant:
        nodes = (node for require in variant.requires for node in walk(require.cond))
        names = tuple(sorted({node.name for node in nodes if isinstance(node, Param)}))
        if len(_required) >= _KEPT:
            _required.clear()
        found = _required[id(variant)] = (variant, names)
    values = tuple(bound.params[name] for name in found[1])
    if any(is_array(value) for value in values):
        raise TypeError("an array")
    return values


_required: dict[int, tuple[Variant, tuple[str, ...]]] = {}


# Checks --------------------------------------------------------------------------------------------------------------


def checked(bound: BoundVariant, q: Any, k: Any, v: Any, out: Any, given: tuple[Any, ...], wanted: Wanted) -> Inputs:
    """The call with every argument checked, its results allocated on the CPU. Raises CallError A0808–A0854."""
    sm_scale, q_start, k_start, qo_lens, kv_lens, qo_indptr, kv_indptr = given
    variant = bound.variant
    layout_of(wanted.layout)
    _check_lengths(qo_lens, kv_lens, qo_indptr, kv_indptr, wanted)
    qo = kv = None
    qo_at = kv_at = None
    if qo_indptr is not None:
        qo_at, qo = checks.check_indptr("qo_indptr", qo_indptr, "max_qo_len", wanted.max_qo_len)
    if kv_indptr is not None:
        kv_at, kv = checks.check_indptr("kv_indptr", kv_indptr, "max_kv_len", wanted.max_kv_len)
    place, kv_place = (layout_of(wanted.layout, ragged=part is not None) for part in (qo, kv))
    q_view, k_view, v_view, shapes = checks.check_tensors(place, kv_place, q, k, v, qo, kv)
    for name, at, tokens, longest in (
        ("qo_indptr", qo_at, shapes.qo_tokens, shapes.qo_len),
        ("kv_indptr", kv_at, shapes.kv_tokens, shapes.kv_len),
    ):
        if at is not None:
            checks.same_device(name, at, q_view)
            checks.check_indptr_values(name, at, tokens, longest)
    _check_results(variant, out, wanted)
    if q_start is not None or k_start is not None:
        reason = refuses_starts(variant)
        if reason is not None:
            raise CallError(
                "A0831",
                f"`{variant.name}` takes no explicit starts",
                expected="no `q_start` and no `k_start`",
                got="q_start" if q_start is not None else "k_start",
                help=reason,
            )
    batch = shapes.batch
    params = checks.check_params(bound.params, q_view, batch)
    captures = checks.check_captures(bound.tensors, q_view)
    inputs = Inputs(
        layout=place,
        kv_layout=kv_place,
        shapes=shapes,
        q=q_view,
        k=k_view,
        v=v_view,
        out=None,
        lse=None,
        sm_scale=checks.check_scale(sm_scale, q_view, batch),
        q_start=checks.check_start("q_start", q_start, q_view, batch),
        k_start=checks.check_start("k_start", k_start, q_view, batch),
        qo_lens=checks.check_lens("qo_lens", qo_lens, q_view, batch, shapes.qo_len),
        kv_lens=checks.check_lens("kv_lens", kv_lens, q_view, batch, shapes.kv_len),
        qo_indptr=qo_at,
        kv_indptr=kv_at,
        params=params,
        captures=captures,
    )
    extents = bind_extents(variant, captured_shapes(variant, inputs), shapes.extents())
    check_requires(variant, bound.params, extents)
    if wanted.partial:
        return inputs
    return _with_results(inputs, out, wanted)


def _with_results(inputs: Inputs, out: Any, wanted: Wanted) -> Inputs:
    """The call with its results: the caller's ``out``; on the CPU arrays for the rest, on a GPU only their form."""
    from dataclasses import replace

    place, shapes = inputs.layout, inputs.shapes
    length = shapes.qo_tokens if place.ragged else shapes.qo_len
    out_shape = place.shape(shapes.batch, length, shapes.num_heads, shapes.head_dim_v)
    lse_shape = place.shape(shapes.batch, length, shapes.num_heads)
    loose = place.ragged or inputs.qo_lens is not None
    like = inputs.q
    if out is not None:
        result = checks.check_out(out, out_shape, {"q": inputs.q, "k": inputs.k, "v": inputs.v})
    else:
        result = _allocate(like, out_shape, like.dtype, 0.0 if loose else None)
    lse = _allocate(like, lse_shape, "f32", float("-inf") if loose else None) if wanted.return_lse else None
    return replace(inputs, out=result, lse=lse)


def _allocate(like: View, shape: tuple[int, ...], dtype: str, value: float | None) -> View:
    """An output tensor; filled where rows may stay unwritten."""
    made = tensors.empty(like, shape, dtype) if value is None else tensors.full(like, shape, dtype, value)
    return tensors.view(made, "out")


def captured_shapes(variant: Variant, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """The shapes of captured tensors, a ragged one as if it were padded. Raises CallError A0810."""
    found = {}
    for tensor in variant.tensors:
        shape = inputs.captures[tensor.name].shape
        if over_tokens(tensor) and len(shape) == len(tensor.dims) - 1:
            axis = "qo_len" if token_axis(tensor) == "qo_len" else "kv_len"
            ragged = inputs.layout.ragged if axis == "qo_len" else inputs.kv_layout.ragged
            tokens = inputs.shapes.qo_tokens if axis == "qo_len" else inputs.shapes.kv_tokens
            if not ragged or shape[0] != tokens:
                raise CallError(
                    "A0810",
                    f"`{tensor.name}` of `{variant.name}` is ragged, and does not fit the call",
                    expected=f"{tokens} tokens on axis 0, as in `{'q' if axis == 'qo_len' else 'k'}`"
                    if ragged
                    else f"[batch, {axis}, ...]: the call has no `{axis[:2]}_indptr`",
                    got=f"shape {list(shape)}",
                    help="a tensor over [batch, qo_len or kv_len] is padded or ragged as q, or k and v, are",
                )
            shape = (inputs.shapes.batch, getattr(inputs.shapes, axis), *shape[1:])
        found[tensor.name] = shape
    return found


def token_axis(tensor: Any) -> str:
    """The extent of a token tensor's second axis."""
    name: str = tensor.dims[1].name
    return name


def _check_ragged_captures(inputs: Inputs, artifact: Artifact) -> None:
    """Raises UnsupportedError A0703 for a ragged captured tensor that the kernel reads as a padded one."""
    words = {word.name for word in artifact.manifest.abi.words}
    for capture in artifact.manifest.abi.tensors:
        indptr = token_indptr(inputs, capture.dims)
        ragged = len(inputs.captures[capture.name].shape) < len(capture.dims)
        if ragged and (indptr is None or f"{capture.word}.indptr" not in words):
            raise UnsupportedError(
                "A0703",
                f"no kernel reads `{capture.name}` from ragged storage",
                expected=f"[{', '.join(capture.dims)}]",
                got=f"shape {list(inputs.captures[capture.name].shape)}",
                help="pass it padded to the longest request",
            )


def _check_lengths(qo_lens: Any, kv_lens: Any, qo_indptr: Any, kv_indptr: Any, wanted: Wanted) -> None:
    for side, lens, indptr, longest in (
        ("qo", qo_lens, qo_indptr, wanted.max_qo_len),
        ("kv", kv_lens, kv_indptr, wanted.max_kv_len),
    ):
        if lens is not None and indptr is not None:
            raise CallError(
                "A0851",
                f"`{side}_lens` and `{side}_indptr` both give the lengths",
                expected="one of them",
                got="both",
                help=f"`{side}_indptr` is for ragged tensors, `{side}_lens` for padded ones",
            )
        if longest is not None and indptr is None:
            raise CallError(
                "A0851",
                f"`max_{side}_len` goes with `{side}_indptr`",
                expected=f"`{side}_indptr`",
                got="none",
                help="the longest request of a padded batch is the length of its storage",
            )
    count = wanted.num_splits
    if count is not None and (type(count) is not int or count < 1):
        raise CallError(
            "A0854",
            "`num_splits` is no number of parts",
            expected="an int from 1 on",
            got=f"{count!r:.60}",
            help="leave it out, and the keys are cut where the batch does not fill the GPU",
        )


def _check_results(variant: Variant, out: Any, wanted: Wanted) -> None:
    one = len(variant.branches) == 1
    if wanted.partial:
        other = [("out", out is not None), ("return_lse", wanted.return_lse), ("return_emits", wanted.return_emits)]
        clash = [name for name, given in other if given]
        if clash or not one or variant.emits:
            raise CallError(
                "A0852",
                f"`partial` does not go with `{clash[0]}`" if clash else f"`{variant.name}` has no partial state",
                expected="neither `out`, `return_lse` nor `return_emits`" if clash else "one branch and no emits",
                got=clash[0] if clash else ("several branches" if not one else "a variant with emits"),
                help="`attncc.merge_states` finishes a state: ask it for the result",
            )
    if wanted.return_lse and not (one and variant.reduction(variant.branches[0]) is SOFTMAX):
        raise CallError(
            "A0846",
            f"`{variant.name}` has no LSE",
            expected="a variant with one softmax",
            got="several branches" if not one else "a variant with `weight`",
            help="leave `return_lse` out",
        )
