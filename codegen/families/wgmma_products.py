"""The inline assembly of wgmma products, one ``attncc::Product`` a shape; knows no kernel. See ``device/wgmma.cuh``."""

from __future__ import annotations

from collections.abc import Iterable


def render(shapes: Iterable[int], dtype: str) -> str:
    """``Product<n, dtype>`` for every n of ``shapes``: multiples of 8 from 8 to 256 (PTX ISA 9.7.15.5.2)."""
    products = "\n".join(_product(n, dtype) for n in sorted(set(shapes)))
    return f"#ifdef __CUDACC__\nnamespace attncc {{\n{products}\n}}  // namespace attncc\n#endif\n"


def _product(n: int, dtype: str) -> str:
    if n % 8 or not 8 <= n <= 256:
        raise ValueError(f"no wgmma has {n} columns")
    count = n // 2
    shared = _issue(n, dtype, "from_shared", "u64 a", [f"%{count}"], ['"l"(a)'], "0, 0")
    registers = _issue(
        n,
        dtype,
        "from_registers",
        "const unsigned (&a)[4]",
        [f"{{%{count}, %{count + 1}, %{count + 2}, %{count + 3}}}"],
        [f'"r"(a[{i}])' for i in range(4)],
        "1",
    )
    return f"template <>\nstruct Product<{n}, {dtype}> {{\n{shared}\n{registers}}};\n"


def _issue(n: int, dtype: str, name: str, a: str, operand: list[str], inputs: list[str], major: str) -> str:
    count = n // 2
    b, add = count + len(inputs), count + len(inputs) + 1
    places = _wrapped([f"%{i}" for i in range(count)], '      "', ', "', '"')
    outputs = _wrapped([f'"+f"(c[{i}])' for i in range(count)], "      : ", ",", "")
    return (
        "\n".join(
            [
                f"  __device__ __forceinline__ static void {name}(float (&c)[{count}], {a}, u64 b, bool add) {{",
                "    asm volatile(",
                '      "{\\n\\t.reg .pred p;\\n\\tsetp.ne.b32 p, ' + f'%{add}, 0;\\n\\t"',
                f'      "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.{dtype}.{dtype} {{"',
                places,
                f'      "}}, {operand[0]}, %{b}, p, 1, 1, {major};\\n\\t}}"',
                outputs,
                f'      : {", ".join(inputs)}, "l"(b), "r"(int(add)));',
                "  }",
            ]
        )
        + "\n"
    )


def _wrapped(items: list[str], first: str, end: str, close: str) -> str:
    """Eight items a line; ``end`` closes every line but the last, ``close`` the last."""
    lines = [", ".join(items[i : i + 8]) for i in range(0, len(items), 8)]
    indent = " " * (len(first) - 1) + '"' if close else " " * len(first)
    text = []
    for i, line in enumerate(lines):
        text.append((first if i == 0 else indent) + line + (close if i == len(lines) - 1 else end))
    return "\n".join(text)
