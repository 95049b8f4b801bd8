"""The public operators ``attention`` and ``compile``: they join a bound variant, the checks, a kernel, the reference.

On GPU tensors a compiled kernel runs; on CPU tensors the reference does. Nothing here waits for the device. A call like
an earlier one (``runtime/plan.py``) skips the checks and costs a launch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from attncc.binding import BoundVariant, VariantFactory, as_bound, bind_extents
from attncc.diagnostics import CallError
from attncc.runtime import tensors
from attncc.runtime.calls import Options, Wanted, artifact_of, checked, key_of, known, plain, prepared
from attncc.runtime.layouts import layout_of, read_shapes
from attncc.runtime.states import State, state_of

if TYPE_CHECKING:
    from attncc.artifact import Artifact
    from attncc.codegen.select import KernelSpec

_DEFAULT = Options()


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
    qo_indptr: Any = None,
    kv_indptr: Any = None,
    max_qo_len: int | None = None,
    max_kv_len: int | None = None,
    num_splits: int | None = None,
    partial: bool = False,
    layout: str = "nhd",
    precise: bool = False,
) -> Any:
    """Attention of a padded or ragged batch; ``variant`` None is plain softmax attention without a mask.

    q [batch, qo_len, num_heads, head_dim], k [batch, kv_len, num_kv_heads, head_dim] and
    v [batch, kv_len, num_kv_heads, head_dim_v] in layout "nhd"; "hnd" has the head axis before the length. They are
    torch, cupy or numpy arrays of one float dtype on one device, with a contiguous last dimension. Query heads share
    KV heads in groups: ``hk = h // (num_heads // num_kv_heads)``. By default the rows are the newest tokens: row i of
    qo_len stands at position ``kv_len - qo_len + i``, so causal masks are bottom-right aligned.

    - ``qo_indptr``, ``kv_indptr``: i32[batch + 1] each, or one of them: q, or k and v, are ragged. They have no batch
      axis, [tokens, heads, dim]; request b has the tokens from indptr[b] up to indptr[b + 1]. Captured tensors over
      [batch, kv_len] or [batch, qo_len] may be ragged likewise, [tokens].
    - ``max_qo_len``, ``max_kv_len``: the longest ragged request, or a bound of it. Without them all tokens are the
      bound, and a launch has ``batch`` times the blocks it needs, most of which end at once: a microsecond or so for
      each thousand of them. ``max_kv_len`` decides only how keys are split.
    - ``out``: a tensor for the result, shaped and typed like q with head_dim_v channels. Rows that belong to no request
      stay as they are in it, and are 0 where attncc allocates the result.
    - ``return_lse``: also the natural log of the softmax denominator, f32 [batch, qo_len, num_heads], ragged
      [tokens, num_heads] ("hnd": heads first). Rows that attend nothing have out = 0, lse = −inf.
    - ``return_emits``: also a dict of the variant's extra outputs.
    - ``sm_scale``: a number, or f32[batch], 1/√head_dim unless the variant has its own.
    - ``q_start``, ``k_start``: the position of row 0 and of key 0, int or i32[batch].
    - ``qo_lens``, ``kv_lens``: i32[batch], the rows and keys of each request of a padded batch; what lies beyond them
      is never read into a result, nor written.
    - ``num_splits``: into how many parts the keys are cut; without it as many as fill the GPU. The same call with the
      same number gives the same bits.
    - ``partial``: return a ``State`` for ``attncc.merge_states`` instead of a result.
    - ``precise``: no approximate functions.

    Tensors that lie on a GPU (lengths, indptr, starts, scales, parameters) are read by the kernel alone: their values
    are trusted, and a captured CUDA graph sees those of the moment of its replay. sm_scale, starts and parameters may
    have no axes there, for one value that holds for every request.

    Returns out, or a tuple of out, lse, emits as asked for. Runs on the caller's current stream without waiting. Under
    ``torch.compile`` it is one operator, without a graph break.

    Raises CallError A0808–A0813 and A0830–A0854 for mistakes in the arguments, UnsupportedError A0701–A0708 for a
    variant that no kernel serves, ToolchainError A10xx where it must be compiled and cannot be.
    """
    options = _DEFAULT if not precise else Options(precise=True)
    given = (sm_scale, q_start, k_start, qo_lens, kv_lens, qo_indptr, kv_indptr)
    wanted = (return_lse, return_emits, partial, num_splits, max_qo_len, max_kv_len, layout)
    return attend(variant, options, q, k, v, out, given, wanted)


def attend(
    variant: BoundVariant | VariantFactory[...] | None,
    options: Options,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    given: tuple[Any, ...],
    wanted: tuple[Any, ...],
) -> Any:
    """``attention`` with its arguments in order: ``given`` as in plan.GIVEN, ``wanted`` as the fields of Wanted."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        from attncc.runtime.operators import traced

        return traced(variant, options, q, k, v, out, given, wanted)
    bound = plain() if variant is None else variant if type(variant) is BoundVariant else as_bound(variant)
    key = key_of(bound, options, q, k, v, out, given, wanted)
    if key is not None:
        plan = known(key, bound)
        if plan is not None:
            made = plan.run(q, k, v, out, given, bound.params, bound.tensors)
            if made is not None:
                if wanted[2]:
                    return state_of(bound, made, plan.frame, given)
                if wanted[1]:  # a variant with emits has no kernel
                    return (made.out, made.lse, {}) if wanted[0] else (made.out, {})
                return (made.out, made.lse) if wanted[0] else made.out
    if torch is not None and isinstance(q, torch.Tensor) and _is_fake(q):
        from attncc.runtime.operators import traced

        return traced(bound, options, q, k, v, out, given, wanted)
    return _checked(bound, options, q, k, v, out, given, Wanted(*wanted), key)


