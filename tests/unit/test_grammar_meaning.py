"""What .attn text means, by evaluating it: the same values as Python where the syntax is Python's."""

from __future__ import annotations

import itertools
import math
import random
import sys
from typing import Any

import pytest
from lark.exceptions import GrammarError

from attncc.diagnostics import LanguageError, Source
from attncc.grammar import attn_table, read, table
from attncc.ir.extents import channel_lengths
from attncc.ir.nodes import Coord, Expr, Input, Reduce, Variant
from attncc.ir.types import Type
from attncc.ir.walk import walk
from tests.unit.ir_evaluator import evaluate

NUMBERS = {"a": 7, "e": 3, "c": -2, "x": 1.5, "y": -0.25}
PARAMS = "a: i32, e: i32, c: i32, x: f32, y: f32"


def lower(text: str, name: str | None = None, **constants: Any) -> Variant:
    definitions = read(Source("test.attn", text)).definitions
    return definitions[name or next(iter(definitions))].instantiate(constants)


def hook(text: str, name: str) -> Expr:
    value = getattr(lower(text).branches[0], name)
    assert isinstance(value, Expr)
    return value


def number(expression: str) -> float:
    value = evaluate(hook(f"variant v({PARAMS}) {{ logits = f32({expression}) }}", "logits"), NUMBERS)
    assert isinstance(value, float)
    return value


def condition(expression: str, **coordinates: int) -> bool:
    value = evaluate(hook(f"variant v({PARAMS}) {{ mask = {expression} }}", "mask"), {**NUMBERS, **coordinates})
    assert isinstance(value, bool)
    return value


# The grammar itself ---------------------------------------------------------------------------------------------------


def test_grammar_is_unambiguous_and_the_kept_table_is_its_own() -> None:
    grammar = table.GRAMMAR.read_text(encoding="utf-8")
    built = table.build(grammar)  # strict: a conflict raises
    assert table.encode(built, grammar) == table.KEPT.read_text(encoding="utf-8")
    assert table.table() == built


def test_strict_finds_ambiguity() -> None:
    with pytest.raises(GrammarError, match="Shift/Reduce"):
        table.build("start: expr\n?expr: expr PLUS expr -> binary\n | NAME\n%declare NAME PLUS\n")


def test_a_stale_table_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attn_table, "DIGEST", "0")
    monkeypatch.setattr(attn_table, "STATES", "damaged")
    assert table.table.__wrapped__() == table.table()


# Precedence and operators ---------------------------------------------------------------------------------------------

INTEGER_OPERATORS = ["+", "-", "*", "//", "%", "&", "|", "^"]
COMPARISONS = ["<", "<=", ">", ">=", "==", "!="]


def random_integer(rng: random.Random, depth: int) -> str:
    """An integer expression with few parentheses, in the syntax that .attn shares with Python."""
    if depth == 0:
        return rng.choice(["a", "e", "c", "0", "1", "2", "5", "0x1f", "0b11"])
    kind = rng.random()
    if kind < 0.6:
        op = rng.choice(INTEGER_OPERATORS)
        return f"{random_integer(rng, depth - 1)} {op} {random_integer(rng, depth - 1)}"
    if kind < 0.68:
        return f"{random_integer(rng, depth - 1)} {rng.choice(['<<', '>>'])} {rng.randrange(4)}"
    if kind < 0.8:
        return f"{rng.choice(['-', '~', '+'])}{random_integer(rng, depth - 1)}"
    if kind < 0.9:
        return f"({random_integer(rng, depth - 1)})"
    then, cond, other = random_integer(rng, depth - 1), random_condition(rng, depth - 1), random_integer(rng, depth - 1)
    return f"({then} if {cond} else {other})"


