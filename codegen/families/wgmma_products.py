"""The inline assembly of wgmma products, ``attncc::Products<Config>``; knows no kernel. See ``device/wgmma.cuh``.

A whole product is one statement: NVVM takes as long for a statement as it has registers, however many steps it holds.
"""

from __future__ import annotations

from typing import Protocol

PANEL = 64  # columns of a swizzled panel, of 128 bytes a row; see SwizzledTile in device/wgmma.cuh


class Shapes(Protocol):
    """What of a Config decides its products."""

    @property
    def dtype(self) -> str: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def head_dim_v(self) -> int: ...
    @property
    def block_m(self) -> int: ...
    @property
    def block_n(self) -> int: ...
    @property
    def adds(self) -> bool: ...


def render(config: Shapes) -> str:
    """``Products<Config>``. Raises ValueError where no wgmma is so wide (PTX ISA 9.7.15.5.2)."""
    parts = [_scores(config), *([_scores(config, adds=True)] if config.adds else []), _outputs(config)]
    return (
        "#ifdef __CUDACC__\nnamespace attncc {\ntemplate <>\nstruct Products<Config> {\n"
        + "\n".join(parts)
        + "};\n}  // namespace attncc\n#endif\n"
    )


def _scores(config: Shapes, *, adds: bool = False) -> str:
    n = config.block_n
    count = n // 2
    lines = []
    for step in range(config.head_dim // 16):
        # Descriptors count in 16 bytes: 16 columns are 2 of them, until the next panel of all rows begins.
        places = [step // 4 * rows * 8 + step % 4 * 2 for rows in (config.block_m, n)]
        lines += [
            f"add.s64 {name}, %{count + i}, {place};" for i, (name, place) in enumerate(zip("ab", places, strict=True))
        ]
        lines.append(_instruction(n, config.dtype, "a", "b", "some" if step else "none", "0, 0"))
    name, parameters, inputs = "scores", f"float (&c)[{count}], u64 q, u64 k", ['"l"(q)', '"l"(k)']
    if adds:  # last: what is added may be far larger than the rest of the sum, whose steps would be rounded to it
        lines.append(_instruction(n, config.dtype, f"%{count + 2}", f"%{count + 3}", "some", "0, 0"))
        name, parameters = "scores_added", f"{parameters}, u64 ones, u64 added"
        inputs += ['"l"(ones)', '"l"(added)']
    return _statement(name, parameters, lines, count, inputs)


def _outputs(config: Shapes) -> str:
    n = config.head_dim_v
    count, steps = n // 2, config.block_n // 16
    lines = []
    for step in range(steps):
        a = ", ".join(f"%{count + 4 * step + i}" for i in range(4))
        lines.append(f"add.s64 b, %{count + 4 * steps}, {step * 128};")
        lines.append(_instruction(n, config.dtype, f"{{{a}}}", "b", "some" if step else "given", "1"))
    lines.insert(0, f"setp.ne.b32 given, %{count + 4 * steps + 1}, 0;")
    inputs = [f'"r"(p[{step}][{i}])' for step in range(steps) for i in range(4)] + ['"l"(v)', '"r"(int(add))']
    return _statement(
        "outputs", f"float (&c)[{count}], const unsigned (&p)[{steps}][4], u64 v, bool add", lines, count, inputs
    )


def _instruction(n: int, dtype: str, a: str, b: str, add: str, major: str) -> str:
    if n % 8 or not 8 <= n <= 256:
        raise ValueError(f"no wgmma has {n} columns")
    places = ", ".join(f"%{i}" for i in range(n // 2))
    return f"wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {{{places}}}, {a}, {b}, {add}, 1, 1, {major};"


def _statement(name: str, parameters: str, lines: list[str], count: int, inputs: list[str]) -> str:
    head = [".reg .pred none, some, given;", ".reg .b64 a, b;", "setp.ne.b32 none, 0, 0;", "setp.eq.b32 some, 0, 0;"]
    text = "\n".join(f'      "{line}\\n\\t"' for line in ["{", *head, *lines, "}"])
    outputs = ", ".join(f'"+f"(c[{i}])' for i in range(count))
    return (
        f"  __device__ __forceinline__ static void {name}({parameters}) {{\n    asm volatile(\n{text}\n"
        f"      : {outputs}\n      : {', '.join(inputs)});\n  }}\n"
    )
