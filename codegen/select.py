"""Which kernel family runs a variant on a target, and why the others do not. Knows families by their table alone."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from attncc.artifact import LayoutKind
from attncc.codegen.targets import TARGETS, target
from attncc.diagnostics import Note, Span, UnsupportedError
from attncc.ir.extents import channel_lengths
from attncc.ir.nodes import After, Load, Variant
from attncc.ir.walk import walk
from attncc.passes.dependence import dependence, stage
from attncc.passes.diagonals import on_diagonal
from attncc.passes.key_bias import has_key_bias
from attncc.passes.ranges import tile_program
from attncc.passes.scale import is_scaled_dot

# In order of preference; the last is the portable family, which serves most.
FAMILIES = ("wgmma_sm90", "mma_sm80")
DTYPES = ("f16", "bf16")
# Kinds of storage of keys and values, the common one first, and how a refusal calls them. Rows are contiguous in all.
LAYOUTS = {
    "contiguous": "keys and values with strides that a TMA descriptor has",
    "strided": "keys or values with strides that no TMA descriptor has",
}
MAX_HEAD_DIM = 1024
# Why a kernel that its family serves is not used: only ptxas knows.
MISFIT = "its registers or its shared memory do not hold this variant"
ALIGNMENT = 16  # bytes: what cp.async, TMA and a vector store move at once


@dataclass(frozen=True)
class KernelSpec:
    """What a kernel is compiled for, besides its variant. ``head_dim_v`` None means the same as ``head_dim``.

    ``precise`` turns approximate functions off. ``family`` forces one; None takes the first that serves the variant.
    ``layout`` is a kind of storage of keys and values, a name in LAYOUTS.
    """

    arch: str
    dtype: str
    head_dim: int
    head_dim_v: int | None = None
    layout: LayoutKind = "contiguous"
    family: str | None = None
    precise: bool = False

    @property
    def dim_v(self) -> int:
        return self.head_dim if self.head_dim_v is None else self.head_dim_v

    def check(self) -> None:
        """Raises UnsupportedError A0701 (target), A0702 (dtype), A0705 (family), A0706 (head dim), A0708 (layout)."""
        target(self.arch)
        if self.dtype not in DTYPES:
            raise UnsupportedError(
                "A0702",
                f"no kernel computes in {self.dtype}",
                expected=" or ".join(DTYPES),
                got=self.dtype,
                help="convert query, key and value; CPU tensors of any float dtype run the reference",
            )
        if self.family is not None and self.family not in FAMILIES:
            raise UnsupportedError(
                "A0705",
                f"unknown kernel family `{self.family}`",
                expected=" or ".join(FAMILIES),
                got=self.family,
                help="leave the family out to let attncc choose one",
            )
        if self.layout not in LAYOUTS:
            raise UnsupportedError(
                "A0708",
                f"unknown KV layout `{self.layout}`",
                expected=" or ".join(LAYOUTS),
                got=self.layout,
                help="leave it out: padded and ragged batches are `contiguous`, whichever axis holds the heads",
            )
        for name, value in (("head_dim", self.head_dim), ("head_dim_v", self.dim_v)):
            if not 1 <= value <= MAX_HEAD_DIM:
                raise UnsupportedError(
                    "A0706",
                    f"{name} is out of range",
                    expected=f"1 to {MAX_HEAD_DIM}",
                    got=str(value),
                    help="it counts the channels of one head",
                )


@dataclass(frozen=True)
class Features:
    """What of a variant decides whether a family runs it, in the families' words.

    The hooks it writes, and branch, emit, operands, after. A ``score`` that is a function of dot(query, key) is no
    feature: every family has that product.
    """

    hooks: frozenset[str]


@dataclass(frozen=True)
class Choice:
    """A family with its Config, and for every family asked before it the reasons it gave."""

    family: str
    config: Any
    refused: Mapping[str, tuple[str, ...]]

    @property
    def module(self) -> Any:
        return family(self.family)

    @property
    def layout(self) -> LayoutKind:
        """The most general kind of storage that the kernel reads: one kernel serves the kinds before it, too."""
        served: tuple[LayoutKind, ...] = self.module.LAYOUTS
        return served[-1]


def family(name: str) -> ModuleType:
    """The Python file of a family."""
    return importlib.import_module(f"attncc.codegen.families.{name}")


def targets_of(name: str) -> tuple[str, ...]:
    """The targets that a family compiles for, at the head dim that every family serves."""
    refuse = family(name).refuse_shape
    return tuple(arch for arch in TARGETS if not refuse("bf16", 128, 128, arch))


def features(variant: Variant) -> Features:
    """The features of a canonical variant: a hook written as its default is gone by then."""
    found: set[str] = set()
    for branch in variant.branches:
        hooks = branch.hooks()
        # Every softmax kernel takes a scale of its own; a variant that writes the hook only computes it.
        found |= hooks.keys() - {"sm_scale"}
        if branch.score is not None and (variant.operands or is_scaled_dot(branch)):
            found.discard("score")
        if branch.weight is not None and any(isinstance(node, After) for node in walk(branch.weight)):
            found.add("after")
    if len(variant.branches) > 1:
        found.add("branch")
    if variant.operands:
        found.add("operands")
    if variant.output is not None:
        found.add("output")
    if variant.emits:
        found.add("emit")
    return Features(frozenset(found))


def choose(variant: Variant, spec: KernelSpec) -> Choice:
    """The first family that refuses nothing.

    Raises UnsupportedError A0703 with every family's reasons, or A0704 with those of the forced one, each naming what
    is not served; the span is the first unserved hook's. Raises LanguageError A0405, A0406 where vectors and slices do
    not fit the spec's head dims.
    """
    spec.check()
    refused: dict[str, tuple[str, ...]] = {}
    found = _first((spec.family,) if spec.family is not None else FAMILIES, variant, spec, refused)
    if found is None:
        raise _unsupported(variant, spec, refused)
    return found


def next_choice(variant: Variant, spec: KernelSpec, choice: Choice) -> Choice | None:
    """What is taken instead of a choice whose kernel turns out not to fit: a narrower tile of its family where that has
    one, else the next family. None after the last family or a forced one.

    The reasons of ``choice``, and MISFIT of another family, are among those of what is taken.
    """
    narrower = choice.module.narrower(choice.config)
    if narrower is not None:
        return replace(choice, config=narrower)
    if spec.family is not None:
        return None
    rest = FAMILIES[FAMILIES.index(choice.family) + 1 :]
    return _first(rest, variant, spec, {**choice.refused, choice.family: (MISFIT,)})


def _first(
    names: Sequence[str], variant: Variant, spec: KernelSpec, refused: dict[str, tuple[str, ...]]
) -> Choice | None:
    """The first of those families that is to be taken; the reasons of those before it are added to ``refused``."""
    used = features(variant)
    lengths = _lengths(variant, spec) if len(variant.branches) == 1 else []
    for name in names:
        module = family(name)
        hooks = module.refuse(used)
        reasons = [*(f"{_describe(hook)} is not served" for hook in hooks)]
        reasons += lengths
        reasons += module.refuse_shape(spec.dtype, spec.head_dim, spec.dim_v, spec.arch)
        reasons += [] if spec.layout in module.LAYOUTS else [LAYOUTS[spec.layout]]
        if not reasons:
            heavy = used.hooks | ({"gather"} if _gathers(variant) else set()) | ({"band"} if _band(variant) else set())
            heavy |= {"key bias"} if has_key_bias(variant) else set()
            config = module.choose(
                spec.dtype, spec.head_dim, spec.dim_v, spec.arch, precise=spec.precise, hooks=frozenset(heavy)
            )
            return Choice(name, config, refused)
        refused[name] = tuple(reasons)
    return None


def _lengths(variant: Variant, spec: KernelSpec) -> list[str]:
    """The vector hooks that give another number of channels than they take: no kernel has vectors of two lengths."""
    dims = {"head_dim": spec.head_dim, "head_dim_v": spec.dim_v}
    wanted = {"query": spec.head_dim, "key": spec.head_dim, "value": spec.dim_v, "output": spec.dim_v}
    reasons = []
    for label, root in variant.roots():
        hook = label.rpartition(".")[2]
        whole, length = wanted.get(hook), channel_lengths(root, variant, dims)[root]
        if whole is not None and length not in (None, whole):
            reasons.append(f"the hook `{hook}` gives {length} of {whole} channels")
    return list(dict.fromkeys(reasons))


def _band(variant: Variant) -> bool:
    """Whether a tile of rows visits columns of which both ends move with it, as of a window."""
    return tile_program(variant).is_band


def _gathers(variant: Variant) -> bool:
    """Whether a tensor is read anew for every pair, not by diagonal: its addresses take a kernel's registers."""
    known = dependence(variant)
    roots = [root for branch in variant.branches for root in (branch.logits, branch.mask, branch.weight)]
    return any(
        isinstance(node, Load) and stage(known[node]) == "element" and not on_diagonal(known[node])
        for root in roots
        if root is not None
        for node in walk(root)
    )


