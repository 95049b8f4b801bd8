"""A compiled kernel: its cubins and the manifest that says how to launch it. All that the runtime knows of a variant.

An artifact made a second ago, one read from the cache and one shipped in a pack are the same object. On disk it is a
folder: ``manifest.json``, and for every entry a cubin, ``main.cubin`` and so on. Each file is covered by a
hash, checked whenever it is read.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, get_args

from attncc.diagnostics import ArtifactError

# Raised with every change of the manifest's meaning; an artifact of another schema is refused, never guessed at.
SCHEMA = 9
MANIFEST = "manifest.json"
# Of an entry: the kernel; what combines its splits; what runs before it, to find the tiles to visit, to apply hooks on
# vectors and to make what products add of a bias by key.
Role = Literal["main", "merge", "screen", "transform", "biases"]
ROLES: tuple[Role, ...] = get_args(Role)
# Kinds of storage of keys and values: with strides that a TMA descriptor has, and with any.
LayoutKind = Literal["contiguous", "strided"]
# CUDA driver API, cuTensorMapEncodeTiled.
MAP_BYTES, MAP_ALIGNMENT = 128, 64
REBUILD = "compile the variant again; a damaged cache entry is rebuilt by itself"


@dataclass(frozen=True)
class Word:
    """One machine word of the parameter block: its path (``launch.q``, ``softcap.value``), its type (ptr i64 i32 u32
    f32) and its byte offset."""

    name: str
    ctype: str
    offset: int


@dataclass(frozen=True)
class Parameter:
    """A runtime scalar of the variant: ``type`` f32, i32, u32 or bool; its words are ``<word>.data`` and ``.value``."""

    name: str
    type: str
    word: str
    default: float | int | bool | None = None


@dataclass(frozen=True)
class Capture:
    """A captured tensor: ``storage`` as in the language, ``dims`` as text; its words are ``<word>.data`` and so on."""

    name: str
    storage: str
    dims: tuple[str, ...]
    word: str


@dataclass(frozen=True)
class TensorMap:
    """A TMA descriptor in the parameter block: 128 bytes at ``offset``, a multiple of 64, that the runtime encodes.

    It describes the whole storage of ``operand`` (q, k or v) as [batch, heads, tokens, channels], last axis contiguous;
    ragged storage as a batch of 1. ``box``, in elements from the last axis on, is what one copy moves, ``swizzle`` the
    bytes of the pattern in which it lies in shared memory; past an axis' end a copy writes zeros.
    """

    operand: str
    box: tuple[int, ...]
    swizzle: int
    offset: int

    def check(self, size: int) -> None:
        """Raises ValueError for what no block of ``size`` bytes holds or no descriptor says."""
        if self.operand not in ("q", "k", "v"):
            raise ValueError(f"a tensor map of {self.operand!r}")
        if self.offset % MAP_ALIGNMENT or not 0 <= self.offset <= size - MAP_BYTES:
            raise ValueError(f"a tensor map at byte {self.offset} of {size}")
        if not 1 <= len(self.box) <= 4 or not all(1 <= count <= 256 for count in self.box):
            raise ValueError(f"a box of {self.box}")
        if self.swizzle not in (0, 32, 64, 128):
            raise ValueError(f"a swizzle of {self.swizzle} bytes")


@dataclass(frozen=True)
class Abi:
    """The parameter block in device memory: its size in bytes, every word of it, in order of offset, and behind the
    words the descriptors that the runtime encodes."""

    size: int
    words: tuple[Word, ...]
    params: tuple[Parameter, ...] = ()
    tensors: tuple[Capture, ...] = ()
    maps: tuple[TensorMap, ...] = ()


@dataclass(frozen=True)
class Entry:
    """The kernel of a cubin: its symbol and what ptxas gave it (bytes a thread; shared memory in bytes a block)."""

    symbol: str
    registers: int
    spill_stores: int
    spill_loads: int
    stack: int
    static_smem: int


@dataclass(frozen=True)
class LaunchRule:
    """How to launch a kernel: three grid expressions over the words of Launch, threads a block, dynamic shared memory.

    An expression has integers, names, ``+ - * //`` and ``ceil_div``, ``min``, ``max``. ``persistent``: the grid counts
    items, and any number of blocks walks them all, so that as many are enough as the GPU runs at once.
    """

    grid: tuple[str, str, str]
    threads: int
    smem: int
    persistent: bool = False

    @cached_property
    def grid_of(self) -> Callable[[Mapping[str, int]], tuple[int, int, int]]:
        """The grid as a function of Launch's words; it only knows the operations above."""
        code = compile(_grid_expression(self.grid), "<launch rule>", "eval")
        functions = {"__builtins__": {}, "ceil_div": _ceil_div, "min": min, "max": max}
        return lambda words: eval(code, functions, words)