def _checked(
    bound: BoundVariant,
    options: Options,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    given: tuple[Any, ...],
    wanted: Wanted,
    key: Any,
) -> Any:
    """A call of a kind that was not seen before, or one of the reference."""
    inputs = checked(bound, q, k, v, out, given, wanted)
    emits: dict[str, Any] = {}
    if not inputs.q.on_gpu:
        from attncc.runtime import reference

        if wanted.partial:
            return state_of(bound, reference.partial(bound, inputs), inputs.frame(), given)
        emits = reference.run(bound, inputs, return_emits=wanted.return_emits)
        assert inputs.out is not None
        results = [inputs.out.array]
        if inputs.lse is not None:
            results.append(inputs.lse.array)
    else:
        shapes = inputs.shapes
        something = shapes.batch and shapes.num_heads and shapes.qo_len
        plan = prepared(bound, options, inputs, wanted, key if something else None)
        values = inputs.given()
        if something:
            into = out if inputs.out is None else inputs.out.array
            made = plan.run(q, k, v, into, values, plain_params(inputs), bound.tensors)
        else:
            made = plan.nothing(out)
        assert made is not None  # the checks have passed
        if wanted.partial:
            return state_of(bound, made, plan.frame, given)
        results = [made.out]
        if wanted.return_lse:
            results.append(made.lse)
    if wanted.return_emits:
        results.append(emits)
    return results[0] if len(results) == 1 else tuple(results)


def plain_params(inputs: Any) -> dict[str, Any]:
    """The parameters of a checked call as the plan takes them: numbers and the caller's arrays."""
    return {name: value.array if isinstance(value, tensors.View) else value for name, value in inputs.params.items()}


def _is_fake(tensor: Any) -> bool:
    """Whether the tensor is one that torch traces a program with: it has no storage to launch on."""
    if type(tensor).__name__ in ("Tensor", "Parameter"):
        return False
    from torch._subclasses import FakeTensor
    from torch._subclasses.functional_tensor import FunctionalTensor

    return isinstance(tensor, FakeTensor | FunctionalTensor)


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

        It knows no strides: they are taken to be those of a TMA descriptor, as nearly all are.

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
        q, k, v = (tuple(shapes[name]) for name in ("q", "k", "v"))
        sizes = read_shapes(layout_of(layout), q, k, v)
        captured = {tensor.name: tuple(shapes.get(tensor.name, ())) for tensor in self.variant.variant.tensors}
        if all(name in shapes for name in captured):
            bind_extents(self.variant.variant, captured, sizes.extents())
        spec = replace(self.spec, head_dim=sizes.head_dim, head_dim_v=sizes.head_dim_v)
        artifact = artifact_of(self.variant.variant, spec)
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
        qo_indptr: Any = None,
        kv_indptr: Any = None,
        max_qo_len: int | None = None,
        max_kv_len: int | None = None,
        num_splits: int | None = None,
        partial: bool = False,
        layout: str = "nhd",
    ) -> Any:
        """``attention`` with this variant, target, family and precision."""
        given = (sm_scale, q_start, k_start, qo_lens, kv_lens, qo_indptr, kv_indptr)
        wanted = (return_lse, return_emits, partial, num_splits, max_qo_len, max_kv_len, layout)
        return attend(self.variant, self._options, q, k, v, out, given, wanted)

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
    return Compiled(bound, spec, artifact_of(bound.variant, spec))


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


__all__ = ["Compiled", "Options", "Resolution", "State", "attention", "compile", "plain"]
