"""The standard layout: what `attncc fmt` writes, that it is stable, and that it changes no meaning."""

from __future__ import annotations

from pathlib import Path

import pytest

from attncc.diagnostics import LanguageError, Source
from attncc.grammar import format, read
from attncc.grammar.lexer import tokens

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = [*sorted((ROOT / "examples").glob("*.attn")), *sorted((ROOT / "tests" / "variants").glob("*.attn"))]

UGLY = """\ufeff


mask   causal=q>=k#tight
mask window( w:i32=3 )=q-k<w


# Above
variant   x( softcap:f32=- 1.0,

  table : f32 [ n,2*n-1 ]
){


        # inside
   let half=score/2 ;   let more =-half**-2
 normalize=softmax( sink=0.0 )
 mask=not (causal)and
 window ( w=- 3,q=own )
    or(q==~k)   # why
 logits=where(
 half<0 ,
 -score,
 +score
 )
 emit a=rowmax( logits )
 emit longer=lse
 branch   y{query=query[0:64]; key=key[ :head_dim//2 ]}

}
variant empty{}


"""
NEAT = """mask causal = q >= k  # tight
mask window(w: i32 = 3) = q - k < w

# Above
variant x(softcap: f32 = -1.0,

    table: f32[n, 2 * n - 1]
) {
    # inside
    let half = score / 2; let more = -half ** -2
    normalize = softmax(sink = 0.0)
    mask      = not (causal) and
        window(w = -3, q = own)
        or (q == ~k)  # why
    logits    = where(
        half < 0,
        -score,
        +score
    )
    emit a      = rowmax(logits)
    emit longer = lse
    branch y { query = query[0 : 64]; key = key[: head_dim // 2] }
}
variant empty {}
"""


def test_layout() -> None:
    assert format(UGLY) == NEAT
    assert format(NEAT) == NEAT


def test_nothing_but_space_changes() -> None:
    def words(text: str) -> list[str]:
        return [token.text for token in tokens(Source("x", text)) if token.text.strip()]

    assert words(format(UGLY)) == words(UGLY)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_meaning_is_kept_and_the_layout_is_stable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    formatted = format(text)
    assert format(formatted) == formatted
    assert [line for line in text.split() if line.startswith("#")] == [
        line for line in formatted.split() if line.startswith("#")
    ]
    before = read(Source(str(path), text)).definitions
    after = read(Source(str(path), formatted)).definitions
    assert [d.instantiate() for d in before.values()] == [d.instantiate() for d in after.values()]


def test_empty_files() -> None:
    assert format("") == ""
    assert format("\n\n\n") == ""
    assert format("\r\n# only a comment") == "# only a comment\n"


def test_text_that_does_not_parse_is_left_alone() -> None:
    with pytest.raises(LanguageError) as caught:
        format("variant v { mask = }", "v.attn")
    assert str(caught.value.span) == "v.attn:1:20"