@dataclass(frozen=True)
class Manifest:
    """Everything about a kernel but its code. Plain data: it is stored as JSON and needs no other module to read."""

    variant: str
    family: str
    arch: str
    dtype: str
    head_dim: int
    head_dim_v: int
    layout: LayoutKind  # the most general kind that the kernel reads
    precise: bool
    tile: Mapping[str, int]
    entries: Mapping[Role, Entry]
    launch: LaunchRule
    abi: Abi
    features: tuple[str, ...]
    own_scale: bool  # the variant computes sm_scale where a call gives none
    alignment: int  # of every row of q, k, v and out, in bytes
    explicit_starts: bool  # False: the variant indexes tokens by position, so a call may not give starts
    bounds: Any  # the tile-range program, or None where every tile is visited
    toolchain: Mapping[str, str]
    hashes: Mapping[str, str]
    warnings: tuple[str, ...] = ()
    merge: LaunchRule | None = None  # how the entry `merge` is launched; None: the kernel does not split
    screen: LaunchRule | None = None  # how the entry `screen` is launched, before `main`; None: nothing is to be found
    screen_bytes: int = 0  # of device memory for each block of `screen`
    transform: LaunchRule | None = None  # how the entry `transform` is launched, before `main`; None: there is none
    transformed: tuple[str, ...] = ()  # of q, k and v, what `transform` makes anew and `main` reads instead
    biases: LaunchRule | None = None  # how the entry `biases` is launched, before `main`; None: products add nothing
    biases_per_head: bool = False  # it makes 16 bytes for every key, or for each of a key's KV heads
    schema: int = SCHEMA


@dataclass(frozen=True)
class Artifact:
    """A kernel: ``manifest`` and, by entry, ``cubins``. ``key`` names it in the cache and in ``resolve``."""

    key: str
    manifest: Manifest
    cubins: Mapping[Role, bytes] = field(repr=False)

    @property
    def name(self) -> str:
        """What a person calls it: ``gemma2.mma_sm80.sm_90a.bf16.d128.1f0e9a7b``."""
        m = self.manifest
        dims = f"d{m.head_dim}" if m.head_dim == m.head_dim_v else f"d{m.head_dim}v{m.head_dim_v}"
        return ".".join((m.variant, m.family, m.arch, m.dtype, dims, self.key[:8]))

    @property
    def main(self) -> Entry:
        return self.manifest.entries["main"]

    def to_json(self) -> str:
        """The manifest file: the manifest and a hash over it, itself naming the cubins' hashes."""
        body = _plain(asdict(self.manifest))
        return json.dumps({"key": self.key, "integrity": _integrity(self.key, body), "manifest": body}, indent=1)

    def write(self, folder: Path) -> None:
        """Write every file into an existing folder and flush it to disk. Raises OSError."""
        for role, cubin in self.cubins.items():
            _write(folder / cubin_name(role), cubin)
        _write(folder / MANIFEST, self.to_json().encode())


def cubin_name(role: Role) -> str:
    """The file of an entry's cubin, in the artifact's folder."""
    return f"{role}.cubin"


def digest(data: bytes) -> str:
    """The hash that artifacts, cache keys and manifests use: 128 bits of BLAKE2b, in hex."""
    return blake2b(data, digest_size=16).hexdigest()


def read(folder: Path) -> Artifact:
    """Read and verify the artifact in ``folder``.

    Raises ArtifactError A0910 (no artifact there), A0911 (damaged) or A0912 (of another schema).
    """

    def file(name: str) -> bytes:
        try:
            return (folder / name).read_bytes()
        except FileNotFoundError as error:
            raise ArtifactError(
                "A0910",
                f"no kernel in {folder}",
                expected=f"{MANIFEST} and the cubins of its entries",
                got=f"no {name}",
                help=REBUILD,
            ) from error
        except OSError as error:
            raise _damaged(folder, f"{name} cannot be read: {error.strerror}") from error

    return parse(file(MANIFEST), lambda role: file(cubin_name(role)), folder)


