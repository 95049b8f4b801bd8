"""From a variant to an artifact: which family, which key, what is in the manifest, and what is refused by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import attncc
from attncc.artifact import Artifact
from attncc.cache import Cache
from attncc.codegen import compile as compiling
from attncc.codegen.compile import STAGES, KernelSpec, compile_variant, stages
from attncc.codegen.launch_block import LAUNCH_FIELDS
from attncc.codegen.nvrtc import compile_cuda
from attncc.codegen.select import FAMILIES, MISFIT, choose, features
from attncc.diagnostics import LanguageError, UnsupportedError
from attncc.grammar import read
from attncc.ir.nodes import Variant
from attncc.ir.text import parse
from attncc.passes.canonicalize import canonicalize
from attncc.passes.tile_program import TileProgram

SPEC = KernelSpec("sm_90a", "bf16", 128)
SERVED = ["causal", "window", "gemma2", "alibi", "prefix_lm", "documents", "streaming_llm", "gpt_oss", "t5_bias"]
SERVED += ["longformer", "transfusion", "rope"]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def variant_of(text: str) -> Variant:
    """The only variant of a text in the language."""
    from attncc.diagnostics import Source
    from attncc.grammar import read

    module = read(Source("test.attn", text))
    (definition,) = module.definitions.values()
    return definition.instantiate({})


def example(name: str) -> Variant:
    return attncc.load(EXAMPLES / f"{name}.attn")[name].definition.instantiate({})


GEMMA2 = """
variant gemma2(softcap: f32 = 50.0, w: i32) {
    logits = softcap * tanh(score / softcap)
    mask   = q >= k and q - k < w
}
"""


@pytest.fixture(scope="module")
def gemma2() -> Artifact:
    return compile_variant(variant_of(GEMMA2), SPEC)


def test_a_kernel_has_what_a_launch_needs(gemma2: Artifact) -> None:
    manifest = gemma2.manifest
    assert set(gemma2.cubins) == set(manifest.entries) == {"main", "merge"}
    for role, cubin in gemma2.cubins.items():
        assert cubin[:4] == b"\x7fELF"
        symbols = [entry.symbol.encode() in cubin for entry in manifest.entries.values()]
        assert symbols == [role == "main", role == "merge"], "an entry is a program of its own"
    assert (manifest.variant, manifest.arch, manifest.dtype, manifest.head_dim) == ("gemma2", "sm_90a", "bf16", 128)
    assert manifest.toolchain["nvrtc"].startswith("13.0")
    assert manifest.warnings == ()
    assert gemma2.main.registers > 0
    assert (gemma2.main.spill_loads, gemma2.main.spill_stores) == (0, 0)


def test_the_block_begins_with_launch_and_holds_every_parameter(gemma2: Artifact) -> None:
    abi = gemma2.manifest.abi
    assert [(word.name, word.ctype, word.offset) for word in abi.words[: len(LAUNCH_FIELDS)]] == [
        (f"launch.{field.name}", field.ctype, field.offset) for field in LAUNCH_FIELDS
    ]
    assert [(p.name, p.type, p.default) for p in abi.params] == [("softcap", "f32", 50.0), ("w", "i32", None)]
    words = {word.name: word for word in abi.words}
    for parameter in abi.params:
        assert words[f"{parameter.word}.value"].ctype == parameter.type
        assert words[f"{parameter.word}.data"].ctype == "ptr"
    assert max(word.offset for word in abi.words) < abi.size


@pytest.mark.parametrize("name", ["causal", "gemma2", "alibi", "t5_bias"])
def test_descriptors_lie_where_the_kernel_reads_them(name: str) -> None:
    made = stages(example(name), SPEC)
    abi = made.artifact.manifest.abi
    operands = [item.operand for item in abi.maps]
    assert f"struct Block {{\n  Params params;\n  attncc::TensorMap {', '.join(operands)};\n}};" in made.cuda
    assert max(word.offset for word in abi.words) < abi.maps[0].offset
    # NVRTC has no offsetof: what ends where the next member begins.
    ends = {", ".join(operands[:count]): item.offset for count, item in enumerate(abi.maps[1:], 1)}
    ends[", ".join(operands)] = abi.size
    text = "".join(
        f"struct Until{end} {{ Params params; attncc::TensorMap {members}; }};\n"
        f"static_assert(sizeof(Until{end}) == {end});\n"
        for members, end in ends.items()
    )
    compile_cuda(made.cuda + text, arch="sm_90a", name="block.cu")
    assert not stages(made.variant, replace(SPEC, family="mma_sm80")).artifact.manifest.abi.maps


def test_a_capture_states_its_dims() -> None:
    text = "variant v(bias: bf16[num_heads, 2 * n + 1, n]) { logits = score + bias[h, q, k] }"
    (capture,) = compile_variant(variant_of(text), SPEC).manifest.abi.tensors
    assert (capture.name, capture.storage, capture.dims) == ("bias", "bf16", ("num_heads", "n * 2 + 1", "n"))


def test_the_manifest_carries_the_loop_bounds(gemma2: Artifact) -> None:
    program = TileProgram.from_json(gemma2.manifest.bounds)
    assert program.cover


@pytest.mark.parametrize("name", SERVED)
def test_examples_compile_without_spills_or_warnings(name: str) -> None:
    for spec in (SPEC, replace(SPEC, arch="sm_80", dtype="f16", head_dim=64)):
        artifact = compile_variant(example(name), spec)
        assert artifact.main.spill_stores == artifact.main.spill_loads == 0
        assert artifact.manifest.warnings == ()


# Keys --------------------------------------------------------------------------------------------------------------


def key(text: str, spec: KernelSpec = SPEC) -> str:
    return stages(variant_of(text), spec).key


def test_the_same_formula_written_otherwise_is_the_same_kernel() -> None:
    other = """
    # another file, other names of nothing that a kernel sees
    mask recent(width) = q - k < width
    variant gemma2(softcap: f32 = 50.0, w: i32) {
        let capped = tanh(score / softcap)
        mask   = recent(w) and not (k > q)
        logits = capped * softcap
    }
    """
    assert key(other) == key(GEMMA2)


def test_text_and_tracer_give_the_same_kernel() -> None:
    @attncc.variant
    def gemma2(at: attncc.At, *, softcap: float = 50.0, w: int) -> Any:
        return attncc.hooks(logits=softcap * attncc.tanh(at.score / softcap), mask=(at.q >= at.k) & (at.q - at.k < w))

    assert stages(gemma2.definition.instantiate({}), SPEC).key == key(GEMMA2)


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, arch="sm_80"),
        replace(SPEC, dtype="f16"),
        replace(SPEC, head_dim=64),
        replace(SPEC, precise=True),
    ],
    ids=str,
)
def test_what_forces_a_compile_is_in_the_key(spec: KernelSpec) -> None:
    assert key(GEMMA2, spec) != key(GEMMA2)


def test_a_forced_family_that_would_be_chosen_anyway_is_the_same_kernel() -> None:
    assert key(GEMMA2, replace(SPEC, family="wgmma_sm90")) == key(GEMMA2)
    assert key(GEMMA2, replace(SPEC, family="mma_sm80")) != key(GEMMA2)


def test_storage_of_another_kind_is_another_kernel_only_where_one_does_not_read_both() -> None:
    strided = replace(SPEC, layout="strided")
    assert key(GEMMA2, strided) == key(GEMMA2, replace(SPEC, family="mma_sm80"))
    other = replace(SPEC, head_dim=48)
    assert key(GEMMA2, replace(other, layout="strided")) == key(GEMMA2, other)


def test_a_second_process_reads_the_cache_and_loads_no_compiler(tmp_path: Path, repo_root: Path) -> None:
    code = """
