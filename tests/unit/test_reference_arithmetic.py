"""Total arithmetic: every operation has a value everywhere, and it is the one section 3 of the design names."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncc.ir.types import I32_MAX, I32_MIN, U32_MAX, Type, truncate, wrap
from attncc.ir.verify import BINARY, UNARY
from attncc.reference import arithmetic
from attncc.reference.rounding import Array, to_bf16, to_f16

I32 = st.one_of(st.integers(I32_MIN, I32_MAX), st.sampled_from([0, 1, -1, I32_MIN, I32_MAX]))
U32 = st.one_of(st.integers(0, U32_MAX), st.sampled_from([0, 1, U32_MAX]))
F32 = st.floats(width=32)


def array(value: float | int | bool, type: Type) -> Array:
    return np.full((1, 1, 1, 1), value, arithmetic.DTYPES[type])


def integers(op: str, x: int, y: int, type: Type) -> int:
    """Exact integer arithmetic, reduced to 32 bits at the end."""
    exact = {
        "add": lambda: x + y,
        "sub": lambda: x - y,
        "mul": lambda: x * y,
        "floordiv": lambda: x // y if y else 0,
        "mod": lambda: x % y if y else 0,
        "min": lambda: min(x, y),
        "max": lambda: max(x, y),
        "bitand": lambda: x & y,
        "bitor": lambda: x | y,
        "bitxor": lambda: x ^ y,
        "shl": lambda: x << (y & 31),
        "shr": lambda: x >> (y & 31),
    }[op]()
    return wrap(exact, type)


INTEGER_OPS = [op for op, types in BINARY.items() if Type.I32 in types and op not in ("lt", "le", "eq")]


@pytest.mark.parametrize("op", INTEGER_OPS)
@given(data=st.data())
def test_integers_wrap(op: str, data: st.DataObject) -> None:
    for type, values in ((Type.I32, I32), (Type.U32, U32)):
        x, y = data.draw(values), data.draw(values)
        with np.errstate(all="ignore"):
            got = arithmetic.binary(op, array(x, type), array(y, type))
        assert got.dtype == arithmetic.DTYPES[type]
        assert int(got.item()) == integers(op, x, y, type)


@given(x=F32, y=F32)
def test_f32_rounds_every_operation(x: float, y: float) -> None:
    with np.errstate(all="ignore"):
        for op, exact in (("add", x + y), ("sub", x - y), ("mul", x * y)):
            got = arithmetic.binary(op, array(x, Type.F32), array(y, Type.F32))
            assert got.dtype == np.float32
            np.testing.assert_array_equal(got.item(), float(np.float32(exact)))


@pytest.mark.parametrize("op", ["div", "floordiv", "mod"])
@given(x=F32)
def test_division_by_zero_gives_zero(op: str, x: float) -> None:
    for zero in (0.0, -0.0):
        with np.errstate(all="ignore"):
            assert arithmetic.binary(op, array(x, Type.F32), array(zero, Type.F32)).item() == 0


@pytest.mark.parametrize("op", ["min", "max"])
def test_a_nan_loses(op: str) -> None:
    for x, y in ((math.nan, 2.0), (2.0, math.nan)):
        assert arithmetic.binary(op, array(x, Type.F32), array(y, Type.F32)).item() == 2.0


@given(x=F32)
def test_float_to_int_truncates_and_saturates(x: float) -> None:
    for type in (Type.I32, Type.U32):
        assert int(arithmetic.convert(type, array(x, Type.F32)).item()) == truncate(x, type)


@given(x=I32)
def test_integers_convert(x: int) -> None:
    here = array(x, Type.I32)
    assert int(arithmetic.convert(Type.U32, here).item()) == wrap(x, Type.U32)
    assert arithmetic.convert(Type.F32, here).item() == np.float32(x)
    assert bool(arithmetic.convert(Type.BOOL, here).item()) is (x != 0)


SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e30, -1e30, math.inf, -math.inf, math.nan)


@pytest.mark.parametrize("op", sorted(UNARY))
def test_every_unary_operation_keeps_the_type(op: str) -> None:
    for type in UNARY[op]:
        values = SPECIAL if type is Type.F32 else (0, 1)
        for value in values:
            with np.errstate(all="ignore"):
                assert arithmetic.unary(op, array(value, type)).dtype == arithmetic.DTYPES[type]


@pytest.mark.parametrize(
    ("op", "x", "expected"),
    [
        ("sigmoid", 1e30, 1.0),
        ("sigmoid", -1e30, 0.0),
        ("softplus", 1e30, 1e30),
        ("softplus", -1e30, 0.0),
        ("softplus", 0.0, math.log(2)),
        ("round", 2.5, 2.0),
        ("round", -3.5, -4.0),
        ("floor", -0.5, -1.0),
        ("erf", 0.5, math.erf(0.5)),
        ("rsqrt", 16.0, 0.25),
        ("log", 0.0, -math.inf),
        ("exp2", 10.0, 1024.0),
    ],
)
def test_functions(op: str, x: float, expected: float) -> None:
    with np.errstate(all="ignore"):
        got = arithmetic.unary(op, array(x, Type.F32)).item()
    assert got == np.float32(expected)


def test_narrow_rounding_is_that_of_the_dtypes() -> None:
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    edges = np.array([0, 1, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x3F808000, 0x3F818000], np.uint32)
    values = np.concatenate([bits, edges]).view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16).astype(np.float32)
        half = values.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(to_bf16(values), expected)
    np.testing.assert_array_equal(to_f16(values), half)
    assert to_bf16(np.float32(1.00390625)).shape == ()
