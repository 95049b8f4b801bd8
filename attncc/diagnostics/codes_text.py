"""Codes A01: reading text."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0101": Entry(
        "unexpected token",
        """
The text cannot continue like this. The caret is under the first token that fits nowhere; what could stand there is in
`expected`. The cause is often a little before it: a missing operator, a bracket that is still open, `=` for `==`.

```attn fails
variant near {
    mask = q = k
}
```

`=` gives a hook its expression; `==` compares:

```attn
variant near {
    mask = q == k
}
```

A statement ends at the end of its line or at `;`. A line goes on inside `( )` and `[ ]`, after an operator, and where
the next line begins with one.
""",
    ),
    "A0102": Entry(
        "unexpected character",
        """
A character that no token begins with: an operator of another language, a sign pasted from a paper, a typographic
quote, a non-breaking space. Outside comments and texts a variant is written in ASCII.

```attn fails
variant causal {
    mask = q ≥ k
}
```

```attn
variant causal {
    mask = q >= k
}
```

`&&`, `||` and `!` are `and`, `or` and `not`.
""",
    ),
    "A0103": Entry(
        "malformed number",
        """
Integers are decimal, hexadecimal (`0xff`), octal (`0o17`) or binary (`0b101`); floats have a point or an exponent.
`_` may stand between digits. There are no suffixes, and no leading zeros.

```attn fails
variant v {
    logits = score * 2.0f
}
```

```attn
variant v {
    logits = score * 2.0
}
```
""",
    ),
    "A0104": Entry(
        "text not closed",
        """
A text begins and ends with `"` on one line.

```attn fails
variant v(w: i32) {
    require w > 0, "w is positive
    mask = q - k < w
}
```

```attn
variant v(w: i32) {
    require w > 0, "w is positive"
    mask = q - k < w
}
```
""",
    ),
    "A0105": Entry(
        "not text in UTF-8",
        """
The bytes of the file are not UTF-8. Usually an editor saved it in another encoding, or it is not a .attn file at all.
Save it as UTF-8; a byte order mark at its beginning is accepted.
""",
    ),
    "A0106": Entry(
        "brackets do not match",
        """
A bracket is never closed, closed by another kind, or closed without having been opened.

```attn fails
variant v(softcap: f32) {
    logits = softcap * tanh(score / softcap
}
```

```attn
variant v(softcap: f32) {
    logits = softcap * tanh(score / softcap)
}
```
""",
    ),
    "A0107": Entry(
        "nested too deeply",
        """
Expressions, brackets, imports, and definitions that use each other have a depth limit, far above what a formula
needs. A sum or product of many terms does not count as deep. Generated text is the usual cause.

```attn fails
variant v {
    logits = -----------------------------------------------------------------------------------------------------score
}
```

Name a part of the expression:

```attn
variant v {
    let half = score / 2
    logits = half * half
}
```
""",
    ),
    "A0108": Entry(
        "file too large",
        """
A .attn file has at most 262,144 characters. A table of numbers belongs in a tensor, which the variant takes as a
parameter:

```attn
variant biased(table: f32[num_heads, n]) {
    logits = score + table[h, clamp(q - k, 0, n - 1)]
}
```
""",
    ),
    "A0109": Entry(
        "unknown escape in a text",
        """
Behind `\\\\` in a text stand only `"`, `\\\\`, `n` or `t`. In paths, write `/`; it works on every system.

```attn fails
from "lib\\masks.attn" import causal
```

```attn
from "lib/masks.attn" import causal
```
""",
    ),
    "A0110": Entry(
        "a word of the language used as a name",
        """
These words cannot be names: `variant mask def let const branch emit require from import as for in if else and or
not`. The names of hooks can, `mask` alone excepted.

```attn fails
variant v(in: f32) {
    logits = score * in
}
```

```attn
variant v(inner: f32) {
    logits = score * inner
}
```
""",
    ),
    "A0111": Entry(
        "variant too large",
        """
Masks and defs are written out where they are used. Definitions that each use the previous one twice double in size
with every step, and a variant has a limit of 100,000 expressions.

```attn fails
def f0(x) = x + x
def f1(x) = f0(x) + f0(x) + f0(x) + f0(x) + f0(x) + f0(x) + f0(x) + f0(x)
def f2(x) = f1(x) + f1(x) + f1(x) + f1(x) + f1(x) + f1(x) + f1(x) + f1(x)
def f3(x) = f2(x) + f2(x) + f2(x) + f2(x) + f2(x) + f2(x) + f2(x) + f2(x)
def f4(x) = f3(x) + f3(x) + f3(x) + f3(x) + f3(x) + f3(x) + f3(x) + f3(x)
def f5(x) = f4(x) + f4(x) + f4(x) + f4(x) + f4(x) + f4(x) + f4(x) + f4(x)
variant v {
    logits = f5(score)
}
```

A `let` or an argument is computed once, however often it is used:

```attn
def twice(x) = x + x
variant v {
    let two  = twice(score)
    let four = twice(two)
    logits = twice(four)
}
```
""",
    ),
    "A0112": Entry(
        "cannot read a file",
        """
The file does not exist, is a folder, or may not be read; `got` is what the system answered. `-` in place of a file
reads standard input.
""",
    ),
}