import sys
import attncc
from attncc.codegen.compile import KernelSpec, stages
made = stages(attncc.load("examples/causal.attn").causal().variant, KernelSpec("sm_90a", "bf16", 64)).made
print(made.cached, *sorted({"cuda", "cupy", "numpy", "torch", "lark"} & {m.partition(".")[0] for m in sys.modules}))
"""
    environment = {"ATTNCC_CACHE_DIR": str(tmp_path), "PATH": "", "HOME": str(tmp_path)}

    def run() -> list[str]:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=repo_root, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert run()[0] == "False"
    assert run() == ["True"]


def test_a_screen_is_an_entry_where_there_is_one() -> None:
    text = "variant documents(doc: i32[batch, kv_len]) { mask = doc[b, own] == doc[b, col] }"
    made = compile_variant(variant_of(text), SPEC)
    assert set(made.cubins) == {"main", "merge", "screen"}
    assert made.manifest.screen is not None
    assert made.manifest.screen.grid_of({"max_qo_len": 300, "group": 2, "batch": 3}) == (5, 1, 3)
    assert made.manifest.screen_bytes == 1044


ROPE = """variant rope(c: f32[n, head_dim]) {
    query = query + rotate_half(query) * c[q, d]
    value = value * c[k, 0]
}"""


def test_vectors_are_an_entry_of_the_family_whose_kernel_takes_them_as_they_come() -> None:
    made = compile_variant(variant_of(ROPE), SPEC)
    assert set(made.cubins) == {"main", "merge", "transform"}
    assert made.manifest.transformed == ("q", "v")
    assert made.manifest.transform is not None
    sizes = {"max_qo_len": 9, "max_kv_len": 30, "num_heads": 40, "num_kv_heads": 8, "batch": 3}
    assert made.manifest.transform.grid_of(sizes) == (4, 2, 3)  # a warp for 16 heads of a token, 8 to a block
    portable = compile_variant(variant_of(ROPE), replace(SPEC, family="mma_sm80"))
    assert set(portable.cubins) == {"main", "merge"}
    assert portable.manifest.transformed == ()


def test_a_bias_by_key_is_an_entry_of_the_family_whose_products_add_it() -> None:
    text = "variant v(bias: f32[batch, kv_len]{}) {{ logits = score{} + bias[b, col] }}"
    sizes = {"max_kv_len": 300, "num_kv_heads": 4, "batch": 3}
    for tensor, factor, heads in (("", "", 1), (", s: f32[num_kv_heads]", " * s[hk]", 4)):
        biased = variant_of(text.format(tensor, factor))
        made = compile_variant(biased, SPEC)
        assert set(made.cubins) == {"main", "merge", "biases"}
        assert made.manifest.biases is not None
        assert made.manifest.biases.grid_of(sizes) == (3, heads, 3)  # a thread for every key, 128 to a block
        assert made.manifest.biases_per_head == (heads > 1)
    for other in ({"family": "mma_sm80"}, {"dtype": "f16"}):
        without = compile_variant(biased, replace(SPEC, **other))
        assert set(without.cubins) == {"main", "merge"}


def test_an_output_staged_where_tiles_leave_no_room_gives_way() -> None:
    """Rotated outputs are staged beside the tiles, of which the widest at head dim 192 fill shared memory."""
    turned = variant_of("variant v {\n mask = q >= k\n output = out + rotate_half(out)\n}")
    for head_dim, family in ((128, "wgmma_sm90"), (192, "mma_sm80")):
        assert compile_variant(turned, replace(SPEC, head_dim=head_dim)).manifest.family == family


# Stages ------------------------------------------------------------------------------------------------------------


def test_every_stage_can_be_written(tmp_path: Path) -> None:
    made = stages(variant_of(GEMMA2), SPEC, cache=Cache(tmp_path))
    written = {stage: made.emit(stage) for stage in STAGES}
    assert parse(made.ir) == made.variant
    assert "tanh" in made.cuda
    assert "#line" not in made.cuda
    assert ".target sm_90a" in made.ptx
    assert {"main": written["cubin"], "merge": written["merge"]} == made.artifact.cubins
    assert "HGMMA" in made.sass
    assert json.loads(made.manifest)["key"] == made.key
    assert json.loads(str(written["report"]))["entries"]["main"]["registers"] == made.artifact.main.registers


def test_the_report_says_whether_it_was_cached(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    variant = variant_of("variant only_here(z: f32) { logits = score * z }")
    assert stages(variant, SPEC, cache=cache).report["cached"] is False
    assert stages(variant, SPEC, cache=cache).report["cached"] is True


def test_lines_of_generated_code_lead_to_the_variant() -> None:
    assert '"test.attn"' in stages(variant_of(GEMMA2), SPEC).source.text


# Refusals ----------------------------------------------------------------------------------------------------------

UNSERVED = {
    "after": "weight = sigmoid(logits) * exp(after(-softplus(logits)))",
    "score": "score = sm_scale * dot(abs(query), key)",
    "emit": "emit top = rowmax(logits)",
    "branch": "branch x { logits = score }\n branch y { logits = score * 2.0 }\n output = x.out - y.out",
}


@pytest.mark.parametrize("feature", UNSERVED)
def test_what_no_family_serves_is_named(feature: str) -> None:
    variant = variant_of(f"variant v {{\n {UNSERVED[feature]}\n}}")
    assert feature in features(variant).hooks
    with pytest.raises(UnsupportedError) as caught:
        compile_variant(variant, SPEC)
    assert caught.value.code == "A0703"
    assert feature in (caught.value.got or "")
    assert {note.text.partition(":")[0] for note in caught.value.notes} == set(FAMILIES)


def test_a_score_of_the_product_is_served() -> None:
    variant = variant_of("variant v { score = sm_scale * dot(query, key) - 1.0 }")
    assert "score" not in features(variant).hooks
    assert choose(variant, SPEC).family == FAMILIES[0]


@pytest.mark.parametrize(("fitting", "taken"), [("mma_sm80", "mma_sm80"), ("none", "wgmma_sm90")])
def test_a_kernel_that_spills_gives_way_to_one_that_does_not(
    fitting: str, taken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless it is forced; each is kept under its own key."""
    monkeypatch.setattr(compiling, "_judge", lambda artifact: (True, artifact.manifest.family == fitting))
    cache = Cache(tmp_path)
    made = stages(variant_of(GEMMA2), SPEC, cache=cache)
    assert made.choice.family == "wgmma_sm90"
    assert made.artifact.manifest.family == taken
    assert f"families/{taken}.cuh" in str(made.emit("cuda"))
    refused = {"wgmma_sm90": [MISFIT]} if taken != "wgmma_sm90" else {}
    assert made.report["refused"] == refused
    for family in FAMILIES:
        found = cache.get(stages(variant_of(GEMMA2), replace(SPEC, family=family), cache=cache).key)
        assert found is not None
        assert found.manifest.family == family
    monkeypatch.setattr(
        compiling, "_known", {}
    )  # as another process finds it: nothing is compiled to be passed over again
    monkeypatch.setattr(compiling, "compile_kernel", None)
    again = stages(variant_of(GEMMA2), SPEC, cache=cache)
    assert (again.artifact.manifest.family, again.report["cached"], again.report["refused"]) == (taken, True, refused)


