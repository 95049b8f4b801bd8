"""Damaged .attn files: whatever the bytes, the only exception is AttnccError, it renders, and it comes soon."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest

from attncc.diagnostics import AttnccError, LanguageError, Source
from attncc.diagnostics.render import colored, plain
from attncc.grammar import format, read
from attncc.grammar.imports import decode_source
from attncc.grammar.lexer import KEYWORDS, SYMBOLS, scan
from attncc.ir.text import dump, parse

ROOT = Path(__file__).resolve().parent.parent.parent
CORPUS = sorted(
    path for folder in ("examples", "tests/variants", "tests/errors") for path in (ROOT / folder).rglob("*.attn")
)
SHARDS = 20
CASES, CASES_IN_FULL = 2_000, 100_000
SECONDS = 10.0

_NAMES = """
q k row col own b h hk d num_heads head_dim kv_len score logits total out lse prob query key value
exp softmax any sum all after expect rowmax colsum where clamp rotate_half dot f32 i32 u32 bool inf true
0 1 2 -1 64 2147483648 4294967296 99999999999999999999 0x 0xff 1e400 .5 1. 1e5 0b2 007 2.0f
; # " "x" \\ ≥ é 𝛼 ! ? @ $ && || ++ => := ... ** //
"""
WORDS = [
    *KEYWORDS,
    *SYMBOLS,
    *_NAMES.split(),
    *("\n", "\0", "\r", "\t", "\x0b", "\ufeff", "\u00a0"),
    "(" * 300,
    "-" * 3000,
    "[" * 50,
    "variant v { mask = q >= k }",
    "def f(x) = f(x)",
]


def mutate_tokens(rng: random.Random, text: str, other: str) -> str:
    """The text with tokens deleted, doubled, exchanged or replaced, perhaps spliced with another file."""

    def split(text: str) -> list[str]:
        try:
            pieces, end = [], 0
            for token in scan(Source("seed", text)):
                pieces.append(text[end : token.end])
                end = token.end
        except LanguageError:
            return text.split(" ")
        return pieces

    pieces = split(text)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 8])):
        i, j = (rng.randrange(len(pieces) + 1) for _ in range(2))
        match rng.randrange(6):
            case 0:
                del pieces[i : i + rng.choice([1, 1, 2, 10])]
            case 1:
                pieces.insert(i, f" {rng.choice(WORDS)} ")
            case 2:
                pieces[i : i + 1] = [f" {rng.choice(WORDS)} "]
            case 3:
                pieces[i:i] = pieces[min(i, j) : max(i, j)][: rng.choice([1, 5, 50])]
            case 4:
                spliced = split(other)
                start = rng.randrange(len(spliced) + 1)
                pieces[i:i] = spliced[start : start + rng.choice([1, 4, 20])]
            case _:
                if i < len(pieces) and j < len(pieces):
                    pieces[i], pieces[j] = pieces[j], pieces[i]
    return "".join(pieces)


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """The bytes with some flipped, deleted, inserted or cut off."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5, 20])):
        i = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0:
                changed[i : i + 1] = bytes([rng.randrange(256)])
            case 1:
                del changed[i : i + rng.choice([1, 1, 3, 30])]
            case 2:
                changed[i:i] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 2, 8])))
            case 3:
                changed[i:i] = changed[i : i + rng.choice([1, 10, 200])]
            case _:
                if rng.random() < 0.1:
                    del changed[i:]
    return bytes(changed)


def survive(name: str, data: bytes) -> bool:
    """Read, lower, print and format the bytes; whether they are a valid file. Any exception but AttnccError escapes."""
    try:
        source = decode_source(name, data)
        definitions = read(source).definitions
        for definition in definitions.values():
            variant = definition.instantiate()
            assert parse(dump(variant)) == variant
        formatted = format(source.text)
        assert format(formatted) == formatted
        again = read(Source(name, formatted)).definitions
        for definition, other in zip(definitions.values(), again.values(), strict=True):
            if not any(decl.default is None for decl in definition.constants):
                assert definition.instantiate() == other.instantiate()
        return True
    except AttnccError as caught:
        error = caught
    assert plain(error)
    assert colored(error)
    json.dumps(error.to_json())
    return False


@pytest.mark.parametrize("shard", range(SHARDS))
def test_mutated_files(shard: int, fuzz_full: bool) -> None:
    rng = random.Random(shard)
    seeds = [path.read_bytes() for path in CORPUS]
    sound = [i for i, path in enumerate(CORPUS) if "errors" not in path.parts]
    valid = 0
    for case in range((CASES_IN_FULL if fuzz_full else CASES) // SHARDS):
        i, j = rng.choice(sound) if rng.random() < 0.7 else rng.randrange(len(seeds)), rng.randrange(len(seeds))
        if rng.random() < 0.7:
            other = seeds[j].decode(errors="replace")
            data = mutate_tokens(rng, seeds[i].decode(errors="replace"), other).encode(errors="replace")
        else:
            data = mutate_bytes(rng, seeds[i])
        began = time.process_time()
        try:
            valid += survive(str(CORPUS[i]), data)
        except Exception as error:
            raise AssertionError(f"case {case} of shard {shard}, from {CORPUS[i].name}: {data!r}") from error
        assert time.process_time() - began < SECONDS, f"case {case} of shard {shard} hangs: {data!r}"
    assert valid > 0  # mutations that leave the file valid show that the others fail for what they are


@pytest.mark.parametrize("path", [path for path in CORPUS if "errors" not in path.parts], ids=lambda path: path.name)
def test_seeds_are_valid(path: Path) -> None:
    assert survive(str(path), path.read_bytes())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\n" * 100_000,
        b";" * 50_000,
        b"(" * 200_000,
        b"-" * 200_000,
        b"x" * 2_000_000,
        b"\xc3\xa9" * 600_000,
        b"0" * 200_000,
        b"1" * 200_000,
        b"variant v { mask = q < " + b"9" * 200_000 + b" }",
        b'"' * 200_000,
        b"#" * 1_000_000,
        b"variant v { logits = " + b"score + " * 5_000 + b"1.0 }",
        b"variant v { " + b"let a = 1;" * 20_000 + b" }",
        b"def f(x) = x\n" * 15_000,
        b"variant v { } ; " * 15_000,
        b"variant v { " + b"".join(b"let l%d = 1;" % i for i in range(5_000)) + b" }",
        b"def f0(x) = x\n" + b"".join(b"def f%d(x) = f%d(x)\n" % (i, i - 1) for i in range(1, 5_000)),
        b"variant v { logits = dot(" + b"k," * 20_000 + b"k) }",
        b"variant v { # " + b"\n #" * 20_000 + b"\n}",
        b"variant v { logits = " + b"x" * 200_000 + b" }",
    ],
    ids=lambda data: f"{data[:24]!r}...{len(data)}",
)
def test_odd_files(data: bytes) -> None:
    began = time.process_time()
    survive("odd.attn", data)
    assert time.process_time() - began < 3 * SECONDS
