"""Expressions are values: interned, picklable, and walked without recursion."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import subprocess
import sys
import threading

import pytest

from attncc.diagnostics import Source, Span
from attncc.ir.build import binary, both, call, compare, f32, i32, select
from attncc.ir.nodes import (
    SOFTMAX,
    STICK_BREAKING,
    WEIGHTED,
    After,
    Binary,
    Branch,
    Const,
    Coord,
    Expr,
    Input,
    Unary,
    Variant,
    _table,
)
from attncc.ir.types import Type, round_f32, truncate, wrap
from attncc.ir.walk import rewrite, rewrite_variant, substitute, walk

Q, K = Coord("q"), Coord("k")


def test_equal_structure_is_one_object() -> None:
    assert binary("-", Coord("q"), Coord("k")) is binary("-", Coord("q"), Coord("k"))
    assert binary("-", Q, K) is not binary("-", K, Q)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (Const(1, Type.I32), Const(1, Type.F32)),
        (Const(1, Type.I32), Const(1, Type.U32)),
        (Const(True, Type.BOOL), Const(1, Type.I32)),
        (Const(0.0, Type.F32), Const(-0.0, Type.F32)),
    ],
)
def test_constants_that_python_calls_equal_stay_apart(left: Expr, right: Expr) -> None:
    assert left is not right
    assert left.digest != right.digest


def test_nan_constants_are_one_object() -> None:
    assert Const(math.nan, Type.F32) is Const(math.nan, Type.F32)


def test_constants_take_the_value_a_kernel_would_hold() -> None:
    assert Const(0.1, Type.F32).value == round_f32(0.1) != 0.1
    assert Const(2**31, Type.I32).value == -(2**31)
    assert Const(-1, Type.U32).value == 2**32 - 1
    assert Const(1e300, Type.F32).value == math.inf


def test_casts_saturate_and_wrap_as_documented() -> None:
    assert [truncate(x, Type.I32) for x in (1e10, -1e10, math.nan, math.inf, -1.9)] == [
        2**31 - 1,
        -(2**31),
        0,
        2**31 - 1,
        -1,
    ]
    assert [truncate(x, Type.U32) for x in (-1.0, 1e10)] == [0, 2**32 - 1]
    assert wrap(2**31, Type.I32) == -(2**31)


def test_copies_and_pickles_are_the_same_object() -> None:
    expr = both(compare(">=", Q, K), compare("<", binary("-", Q, K), i32(7)))
    assert copy.copy(expr) is expr
    assert copy.deepcopy(expr) is expr
    assert pickle.loads(pickle.dumps(expr)) is expr


def test_threads_meet_at_one_object() -> None:
    made: list[Expr] = []
    barrier = threading.Barrier(8)

    def build() -> None:
        barrier.wait()
        made.extend(binary("*", i32(n), Coord("row")) for n in range(500))

    threads = [threading.Thread(target=build) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(expr) for expr in made}) == 500


def test_the_table_forgets_what_nobody_holds() -> None:
    expr: Expr | None = binary("+", Coord("col"), i32(987_654))
    before = len(_table)
    del expr
    gc.collect()
    assert len(_table) < before


def test_digest_is_stable_between_processes() -> None:
    program = (
        "from attncc.ir import build, nodes\nprint(build.binary('-', nodes.Coord('q'), build.i32(3)).digest.hex())"
    )
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == binary("-", Coord("q"), i32(3)).digest.hex()


def test_walk_yields_operands_before_users_each_once() -> None:
    shared = binary("-", Q, K)
    expr = select(compare("<", shared, i32(4)), shared, binary("*", shared, shared))
    order = list(walk(expr))
    assert len(order) == len(set(order))
    for node in order:
        assert all(order.index(operand) < order.index(node) for operand in node.operands)


def test_formulas_may_be_deeper_than_the_recursion_limit() -> None:
    expr: Expr = Q
    for n in range(5 * sys.getrecursionlimit()):
        expr = binary("+", expr, i32(n % 7 + 1))
    doubled = rewrite(expr, lambda node: i32(2 * int(node.value)) if isinstance(node, Const) else node)
    assert doubled is not expr
    assert sum(1 for _ in walk(doubled)) == sum(1 for _ in walk(expr))


def test_substitute_does_not_look_into_what_it_puts_in() -> None:
    swapped = substitute(compare("<=", K, Q), {Q: K, K: Q})
    assert swapped is compare("<=", Q, K)


def test_rewriting_carries_spans_to_what_replaced_a_node() -> None:
    source = Source("x.attn", "q >= k")
    old = compare(">=", Q, K)
    variant = Variant("x", branches=(Branch(mask=old),), spans={old: (Span(source, 0, 6),)})
    new = rewrite_variant(variant, lambda node: Unary("not", node) if node is old else node)
    mask = new.branches[0].mask
    assert mask is Unary("not", old)
    assert new.spans[mask] == (Span(source, 0, 6),)


def test_the_row_reduction_follows_from_the_hooks() -> None:
    softmax, weighted = Branch(), Branch(weight=call("sigmoid", (Input("logits"),)))
    ordered = Branch(weight=Binary("mul", call("exp", (After(Input("logits")),)), f32(2.0)))
    reductions = [Variant("x").reduction(branch) for branch in (softmax, weighted, ordered)]
    assert reductions == [SOFTMAX, WEIGHTED, STICK_BREAKING]
