"""Every operation of the IR, emitted and compiled as C++, against the scalar definition of its meaning.

``attncc.passes.fold`` states that meaning in Python's own numbers; no f32 or i32 of C++ or numpy takes part in it.
"""

from __future__ import annotations

import ctypes
import itertools
import math
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attncc.codegen.emit.expressions import CTYPE, Emitter, Facts
from attncc.codegen.emit.text import Text
from attncc.ir.nodes import Binary, Cast, Const, Coord, Expr, Input, Param, Reduce, Select, Unary
from attncc.ir.types import Type, Value
from attncc.ir.verify import BINARY, UNARY
from attncc.passes import fold
from tests.unit.emitted import ROOT

FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.5, -2.5, 3.5, 1e-3, -7.25, 100.0, 1e10, -1e10, 3e38, 1e-40, 2.0**31, -(2.0**31)]
FLOATS += [2.0**32, math.inf, -math.inf, math.nan]
INTEGERS = [0, 1, -1, 2, -2, 3, 7, -7, 31, 32, 33, -32, 1000, 2**30, -(2**30), 2**31 - 1, -(2**31)]
UNSIGNED = [0, 1, 2, 3, 7, 31, 32, 33, 1000, 2**31 - 1, 2**31, 2**32 - 1]
VALUES: dict[Type, list[Any]] = {
    Type.F32: FLOATS,
    Type.I32: INTEGERS,
    Type.U32: UNSIGNED,
    Type.BOOL: [False, True],
}
NUMPY = {Type.F32: np.float32, Type.I32: np.int32, Type.U32: np.uint32, Type.BOOL: np.bool_}
# How far a library function of the CPU may be from the truth, as a part of the result.
TOLERANCE = dict.fromkeys(
    ["exp", "exp2", "log", "log2", "log1p", "tanh", "sigmoid", "softplus", "rsqrt", "sin", "cos", "erf", "pow"], 4e-7
)


@dataclass(frozen=True)
class Formula:
    """An expression over up to two operands ``x`` and ``y``, and its meaning."""

    label: str
    expr: Expr
    types: tuple[Type, ...]
    tolerance: float = 0.0

    @property
    def signed_zero(self) -> bool:
        """Whether the sign of a zero is defined: min, max and // leave it open, as fminf does."""
        free = isinstance(self.expr, Binary) and self.expr.op in ("min", "max", "floordiv")
        return not free and not self.tolerance


def x(kind: Type) -> Expr:
    return Param("x", kind)


def y(kind: Type) -> Expr:
    return Param("y", kind)


def formulas() -> list[Formula]:
    found = []
    for op, types in UNARY.items():
        for kind in sorted(types, key=lambda item: item.value):
            found.append(Formula(f"{op} {kind.value}", Unary(op, x(kind)), (kind,), TOLERANCE.get(op, 0.0)))
    for op, types in BINARY.items():
        for kind in sorted(types, key=lambda item: item.value):
            expr = Binary(op, x(kind), y(kind))
            found.append(Formula(f"{op} {kind.value}", expr, (kind, kind), TOLERANCE.get(op, 0.0)))
            if kind.is_integer and op in ("floordiv", "mod", "shl", "shr", "mul"):
                for constant in (0, 1, 2, 3, 8, 10, 31, 32, 2**30, -1, -8):
                    if kind is Type.U32 and constant < 0:
                        continue
                    label = f"{op} {kind.value} by {constant}"
                    found.append(Formula(label, Binary(op, x(kind), Const(constant, kind)), (kind,)))
    for source, target in itertools.product(Type, Type):
        if source is not target:
            found.append(Formula(f"{source.value} to {target.value}", Cast(target, x(source)), (source,)))
    for kind in Type:
        expr = Select(Binary("eq", x(kind), y(kind)), y(kind), x(kind))
        found.append(Formula(f"select {kind.value}", expr, (kind, kind)))
        for number in VALUES[kind]:
            if number is not math.nan:
                chosen = Select(Param("x", Type.BOOL), Const(number, kind), Const(VALUES[kind][0], kind))
                found.append(Formula(f"constant {kind.value} {number!r}", chosen, (Type.BOOL,)))
    return found