def parse(text: bytes, cubin_of: Callable[[Role], bytes], folder: Path) -> Artifact:
    """An artifact from the bytes of its files, the cubins asked for by entry; ``folder`` is for messages only.

    Raises A0911 and A0912, and what ``cubin_of`` raises.
    """
    try:
        data = json.loads(text)
        key, integrity, body = data["key"], data["integrity"], data["manifest"]
        schema = body["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{MANIFEST} is not a manifest") from error
    if schema != SCHEMA:
        raise ArtifactError(
            "A0912",
            f"the kernel in {folder} was written by another version of attncc",
            expected=f"manifest schema {SCHEMA}",
            got=f"schema {schema}",
            help=REBUILD,
        )
    if not isinstance(key, str) or integrity != _integrity(key, body):
        raise _damaged(folder, f"{MANIFEST} does not match its hash")
    try:
        manifest = _manifest(body)
        hashes = {role: manifest.hashes[role] for role in manifest.entries}
    except (ValueError, KeyError, TypeError) as error:  # written whole, yet by something that is not this module
        raise _damaged(folder, f"{MANIFEST} lacks a field, or has a wrong one: {error}") from error
    cubins = {role: cubin_of(role) for role in hashes}
    for role, cubin in cubins.items():
        if digest(cubin) != hashes[role]:
            raise _damaged(folder, f"{cubin_name(role)} does not match its hash")
    return Artifact(key=key, manifest=manifest, cubins=cubins)


def _manifest(body: dict[str, Any]) -> Manifest:
    abi = body["abi"]
    made = {item.name: body[item.name] for item in fields(Manifest)}
    wanted = [role for role in ROLES if role == "main" or body[role] is not None]
    if set(body["entries"]) != set(wanted):
        raise ValueError(f"entries {', '.join(body['entries'])}")
    made.update(
        entries={role: Entry(**body["entries"][role]) for role in wanted},
        launch=_rule(body["launch"]),
        merge=None if body["merge"] is None else _rule(body["merge"]),
        screen=None if body["screen"] is None else _rule(body["screen"]),
        transform=None if body["transform"] is None else _rule(body["transform"]),
        transformed=tuple(body["transformed"]),
        biases=None if body["biases"] is None else _rule(body["biases"]),
        abi=Abi(
            size=abi["size"],
            words=tuple(Word(**word) for word in abi["words"]),
            params=tuple(Parameter(**param) for param in abi["params"]),
            tensors=tuple(Capture(**{**tensor, "dims": tuple(tensor["dims"])}) for tensor in abi["tensors"]),
            maps=tuple(_map(item, abi["size"]) for item in abi["maps"]),
        ),
        features=tuple(body["features"]),
        warnings=tuple(body["warnings"]),
    )
    return Manifest(**made)


def _rule(launch: dict[str, Any]) -> LaunchRule:
    grid = tuple(launch["grid"])
    _grid_expression(grid)
    return LaunchRule(grid=grid, threads=launch["threads"], smem=launch["smem"], persistent=launch["persistent"])


def _map(item: dict[str, Any], size: int) -> TensorMap:
    found = TensorMap(**{**item, "box": tuple(item["box"])})
    found.check(size)
    return found


def _plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts: what json.loads gives back, so that both sides hash alike."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _integrity(key: str, body: Any) -> str:
    return digest(key.encode() + json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


def _damaged(folder: Path, what: str) -> ArtifactError:
    return ArtifactError("A0911", f"the kernel in {folder} is damaged: {what}", help=REBUILD)


def _write(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a rename may survive a power cut that the data does not


_GRID_NODES = (
    ast.Expression,
    ast.Tuple,
    ast.BinOp,
    ast.Add,
    ast.Sub,
    ast.Mult,
    ast.FloorDiv,
    ast.Name,
    ast.Load,
    ast.Constant,
)


def _grid_expression(grid: tuple[Any, ...]) -> ast.Expression:
    """The three expressions as one tuple, with everything but the allowed operations refused (ValueError)."""
    if len(grid) != 3 or not all(isinstance(text, str) for text in grid):
        raise ValueError("a grid has three expressions")
    tree = ast.parse("(" + ",".join(f"({text})" for text in grid) + ")", mode="eval")
    for node in ast.walk(tree):
        call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords
        if call and node.func.id in ("ceil_div", "min", "max"):  # type: ignore[attr-defined]
            continue
        constant = isinstance(node, ast.Constant) and type(node.value) is not int
        if not isinstance(node, _GRID_NODES) or constant:
            raise ValueError(f"a grid expression may not hold {type(node).__name__}")
    return tree


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
