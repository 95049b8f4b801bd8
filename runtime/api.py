"""The public operators ``attention`` and ``compile``: they join a bound variant, the checks, a kernel, the reference.

On GPU tensors a compiled kernel runs; on CPU tensors the reference does. Nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attncc.binding import BoundVariant, VariantFactory, as_bound, bind_extents, check_requires, refuses_starts
from attncc.diagnostics import CallError
from attncc.ir.nodes import SOFTMAX, Variant
from attncc.runtime import checks, tensors
from attncc.runtime.launch import Inputs, kernel
from attncc.runtime.layouts import padded, read_shapes
from attncc.runtime.tensors import View

if TYPE_CHECKING:
    from attncc.artifact import Artifact
    from attncc.codegen.select import KernelSpec

_artifacts: dict[tuple[Any, ...], tuple[Variant, Artifact]] = {}
_ARTIFACTS_KEPT = 4096


def attention(
    q: Any,
    k: Any,
    v: Any,
    variant: BoundVariant | VariantFactory[...] | None = None,
    *,
    out: Any = None,
    return_lse: bool = False,
    return_emits: bool = False,
    sm_scale: Any = None,
    q_start: Any = None,
    k_start: Any = None,
    qo_lens: Any = None,
    kv_lens: Any = None,
    layout: str = "nhd",
    precise: bool = False,
) -> Any:
    """Attention of a padded batch; ``variant`` None is plain softmax attention without a mask.

    q [batch, qo_len, num_heads, head_dim], k [batch, kv_len, num_kv_heads, head_dim] and
    v [batch, kv_len, num_kv_heads, head_dim_v] in layout "nhd"; "hnd" has the head axis before the length. They are
    torch, cupy or numpy arrays of one float dtype on one device, with a contiguous last dimension. Query heads share
    KV heads in groups: ``hk = h // (num_heads // num_kv_heads)``. By default the rows are the newest tokens: row i of
    qo_len stands at position ``kv_len - qo_len + i``, so causal masks are bottom-right aligned.

    - ``out``: a tensor for the result, shaped and typed like q with head_dim_v channels.
    - ``return_lse``: also the natural log of the softmax denominator, f32 [batch, qo_len, num_heads] ("hnd": heads
      first). Rows that attend nothing have out = 0, lse = −inf.
    - ``return_emits``: also a dict of the variant's extra outputs.
    - ``sm_scale``: a number or f32[batch], 1/√head_dim unless the variant has its own.
    - ``q_start``, ``k_start``: the position of row 0 and of key 0, int or i32[batch].
    - ``qo_lens``, ``kv_lens``: i32[batch], the rows and keys of each request; what lies beyond them is never read into
      a result, nor written. On a GPU the values are trusted: reading them would wait for the device.
    - ``precise``: no approximate functions.

    Returns out, or a tuple of out, lse, emits as asked for. Runs on the caller's current stream without waiting.

    Raises CallError A0808–A0813 and A0830–A0850 for mistakes in the arguments, UnsupportedError A0701–A0708 for a
    variant that no kernel serves, ToolchainError A10xx where it must be compiled and cannot be.
    """
    bound = plain() if variant is None else as_bound(variant)
    options = Options(precise=precise)
    arguments = (out, sm_scale, q_start, k_start, qo_lens, kv_lens, layout)
    return _attend(bound, options, q, k, v, return_lse, return_emits, *arguments)


@dataclass(frozen=True)
class Options:
    """What a caller may say about the kernel. ``arch`` None means the GPU the tensors are on."""

    arch: str | None = None
    family: str | None = None
    precise: bool = False


@dataclass(frozen=True)
class Resolution:
    """Which kernel a call would use, by its artifact. ``launches`` is False where there is nothing to compute."""

    key: str
    name: str
    launches: bool


class Compiled:
    """A variant compiled ahead of its calls; calling it is ``attention`` with this variant and its options."""

    def __init__(self, bound: BoundVariant, spec: KernelSpec, artifact: Artifact) -> None:
        self.variant = bound
        self.spec = spec
        self.artifact = artifact
        self._options = Options(arch=spec.arch, family=spec.family, precise=spec.precise)

    @property
    def name(self) -> str:
        return self.artifact.name

    @property
    def key(self) -> str:
        return self.artifact.key

    def resolve(self, shapes: Mapping[str, tuple[int, ...]], *, layout: str = "nhd") -> Resolution:
        """The kernel a call with tensors of these shapes would use, found without a GPU and without launching.

        ``shapes`` has "q", "k" and "v", and may have those of captured tensors to check them too. Raises what the call
        would: CallError A0834–A0836 for shapes that do not fit, UnsupportedError for head dims that no kernel serves.
        """
        missing = [name for name in ("q", "k", "v") if name not in shapes]
        if missing:
            raise CallError(
                "A0849",
                f"the shape of `{missing[0]}` is missing",
                expected="a mapping with q, k and v",
                got=", ".join(shapes) or "nothing",
                help='resolve({"q": (2, 512, 8, 128), "k": (2, 512, 2, 128), "v": (2, 512, 2, 128)})',
            )
        sizes = read_shapes(padded(layout), *(tuple(shapes[name]) for name in ("q", "k", "v")))
        captured = {tensor.name: tuple(shapes.get(tensor.name, ())) for tensor in self.variant.variant.tensors}
        if all(name in shapes for name in captured):
            bind_extents(self.variant.variant, captured, sizes.extents())
        spec = replace(self.spec, head_dim=sizes.head_dim, head_dim_v=sizes.head_dim_v)
        artifact = _artifact(self.variant.variant, spec)
        return Resolution(artifact.key, artifact.name, launches=bool(sizes.batch and sizes.num_heads and sizes.qo_len))

    def __call__(
        self,
        q: Any,
        k: Any,
        v: Any,
        *,
        out: Any = None,
        return_lse: bool = False,
        return_emits: bool = False,
        sm_scale: Any = None,
        q_start: Any = None,
        k_start: Any = None,
        qo_lens: Any = None,
        kv_lens: Any = None,
        layout: str = "nhd",
    ) -> Any:
        """``attention`` with this variant, target, family and precision."""
        arguments = (out, sm_scale, q_start, k_start, qo_lens, kv_lens, layout)
        return _attend(self.variant, self._options, q, k, v, return_lse, return_emits, *arguments)

    def __repr__(self) -> str:
        return f"<compiled {self.name}>"


def compile(
    variant: BoundVariant | VariantFactory[...] | None = None,
    *,
    dtype: str = "bf16",
    head_dim: int = 128,
    head_dim_v: int | None = None,
    target: str | None = None,
    family: str | None = None,
    precise: bool = False,
) -> Compiled:
    """Compile a variant now, so that no call does. Needs no GPU when ``target`` ("sm_90a") is given.

    Raises UnsupportedError A0701–A0708, ToolchainError A10xx; CallError A0848 without a target where there is no GPU.
    """
    from attncc.codegen.select import KernelSpec

    bound = plain() if variant is None else as_bound(variant)
    spec = KernelSpec(
        arch=target if target is not None else _this_gpu(),
        dtype=dtype,
        head_dim=head_dim,
        head_dim_v=head_dim_v if head_dim_v is not None else head_dim,
        family=family,
        precise=precise,
    )
    return Compiled(bound, spec, _artifact(bound.variant, spec))


def plain() -> BoundVariant:
    """Softmax attention without a mask."""
    return _PLAIN


def _plain() -> BoundVariant:
    from attncc.ir.definition import Definition

    variant = Variant("softmax")
    return BoundVariant(Definition("softmax", (), lambda constants: variant), {}, variant)


_PLAIN = _plain()


def _attend(
    bound: BoundVariant,
    options: Options,
    q: Any,
    k: Any,
    v: Any,
    return_lse: bool,
    return_emits: bool,
    out: Any,
    sm_scale: Any,
    q_start: Any,
    k_start: Any,
    qo_lens: Any,
    kv_lens: Any,
    layout: str,
) -> Any:
    place = padded(layout)
    q_view, k_view, v_view, shapes = checks.check_tensors(place, q, k, v)
    variant = bound.variant
    _check_results(variant, return_lse)
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
    extents = bind_extents(variant, {name: tensor.shape for name, tensor in captures.items()}, shapes.extents())
    check_requires(variant, bound.params, extents)
    out_shape = place.shape(batch, shapes.qo_len, shapes.num_heads, shapes.head_dim_v)
    given = checks.check_out(out, out_shape, {"q": q_view, "k": k_view, "v": v_view}) if out is not None else None
    short = qo_lens is not None
    result = given if given is not None else _allocate(q_view, out_shape, q_view.dtype, 0.0 if short else None)
    lse: View | None = None
    if return_lse:
        lse_shape = place.shape(batch, shapes.qo_len, shapes.num_heads)
        lse = _allocate(q_view, lse_shape, "f32", float("-inf") if short else None)
    call = Inputs(
        layout=place,
        shapes=shapes,
        q=q_view,
        k=k_view,
        v=v_view,
        out=result,
        lse=lse,
        sm_scale=checks.check_scale(sm_scale, q_view, batch),
        q_start=checks.check_start("q_start", q_start, q_view, batch),
        k_start=checks.check_start("k_start", k_start, q_view, batch),
        qo_lens=checks.check_lens("qo_lens", qo_lens, q_view, batch, shapes.qo_len),
        kv_lens=checks.check_lens("kv_lens", kv_lens, q_view, batch, shapes.kv_len),
        params=params,
        captures=captures,
    )
    emits: dict[str, Any] = {}
    if not q_view.on_gpu:
        from attncc.runtime.reference import run

        emits = run(bound, call, return_emits=return_emits)
    else:
        artifact = _artifact(variant, _spec(options, call))
        if batch and shapes.num_heads and shapes.qo_len:
            kernel(artifact, q_view.index).launch(call)
    wanted = [result.array]
    if lse is not None:
        wanted.append(lse.array)
    if return_emits:
        wanted.append(emits)
    return wanted[0] if len(wanted) == 1 else tuple(wanted)


def _allocate(like: View, shape: tuple[int, ...], dtype: str, value: float | None) -> View:
    """An output tensor; filled where the kernel leaves rows unwritten (those past a request's length)."""
    made = tensors.empty(like, shape, dtype) if value is None else tensors.full(like, shape, dtype, value)
    return tensors.view(made, "out")


def _check_results(variant: Variant, return_lse: bool) -> None:
    one = len(variant.branches) == 1 and variant.reduction(variant.branches[0]) is SOFTMAX
    if return_lse and not one:
        raise CallError(
            "A0846",
            f"`{variant.name}` has no LSE",
            expected="a variant with one softmax",
            got="several branches" if len(variant.branches) > 1 else "a variant with `weight`",
            help="leave `return_lse` out",
        )


def _spec(options: Options, call: Inputs) -> KernelSpec:
    from attncc.codegen.select import KernelSpec
    from attncc.codegen.targets import best
    from attncc.runtime.driver import device

    arch = options.arch if options.arch is not None else best(device(call.q.index).capability)
    shapes = call.shapes
    return KernelSpec(
        arch=arch,
        dtype=call.q.dtype,
        head_dim=shapes.head_dim,
        head_dim_v=shapes.head_dim_v,
        family=options.family,
        precise=options.precise,
    )


def _artifact(variant: Variant, spec: KernelSpec) -> Artifact:
    """The kernel of a variant, looked up by identity first: hashing a variant costs more than a launch."""
    key = (id(variant), spec)
    found = _artifacts.get(key)
    if found is not None and found[0] is variant:
        return found[1]
    from attncc.codegen.compile import compile_variant

    artifact = compile_variant(variant, spec)
    if len(_artifacts) >= _ARTIFACTS_KEPT:
        _artifacts.clear()
    _artifacts[key] = (variant, artifact)
    return artifact


def _this_gpu() -> str:
    from attncc.codegen.targets import best
    from attncc.diagnostics import ToolchainError
    from attncc.runtime.driver import device, device_count

    try:
        if device_count() > 0:
            return best(device(0).capability)
    except ToolchainError as error:
        got = error.message
    else:
        got = "no GPU"
    raise CallError(
        "A0848",
        "there is no GPU to compile for",
        expected="an explicit target",
        got=got,
        help='name it: attncc.compile(variant, target="sm_90a")',
    )