FORMULAS = formulas()


def meaning(expr: Expr, values: dict[str, Value]) -> Value:
    match expr:
        case Const():
            return expr.value
        case Param():
            return values[expr.name]
        case Unary():
            result = fold.unary(expr.op, meaning(expr.operand, values), expr.type)
        case Binary():
            left, right = meaning(expr.left, values), meaning(expr.right, values)
            result = fold.binary(expr.op, left, right, expr.left.type)
        case Cast():
            result = fold.cast(meaning(expr.operand, values), expr.operand.type, expr.type)
        case Select():
            result = meaning(expr.then if meaning(expr.cond, values) else expr.other, values)
        case _:
            raise TypeError(expr)
    assert result is not None, f"{expr!r} has no meaning"
    return result


def function(name: str, expr: Expr, types: tuple[Type, ...]) -> str:
    """``name(x, y, n, out)`` over arrays."""
    out = Text()
    arrays = [f"const {CTYPE[kind]}* {array}" for kind, array in zip(types, ("xs", "ys"), strict=False)]
    head = f'extern "C" void {name}({", ".join(arrays)}, int n, {CTYPE[expr.type]}* out)'
    with out.block(head), out.block("for (int index = 0; index < n; ++index)"):
        for kind, operand in zip(types, "xy", strict=False):
            out.add(f"const {CTYPE[kind]} {operand} = {operand}s[index];")
        emitter = Emitter(out, Facts.of([expr], {}), lambda n: n.name if isinstance(n, Param) else None, str)
        (value,) = emitter.values([expr])
        out.add(f"out[index] = {value};")
    return out.render()


def build_library(functions: dict[str, tuple[Expr, tuple[Type, ...]]], folder: Path) -> ctypes.CDLL:
    text = '#include "device/joint.cuh"\n#include "device/math.cuh"\n'
    text += "using exact = attncc::Fn<attncc::Accuracy::exact>;\nusing fast = attncc::Fn<attncc::Accuracy::fast>;\n"
    text += "".join(function(name, *item) for name, item in functions.items())
    source, target = folder / "operations.cpp", folder / "operations.so"
    source.write_text(text)
    flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=off", "-w", f"-I{ROOT / 'codegen'}"]
    subprocess.run(["g++", *flags, str(source), "-o", str(target)], check=True)
    return ctypes.CDLL(str(target))