def test_a_tile_that_spills_gives_way_to_a_narrower_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the family that was forced, too; it is no other family's kernel, and nothing was refused."""
    made = stages(variant_of(GEMMA2), replace(SPEC, family="mma_sm80"), cache=Cache(tmp_path))
    narrower = replace(made.choice.config, block_n=48)
    monkeypatch.setattr(compiling, "_judge", lambda artifact: (True, artifact.manifest.launch.smem < 90_000))
    assert made.settled.choice.config == narrower
    assert made.artifact.manifest.launch.smem == narrower.smem_bytes
    assert made.report["refused"] == {}
    monkeypatch.setattr(compiling, "_judge", lambda artifact: (True, False))
    again = stages(variant_of(GEMMA2), replace(SPEC, family="mma_sm80"), cache=Cache(tmp_path))
    assert again.settled.choice == made.choice


def test_vectors_of_another_length_are_refused_at_the_head_dim() -> None:
    half = variant_of("variant v {\n query = query[0 : 64]\n key = key[0 : 64]\n}")
    assert choose(half, replace(SPEC, head_dim=64)).family == FAMILIES[0]
    with pytest.raises(UnsupportedError, match="no kernel family runs `v`") as refused:
        choose(half, SPEC)
    assert "`query` gives 64 of 128 channels" in (refused.value.got or "")
    with pytest.raises(LanguageError) as caught:
        choose(half, replace(SPEC, head_dim=32))
    assert caught.value.code == "A0406"