def random_condition(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.4:
        links = rng.choice([1, 1, 2, 3])
        text = random_integer(rng, max(depth - 1, 0))
        for _ in range(links):
            text += f" {rng.choice(COMPARISONS)} {random_integer(rng, max(depth - 1, 0))}"
        return text
    if kind < 0.6:
        return f"not {random_condition(rng, depth - 1)}"
    if kind < 0.7:
        return f"({random_condition(rng, depth - 1)})"
    return f"{random_condition(rng, depth - 1)} {rng.choice(['and', 'or'])} {random_condition(rng, depth - 1)}"


def test_expressions_mean_what_they_mean_in_python() -> None:
    rng = random.Random(20240521)
    compared = 0
    for _ in range(1500):
        text = random_condition(rng, 4) if rng.random() < 0.5 else f"({random_integer(rng, 4)}) % 97 < 40"
        names = {name: rng.randrange(-6, 9) for name in "aec"}
        try:
            expected = bool(eval(text, {}, dict(names)))
            got = evaluate(hook(f"variant v({PARAMS}) {{ mask = {text} }}", "mask"), names)
        except (ZeroDivisionError, OverflowError, ValueError):
            continue
        assert got is expected, (text, names)
        compared += 1
    assert compared > 1000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a - e - c", 6.0),
        ("-x ** 2", -2.25),
        ("2 ** -1", 0.5),
        ("2 ** 3 ** 2", 512.0),
        ("-a // 2", -4.0),
        ("-a % 4", 1.0),
        ("a / 2", 3.5),
        ("a*e**2", 63.0),
        ("1 if a < e else 2 if e < a else 3", 2.0),
        ("a << 1 + 1", 28.0),
        ("a & 3 == 3 & 3", None),
        ("1_000 + 0xFF + 0b1_01 + 0o17", 1275.0),
        (".5 + 1. + 1e-1 + 1_0.5E+1", 106.6),
        ("-2147483648", -2147483648.0),
        ("inf", math.inf),
        ("pi", math.pi),
    ],
)
def test_number(text: str, value: float | None) -> None:
    if value is None:  # comparisons bind looser than &, as in Python: a & 3 == 3 & 3 compares two integers
        assert condition(text) is True
    else:
        assert number(text) == pytest.approx(value, rel=1e-6)


def test_not_is_kept_and_binds_looser_than_a_comparison() -> None:
    assert condition("not a < e") is True
    assert condition("not a < e and e < a") is True
    assert condition("not not a < e") is False
    assert condition("not (a < e or e < a)") is False


def test_the_middle_of_a_chain_is_shared() -> None:
    expr = hook(f"variant v({PARAMS}) {{ mask = 0 <= q - k < a }}", "mask")
    assert sum(getattr(node, "op", "") == "sub" for node in walk(expr)) == 1
    assert [evaluate(expr, {**NUMBERS, "q": q, "k": 3}) for q in (2, 3, 9, 10)] == [False, True, True, False]


def test_bit_operators_work_on_conditions() -> None:
    assert condition("(a > e) & (e > c)") is True
    assert condition("(a > e) ^ (e > c)") is False
    assert condition("~(a > e) | true") is True


def test_an_integer_hook_becomes_f32() -> None:
    assert hook("variant v { sm_scale = 1 }", "sm_scale").type is Type.F32


# Newlines -------------------------------------------------------------------------------------------------------------

SAME = hook(f"variant v({PARAMS}) {{ mask = q >= k and q - k < a }}", "mask")


@pytest.mark.parametrize(
    "body",
    [
        "mask = q >= k and\n  q - k < a",
        "mask = q >= k\n  and q - k < a",
        "mask =\n  q >= k and q - k < a",
        "mask = (q >= k\n and q\n - k < a)",
        "mask = q >= k\n\n  # a comment between\n\n  and q - k < a",
        "mask = q >= k and q\n  - k < a",
        "mask = q >= k and q - k <  # why\n  a",
        "mask = q >= k and q - k < a;",
        ";; mask = q >= k and q - k < a ;\n;",
        "\r\n\tmask = q >= k and\r\n\tq - k < a\r\n",
        "let near = q - k\n  < a; mask = q >= k and near",
    ],
)
def test_statements_over_several_lines(body: str) -> None:
    assert hook(f"variant v({PARAMS}) {{ {body} }}", "mask") is SAME
    assert hook(f"variant v({PARAMS})\n{{\n{body}\n}}\n", "mask") is SAME


