"""The Hopper family: TMA, wgmma and specialised warps, sm_90a. Owns its Config, limits, tile choice and wrapper text.

The kernel is ``wgmma_sm90.cuh`` beside this file. Knows nothing of the IR: what a variant uses arrives as ``Features``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from attncc.codegen.families import entries, wgmma_products
from attncc.codegen.families.mma_sm80 import Accuracy, Dtype, Features, accuracy_of

HEADER: Final = "families/wgmma_sm90.cuh"

# The hooks that a variant may write and this family runs. LSE and sm_scale belong to every softmax.
SERVES: Final = frozenset({"query", "key", "value", "logits", "mask", "sink", "weight", "normalize", "output"})
ARCH: Final = "sm_90a"
DTYPES: Final = ("f16", "bf16")
LAYOUTS: Final = ("contiguous",)  # kinds of storage of K and V, of LAYOUTS in codegen/select.py
TRANSFORMS: Final = True  # whether hooks on query, key and value are applied before `main`


@dataclass(frozen=True)
class Config:
    """Everything that makes one kernel differ from another of this family, apart from the variant.

    ``consumers`` warpgroups of 64 packed query rows each, against tiles of ``block_n`` KV columns. In shared memory are
    ``stages`` tiles of K and as many of V, the rows of Q of ``q_stages`` items and what else there is of ``slots``
    items. ``registers`` are a loading thread's and a multiplying one's, in all no more than the CTA starts with, as
    many for every thread; whoever takes more than is left waits for ever. ``checked`` stops a kernel that waits for
    what never comes. ``jittered``, for tests, lets loaders and consumers dawdle by chance wherever they meet.
    ``steady``: plain scores are weighed against the largest of a row's first tile while that serves. ``adds``: where
    logits are scaled scores and a bias by key, products add it, as the entry ``biases`` makes it. ``hides_params``:
    warps that prepare items leave the uniform registers to the consumers.
    """

    dtype: Dtype
    head_dim: int
    head_dim_v: int
    consumers: int
    block_n: int
    stages: int
    q_stages: int
    slots: int
    registers: tuple[int, int]
    accuracy: Accuracy
    checked: bool = False
    steady: bool = True
    jittered: bool = False
    adds: bool = False
    hides_params: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """What NVRTC is called with besides nvrtc.FLAGS."""
        return ()

    @property
    def block_m(self) -> int:
        return 64 * self.consumers

    @property
    def threads(self) -> int:
        """One warpgroup loads, the others multiply."""
        return 128 * (1 + self.consumers)

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory of a CTA; ``SharedLayout`` in the header computes the same."""
        qk, v = 128 * -(-self.head_dim // 64), 128 * -(-self.head_dim_v // 64)
        added = 32 * (64 + self.stages * self.block_n) if self.adds else 0
        return self.q_stages * self.block_m * qk + self.stages * self.block_n * (qk + v) + added

    @property
    def products(self) -> int:
        """HGMMA instructions in the SASS: the first Q K^T of all and the loop's, and the loop's P V."""
        return 2 * (self.head_dim // 16 + self.adds) + self.block_n // 16

    def launch_rule(self) -> dict[str, object]:
        """How to launch ``attncc_main``: grid expressions over the Launch block's fields, threads, dynamic bytes.

        ``persistent``: as many blocks as the GPU has multiprocessors take them all, an item after another.
        ``maps``: the TMA descriptors behind the parameters, in order, each for boxes of (channels, tokens).
        """
        return {
            "grid": [f"ceil_div(max_qo_len * group, {self.block_m})", "num_kv_heads", "batch"],
            "block": self.threads,
            "smem": self.smem_bytes,
            "persistent": True,
            "maps": [{"operand": "k", "box": [64, self.block_n]}, {"operand": "v", "box": [64, self.block_n]}],
        }


@dataclass(frozen=True)
class Tile:
    """A row of the tile table; fields as in Config."""

    consumers: int
    block_n: int
    stages: int
    q_stages: int
    slots: int = 3
    registers: tuple[int, int] = (72, 216)
    hides_params: bool = False


def _hiding(block_n: int, slots: int = 3) -> Tile:
    """A tile whose consumers have uniform registers only where helpers read parameters without."""
    return Tile(2, block_n, 2, 1, slots, hides_params=True)


# By head dims: without hooks; where only masks and sinks act on a score; where there is more; where hooks gather from
# tensors for every pair, which needs registers. Wide tiles read Q and synchronise seldom; narrow ones waste less beside
# a mask. docs/performance.md has the measurements.
_WIDE: Final = Tile(2, 176, 2, 1, registers=(56, 224))
_SQUARE: Final = Tile(2, 128, 2, 2)
_THREE: Final = Tile(3, 112, 3, 2, registers=(56, 152))
_GATHERING: Final = Tile(2, 64, 2, 1, registers=(88, 208))
_TILES: Final[Mapping[tuple[int, int], tuple[Tile, Tile, Tile, Tile]]] = {
    (64, 64): (
        _THREE,
        _THREE,
        Tile(3, 96, 3, 2, registers=(80, 144)),
        Tile(2, 64, 4, 2, registers=(88, 208)),
    ),
    (80, 80): (_WIDE, _SQUARE, _SQUARE, _GATHERING),
    (96, 96): (_WIDE, _SQUARE, _SQUARE, _GATHERING),
    (128, 128): (_SQUARE, _SQUARE, _SQUARE, Tile(2, 64, 4, 1, registers=(88, 208))),
    (160, 160): (_hiding(112, 2), _hiding(112, 2), _hiding(96), _GATHERING),
    (192, 128): (_hiding(128), _hiding(128), _hiding(112), _GATHERING),
    (192, 192): (Tile(2, 112, 2, 1, 2), Tile(2, 112, 2, 1, 2), Tile(2, 96, 2, 1), _GATHERING),
    (256, 256): (Tile(2, 64, 2, 1), Tile(2, 64, 2, 1), Tile(2, 64, 2, 1), Tile(2, 48, 2, 1, registers=(88, 208))),
}
SHAPES: Final = tuple(_TILES)  # (head_dim, head_dim_v)
_LIGHT: Final = frozenset({"mask", "sink", "output"})
_ADDING_BYTES: Final = 216 << 10  # of tiles, where products add to scores: items take the rest of a block's 227 KiB
_BEFORE: Final = frozenset({"query", "key", "value"})  # done when `main` begins


def refuse(features: Features) -> list[str]:
    """The hooks of a variant that this family does not run, sorted; empty when it runs them all."""
    return sorted(features.hooks - SERVES)


def refuse_shape(dtype: str, head_dim: int, head_dim_v: int, arch: str) -> list[str]:
    """Why this family cannot be configured so, one sentence each; empty when it can."""
    reasons = []
    if dtype not in DTYPES:
        reasons.append(f"dtype {dtype}: only {' and '.join(DTYPES)}")
    if (head_dim, head_dim_v) not in SHAPES:
        served = ", ".join(f"{qk}/{v}" for qk, v in SHAPES)
        reasons.append(f"head dims {head_dim}/{head_dim_v}: only {served}")
    if arch != ARCH:
        reasons.append(f"target {arch}: only {ARCH}")
    return reasons


def choose(
    dtype: Dtype,
    head_dim: int,
    head_dim_v: int,
    arch: str,
    *,
    precise: bool = False,
    hooks: frozenset[str] = frozenset(),
) -> Config:
    """The Config for a shape on an architecture. ``precise`` turns approximations off; ``hooks`` are Features.hooks,
    "gather" where a hook of pairs reads tensors, and "key bias" where that is what logits add to a scaled score.

    Raises ValueError when ``refuse_shape`` has reasons.
    """
    reasons = refuse_shape(dtype, head_dim, head_dim_v, arch)
    if reasons:
        raise ValueError("; ".join(reasons))
    bare, light, usual, gathering = _TILES[head_dim, head_dim_v]
    here = hooks - _BEFORE
    tile = gathering if "gather" in here else usual if here - _LIGHT else light if here else bare

    def of(tile: Tile) -> Config:
        return Config(
            dtype,
            head_dim,
            head_dim_v,
            tile.consumers,
            tile.block_n,
            tile.stages,
            tile.q_stages,
            tile.slots,
            tile.registers,
            accuracy_of(dtype, precise=precise),
            hides_params=tile.hides_params,
        )

    # A window is a mask as others are; f16 does not hold the pieces of every bias.
    if dtype == "bf16" and here - _LIGHT - {"band"} == {"logits", "key bias"}:
        for adding in (light, usual):
            config = replace(of(adding), adds=True)
            if config.smem_bytes <= _ADDING_BYTES:
                return config
    return of(tile)


def narrower(config: Config) -> None:
    """No tile takes the place of one whose kernel does not fit."""


def render_config(config: Config) -> str:
    """``struct Config`` of the generated text, and the products it takes."""
    loader, multiplier = config.registers
    constants = {
        "head_dim": config.head_dim,
        "head_dim_v": config.head_dim_v,
        "consumers": config.consumers,
        "block_m": config.block_m,
        "block_n": config.block_n,
        "threads": config.threads,
        "stages": config.stages,
        "q_stages": config.q_stages,
        "slots": config.slots,
        "loader_registers": loader,
        "consumer_registers": multiplier,
    }
    lines = [f"  static constexpr int {name} = {value};" for name, value in constants.items()]
    return "\n".join(
        [
            "struct Config {",
            f"  using Element = attncc::{config.dtype};",
            *lines,
            f"  static constexpr bool checked = {str(config.checked).lower()};",
            f"  static constexpr bool steady = {str(config.steady).lower()};",
            f"  static constexpr bool jittered = {str(config.jittered).lower()};",
            f"  static constexpr bool adds = {str(config.adds).lower()};",
            f"  static constexpr bool hides_params = {str(config.hides_params).lower()};",
            f"  static constexpr attncc::Accuracy accuracy = attncc::Accuracy::{config.accuracy};",
            "};",
            "",
            wgmma_products.render(config),
        ]
    )


def adds(config: Config) -> bool:
    """Whether products add a bias by key, as the entry ``biases`` makes it."""
    return config.adds


def render_wrapper() -> str:
    """The entry point of the generated text; ``Params`` and ``Variant`` are defined above it."""
    return (
        "// The parameter block: Params, then the TMA descriptors of K and V at the next multiple of 64 bytes.\n"
        "struct Block {\n  Params params;\n  attncc::TensorMap k, v;\n};\n\n"
        'extern "C" __global__ void __launch_bounds__(Config::threads, 1)\n'
        f"{entries.SYMBOLS['main']}(const __grid_constant__ Block block) {{\n"
        "  extern __shared__ __align__(1024) char smem[];\n"
        "  attncc::wgmma_sm90::run_block<Config, Variant>(block.params, &block.k, &block.v, smem);\n"
        "}\n"
    )