SERVED_GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "served.txt"


def test_what_is_served_of_the_acceptance_set() -> None:
    """Every variant of tests/variants: its family, or why none runs it. ATTNCC_UPDATE_GOLDEN=1 writes the file anew."""
    lines = []
    for path in sorted((EXAMPLES.parent / "tests" / "variants").glob("v*.attn")):
        for name, definition in read(path).definitions.items():
            try:
                answer = choose(canonicalize(definition.instantiate({})), SPEC).family
            except UnsupportedError as error:
                line = "?" if error.span is None else error.span.begin_position[0]
                answer = f"no, line {line}: {error.got}"
            lines.append(f"{path.stem} {name}: {answer}\n")
    if os.environ.get("ATTNCC_UPDATE_GOLDEN"):
        SERVED_GOLDEN.write_text("".join(lines))
    assert "".join(lines) == SERVED_GOLDEN.read_text()


def test_a_forced_family_names_everything_it_does_not_serve() -> None:
    variant = variant_of("variant v {\n score = dot(query, query) * dot(key, key)\n emit top = rowmax(logits)\n}")
    with pytest.raises(UnsupportedError) as caught:
        compile_variant(variant, replace(SPEC, family="mma_sm80", head_dim=72))
    assert caught.value.code == "A0704"
    for what in ("`score`", "emit", "head_dim 72"):
        assert what in (caught.value.got or "")
    assert caught.value.span is not None


@pytest.mark.parametrize(
    ("spec", "code", "text"),
    [
        (replace(SPEC, arch="sm_91"), "A0701", "unknown target `sm_91`"),
        (replace(SPEC, dtype="f32"), "A0702", "no kernel computes in f32"),
        (replace(SPEC, head_dim=72), "A0703", "head_dim 72"),
        (replace(SPEC, head_dim_v=72), "A0703", "head_dim_v 72"),
        (replace(SPEC, family="flash"), "A0705", "unknown kernel family `flash`"),
        (replace(SPEC, head_dim=0), "A0706", "head_dim is out of range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_spec_is_named(spec: KernelSpec, code: str, text: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compile_variant(variant_of(GEMMA2), spec)
    assert caught.value.code == code
    assert text in str(caught.value)
    assert caught.value.help