def test_a_newline_ends_a_statement() -> None:
    variant = lower("mask causal = q >= k\nmask late = q > k\nvariant v {\n  mask = late\n  logits = score * 2\n}\n")
    assert variant.branches[0].mask is hook("variant v { mask = q > k }", "mask")
    with pytest.raises(LanguageError) as caught:
        lower("variant v { mask = q >= k logits = score }")
    assert caught.value.code == "A0101"


def test_a_byte_order_mark_is_skipped() -> None:
    assert hook("\ufeffvariant v { mask = q >= k }", "mask") is hook("variant v { mask = q >= k }", "mask")


# Masks, defs, lets ----------------------------------------------------------------------------------------------------

DEFINITIONS = """
mask causal = q >= k
mask window(w: i32 = 4) = q - k < w
mask prefix(p) = causal or k < p
def square(x) = x * x
"""


def mask_of(expression: str, params: str = PARAMS) -> Expr:
    return hook(f"{DEFINITIONS}\nvariant v({params}) {{ mask = {expression} }}", "mask")


def test_arguments_and_defaults() -> None:
    same = [
        mask_of("q - k < 4"),
        mask_of("window"),
        mask_of("window()"),
        mask_of("window(4)"),
        mask_of("window(w = 4)"),
    ]
    assert all(expr is same[0] for expr in same)


def test_coordinates_are_rebound_in_the_whole_body() -> None:
    rebound = mask_of("prefix(a, q = own - e)")  # prefix uses causal, which sees the same q
    for own, k in itertools.product(range(12), range(12)):
        expected = own - NUMBERS["e"] >= k or k < NUMBERS["a"]
        assert evaluate(rebound, {**NUMBERS, "own": own, "k": k}) is expected


def test_arguments_are_read_in_the_scope_of_the_caller() -> None:
    # The q in the argument is the caller's, although the call rebinds q.
    assert mask_of("window(q, q = k, k = q)") is mask_of("k - q < q")
    assert mask_of("prefix(q + 1, q = row)") is mask_of("row >= k or k < q + 1")


def test_rebinding_ends_with_the_call() -> None:
    assert mask_of("window(3, q = row) and causal") is mask_of("row - k < 3 and q >= k")


def test_parameters_hide_definitions_of_the_file() -> None:
    expr = hook(f"{DEFINITIONS}\nvariant v(square: i32) {{ mask = q - k < square }}", "mask")
    assert evaluate(expr, {"q": 5, "k": 3, "square": 3}) is True


def test_lets_are_values_of_the_branch_that_uses_them() -> None:
    text = """
    variant v(lam: f32[num_heads]) {
        let doubled = score * 2
        branch x { logits = doubled }
        branch y { let more = doubled + 1; logits = more }
        output = x.out - lam[h] * y.out
    }
    """
    x, y = lower(text).branches
    assert x.logits is not None
    assert y.logits is not None
    assert evaluate(x.logits, {"x.score": 3.0}) == 6.0
    assert evaluate(y.logits, {"y.score": 3.0}) == 7.0


@pytest.mark.parametrize("body", ["let unused = scor", "branch x { let unused = scor }; output = x.out"])
def test_a_let_that_nobody_uses_is_checked(body: str) -> None:
    with pytest.raises(LanguageError) as caught:
        lower(f"variant v {{ {body} }}")
    assert caught.value.code == "A0201"
    with pytest.raises(LanguageError):
        lower("variant v { let unused = scor; branch x { logits = score }; output = x.out }")


def test_a_let_may_join_branches() -> None:
    text = "variant v { let sum_of_both = x.out + y.out; branch x { }; branch y { }; output = sum_of_both / 2 }"
    output = lower(text).output
    assert output is not None
    assert evaluate(output, {"x.out": 1.0, "y.out": 5.0}) == 3.0