def call(library: ctypes.CDLL, name: str, result: Type, *arrays: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out = np.zeros(len(arrays[0]), NUMPY[result])
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    library[name](*pointers, len(out), ctypes.c_void_p(out.ctypes.data))
    return out


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    functions = {f"f{i}": (formula.expr, formula.types) for i, formula in enumerate(FORMULAS)}
    return build_library(functions, tmp_path_factory.mktemp("operations"))


@pytest.mark.parametrize("index", range(len(FORMULAS)), ids=[formula.label for formula in FORMULAS])
def test_operation(index: int, library: ctypes.CDLL) -> None:
    formula = FORMULAS[index]
    grid = list(itertools.product(*(VALUES[kind] for kind in formula.types)))
    columns = zip(*grid, strict=True)
    arrays = [np.array(column, NUMPY[kind]) for column, kind in zip(columns, formula.types, strict=True)]
    with np.errstate(all="ignore"):
        got = call(library, f"f{index}", formula.expr.type, *arrays)
        for row, value in enumerate(got):
            operands = {name: array[row].item() for name, array in zip("xy", arrays, strict=False)}
            want = meaning(formula.expr, operands)
            if formula.expr.type is Type.F32:
                close = np.isclose(value, np.float32(want), rtol=formula.tolerance, atol=0, equal_nan=True)
                if want == 0 and formula.signed_zero:
                    close = bool(np.signbit(value)) == (math.copysign(1.0, want) < 0)
                assert close, f"{operands}: {value!r}, not {want!r}"
            else:
                assert value.item() == want, f"{operands}: {value!r}, not {want!r}"


def test_loops(tmp_path: Path) -> None:
    """Comprehensions: empty, nested, with parts that do not change inside, and a sum that wraps."""
    n, i, j = Param("x", Type.I32), Coord("i0"), Coord("i1")
    square = Binary("mul", i, i)
    inner = Reduce(
        "sum", Binary("add", Binary("mul", i, j), Binary("mul", n, n)), "i1", Binary("add", i, Const(1, Type.I32))
    )
    cases: dict[str, tuple[Expr, Any]] = {
        "squares": (Reduce("sum", square, "i0", n), lambda m: sum(t * t for t in range(m))),
        "nested": (
            Reduce("sum", inner, "i0", n),
            lambda m: sum(t * u + m * m for t in range(m) for u in range(t + 1)),
        ),
        "any": (Reduce("any", Binary("eq", square, Const(9, Type.I32)), "i0", n), lambda m: m > 3),
        "all": (Reduce("all", Binary("lt", i, Const(5, Type.I32)), "i0", n), lambda m: m <= 5),
        "floats": (
            Reduce("sum", Binary("mul", Cast(Type.F32, i), Const(0.5, Type.F32)), "i0", n),
            lambda m: sum(t * 0.5 for t in range(m)),
        ),
        "wraps": (
            Reduce("sum", Const(2**30, Type.I32), "i0", n),
            lambda m: (m * 2**30 + 2**31) % 2**32 - 2**31,
        ),
        "twice": (
            Binary("add", Reduce("sum", square, "i0", n), Reduce("sum", Binary("add", square, n), "i0", n)),
            lambda m: sum(2 * t * t + m for t in range(m)),
        ),
    }
    library = build_library({name: (expr, (Type.I32,)) for name, (expr, _) in cases.items()}, tmp_path)
    sizes = np.array([0, 1, 2, 3, 4, 5, 6, 13], np.int32)
    for name, (expr, want) in cases.items():
        got = call(library, name, expr.type, sizes)
        assert got.tolist() == [want(int(m)) for m in sizes], name


def test_score_dependent_code_is_approximate_and_the_rest_exact() -> None:
    score, other = Input("score"), Param("x", Type.F32)
    expr = Binary("mul", Unary("tanh", score), Unary("tanh", other))
    out = Text()
    emitter = Emitter(out, Facts.of([expr], {}), lambda n: "score" if n is score else "x" if n is other else None, str)
    assert emitter.values([expr]) == ["fast::tanh(score) * exact::tanh(x)"]


def test_what_decides_keeps_each_rounding() -> None:
    """a * b + c may fuse in a logit; below a comparison it may not, or a GPU takes the other side."""
    product = Binary("add", Binary("mul", x(Type.F32), y(Type.F32)), x(Type.F32))
    for expr, want in (
        (product, "x * y + x"),
        (Binary("lt", product, x(Type.F32)), "exact::add(exact::mul(x, y), x) < x"),
        (Cast(Type.I32, product), "exact::to_i32(exact::add(exact::mul(x, y), x))"),
    ):
        emitter = Emitter(Text(), Facts.of([expr], {}), lambda n: n.name if isinstance(n, Param) else None, str)
        assert emitter.values([expr]) == [want]


def test_shared_values_are_computed_once() -> None:
    shared = Unary("exp", x(Type.F32))
    out = Text()
    expr = Binary("mul", Binary("add", shared, Const(1.0, Type.F32)), shared)
    emitter = Emitter(out, Facts.of([expr], {}), lambda n: n.name if isinstance(n, Param) else None, str)
    assert emitter.values([expr]) == ["(t0 + 1.0f) * t0"]
    assert out.render() == "const float t0 = exact::exp(x);\n"
