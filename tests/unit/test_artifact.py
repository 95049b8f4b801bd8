"""Artifacts on disk: what is written reads back equal, and no damage whatever reads back at all."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncc.artifact import MANIFEST, ROLES, SCHEMA, LaunchRule, Role, _integrity, cubin_name, digest, parse, read
from attncc.codegen.launch_block import LAUNCH_FIELDS
from attncc.diagnostics import ArtifactError
from tests.unit.artifacts import small

HERE = Path("here")
TEXT, CODE = small().to_json().encode(), small().cubins


def test_an_artifact_reads_back_equal(tmp_path: Path) -> None:
    small().write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([MANIFEST, *map(cubin_name, ROLES)])
    assert read(tmp_path) == small()


def test_a_person_can_name_it() -> None:
    assert small("1f0e9a7b" + "0" * 24).name == "gemma2.mma_sm80.sm_90a.bf16.d128.1f0e9a7b"


@given(st.integers(0, len(TEXT) * 8 - 1))
def test_no_flipped_bit_of_the_manifest_passes(bit: int) -> None:
    data = bytearray(TEXT)
    data[bit // 8] ^= 1 << (bit % 8)
    try:
        survivor = parse(bytes(data), CODE.__getitem__, HERE)
    except ArtifactError:
        return
    assert survivor == small()  # only a change that JSON does not see, such as a blank that became a tab


@given(st.sampled_from(ROLES), st.integers(0, 2**20))
def test_no_flipped_bit_of_a_cubin_passes(role: Role, bit: int) -> None:
    data = bytearray(CODE[role])
    bit %= 8 * len(data)
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(ArtifactError, match=cubin_name(role)):
        parse(TEXT, {**CODE, role: bytes(data)}.__getitem__, HERE)


@given(st.integers(0, len(TEXT) - 1))
def test_no_truncated_manifest_passes(length: int) -> None:
    with pytest.raises(ArtifactError, match="A0911"):
        parse(TEXT[:length], CODE.__getitem__, HERE)


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"null", b'{"key": 1}', b"\xff\xfe", b"{" * 200_000])
def test_json_garbage_is_damage_and_not_a_crash(text: bytes) -> None:
    with pytest.raises(ArtifactError, match="A0911"):
        parse(text, CODE.__getitem__, HERE)


def test_another_parameter_block_is_another_schema() -> None:
    """The runtime writes these fields: an artifact with others is refused, so whoever changes them raises SCHEMA."""
    fields = digest(repr([(field.name, field.ctype, field.offset) for field in LAUNCH_FIELDS]).encode())
    assert (SCHEMA, fields) == (9, "841815a21a3fcc2839267f2e98ec6d39")


def test_another_schema_is_refused_by_name() -> None:
    data = json.loads(TEXT)
    data["manifest"]["schema"] = 99
    with pytest.raises(ArtifactError) as caught:
        parse(json.dumps(data).encode(), CODE.__getitem__, HERE)
    assert (caught.value.code, caught.value.got) == ("A0912", "schema 99")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("operand", "out"),
        ("operand", 3),
        ("box", []),
        ("box", [64, 257]),
        ("box", 64),
        ("swizzle", 100),
        ("offset", 65),
        ("offset", -64),
        ("offset", 256),
        ("offset", None),
        ("extra", 1),
    ],
)
def test_a_descriptor_that_means_nothing_is_damage(name: str, value: object) -> None:
    """Written whole and hashed, yet by something that is not this module."""
    data = json.loads(TEXT)
    data["manifest"]["abi"]["maps"][1][name] = value
    data["integrity"] = _integrity(data["key"], data["manifest"])
    with pytest.raises(ArtifactError, match="A0911"):
        parse(json.dumps(data).encode(), CODE.__getitem__, HERE)


def test_a_folder_without_a_kernel_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as caught:
        read(tmp_path)
    assert (caught.value.code, caught.value.got) == ("A0910", f"no {MANIFEST}")


def test_reading_and_verifying_is_quick(tmp_path: Path) -> None:
    artifact = small(cubin=bytes(300_000))
    artifact.write(tmp_path)
    read(tmp_path)
    start = time.perf_counter()
    for _ in range(10):
        read(tmp_path)
    assert (time.perf_counter() - start) / 10 < 0.020


def test_the_grid_follows_the_rule() -> None:
    words = {"max_qo_len": 100, "group": 4, "num_kv_heads": 2, "batch": 3}
    assert small().manifest.launch.grid_of(words) == (4, 2, 3)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "batch.__class__", "batch()", "'a'", "1.5", "[1]", "batch if 1 else 2", "(lambda: 1)()"],
)
def test_a_grid_rule_is_arithmetic_and_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match="grid expression"):
        LaunchRule((text, "1", "1"), 32, 0).grid_of({"batch": 1})