def test_hooks_outside_hold_for_every_branch_that_has_not_its_own() -> None:
    text = """
    variant v {
        mask = q >= k
        branch x { logits = score }
        branch y { mask = row >= col }
        output = x.out + y.out
    }
    """
    x, y = lower(text).branches
    assert x.mask is hook("variant v { mask = q >= k }", "mask")
    assert y.mask is hook("variant v { mask = row >= col }", "mask")


def test_tensors_are_arguments_and_bind_their_extents() -> None:
    text = """
    mask listed(columns: i32[n]) = any(columns[t] == k for t in n)
    mask same(doc) = doc[b, own] == doc[b, col]
    variant v(vertical: i32[used], doc: i32[batch, kv_len]) { mask = listed(vertical) or same(doc) }
    """
    expr = hook(text, "mask")
    names = {"vertical": [2, 5], "used": 2, "doc": [[0, 0, 1, 1, 1, 2]], "b": 0}
    for own, col in itertools.product(range(6), range(6)):
        expected = col in (2, 5) or names["doc"][0][own] == names["doc"][0][col]  # type: ignore[index]
        assert evaluate(expr, {**names, "own": own, "col": col, "k": col}) is expected


# Comprehensions -------------------------------------------------------------------------------------------------------


def test_comprehensions() -> None:
    assert number("sum(t * t for t in 5)") == 30.0
    assert number("sum(sum(s * t for s in t_count) for t in 4)".replace("t_count", "3")) == 18.0
    assert condition("any(t == a for t in 8)") is True
    assert condition("all(t < a for t in 8)") is False


def test_indices_are_numbered_by_depth() -> None:
    text = """
    def count(n, limit) = sum(1 if t < limit else 0 for t in n)
    variant v(const n: i32 = 3) {
        let four = count(4, 9)
        logits = f32(sum(count(n, t) + four for t in 5) + four)
    }
    """
    expr = hook(text, "logits")
    assert evaluate(expr, {}) == sum(min(3, t) + 4 for t in range(5)) + 4
    # An index counts the comprehensions around it, also inside what a let or an argument brings along.
    stack: list[tuple[Expr, int]] = [(expr, 0)]
    while stack:
        node, depth = stack.pop()
        if isinstance(node, Reduce):
            assert node.axis == f"i{depth}"
        if isinstance(node, Coord):
            assert int(node.axis[1:]) < depth
        stack.extend((below, depth + isinstance(node, Reduce)) for below in node.operands)


# Variants -------------------------------------------------------------------------------------------------------------


def test_constants_are_substituted() -> None:
    text = "variant v(const n: i32 = 4, table: f32[n, 2 * n], m: i32) { logits = score + table[n - 1, m] }"
    default, other = lower(text), lower(text, n=8)
    assert [decl.name for decl in default.params] == ["m"]
    assert default.tensors[0].dims != other.tensors[0].dims
    assert default.branches[0].logits is not other.branches[0].logits


def test_constants_need_values_of_their_type() -> None:
    definition = read(Source("test.attn", "variant v(const n: i32) { mask = q - k < n }")).definitions["v"]
    for constants, code in (({}, "A0505"), ({"n": 1.5}, "A0506"), ({"m": 1}, "A0504")):
        with pytest.raises(LanguageError) as caught:
            definition.instantiate(constants)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_softmax_sink_and_plain_softmax() -> None:
    sink = lower("variant v(s: f32[num_heads]) { normalize = softmax(sink = s[h]) }").branches[0]
    assert sink.normalize is None
    assert sink.sink is not None
    plain = lower("variant v { normalize = softmax() }").branches[0]
    assert plain == lower("variant v { }").branches[0]


def test_emits_know_their_axis() -> None:
    text = "variant v { emit top = rowmax(logits); emit mass = colsum(prob); emit h = lse - expect(logits) }"
    with pytest.raises(LanguageError):
        lower("variant v { emit p = prob }")
    assert [(emit.name, emit.axis) for emit in lower(text).emits] == [("top", "row"), ("mass", "col"), ("h", "row")]


