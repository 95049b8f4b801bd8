"""From a variant to an Artifact: canonical form, choice of a family, CUDA text, NVRTC, cache. Knows the stages by name.

A cached kernel costs canonicalisation, the choice and a read: neither the emitter nor a CUDA library is loaded for it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attncc.codegen
import attncc.ir
import attncc.passes
from attncc.artifact import (
    Abi,
    Artifact,
    Capture,
    Entry,
    LaunchRule,
    Manifest,
    Parameter,
    Role,
    TensorMap,
    Word,
    digest,
)
from attncc.binding import refuses_starts, shape_text
from attncc.cache import Cache, cache_key, default_cache, tree_hash
from attncc.codegen.nvrtc import FLAGS, Compiled, compile_cuda
from attncc.codegen.select import ALIGNMENT, Choice, KernelSpec, choose, features, next_choice
from attncc.codegen.toolchain import toolchain
from attncc.ir.nodes import Variant
from attncc.ir.text import dump
from attncc.passes.canonicalize import canonicalize

if TYPE_CHECKING:
    from attncc.codegen.emit.source import KernelSource

__all__ = ["KernelSpec", "Stages", "compile_variant", "stages"]

STAGES = ("ir", "cuda", "ptx", "cubin", "merge", "screen", "transform", "biases", "sass", "manifest", "report")

_SOURCES = tuple(Path(package.__path__[0]) for package in (attncc.codegen, attncc.ir, attncc.passes))
_known: dict[tuple[Path, str], Artifact] = {}  # by cache folder and key: a process reads an artifact once


def compile_variant(variant: Variant, spec: KernelSpec, *, cache: Cache | None = None) -> Artifact:
    """The kernel of a verified variant for ``spec``, from the cache or compiled into it.

    Raises UnsupportedError A0701–A0708 when no family serves it, ToolchainError A1001–A1007 when it must be compiled
    and cannot be.
    """
    return stages(variant, spec, cache=cache).artifact


def stages(variant: Variant, spec: KernelSpec, *, cache: Cache | None = None) -> Stages:
    """Every stage of that compile, each made when it is asked for. Raises UnsupportedError at once."""
    canonical = canonicalize(variant)
    return Stages(canonical, spec, choose(canonical, spec), cache if cache is not None else default_cache())


def compile_kernel(source: KernelSource, config: Any, arch: str) -> dict[Role, Compiled]:
    """NVRTC on a translation unit with the flags of its configuration: a program for each entry, all at once.

    Where a quick compile leaves registers in local memory, the full one is taken instead: its time is paid once, what
    a spill costs at every tile.
    """
    from concurrent.futures import ThreadPoolExecutor

    from attncc.codegen.families.entries import alone as only

    def program(role: Role) -> Compiled:
        alone = (only(role),)
        made = compile_cuda(source.text, arch=arch, name=source.name, flags=(*alone, *config.flags))
        spills = bool(made.resources[source.entries[role]].spill_loads)
        return compile_cuda(source.text, arch=arch, name=source.name, flags=alone) if spills and config.flags else made

    main, *others = source.entries
    # One after another where there are two cores: a third thread would take its turns from `main`, which takes longest.
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 1)) as pool:
        beside = {role: pool.submit(program, role) for role in others}
        return {main: program(main), **{role: made.result() for role, made in beside.items()}}


@dataclass(frozen=True)
class Made:
    """A kernel, whether it was there already, and the seconds it took to get it."""

    artifact: Artifact
    cached: bool
    seconds: float


@dataclass(frozen=True)
class Stages:
    """The stages of one compile. What ``--emit`` prints is here by the same name, as text or bytes."""

    variant: Variant
    spec: KernelSpec
    choice: Choice
    cache: Cache

    @cached_property
    def ir(self) -> str:
        """The canonical text: cache key and twin test."""
        return dump(self.variant)

    @cached_property
    def key(self) -> str:
        """The cache key: the formula, the family's configuration, the target, the compiler and our own sources."""
        return cache_key(
            self.ir,
            self.choice.family,
            repr(self.choice.config),
            repr(replace(self.spec, family=None, layout=self.choice.layout)),
            toolchain().nvrtc,
            " ".join(FLAGS),
            # The device headers, and what writes the text around them.
            tree_hash(*_SOURCES),
        )

    @cached_property
    def lowered(self) -> Variant:
        """What the kernel and its bounds are made of: the canonical variant after every pass."""
        from attncc.passes.pipeline import run

        return run(self.variant)

    @cached_property
    def source(self) -> KernelSource:
        """The translation unit, with and without #line directives."""
        from attncc.codegen.emit.source import emit_kernel

        return emit_kernel(self.lowered, self.choice.module, self.choice.config)

    @property
    def cuda(self) -> str:
        """The translation unit as a person reads it."""
        return self.source.plain

    @cached_property
    def compiled(self) -> dict[Role, Compiled]:
        """What NVRTC made of every entry, past the cache: PTX, log and time are not kept there."""
        return compile_kernel(self.source, self.choice.config, self.spec.arch)

    @property
    def ptx(self) -> str:
        return self.compiled["main"].ptx.decode()

    @cached_property
    def following(self) -> Stages | None:
        """The stages of the family that is taken where this one's kernel does not fit."""
        found = next_choice(self.variant, self.spec, self.choice)
        return None if found is None else Stages(self.variant, self.spec, found, self.cache)

    @cached_property
    def settled(self) -> Stages:
        """These, or those of the family that is taken where this one's kernel does not fit and that one's does."""
        following = self.following
        if following is None:
            return self
        runs, fits = _judge(self.own.artifact)
        keeps = fits or (runs and not _judge(following.settled.own.artifact)[1])
        return self if keeps else following.settled

    @cached_property
    def own(self) -> Made:
        """This family's kernel, from this process, from the cache, or compiled."""
        begin = time.perf_counter()
        name = (self.cache.root, self.key)
        found = _known.get(name) or self.cache.get(self.key)
        artifact = found or self.cache.get_or_make(self.key, self._make)
        _known[name] = artifact
        return Made(artifact, cached=found is not None, seconds=time.perf_counter() - begin)

    @cached_property
    def made(self) -> Made:
        """The kernel that is used: that of ``settled``."""
        begin = time.perf_counter()
        own = self.settled.own
        return replace(own, seconds=time.perf_counter() - begin)

    @property
    def artifact(self) -> Artifact:
        return self.made.artifact

    @property
    def cubin(self) -> bytes:
        return self.artifact.cubins["main"]

    @property
    def merge(self) -> bytes:
        """The cubin of the entry that combines splits; every family has one."""
        return self.artifact.cubins["merge"]

    @property
    def screen(self) -> bytes:
        """The cubin of the entry that finds the tiles to visit; b"" where nothing is to be found."""
        return self.artifact.cubins.get("screen", b"")

    @property
    def transform(self) -> bytes:
        """The cubin of the entry that applies hooks on vectors; b"" where there is none."""
        return self.artifact.cubins.get("transform", b"")

    @property
    def biases(self) -> bytes:
        """The cubin of the entry that makes what products add by key; b"" where they add nothing."""
        return self.artifact.cubins.get("biases", b"")

    @cached_property
    def sass(self) -> str:
        """Machine code. Raises ToolchainError A1008 without a disassembler."""
        from attncc.codegen.sass import disassemble

        return "".join(disassemble(cubin) for cubin in self.artifact.cubins.values())

    @property
    def manifest(self) -> str:
        return self.artifact.to_json()

    @cached_property
    def report(self) -> dict[str, Any]:
        """What the compile came to, as plain data: kernel, resources, why other families were passed over, time."""
        artifact = self.artifact
        manifest = artifact.manifest
        return {
            "name": artifact.name,
            "key": artifact.key,
            "variant": manifest.variant,
            "target": manifest.arch,
            "family": manifest.family,
            "refused": {name: list(reasons) for name, reasons in self.settled.choice.refused.items()},
            "dtype": manifest.dtype,
            "head_dim": manifest.head_dim,
            "head_dim_v": manifest.head_dim_v,
            "tile": dict(manifest.tile),
            "threads": manifest.launch.threads,
            "entries": {
                name: {**asdict(entry), "dynamic_smem": manifest.launch.smem if name == "main" else 0}
                for name, entry in manifest.entries.items()
            },
            "warnings": list(manifest.warnings),
            "cubin_bytes": {role: len(cubin) for role, cubin in artifact.cubins.items()},
            "toolchain": dict(manifest.toolchain),
            "cached": self.made.cached,
            "seconds": round(self.made.seconds, 4),
        }

    def emit(self, stage: str) -> str | bytes:
        """One of STAGES, as it is written to a file."""
        if stage not in STAGES:
            raise ValueError(f"no stage {stage!r}; there are {', '.join(STAGES)}")
        stages = self.settled if stage in ("cuda", "ptx") else self
        value: str | bytes | dict[str, Any] = getattr(stages, stage)
        return json.dumps(value, indent=2) + "\n" if isinstance(value, dict) else value

    def _make(self) -> Artifact:
        from attncc.codegen.families import biases, merge, screen, transform
        from attncc.passes.ranges import tile_program

        made = self.compiled
        cubins = {role: program.cubin for role, program in made.items()}
        config, screening, transformed = self.choice.config, self.source.screen, self.source.transformed
        biasing = self.source.biases
        manifest = Manifest(
            variant=self.variant.name,
            family=self.choice.family,
            arch=self.spec.arch,
            dtype=self.spec.dtype,
            head_dim=self.spec.head_dim,
            head_dim_v=self.spec.dim_v,
            layout=self.choice.layout,
            precise=self.spec.precise,
            tile={
                "block_m": config.block_m,
                **{name: value for name, value in asdict(config).items() if type(value) is int},
            },
            entries={
                role: Entry(
                    symbol=symbol,
                    registers=(used := made[role].resources[symbol]).registers,
                    spill_stores=used.spill_stores,
                    spill_loads=used.spill_loads,
                    stack=used.stack,
                    static_smem=used.static_smem,
                )
                for role, symbol in self.source.entries.items()
            },
            launch=_rule(config.launch_rule()),
            merge=_rule(merge.launch_rule()),
            screen=None if screening is None else _rule(screen.launch_rule(config.block_m, **asdict(screening))),
            screen_bytes=0 if screening is None else screen.BITMAP_BYTES,
            transform=_rule(transform.launch_rule(transformed)) if transformed else None,
            transformed=transformed,
            biases=None if biasing is None else _rule(biases.launch_rule(**asdict(biasing))),
            biases_per_head=biasing is not None and biasing.per_head,
            abi=_abi(self.variant, self.source, config.launch_rule().get("maps", ())),
            features=tuple(sorted(features(self.variant).hooks)),
            own_scale=self.variant.branches[0].sm_scale is not None,
            alignment=ALIGNMENT,
            explicit_starts=refuses_starts(self.variant) is None,
            bounds=tile_program(self.lowered).to_json(),
            toolchain={"nvrtc": toolchain().nvrtc, "cuda-bindings": toolchain().bindings},
            hashes={
                **{role: digest(cubin) for role, cubin in cubins.items()},
                "ir": digest(self.ir.encode()),
                "source": digest(self.source.plain.encode()),
            },
            warnings=tuple(dict.fromkeys(line for program in made.values() for line in program.warnings)),
        )
        return Artifact(key=self.key, manifest=manifest, cubins=cubins)


