"""The Python front end: what each construct means, by the IR it makes, and where the spans of its nodes point."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import textwrap
from functools import reduce
from typing import Any

import numpy as np
import pytest

import attncc
from attncc import (
    BF16,
    F32,
    I64,
    U8,
    U32,
    At,
    Const,
    Hooks,
    Key,
    Query,
    Tensor,
    UInt32,
    Value,
    all_over,
    any_over,
    dot,
    hooks,
    require,
    rowmax,
    softmax,
    sum_over,
    tanh,
    where,
)
from attncc.binding import VariantFactory
from attncc.diagnostics import AttnccError, LanguageError, Source, TracingError
from attncc.diagnostics.catalogue import catalogue
from attncc.frontend.location import caller
from attncc.ir import build
from attncc.ir.nodes import (
    BRANCH_HOOKS,
    Binary,
    Branch,
    Cast,
    Coord,
    Emit,
    Expr,
    Extent,
    Input,
    Load,
    Operand,
    Param,
    ParamDecl,
    Reduce,
    Rotate,
    Select,
    Slice,
    Unary,
    Variant,
)
from attncc.ir.nodes import (
    Const as Constant,
)
from attncc.ir.types import Storage, Type
from attncc.passes.canonicalize import canonicalize

Q, K, H = Coord("q"), Coord("k"), Coord("h")
SCORE = Input("score")


def trace(factory: VariantFactory[Any], **constants: Any) -> Variant:
    return factory.definition.instantiate(constants)


def traced(text: str, **names: Any) -> Variant:
    """The variant that a text of Python declares; what it uses of attncc is in scope."""
    namespace = {name: getattr(attncc.frontend, name) for name in attncc.frontend.__all__} | {"attncc": attncc, **names}
    exec(compile(textwrap.dedent(text), "<no source>", "exec"), namespace)
    (found,) = (item for item in namespace.values() if isinstance(item, VariantFactory))
    return trace(found)


def from_text(body: str) -> Variant:
    """The same in the language of files."""
    from attncc.grammar import read

    (definition,) = read(Source("<test>", textwrap.dedent(body))).definitions.values()
    return definition.instantiate({})


def logits_of(expression: str) -> Expr:
    """What ``expression`` over ``at`` becomes as the logits hook."""
    hook = (
        traced(
            f"@attncc.variant\ndef v(at, *, x: float, n: int, u: UInt32, t: F32[Tensor, 'num_heads']):\n"
            f"    return hooks(logits={expression})\n"
        )
        .branches[0]
        .logits
    )
    assert hook is not None
    return hook


def mask_of(expression: str) -> Expr:
    hook = (
        traced(
            f"@attncc.variant\ndef v(at, *, flag: bool, w: int, u: UInt32, g: Bool[Tensor, 'kv_len']):\n"
            f"    return hooks(mask={expression})\n"
        )
        .branches[0]
        .mask
    )
    assert hook is not None
    return hook


# Expressions ----------------------------------------------------------------------------------------------------------

X, N, U = Param("x", Type.F32), Param("n", Type.I32), Param("u", Type.U32)
FLAG, W = Param("flag", Type.BOOL), Param("w", Type.I32)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("at.score * x", Binary("mul", SCORE, X)),
        ("2.0 * at.score", Binary("mul", build.f32(2.0), SCORE)),
        ("2 - at.score", Binary("sub", Cast(Type.F32, build.i32(2)), SCORE)),
        ("at.score / 2.0", Binary("div", SCORE, build.f32(2.0))),
        ("at.q / at.k", Binary("div", Cast(Type.F32, Q), Cast(Type.F32, K))),
        ("at.q // 4", Cast(Type.F32, Binary("floordiv", Q, build.i32(4)))),
        ("9 % at.q", Cast(Type.F32, Binary("mod", build.i32(9), Q))),
        ("at.score ** 2.0", Binary("pow", SCORE, build.f32(2.0))),
        ("2.0 ** at.score", Binary("pow", build.f32(2.0), SCORE)),
        ("-at.score", Unary("neg", SCORE)),
        ("abs(at.score)", Unary("abs", SCORE)),
        ("round(at.score)", Unary("round", SCORE)),
        ("+at.score", SCORE),
        ("where(at.q == at.k, at.score, 0)", Select(Binary("eq", Q, K), SCORE, Cast(Type.F32, build.i32(0)))),
        ("t[at.h]", Load("t", (H,), Type.F32)),
        ("t[3]", Load("t", (build.i32(3),), Type.F32)),
        ("t[u]", Load("t", (Cast(Type.I32, U),), Type.F32)),
        ("t.shape[0] + 0.5", Binary("add", Cast(Type.F32, Extent("num_heads")), build.f32(0.5))),
        (
            "f32(u >> 2 & 1)",
            Cast(
                Type.F32,
                Binary("bitand", Binary("shr", U, Cast(Type.U32, build.i32(2))), Constant(1, Type.U32)),
            ),
        ),
        ("1 << n", Cast(Type.F32, Binary("shl", build.i32(1), N))),
        ("at.score + float('inf')", Binary("add", SCORE, build.f32(float("inf")))),
    ],
    ids=str,
)
def test_arithmetic_is_the_languages(expression: str, expected: Expr) -> None:
    assert logits_of(expression) is expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("at.q >= at.k", Binary("le", K, Q)),
        ("at.q > at.k", Binary("lt", K, Q)),
        ("3 < at.q", Binary("lt", build.i32(3), Q)),
        ("3 == at.q", Binary("eq", Q, build.i32(3))),
        ("at.q != at.k", Unary("not", Binary("eq", Q, K))),
        ("(at.q < w) & flag", Binary("and", Binary("lt", Q, W), FLAG)),
        ("True & flag", Binary("and", build.TRUE, FLAG)),
        ("flag | g[at.k]", Binary("or", FLAG, Load("g", (K,), Type.BOOL))),
        ("flag ^ g[at.k]", Binary("xor", FLAG, Load("g", (K,), Type.BOOL))),
        ("~flag", Unary("not", FLAG)),
        ("~w == 0", Binary("eq", Unary("bitnot", W), build.i32(0))),
        ("True", build.TRUE),
        ("u == 1", Binary("eq", U, Constant(1, Type.U32))),
    ],
    ids=str,
)
def test_conditions_are_the_languages(expression: str, expected: Expr) -> None:
    assert mask_of(expression) is expected


@pytest.mark.parametrize("name", sorted(set(build.FUNCTIONS) - {"bool"}))
def test_every_function_of_the_language_has_its_python_name(name: str) -> None:
    function = getattr(attncc, name)
    arity = build.FUNCTIONS[name].arity
    arguments = [Value(node) for node in (Binary("eq", Q, K), SCORE, X)]
    given = arguments[:arity] if name == "where" else arguments[1 : arity + 1] if arity < 3 else [arguments[1]] * 3
    assert function(*given).expr is build.call(name, tuple(value.expr for value in given))


def test_numpy_numbers_stand_in_formulas_on_both_sides() -> None:
    variant = traced(
        "@attncc.variant\ndef v(at):\n    return hooks(logits=two * at.score - at.score / two)\n", two=np.float32(2.0)
    )
    twice, half = Binary("mul", build.f32(2.0), SCORE), Binary("div", SCORE, build.f32(2.0))
    assert variant.branches[0].logits is Binary("sub", twice, half)


def test_channels_are_sliced_and_rotated() -> None:
    query = (
        traced(
            "@attncc.variant\ndef v(at):\n    h = at.head_dim // 2\n"
            "    return hooks(query=at.query[:h] + at.query[h:] + rotate_half(at.query[0:h]))\n"
        )
        .branches[0]
        .query
    )
    half = Binary("floordiv", Extent("head_dim"), build.i32(2))
    low = Slice(Input("query"), build.i32(0), half)
    high = Slice(Input("query"), half, Extent("head_dim"))
    assert query is Binary("add", Binary("add", low, high), Rotate("half", low))


def test_loops_are_numbered_by_their_depth_however_they_were_traced() -> None:
    @attncc.variant
    def nested(at: At, *, sets: U8[Tensor, "num_heads, n"]) -> Hooks:
        n = sets.shape[1]
        inner = any_over(n, lambda i: sets[at.h, i] == at.k)  # traced outside the loop it ends in
        both = all_over(4, lambda j: inner | any_over(n, lambda i: sets[at.h, i] == j))
        return hooks(mask=both, logits=at.score + sum_over(n, lambda i: sets[at.h, i]))

    i0, i1, n, four = Coord("i0"), Coord("i1"), Extent("n"), build.i32(4)
    element = Load("sets", (H, i1), Type.I32)
    found = Reduce("any", Binary("eq", element, K), "i1", n)
    other = Reduce("any", Binary("eq", element, i0), "i1", n)
    variant = trace(nested)
    assert variant.branches[0].mask is Reduce("all", Binary("or", found, other), "i0", four)
    total = Reduce("sum", Load("sets", (H, i0), Type.I32), "i0", n)
    assert variant.branches[0].logits is Binary("add", SCORE, Cast(Type.F32, total))


# Functions, loops, closures -------------------------------------------------------------------------------------------


def test_python_runs_while_tracing() -> None:
    sizes = [4, 8]

    def near(at: At, size: int) -> Value:
        return at.q - at.k < size

    @attncc.variant
    def mixed(at: At, *, n: Const[int] = 2) -> Hooks:
        conditions = [near(at, size) for size in sizes] + [at.h != i for i in range(n)]
        return hooks(mask=reduce(lambda x, y: x & y, conditions))

    difference = Binary("sub", Q, K)
    first = [Binary("lt", difference, build.i32(size)) for size in sizes]
    rest = [Unary("not", Binary("eq", H, build.i32(i))) for i in range(3)]
    for n in (1, 3):
        expected = list(itertools.accumulate([*first, *rest[:n]], lambda x, y: Binary("and", x, y)))[-1]
        assert trace(mixed, n=n).branches[0].mask is expected


def test_constants_are_python_numbers_and_leave_no_parameter() -> None:
    @attncc.variant
    def power(at: At, *, p: Const[float], both: Const[bool] = False, cap: float = 2.0) -> Hooks:
        return hooks(logits=at.score * p, mask=at.q >= at.k if both else True)

    assert [decl.name for decl in power.definition.constants] == ["p", "both"]
    variant = trace(power, p=2, both=True)
    assert variant.params == (ParamDecl("cap", Type.F32, 2.0),)
    assert variant.branches[0].logits is Binary("mul", SCORE, build.f32(2.0))
    assert variant.branches[0].mask is not None
    assert trace(power, p=2).branches[0].mask is build.TRUE
    with pytest.raises(LanguageError, match="`p`"):
        trace(power)


# Declarations ---------------------------------------------------------------------------------------------------------


def test_annotations_declare_parameters_tensors_and_operands() -> None:
    @attncc.variant
    def all_kinds(
        at: At,
        *,
        a: float,
        b: int = 3,
        c: bool = True,
        d: UInt32 = 7,
        e: float | Tensor = 1.5,
        s: BF16[Tensor, "num_heads"],
        t: I64[Tensor, "batch, 2 * n + 1, min(n, head_dim)"],
        u: U32[Tensor, "n"],
        q_pe: Query[Tensor, "num_heads, 64"],
        k_pe: Key[Tensor, "1, 64"],
    ) -> Hooks:
        """What it is."""
        return hooks(score=dot(q_pe, k_pe))

    variant = trace(all_kinds)
    assert variant.params == (
        ParamDecl("a", Type.F32),
        ParamDecl("b", Type.I32, 3),
        ParamDecl("c", Type.BOOL, True),
        ParamDecl("d", Type.U32, 7),
        ParamDecl("e", Type.F32, 1.5),
    )
    assert [(t.name, t.storage) for t in variant.tensors] == [
        ("s", Storage.BF16),
        ("t", Storage.I64),
        ("u", Storage.U32),
    ]
    n = Extent("n")
    twice = Binary("add", Binary("mul", build.i32(2), n), build.i32(1))
    assert variant.tensor("t").dims == (Extent("batch"), twice, Binary("min", n, Extent("head_dim")))
    assert variant.operands == (
        Operand("q_pe", "query", Extent("num_heads"), build.i32(64)),
        Operand("k_pe", "key", build.i32(1), build.i32(64)),
    )
    assert variant.branches[0].score is Reduce("dot", Binary("mul", Input("q_pe"), Input("k_pe")))
    assert all_kinds.__doc__ == all_kinds.definition.doc == "What it is."


def test_dims_may_use_constants() -> None:
    @attncc.variant
    def ring(at: At, *, size: Const[int] = 8, table: F32[Tensor, "num_heads, 2 * size"]) -> Hooks:
        return hooks(logits=at.score + table[at.h, at.q % size])

    assert canonicalize(trace(ring, size=4)).tensor("table").dims[1] is build.i32(8)


def test_every_hook_arrives() -> None:
    @attncc.variant
    def everything(at: At, *, g: F32[Tensor, "num_heads"]) -> Hooks:
        require(at.head_dim % 2 == 0, "pairs of channels")
        return hooks(
            sm_scale=1,
            query=at.query * 2.0,
            key=at.key + at.d,
            value=at.value * 0.5,
            score=dot(at.query, at.key) * at.sm_scale,
            logits=at.score,
            mask=at.q >= at.k,
            weight=at.logits,
            normalize=where(at.total > 1.0, at.total, 1.0),
            output=at.out * g[at.h],
            emit={"top": rowmax(at.logits), "mass": at.total},
        )

    variant = trace(everything)
    assert set(variant.branches[0].hooks()) == set(BRANCH_HOOKS) - {"sink"}
    assert variant.branches[0].sm_scale is Cast(Type.F32, build.i32(1))
    assert variant.output is Binary("mul", Input("out"), Load("g", (H,), Type.F32))
    assert variant.emits[0] == Emit("top", "row", Reduce("rowmax", Input("logits")))
    assert variant.emits[1] == Emit("mass", "row", Input("total"))
    assert [require.text for require in variant.requires] == ["pairs of channels"]


def test_softmax_with_a_sink() -> None:
    @attncc.variant
    def plus_one(at: At) -> Hooks:
        return hooks(normalize=softmax(sink=0.0))

    @attncc.variant
    def plain(at: At) -> Hooks:
        return hooks(normalize=softmax())

    assert trace(plus_one).branches == (Branch(sink=build.f32(0.0)),)
    assert trace(plain).branches == (Branch(),)


TWINS = {
    "shared hooks hold for every branch": (
        """
        @attncc.variant
        def d(at: At, *, lam: F32[Tensor, "num_heads"]):
            half = at.head_dim // 2
            x = branch(query=at.query[:half], key=at.key[:half])
            y = branch(query=at.query[half:], key=at.key[half:], mask=at.q > at.k, normalize=softmax(sink=1.0))
            return hooks(
                mask=at.q >= at.k,
                logits=2.0 * at.score,
                branches={"x": x, "y": y},
                output=at.branch("x").out - lam[at.h] * at.branch("y").out,
                emit={"top": rowmax(at.branch("x").logits)},
            )
        """,
        """
        variant d(lam: f32[num_heads]) {
            mask = q >= k
            logits = 2.0 * score
            branch x { query = query[: head_dim // 2]; key = key[: head_dim // 2] }
            branch y {
                query = query[head_dim // 2 :]; key = key[head_dim // 2 :]
                mask = q > k; normalize = softmax(sink = 1.0)
            }
            output = x.out - lam[h] * y.out
            emit top = rowmax(x.logits)
        }
        """,
    ),
    "loops": (
        """
        @attncc.variant
        def v(at: At, *, sets: I32[Tensor, "num_kv_heads, n"], m: Const[int] = 3):
            inner = any_over(sets.shape[1], lambda i: sets[at.hk, i] == at.k // 64)
            return hooks(mask=inner | all_over(m, lambda j: any_over(at.extent("n"), lambda i: sets[at.hk, i] > j)))
        """,
        """
        variant v(sets: i32[num_kv_heads, n], const m: i32 = 3) {
            let inner = any(sets[hk, i] == k // 64 for i in n)
            mask = inner or all(any(sets[hk, i] > j for i in n) for j in m)
        }
        """,
    ),
    "stick breaking": (
        """
        @attncc.variant
        def s(at: At):
            return hooks(mask=at.q > at.k, weight=sigmoid(at.logits) * exp(after(-softplus(at.logits))))
        """,
        "variant s { mask = q > k; weight = sigmoid(logits) * exp(after(-softplus(logits))) }",
    ),
    "two-part score": (
        """
        @attncc.variant
        def mla(at: At, *, q_pe: Query[Tensor, "num_heads, 64"], k_pe: Key[Tensor, "1, 64"]):
            return hooks(score=at.sm_scale * (dot(at.query, at.key) + dot(q_pe, k_pe) + dot(q_pe[32:], k_pe[:32])))
        """,
        """
        variant mla(q_pe: query[num_heads, 64], k_pe: key[1, 64]) {
            score = sm_scale * (dot(query, key) + dot(q_pe, k_pe) + dot(q_pe[32 :], k_pe[: 32]))
        }
        """,
    ),
    "a requirement": (
        """
        @attncc.variant
        def w(at: At, *, w: int = 4, s: UInt32 = 1):
            require((w > 0) & (at.kv_len >= w), "a window")
            return hooks(mask=(at.row >> i32(s)) == at.col)
        """,
        """
        variant w(w: i32 = 4, s: u32 = 1) {
            require w > 0 and kv_len >= w, "a window"
            mask = (row >> i32(s)) == col
        }
        """,
    ),
    "retention": (
        """
        @attncc.variant
        def retention(at: At, *, gamma: F32[Tensor, "num_heads"]):
            weight = at.logits * pow(gamma[at.h], at.q - at.k)
            return hooks(mask=at.q >= at.k, weight=weight, normalize=max(abs(at.total), 1.0))
        """,
        """
        variant retention(gamma: f32[num_heads]) {
            mask = q >= k
            weight = logits * pow(gamma[h], q - k)
            normalize = max(abs(total), 1.0)
        }
        """,
    ),
    "entropy": (
        "@attncc.variant\ndef e(at: At):\n    return hooks(emit={'entropy': at.lse - expect(at.logits)})\n",
        "variant e { emit entropy = lse - expect(logits) }",
    ),
    "column sums": (
        "@attncc.variant\ndef h2o(at: At):\n    return hooks(mask=at.q >= at.k, emit={'mass': colsum(at.prob)})\n",
        "variant h2o { mask = q >= k; emit mass = colsum(prob) }",
    ),
}


@pytest.mark.parametrize("case", TWINS)
def test_both_front_ends_make_one_variant(case: str) -> None:
    python, text = TWINS[case]
    assert canonicalize(traced(python)) == canonicalize(from_text(text))


# Spans ----------------------------------------------------------------------------------------------------------------


def helper(at: At, w: Value | float) -> Value:
    return at.q - at.k < w


@attncc.variant
def placed(at: At, *, w: int = 128, bias: F32[Tensor, "num_heads"]) -> Hooks:
    window = helper(at, w)
    logits = at.score + (
        bias[at.h]
    )  # fmt: skip
    logits += 1.0
    return hooks(mask=window & (at.q >= at.k), logits=tanh(logits))


def test_spans_are_the_expressions_as_written() -> None:
    variant = trace(placed)

    def texts(node: Expr) -> list[str]:
        return [" ".join(span.text.split()) for span in variant.spans[node]]

    near = Binary("lt", Binary("sub", Q, K), W)
    added = Binary("add", SCORE, Load("bias", (H,), Type.F32))
    assert texts(near) == ["at.q - at.k < w"]
    assert texts(Q) == ["at.q", "at.q"]
    assert texts(Binary("and", near, Binary("le", K, Q))) == ["window & (at.q >= at.k)"]
    assert texts(added) == ["at.score + ( bias[at.h] )"]
    assert texts(Binary("add", added, build.f32(1.0))) == ["logits += 1.0"]
    assert texts(Unary("tanh", Binary("add", added, build.f32(1.0)))) == ["tanh(logits)"]
    span = variant.spans[near][0]
    assert span.source.line(span.begin_position[0]) == "    return at.q - at.k < w"
    assert placed.definition.span is not None
    assert placed.definition.span.text == "placed"


def test_an_error_is_shown_where_its_own_statement_wrote_it() -> None:
    @attncc.variant
    def twice(at: At) -> Hooks:
        logits = at.score * 2.0
        return hooks(logits=logits, mask=at.score * 2.0 > 0.0)

    with pytest.raises(LanguageError) as caught:
        trace(twice)
    span = caught.value.span
    assert span is not None
    assert span.source.line(span.begin_position[0]).startswith("        return hooks(logits=logits, mask=at.score")


def test_without_source_variants_work_and_errors_have_no_span() -> None:
    variant = traced("@attncc.variant\ndef v(at, *, w: int = 3):\n    return hooks(mask=at.q - at.k < w)\n")
    assert variant.branches[0].mask is Binary("lt", Binary("sub", Q, K), W)
    assert variant.spans == {}
    with pytest.raises(TracingError) as caught:
        traced("@attncc.variant\ndef v(at):\n    return hooks(mask=at.q >= at.k and at.q > 3)\n")
    assert caught.value.code == "A0601"
    assert caught.value.span is None


def test_string_annotations_may_name_locals() -> None:
    local = F32[Tensor, "num_heads"]

    @attncc.variant
    def v(at: At, *, x: local) -> Hooks:
        return hooks(logits=at.score + x[at.h])

    assert trace(v).tensor("x").storage is Storage.F32


def test_tracing_is_put_off_until_the_first_use() -> None:
    @attncc.variant
    def later(at: At) -> Hooks:
        return hooks(mask=defined_below(at))

    def defined_below(at: At) -> Value:
        return at.q >= at.k

    assert trace(later).branches[0].mask is Binary("le", K, Q)


def test_an_exception_of_the_users_own_passes_through() -> None:
    @attncc.variant
    def broken(at: At) -> Hooks:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        trace(broken)
    with pytest.raises(TracingError) as caught:  # and the tracing it broke off is over
        any_over(2, lambda i: i == 1)
    assert caught.value.code == "A0614"


# Without source, so that what is said does not depend on the syntax tree.
MISUSES = {
    "A0601": "1 if at.q > at.k else 2; max([at.score, 1.0]); sorted([at.score, at.score]); at.score in [1.0, 2.0]",
    "A0602": "[1.0, 2.0][at.h]; complex(at.score); '%d' % at.q; range(3)[at.h]; math.exp(at.score); int(at.score)",
    "A0603": "sum(at.query); len(t); list(at.score); [*at.key]",
    "A0604": "None; at.q + '1'; at.q + None; at.q(2); at.score + [1.0]; [0.0] * at.q; tanh + at.q; at.q - at",
    "A0605": "t; tanh(t); t * 2.0; t[0, 1]; t[:]; t[...]",
    "A0606": "dot(at.query[0], at.key[0]); dot(at.query[::2], at.key[::2]); at.score[:]",
    "A0611": "at.scroe; at.score.exp(); at.branch('x').outt",
    "A0612": "np.exp(at.score); np.add.reduce(at.score); np.asarray(at.score); np.where(at.q > 1, 1, 2)",
    "A0613": "{at.h: 1.0}; {at.h}; {0: 1.0}[at.h]; setattr(at, 'x', 1)",
    "A0615": "sum_over(3, 4); sum_over(3, lambda: 4); hooks(emit=3); hooks(emit={'a b': 1}); hooks(branches={'x': 1})",
    "A0214": "sum_over(n, lambda i: i); sum_over(2.5, lambda i: i)",
    "A0301": "at.score + (at.q > 1); -(at.q > 1)",
    "A0302": "where(at.q, 1.0, 2.0); at.q & (at.q > 1)",
    "A0304": "t[at.score]; at.score & 1; ~at.score",
    "A0306": "at.score + 1e39; at.q + 2 ** 40",
}
CASES = [(code, expression) for code, expressions in MISUSES.items() for expression in expressions.split("; ")]


@pytest.mark.parametrize(("code", "expression"), CASES)
def test_misuse_is_an_error_of_ours(code: str, expression: str) -> None:
    import math

    with pytest.raises(AttnccError) as caught:
        traced(
            "@attncc.variant\ndef v(at, *, n: int = 3, t: F32[Tensor, 'num_heads']):\n"
            f"    from builtins import max\n    return hooks(logits={expression})\n",
            np=np,
            math=math,
        )
    assert caught.value.code == code
    assert caught.value.help


def test_torch_functions_name_ours() -> None:
    torch = pytest.importorskip("torch")
    for expression, help in {
        "torch.tanh(at.score)": "attncc.tanh",
        "torch.where(at.q > 1, 1.0, 2.0)": "attncc.where",
    }.items():
        with pytest.raises(TracingError) as caught:
            traced(f"@attncc.variant\ndef v(at):\n    return hooks(logits={expression})\n", torch=torch)
        assert caught.value.code == "A0612"
        assert help in (caught.value.help or "")
    with pytest.raises(TracingError) as caught:
        traced("@attncc.variant\ndef v(at):\n    return hooks(logits=at.score + x)\n", x=torch.zeros(3))
    assert caught.value.code in ("A0604", "A0612")


def test_the_front_end_loads_nothing_heavy() -> None:
    program = "import sys, attncc.frontend; print(*{'lark', 'numpy', 'torch', 'cupy', 'rich'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


def test_the_callers_frame_is_the_first_outside_the_package() -> None:
    span = caller()
    assert span is not None
    assert span.text == "caller()"


SIGNATURES = {
    "A0607": ["v()", "v(*at)", "v(at, x: int)", "v(at, *x: int)", "v(at, **x: int)", "v(*, at)"],
    "A0608": ["v(at, *, x)", "v(at, *, x: str)", "v(at, *, x: F32)", "v(at, *, x: F32['n'])", "v(at, *, x: 'unknown')"],
    "A0609": [
        "v(at, *, x: F32[Tensor, ''])",
        "v(at, *, x: F32[Tensor, 'n.m'])",
        "v(at, *, n: int, x: F32[Tensor, 'n'])",
        "v(at, *, x: Query[Tensor, '64'])",
        "v(at, *, n: Const[float] = 2.5, x: F32[Tensor, 'n'])",
    ],
    "A0610": ["v(at, *, x: F32[Tensor, 'n'] = None)"],
    "A0506": ["v(at, *, x: int = 1.5)", "v(at, *, x: bool = 1)", "v(at, *, x: int = 2 ** 31)"],
}


@pytest.mark.parametrize(("code", "signature"), [(code, one) for code, each in SIGNATURES.items() for one in each])
def test_misused_signatures(code: str, signature: str) -> None:
    with pytest.raises(AttnccError) as caught:
        traced(f"@attncc.variant\ndef {signature}:\n    return hooks()\n")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "function"),
    [
        ("A0607", "async def v(at):\n    return hooks()"),
        ("A0607", "def v(at):\n    yield hooks()"),
        ("A0616", "def v(at):\n    return at.q >= at.k"),
        ("A0616", "def v(at):\n    return {'mask': True}"),
    ],
)
def test_misused_bodies(code: str, function: str) -> None:
    with pytest.raises(AttnccError) as caught:
        traced(f"@attncc.variant\n{function}\n")
    assert caught.value.code == code


# The catalogue --------------------------------------------------------------------------------------------------------

EXAMPLE = re.compile(r"^```python( fails)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", [code for code in catalogue() if code.startswith("A06")])
def test_examples_of_the_catalogue_fail_and_are_mended(code: str) -> None:
    examples = [(bool(mark), text) for mark, text in EXAMPLE.findall(catalogue()[code].explanation)]
    assert {fails for fails, _ in examples} == {True, False}
    for fails, text in examples:
        if fails:
            with pytest.raises(AttnccError) as caught:
                traced(text)
            assert caught.value.code == code
        else:
            traced(text)