def test_operands_and_slices() -> None:
    text = """
    variant mla(q_pe: query[num_heads, 64], k_pe: key[1, 64]) {
        query = query[: 512]
        key = key[0 : 512]
        score = sm_scale * (dot(query, key) + dot(q_pe, k_pe[32 :]))
    }
    """
    variant = lower(text)
    with pytest.raises(LanguageError) as caught:
        channel_lengths(variant.roots()[-1][1], variant, {"head_dim": 576, "head_dim_v": 512})
    assert caught.value.code == "A0405"  # 64 channels against 32
    assert [operand.role for operand in variant.operands] == ["query", "key"]


def test_requires_keep_their_text() -> None:
    variant = lower('variant v(w: i32) { require w > 0, "w is \\"positive\\""; require w < 9; mask = q - k < w }')
    assert [require.text for require in variant.requires] == ['w is "positive"', "w < 9"]


def test_comments_above_a_variant_are_its_doc() -> None:
    text = "# not this\n\n# Softcapped,\n# windowed.\nvariant v { }\nvariant w { }"
    definitions = read(Source("test.attn", text)).definitions
    assert definitions["v"].doc == "Softcapped,\nwindowed."
    assert definitions["w"].doc == ""


def test_hook_names_are_ordinary_names() -> None:
    variant = lower("variant v(weight: f32[head_dim], normalize: f32) { query = query * weight[d] * normalize }")
    assert [tensor.name for tensor in variant.tensors] == ["weight"]


# Spans ----------------------------------------------------------------------------------------------------------------


def test_every_node_knows_where_it_was_written() -> None:
    text = (
        "mask causal = q >= k\nvariant v(c: f32) {\n    logits = c * tanh(score / c)\n    mask = causal and q >= k\n}\n"
    )
    variant = lower(text)
    for _, expr in variant.roots():
        for node in walk(expr):
            assert variant.spans[node], node
    assert [span.text for span in variant.spans[Input("score")]] == ["score"]
    assert variant.branches[0].logits is not None
    assert variant.spans[variant.branches[0].logits][0].text == "c * tanh(score / c)"
    causal = [str(span) for span in variant.spans[hook("variant v { mask = q >= k }", "mask")]]
    assert causal == ["test.attn:1:15", "test.attn:4:12", "test.attn:4:23"]


def test_nodes_that_construction_adds_have_the_span_of_what_was_written() -> None:
    variant = lower("variant v { logits = gelu(score) + clamp(k, 0, 9); mask = q != k and 0 <= k < 9 }")
    for _, expr in variant.roots():
        assert all(node in variant.spans for node in walk(expr))


# Depth and size -------------------------------------------------------------------------------------------------------


def test_a_long_sum_is_not_deep() -> None:
    expr = hook("variant v { logits = score" + " + score * 0.5" * 5000 + " }", "logits")
    assert sum(1 for _ in walk(expr)) > 5000


@pytest.mark.parametrize(
    "expression",
    [
        "-" * 5000 + "score",
        "(" * 5000 + "score" + ")" * 5000,
        "score if q >= k else " * 5000 + "score",
        "exp(" * 150 + "score" + ")" * 150,
        "2 ** " * 5000 + "score",
        "score" + "[0 : 64]" * 5000,
    ],
)
def test_deep_expressions_are_refused_without_recursion(expression: str) -> None:
    limit = sys.getrecursionlimit()
    with pytest.raises(LanguageError) as caught:
        lower(f"variant v {{ logits = {expression} }}")
    assert caught.value.code == "A0107"
    assert sys.getrecursionlimit() == limit


def test_the_deepest_accepted_expression_lowers() -> None:
    lower("variant v { logits = " + "-(" * 99 + "score" + ")" * 99 + " }")
    chain = "def g0(x) = x\n" + "".join(f"def g{i}(x) = g{i - 1}(x)\n" for i in range(1, 120))
    lower(chain + "variant v { logits = g119(score) }")