def _judge(artifact: Artifact) -> tuple[bool, bool]:
    """Whether a kernel can be launched, and whether it is what its family promises: values are in registers, and
    products do not wait for each other.
    """
    from attncc.codegen.families.mma_sm80 import SHARED_BYTES

    manifest, main = artifact.manifest, artifact.main
    runs = main.static_smem + manifest.launch.smem <= SHARED_BYTES[manifest.arch]
    return runs, runs and not (manifest.warnings or main.spill_loads or main.spill_stores)


def _rule(rule: dict[str, Any]) -> LaunchRule:
    persistent = rule.get("persistent", False)
    return LaunchRule(grid=tuple(rule["grid"]), threads=rule["block"], smem=rule["smem"], persistent=persistent)


def _abi(variant: Variant, source: KernelSource, maps: Sequence[Mapping[str, Any]]) -> Abi:
    """The parameter block as the runtime fills it: launch's words, those of every parameter and tensor, descriptors."""
    from attncc.codegen import launch_block
    from attncc.codegen.launch_block import LAUNCH_FIELDS, place, scalar_fields, tensor_fields, token_tensor_fields

    words = [Word(f"launch.{field.name}", field.ctype, field.offset) for field in LAUNCH_FIELDS]
    value_types = {"f32": "f32", "i32": "i32", "u32": "u32", "bool": "i32"}
    for field in source.block.fields:
        if field.kind == "param":
            parts = scalar_fields(field.member, value_types[field.type])
        elif field.ctype.startswith("attncc::TokenTensorRef"):
            parts = token_tensor_fields(field.member, field.rank)
        else:
            parts = tensor_fields(field.member, field.rank)
        words += [Word(word.name, word.ctype, word.offset) for word in place(parts, field.offset)]
    offsets, size = launch_block.place_maps(source.block.size, len(maps))
    return Abi(
        size=size,
        words=tuple(words),
        params=tuple(
            Parameter(decl.name, decl.type.value, source.block.field(decl.name).member, decl.default)
            for decl in variant.params
        ),
        tensors=tuple(
            Capture(
                tensor.name,
                tensor.storage.value,
                tuple(shape_text(dim) for dim in tensor.dims),
                source.block.field(tensor.name).member,
            )
            for tensor in variant.tensors
        ),
        maps=tuple(
            TensorMap(item["operand"], tuple(item["box"]), item.get("swizzle", 128), offset)
            for item, offset in zip(maps, offsets, strict=True)
        ),
    )
