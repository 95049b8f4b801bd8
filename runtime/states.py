"""Partial states of attention, and ``merge_states`` that finishes them: the public side of split and cascaded keys.

A state is what a call knows of its rows before the end: the sink, the denominator and the output are not in it, so that
states over different keys combine. On a GPU the ``merge`` entry of a kernel combines them, on a CPU the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from attncc.binding import BoundVariant, VariantFactory, as_bound, bind_extents
from attncc.diagnostics import CallError
from attncc.ir.nodes import SOFTMAX
from attncc.runtime import checks, tensors
from attncc.runtime.launch import Frame, Inputs
from attncc.runtime.plan import Results


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """What ``attention(..., partial=True)`` gives, for ``merge_states``.

    ``acc`` f32 [tokens, num_heads, head_dim_v] is Σ weight·value, not normalised, and ``state`` f32
    [tokens, num_heads, 2] what is known of the weights: for a softmax (m, Σ 2^(logit·log2 e − m)) with m the largest
    logit in the log2 domain, for ``weight`` (Σ weight, 0). ``tokens`` are the ragged tokens of q, or batch × qo_len.
    """

    acc: Any
    state: Any
    variant: BoundVariant
    frame: Frame = field(repr=False)
    given: tuple[Any, ...] = field(repr=False)  # the call's scale, starts, lengths and indptrs

    def __repr__(self) -> str:
        return f"<state of {self.variant.name}: {list(self.acc.shape)} {self.frame.dtype} on {self.frame.device}>"


def state_of(bound: BoundVariant, made: Results, frame: Frame, given: tuple[Any, ...]) -> State:
    return State(made.acc, made.state, bound, frame, given)


def merge_states(
    states: Sequence[State], variant: BoundVariant | VariantFactory[...] | None = None, *, return_lse: bool = False
) -> Any:
    """The attention over the keys of several states together: [batch, qo_len, num_heads, head_dim_v], laid out as the
    states' q is, in its dtype; with ``return_lse`` a tuple of it and the log-sum-exp.

    ``states`` come from ``attention(..., partial=True)`` over the same rows and disjoint keys. They are combined in the
    order given, always alike, and finished once, with the sink, the denominator and the output of ``variant``: None
    means that of the states, which must agree then. Where those depend on positions, they see the positions of the
    first state: give ``q_start`` to calls that look at a part of the keys.

    Raises CallError A0853 for what is no state, or for states that do not fit together; A0846 for an LSE of no softmax.
    """
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        from attncc.runtime.operators import traced_merge

        return traced_merge(states, variant, return_lse)
    bound = check_states(states, variant, return_lse)
    first = states[0]
    if torch is not None and first.frame.library == "torch":
        from attncc.runtime.api import _is_fake

        if _is_fake(first.acc):
            from attncc.runtime.operators import traced_merge

            return traced_merge(states, bound, return_lse)
    accs, numbers = [state.acc for state in states], [state.state for state in states]
    out, lse = finish(bound, accs, numbers, first.frame, first.given, return_lse)
    return (out, lse) if return_lse else out


def check_states(states: Any, variant: BoundVariant | VariantFactory[...] | None, return_lse: bool) -> BoundVariant:
    """The variant that finishes. Raises CallError A0853, A0846."""
    if not isinstance(states, Sequence) or not states or not all(isinstance(state, State) for state in states):
        raise CallError(
            "A0853",
            "these are no states",
            expected="a list of what attncc.attention(..., partial=True) gave",
            got=f"{states!r:.80}",
            help="a finished result cannot be merged: its sink and its denominator are in it",
        )
    first = states[0]
    for place, state in enumerate(states[1:], 1):
        for what, mine, other in (
            ("rows and heads", tuple(first.acc.shape), tuple(state.acc.shape)),
            ("layout", (first.frame.layout, first.frame.shapes.batch), (state.frame.layout, state.frame.shapes.batch)),
            ("dtype", first.frame.dtype, state.frame.dtype),
            ("device", first.frame.device, state.frame.device),
            ("reduction", _reduction(first.variant), _reduction(state.variant)),
        ):
            if mine != other:
                raise CallError(
                    "A0853",
                    f"state {place} differs from state 0 in {what}",
                    expected=str(mine),
                    got=str(other),
                    help="states that merge are over the same rows of the same queries",
                )
    if variant is not None:
        bound = as_bound(variant)
    else:
        bound = first.variant
        if any(state.variant.variant is not bound.variant for state in states):
            names = ", ".join(dict.fromkeys(state.variant.name for state in states))
            raise CallError(
                "A0853",
                "the states come from several variants",
                expected="`variant`, the one whose sink, denominator and output finish them",
                got=names,
                help="attncc.merge_states(states, variant=...)",
            )
    if len(bound.variant.branches) != 1 or bound.variant.emits or _reduction(bound) != _reduction(first.variant):
        raise CallError(
            "A0853",
            f"`{bound.name}` does not finish these states",
            expected=f"a variant of one branch whose reduction is {_reduction(first.variant)}",
            got=_reduction(bound) if len(bound.variant.branches) == 1 else "several branches",
            help="softmax states are finished by a softmax, weights by a variant with `weight`",
        )
    if return_lse and bound.variant.reduction(bound.variant.branches[0]) is not SOFTMAX:
        raise CallError(
            "A0846",
            f"`{bound.name}` has no LSE",
            expected="a variant with one softmax",
            got="a variant with `weight`",
            help="leave `return_lse` out",
        )
    return bound


def _reduction(bound: BoundVariant) -> str:
    return bound.variant.reduction(bound.variant.branches[0]).name


def finish(
    bound: BoundVariant, accs: Sequence[Any], numbers: Sequence[Any], frame: Frame, given: tuple[Any, ...], lse: bool
) -> tuple[Any, Any]:
    """``out`` and, if asked for, the LSE of checked states."""
    inputs = _inputs(bound, tensors.view(accs[0], "state"), frame, given, lse)
    if not inputs.q.on_gpu:
        from attncc.runtime import reference

        reference.merge(bound, inputs, list(zip(accs, numbers, strict=True)))
    elif frame.tokens and frame.shapes.num_heads:
        _launch(bound, frame, inputs, accs, numbers)
    assert inputs.out is not None
    return inputs.out.array, None if inputs.lse is None else inputs.lse.array


def _inputs(bound: BoundVariant, like: tensors.View, frame: Frame, given: tuple[Any, ...], lse: bool) -> Inputs:
    """A call over the states' rows: what finishing reads of one, and its results."""
    shapes, place = frame.shapes, frame.layout
    batch = shapes.batch
    sm_scale, q_start, k_start, qo_lens, kv_lens, qo_indptr, kv_indptr = given

    def lens(name: str, value: Any) -> Any:
        return None if value is None else tensors.view(value, name)

    params = checks.check_params(bound.params, like, batch)
    captures = checks.check_captures(bound.tensors, like)
    length = shapes.qo_tokens if place.ragged else shapes.qo_len
    loose = place.ragged or qo_lens is not None
    out_shape = place.shape(batch, length, shapes.num_heads, shapes.head_dim_v)
    lse_shape = place.shape(batch, length, shapes.num_heads)

    def make(shape: tuple[int, ...], dtype: str, fill: float) -> tensors.View:
        made = tensors.full(like, shape, dtype, fill) if loose else tensors.empty(like, shape, dtype)
        return tensors.view(made, "out")

    inputs = Inputs(
        layout=place,
        kv_layout=frame.kv_layout,
        shapes=shapes,
        q=like,
        k=like,
        v=like,
        out=make(out_shape, frame.dtype, 0.0),
        lse=make(lse_shape, "f32", float("-inf")) if lse else None,
        sm_scale=checks.check_scale(sm_scale, like, batch),
        q_start=checks.check_start("q_start", q_start, like, batch),
        k_start=checks.check_start("k_start", k_start, like, batch),
        qo_lens=lens("qo_lens", qo_lens),
        kv_lens=lens("kv_lens", kv_lens),
        qo_indptr=lens("qo_indptr", qo_indptr),
        kv_indptr=lens("kv_indptr", kv_indptr),
        params=params,
        captures=captures,
    )
    from attncc.runtime.calls import captured_shapes

    bind_extents(bound.variant, captured_shapes(bound.variant, inputs), shapes.extents())
    return inputs


def _launch(bound: BoundVariant, frame: Frame, inputs: Inputs, accs: Sequence[Any], numbers: Sequence[Any]) -> None:
    from attncc.runtime.calls import Options, artifact_for
    from attncc.runtime.launch import kernel
    from attncc.runtime.plan import launch_merge

    artifact = artifact_for(bound, Options(), frame)
    launch_merge(kernel(artifact, frame.index), inputs, tensors.stacked(accs), tensors.stacked(numbers))
