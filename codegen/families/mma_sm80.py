"""The portable family: mma.sync and cp.async, sm_80 and later. Owns its Config, limits, tile choice and wrapper text.

The kernel is ``mma_sm80.cuh`` beside this file. Knows nothing of the IR: what a variant uses arrives as ``Features``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from attncc.codegen.families import entries

Dtype = Literal["f16", "bf16"]
Accuracy = Literal["fast", "close", "exact"]

HEADER: Final = "families/mma_sm80.cuh"

# The hooks that a variant may write and this family runs. LSE and sm_scale belong to every softmax.
SERVES: Final = frozenset({"query", "key", "value", "logits", "mask", "sink", "weight", "normalize", "output"})

# Shared memory that one CTA may opt into, in bytes (CUDA programming guide, "technical specifications per compute
# capability"; 1 KiB of each SM is the driver's).
SHARED_BYTES: Final[Mapping[str, int]] = {
    "sm_80": 163 * 1024,
    "sm_86": 99 * 1024,
    "sm_89": 99 * 1024,
    "sm_90": 227 * 1024,
    "sm_90a": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
}
STATIC_BYTES: Final = 5 * 1024  # room for what hooks stage, apart from the tiles
# KV heads whose row tiles alternate: as many as have keys and values of so many bytes together, of an H200's 50 MB of
# L2; or as many as are each read by several blocks at once.
SECTION_BYTES: Final = 32 * 2**20
SECTION_HEADS: Final = 64
GRID_ROWS: Final = 65535  # of y and z: Programming Guide 13.0, "Technical Specifications per Compute Capability"

HEAD_DIMS: Final = tuple(range(32, 257, 16))
DTYPES: Final = ("f16", "bf16")
LAYOUTS: Final = ("contiguous", "strided")  # kinds of storage of K and V, of LAYOUTS in codegen/select.py
TRANSFORMS: Final = False  # whether hooks on query, key and value are applied before `main`


class Features(Protocol):
    """What of a variant decides whether a family can run it."""

    @property
    def hooks(self) -> frozenset[str]:
        """Names among query key value score logits mask weight normalize output emit branch operands sink after."""


@dataclass(frozen=True)
class Config:
    """Everything that makes one kernel differ from another of this family, apart from the variant.

    ``block_m`` packed query rows by ``block_n`` KV columns a tile; ``warps`` share the rows; ``stages`` tiles of K and
    V are in shared memory; ``q_in_registers`` keeps Q's fragments there instead of reading them again for every tile.
    ``fast_compile`` takes NVVM's minimal level: half of its time, and a loop with a few instructions more. ``folds``
    has room for one tile more: the first and the last one of an item can be one step.
    """

    dtype: Dtype
    head_dim: int
    head_dim_v: int
    block_m: int
    block_n: int
    warps: int
    stages: int
    q_in_registers: bool
    accuracy: Accuracy
    min_blocks: int
    fast_compile: bool
    folds: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        """What NVRTC is called with besides nvrtc.FLAGS."""
        return ("--Ofast-compile=min",) if self.fast_compile else ()

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def smem_bytes(self) -> int:
        """Dynamic shared memory of a CTA; ``SharedLayout`` in the header computes the same."""
        qk, v = _row_bytes(self.head_dim), _row_bytes(self.head_dim_v)
        tiles = self.block_m * qk + (self.stages + self.folds) * self.block_n * (qk + v)
        return max(tiles, self.block_m * (self.head_dim_v + 8) * 4)

    @property
    def static_smem_bytes(self) -> int:
        """Static shared memory apart from staged keys and ranges: where each packed row lies."""
        return self.block_m * 8

    @property
    def mma_per_tile(self) -> int:
        """HMMA instructions in the SASS: one KV tile's loop body, once for scores and once for outputs."""
        m_tiles = self.block_m // (16 * self.warps)
        scores = (self.block_n // 8) * (self.head_dim // 16)
        outputs = (self.head_dim_v // 8) * (self.block_n // 16)
        return m_tiles * (scores + outputs)

    @property
    def ldmatrix_per_tile(self) -> int:
        """LDSM instructions in the SASS: Q once a step for every row tile of a warp, each K and V fragment once."""
        m_tiles, k16 = self.block_m // (16 * self.warps), self.block_n // 16
        return (m_tiles + k16) * (self.head_dim // 16) + k16 * (self.head_dim_v // 16)

    def launch_rule(self) -> dict[str, object]:
        """How to launch ``attncc_main``: grid expressions over the Launch block's fields, threads, dynamic bytes.

        The grid is (heads of a section, row tiles, sections), as ``block_place`` in the header reads it; heads are KV
        heads of all requests.
        """
        tiles, heads = f"ceil_div(max_qo_len * group, {self.block_m})", "(num_kv_heads * batch)"
        parts = f"ceil_div({tiles}, {GRID_ROWS})"  # where there are several, one section has all heads
        keys = SECTION_BYTES // (2 * (self.head_dim + self.head_dim_v))  # of all heads of a section
        least = f"ceil_div({heads}, {GRID_ROWS}), {heads} * ({parts} - 1)"
        sections = f"ceil_div({heads}, max({keys} // max(max_kv_len, 1), {SECTION_HEADS}, {least}))"
        return {
            "grid": [
                f"ceil_div({heads}, max({sections}, 1))",
                f"min({tiles}, {GRID_ROWS})",
                f"{sections} * {parts}",
            ],
            "block": self.threads,
            "smem": self.smem_bytes,
        }


@dataclass(frozen=True)
class Tile:
    """A row of the tile table."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    q_in_registers: bool
    min_blocks: int
    fast_compile: bool = False


# The largest head dims that a row serves (192, 128 is the prefill shape of MLA) and the least shared memory of a CTA in
# KiB; the first row that fits is taken. With 32 rows a warp, each K and V fragment that ldmatrix brings feeds two row
# tiles, which halves the traffic from shared memory. "roomy" rows are for hooks that need many registers of their own:
# they would spill beside 128 registers of outputs. Each row says what chose it, measured on an H200 in bf16 over
# FLASH_ATTENTION of PyTorch in the same process: dense 2k, causal 2k, dense 8k, causal 8k (docs/performance.md).
_TILES: Final[tuple[tuple[int, int, int, bool, Tile], ...]] = (
    # head_dim, head_dim_v, KiB, roomy
    # .976 .957 .994 .988; Q in shared memory .957 .914 .976 .940. 128x96 has .98 .95 1.02 1.01, and spills beside keys.
    # Before sm_90 the registers for Q are missing elsewhere: ALiBi spills two of them.
    (64, 64, 227, False, Tile(128, 64, 4, 2, q_in_registers=True, min_blocks=2)),
    (64, 64, 99, False, Tile(128, 64, 4, 2, q_in_registers=False, min_blocks=2)),
    (64, 64, 99, True, Tile(128, 64, 8, 2, q_in_registers=False, min_blocks=1)),
    # 128x48 .98 1.06 .99 1.10, and takes its place where hooks spill; 128x64 with 8 warps .76 to .84.
    (128, 128, 227, False, Tile(128, 64, 4, 2, q_in_registers=False, min_blocks=2, fast_compile=True)),
    (128, 128, 227, True, Tile(128, 64, 8, 2, q_in_registers=False, min_blocks=1, fast_compile=True)),
    (128, 128, 163, False, Tile(128, 48, 4, 2, q_in_registers=False, min_blocks=2)),
    (128, 128, 163, True, Tile(128, 64, 8, 2, q_in_registers=False, min_blocks=1)),
    (128, 128, 99, True, Tile(128, 32, 8, 2, q_in_registers=False, min_blocks=1)),
    (192, 128, 227, False, Tile(128, 48, 4, 2, q_in_registers=False, min_blocks=2)),
    (192, 192, 163, True, Tile(128, 64, 8, 2, q_in_registers=False, min_blocks=1)),
    (192, 192, 99, True, Tile(64, 32, 4, 2, q_in_registers=False, min_blocks=1)),
    # .955 .911 .970 .985; 128x48 .910 .864 .928 .944, 64x64 with 4 warps .663 to .774.
    (256, 256, 227, True, Tile(128, 64, 8, 2, q_in_registers=False, min_blocks=1)),
    (256, 256, 163, True, Tile(128, 32, 8, 2, q_in_registers=False, min_blocks=1)),
    (256, 256, 99, True, Tile(64, 16, 4, 2, q_in_registers=False, min_blocks=1)),
)

# What makes a tile "roomy", by the names of Features.hooks.
_HEAVY: Final = frozenset({"weight", "key", "value", "output", "gather"})


def _tile(head_dim: int, head_dim_v: int, arch: str, *, roomy: bool) -> Tile:
    kib = SHARED_BYTES[arch] // 1024
    for most, most_v, least_kib, for_roomy, tile in _TILES:
        if head_dim <= most and head_dim_v <= most_v and kib >= least_kib and (for_roomy or not roomy):
            return tile
    raise ValueError(f"no tile for head dims {head_dim}, {head_dim_v} on {arch}")


def accuracy_of(dtype: Dtype, *, precise: bool) -> Accuracy:
    """Which forms of functions a kernel uses.

    bf16 rounds a logit by more than tanh.approx does; f16 does not, so it gets the closer ones.
    """
    return "exact" if precise else ("fast" if dtype == "bf16" else "close")


def refuse(features: Features) -> list[str]:
    """The hooks of a variant that this family does not run, sorted; empty when it runs them all."""
    return sorted(features.hooks - SERVES)


def refuse_shape(dtype: str, head_dim: int, head_dim_v: int, arch: str) -> list[str]:
    """Why this family cannot be configured so, one sentence each; empty when it can."""
    reasons = []
    if dtype not in DTYPES:
        reasons.append(f"dtype {dtype}: only {' and '.join(DTYPES)}")
    for name, value in (("head_dim", head_dim), ("head_dim_v", head_dim_v)):
        if value not in HEAD_DIMS:
            reasons.append(f"{name} {value}: only multiples of 16 from {HEAD_DIMS[0]} to {HEAD_DIMS[-1]}")
    if arch not in SHARED_BYTES:
        reasons.append(f"target {arch}: only {', '.join(SHARED_BYTES)}")
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
    "gather" and "band".

    Raises ValueError when ``refuse_shape`` has reasons.
    """
    reasons = refuse_shape(dtype, head_dim, head_dim_v, arch)
    if reasons:
        raise ValueError("; ".join(reasons))
    # ptxas takes more registers for sm_100: staged keys spill beside 128 registers of outputs.
    tile = _tile(head_dim, head_dim_v, arch, roomy=bool(hooks & _HEAVY) or arch == "sm_100")
    config = Config(
        dtype=dtype,
        head_dim=head_dim,
        head_dim_v=head_dim_v,
        block_m=tile.block_m,
        block_n=tile.block_n,
        warps=tile.warps,
        stages=tile.stages,
        q_in_registers=tile.q_in_registers,
        accuracy=accuracy_of(dtype, precise=precise),
        min_blocks=tile.min_blocks,
        fast_compile=tile.fast_compile,
    )
    if "band" in hooks and config.stages == 2:
        folded = replace(config, folds=True)
        if config.min_blocks * (folded.smem_bytes + STATIC_BYTES) <= SHARED_BYTES[arch]:
            return folded
    return config


def narrower(config: Config) -> Config | None:
    """What takes the place of a configuration whose kernel spills; None: nothing does."""
    wide = (config.block_n, config.warps, config.fast_compile) == (64, 4, True)
    return replace(config, block_n=48) if wide else None


def render_config(config: Config) -> str:
    """``struct Config`` of the generated text."""
    constants = {
        "head_dim": config.head_dim,
        "head_dim_v": config.head_dim_v,
        "block_m": config.block_m,
        "block_n": config.block_n,
        "warps": config.warps,
        "threads": config.threads,
        "stages": config.stages,
        "min_blocks": config.min_blocks,
    }
    lines = [f"  static constexpr int {name} = {value};" for name, value in constants.items()]
    return "\n".join(
        [
            "struct Config {",
            f"  using Element = attncc::{config.dtype};",
            *lines,
            f"  static constexpr bool folds = {str(config.folds).lower()};",
            f"  static constexpr bool q_in_registers = {str(config.q_in_registers).lower()};",
            f"  static constexpr attncc::Accuracy accuracy = attncc::Accuracy::{config.accuracy};",
            "};",
            "",
        ]
    )


def adds(config: Config) -> bool:
    """Whether products add a bias by key: it is added to scores in registers."""
    return False


def render_wrapper() -> str:
    """The entry point of the generated text; ``Params`` and ``Variant`` are defined above it."""
    return (
        'extern "C" __global__ void __launch_bounds__(Config::threads, Config::min_blocks)\n'
        f"{entries.SYMBOLS['main']}(const __grid_constant__ Params params) {{\n"
        "  extern __shared__ __align__(128) char smem[];\n"
        "  attncc::follow_grids();\n"
        "  attncc::mma_sm80::run_block<Config, Variant>(params, smem);\n"
        "}\n"
    )


def _row_bytes(head_dim: int) -> int:
    """Bytes of a row of 16-bit elements in shared memory (``SharedTile``): padded unless the swizzle applies."""
    chunks = head_dim // 8
    return (chunks if chunks % 8 == 0 else chunks + 1) * 16
