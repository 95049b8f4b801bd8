"""Codes A02: names and imports."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0201": Entry(
        "unknown name",
        """
A name must be a parameter, a tensor, a `let` above it, a `mask` or `def` of the file or imported, or a name of the
language: coordinates (`b h hk row col q k own d`), extents (`num_heads head_dim qo_len kv_len` and others), values
(`score logits` and others), functions and constants (`true false inf pi`).

```attn fails
variant v {
    mask = q - k < window
}
```

```attn
variant v(window: i32) {
    mask = q - k < window
}
```
""",
    ),
    "A0202": Entry(
        "declared twice",
        """
Two things in one space of names have the same name. Variants have a space of their own; a parameter may have the name
of a mask or def of the file, which it then hides.

```attn fails
mask causal = q >= k
mask causal = row >= col
```

```attn
mask causal = q >= k
mask causal_rows = row >= col
```
""",
    ),
    "A0203": Entry(
        "a name the language keeps",
        """
Coordinates, extents, values of the algorithm, functions and constants keep their names, so that a formula means the
same in every file.

```attn fails
variant rope(d: f32) {
    logits = score * d
}
```

```attn
variant rope(dampen: f32) {
    logits = score * dampen
}
```
""",
    ),
    "A0204": Entry(
        "used before its definition",
        """
A `let` holds for the statements below it. Masks and defs hold in the whole file, in any order.

```attn fails
variant v {
    logits = half * 2.0
    let half = score / 2
}
```

```attn
variant v {
    let half = score / 2
    logits = half * 2.0
}
```
""",
    ),
    "A0205": Entry(
        "not a function",
        """
Only functions of the language, masks and defs can be called. Multiplication needs its `*`, and the elements of a
tensor are read with `[ ]`.

```attn fails
variant v(slopes: f32[num_heads]) {
    logits = score + slopes(h)
}
```

```attn
variant v(slopes: f32[num_heads]) {
    logits = score + slopes[h]
}
```
""",
    ),
    "A0206": Entry(
        "not a value",
        """
A tensor, a function, a branch or an imported file stands where a value is needed; or a hook that cannot be read: the
value of `mask`, `weight`, `normalize` and `output` is not available to other hooks.

```attn fails
variant v(slopes: f32[num_heads]) {
    logits = score + slopes * (k - q)
}
```

```attn
variant v(slopes: f32[num_heads]) {
    logits = score + slopes[h] * (k - q)
}
```
""",
    ),
    "A0207": Entry(
        "imports in a circle",
        """
A file imports, perhaps by way of others, itself. The notes show each step.

```attn fails
from "circle.attn" import something
```

Move what the files share into one that imports neither:

```attn
from "masks.attn" import causal
```
""",
    ),
    "A0208": Entry(
        "imported file not found",
        """
The path of an import is relative to the folder of the file that imports (for standard input, to the working folder).

```attn fails
from "maks.attn" import causal
```

```attn
from "masks.attn" import causal
```
""",
    ),
    "A0209": Entry(
        "not in the imported file",
        """
The imported file has no mask or def of that name. Variants cannot be imported: they are whole programs, not parts of
one.

```attn fails
from "masks.attn" import casual
```

```attn
from "masks.attn" import causal
```
""",
    ),
    "A0210": Entry(
        "defined by itself",
        """
Masks and defs are written out where they are used, so none may lead back to itself. Repetition over a known number of
steps is a comprehension.

```attn fails
def triangle(n) = n + triangle(n - 1)
```

```attn
def triangle(n) = sum(t + 1 for t in n)
```
""",
    ),
    "A0211": Entry(
        "wrong arguments",
        """
A mask or def takes its parameters in order or by name; those with a default may be left out. Coordinates are rebound
by name: `window(w, q = own)`. Functions of the language take their arguments in order.

```attn fails
mask window(w: i32) = q - k < w
variant v {
    mask = window
}
```

```attn
mask window(w: i32) = q - k < w
variant v {
    mask = window(128) and window(w = 64, q = own)
}
```
""",
    ),
    "A0212": Entry(
        "no such member",
        """
A point stands between a branch and one of its values (`x.out`, `x.lse`), or between an imported file and one of its
masks or defs. Values have no methods.

```attn fails
variant v {
    branch x { logits = score }
    output = x.result
}
```

```attn
variant v {
    branch x { logits = score }
    output = x.out
}
```
""",
    ),
    "A0213": Entry(
        "comprehension misused",
        """
`any`, `all` and `sum` take a comprehension, and nothing else does.

```attn fails
variant v(table: f32[n]) {
    logits = score + max(table[t] for t in n)
}
```

```attn
variant v(table: f32[n]) {
    logits = score + sum(table[t] for t in n)
}
```
""",
    ),
    "A0214": Entry(
        "comprehension over a runtime value",
        """
The number of steps of a comprehension is an integer, a `const` parameter, or an extent: a name that the shape of a
tensor binds.

```attn fails
variant vertical(columns: i32[n], used: i32) {
    mask = any(columns[t] == k for t in used)
}
```

```attn
variant vertical(columns: i32[n], used: i32) {
    mask = any(t < used and columns[t] == k for t in n)
}
```
""",
    ),
}
