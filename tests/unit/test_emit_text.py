"""The generated text as a person and a compiler's messages see it: golden files, #line, names, determinism."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from attncc import grammar
from attncc.codegen.emit.source import KernelSource, assemble, emit_kernel
from attncc.codegen.emit.variant import emit_variant
from attncc.codegen.families import mma_sm80
from attncc.diagnostics import Source
from attncc.ir.nodes import After, Branch, Input, Load, Param, ParamDecl, Tensor, Variant
from attncc.ir.types import Storage, Type
from attncc.passes.canonicalize import canonicalize
from tests.unit import emit_cases, emitted

ATTN = """\
mask causal = q >= k

variant causal { mask = causal }

variant gemma2(softcap: f32 = 50.0, window: i32 = 4096) {
    logits = softcap * tanh(score / softcap)
    mask   = causal and q - k < window
}

variant alibi(slopes: f32[num_heads]) {
    logits = score + slopes[h] * (k - q)
    mask   = causal
}
"""
GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "emit"


def variant(name: str, text: str = ATTN) -> Variant:
    return canonicalize(grammar.read(Source("variants.attn", text)).definitions[name].instantiate())


def kernel(name: str) -> KernelSource:
    return emit_kernel(variant(name), mma_sm80, mma_sm80.choose("bf16", 64, 64, "sm_80"))


@pytest.mark.parametrize("name", ["causal", "gemma2", "alibi"])
def test_golden(name: str) -> None:
    """What `--emit=cuda` shows between the headers and the entry. ATTNCC_UPDATE_GOLDEN=1 writes the files anew."""
    text = emit_variant(variant(name)).text.render()
    path = GOLDEN / f"{name}.cu"
    if os.environ.get("ATTNCC_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


def host_check(text: str, name: str = "") -> str:
    """What g++ says about a translation unit called ``name``; the entries, which are CUDA, are cut off."""
    text = f'#line 1 "{name}"\n' + text.split("#if !defined(")[0].replace('#include "families/mma_sm80.cuh"', "")
    command = ["g++", "-std=c++17", "-fsyntax-only", "-w", f"-I{emitted.ROOT / 'codegen'}", "-x", "c++", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "place"),
    [
        ("gemma2", "fast::tanh(", "fast::no_such(", "variants.attn:6"),
        ("gemma2", "(r.limit - column", "(r.no_such - column", "variants.attn:7"),
        ("alibi", "r.slopes * ", "r.no_such * ", "variants.attn:11"),
        ("causal", "work.geometry", "work.no_such", "causal.cu"),
    ],
)
def test_messages_point_to_the_users_lines(name: str, old: str, new: str, place: str) -> None:
    source = kernel(name)
    assert host_check(source.text) == ""
    broken = source.text.replace(old, new)
    assert broken != source.text
    first = host_check(broken, source.name).splitlines()
    errors = [line for line in first if "error:" in line]
    assert errors[0].startswith(place + ":"), errors[0]


def test_lines_of_our_own_keep_their_numbers() -> None:
    """After a user's line the numbering returns to the generated file's own."""
    text = kernel("gemma2").text
    lines = text.splitlines()
    where = next(i for i, line in enumerate(lines) if "float sink(" in line)
    said = host_check("\n".join([*lines[:where], "  no_such x;", *lines[where:]]), "gemma2.cu")
    assert f"gemma2.cu:{where + 1}:3: error" in said


def test_line_directives_can_be_removed() -> None:
    source = kernel("gemma2")
    assert "#line" in source.text
    assert re.sub(r"#line .*\n", "", source.text) == source.plain
    assert host_check(source.plain) == ""


def test_text_is_deterministic_and_free_of_object_identity() -> None:
    first = kernel("alibi").text
    noise = [variant("gemma2", ATTN.replace("50.0", f"{i}.5")) for i in range(20)]
    assert kernel("alibi").text == first
    assert len(noise) == 20


def test_file_names_are_quoted() -> None:
    text = "variant odd { mask = q >= k }"
    made = canonicalize(grammar.read(Source('a "b"\\c.attn', text)).definitions["odd"].instantiate())
    source = emit_kernel(made, mma_sm80, mma_sm80.choose("bf16", 64, 64, "sm_80"))
    assert '#line 1 "a \\"b\\"\\\\c.attn"' in source.text
    assert host_check(source.text) == ""


HOSTILE = ["int", "this", "launch", "attncc", "Params", "exact", "params", "g", "NULL", "linux", "data", "row", "main"]
HOSTILE += ["t0", "größe", "gruf6ufe", "gruf6ue", "a__b", "_x", "_X"]


def test_any_name_of_a_user_is_a_member(tmp_path: Path) -> None:
    """Keywords, macros, our own names, other scripts and names that collide once they are spelled in ASCII."""
    tensors = tuple(Tensor(name, Storage.F32, (emit_cases.NUM_HEADS,)) for name in HOSTILE[::2])
    params = tuple(ParamDecl(name, Type.F32, 2.0) for name in HOSTILE[1::2])
    total = Input("score")
    for tensor in tensors:
        total = emit_cases.op("+", total, Load(tensor.name, (emit_cases.h,), Type.F32))
    for decl in params:
        total = emit_cases.op("*", total, Param(decl.name, Type.F32))
    made = Variant("hostile", params, tensors, branches=(Branch(logits=total),))
    (compiled,) = emitted.compile_variants([made], tmp_path)
    members = [field.member for field in compiled.source.block.fields]
    assert len(set(members)) == len(HOSTILE)
    case = emit_cases.random_case(made, 0)
    scores = emitted.np.ones((4, int(case.call.qo_lens[0]), int(case.call.kv_lens[0])), "f4")
    logits, _ = compiled.pairs(case, 0, scores)
    want = emit_cases.expected(case, 0, scores)["logits"]
    emitted.np.testing.assert_allclose(logits, want, rtol=1e-4)


def test_hooks_without_code_are_refused() -> None:
    two = Variant("two", branches=(Branch("x"), Branch("y")))
    with pytest.raises(ValueError, match="single branch"):
        emit_variant(two)
    ordered = Variant("ordered", branches=(Branch(weight=After(Input("score"))),))
    with pytest.raises(ValueError, match="after"):
        emit_variant(ordered)


def test_a_variant_compiles_with_every_family_header_absent() -> None:
    """The joint alone is enough for a Variant: nothing in it names a family."""
    made = variant("gemma2")
    config = emitted.CONFIG.format(head_dim=64, head_dim_v=64)
    assert host_check(assemble(made, emit_variant(made), "", config, {}).plain) == ""


def test_what_all_heads_share_of_a_vector_is_computed_apart() -> None:
    """The angles of a rotation, not weights by head; of an output a gate of the row, and what is read by channel."""
    text = """variant v(c: f32[n, head_dim], w: f32[num_heads, head_dim], g: f32[num_heads], e: f32[head_dim_v]) {
        query  = query * cos(q * c[0, d]) * w[h, d]
        key    = key * c[k, d]
        output = out * sigmoid(g[h]) * e[d]
    }"""
    made = emit_variant(variant("v", text)).text.render()

    def body(function: str) -> str:
        start = made.index(f" {function}(")
        return made[start : made.index("\n  }", start)]

    assert "exact::cos(" in body("query_channel")
    assert "exact::cos(" not in body("query")
    assert "params.w.load(h, d)" in body("query")
    assert "params.c.load(" in body("key_channel")
    assert "params." not in body("key_vector").partition("{")[2]
    assert "exact::sigmoid(" in body("output_row")
    assert "attncc::stored(" in body("output_read")
    assert "sigmoid" not in body("output")