_DESCRIBED = {
    "after": "`after(...)`, an ordered reduction,",
    "branch": "more than one `branch`",
    "emit": "`emit`",
    "operands": "an extra score operand",
    "score": "a `score` that is no function of `dot(query, key)`",
}


def _describe(hook: str) -> str:
    return _DESCRIBED.get(hook, f"the hook `{hook}`")


def _unsupported(variant: Variant, spec: KernelSpec, refused: Mapping[str, tuple[str, ...]]) -> UnsupportedError:
    what = f"{spec.arch}, {spec.dtype}, head_dim {spec.head_dim}"
    what += f", head_dim_v {spec.dim_v}" if spec.dim_v != spec.head_dim else ""
    notes = tuple(Note(f"{name}: {'; '.join(reasons)}") for name, reasons in refused.items())
    span = _first_unserved(variant, refused)
    if spec.family is not None:
        return UnsupportedError(
            "A0704",
            f"the family `{spec.family}` does not run `{variant.name}` on {what}",
            span=span,
            expected="a variant within what the family serves",
            got="; ".join(refused[spec.family]),
            help="leave the family out to let attncc choose one; on CPU tensors the reference runs every variant",
        )
    return UnsupportedError(
        "A0703",
        f"no kernel family runs `{variant.name}` on {what}",
        span=span,
        expected=f"one of {', '.join(FAMILIES)} to serve it",
        got="; ".join(refused[FAMILIES[-1]]),  # what serves most is the nearest; the notes have every family
        help="on CPU tensors the reference runs every variant",
        notes=notes,
    )


# What a family names, where it differs from the place the variant writes it.
_WRITTEN_AS = {"after": "weight", "operands": "operand"}


def _first_unserved(variant: Variant, refused: Mapping[str, tuple[str, ...]]) -> Span | None:
    """Where the first hook stands that the last family asked does not serve; None where only the shape is refused."""
    reasons = list(refused.values())[-1]
    unserved = {hook for hook in features(variant).hooks if f"{_describe(hook)} is not served" in reasons}
    places = {_WRITTEN_AS.get(hook, hook) for hook in unserved}
    for label, root in variant.roots():
        hook = label.rpartition(".")[2].partition(" ")[0]
        if hook in places or ("branch" in places and "." in label):
            for span in variant.spans.get(root, ()):
                return span
    return None
