"""Codes A04: hooks and what they may vary with."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0401": Entry(
        "a hook of another type",
        """
`mask` is a condition; every other hook is a number.

```attn fails
variant v {
    logits = q >= k
}
```

```attn
variant v {
    logits = score if q >= k else -inf
}
```
""",
    ),
    "A0402": Entry(
        "a hook cannot read this",
        """
Each hook sees what the algorithm knows when it runs: `logits` reads `score`, `weight` reads `score` and `logits`,
`normalize` reads `total`, `output` reads `out`, `total` and `lse`. A mask never reads the score, because whole tiles
are skipped before any score exists.

```attn fails
variant v {
    mask = score > 0.0
}
```

A logit of `-inf` is the same as masked:

```attn
variant v {
    logits = score if score > 0.0 else -inf
}
```
""",
    ),
    "A0403": Entry(
        "a hook may not vary with this",
        """
`key` and `value` are computed once per key, for all rows and all query heads of a group; `query` once per row;
`normalize` and `output` once per row; only `query`, `key`, `value` and `output` work on channels (`d`). A hook that
depends on more would have to run more often than the algorithm does.

```attn fails
variant v(gain: f32[num_heads]) {
    key = key * gain[h]
}
```

```attn
variant v(gain: f32[num_kv_heads]) {
    key = key * gain[hk]
}
```
""",
    ),
    "A0404": Entry(
        "a reduction in the wrong hook",
        """
`after(x)`, the sum over the later keys, belongs in `weight`. `expect(x)`, `rowmax(x)` and `colsum(x)` need finished
rows and belong in `emit`.

```attn fails
variant v {
    logits = score - rowmax(score)
}
```

```attn
variant v {
    emit top = rowmax(logits)
}
```
""",
    ),
    "A0405": Entry(
        "channel vectors of different lengths",
        """
Two vectors that meet in an operation have the same number of channels. Slice the longer one.

```attn fails
variant v {
    score = sm_scale * dot(query[0 : 64], key)
}
```

```attn
variant v {
    score = sm_scale * dot(query[0 : 64], key[0 : 64])
}
```
""",
    ),
    "A0406": Entry(
        "slice outside its vector",
        """
The bounds of a slice are integers, constants and extents, and lie within the vector: 0 <= start < stop <= length. A
rotation needs an even number of channels.

```attn fails
variant v(n: i32) {
    query = query[0 : n]
}
```

```attn
variant v(const n: i32 = 32) {
    query = query[0 : n]
    key   = key[0 : n]
}
```
""",
    ),
    "A0407": Entry(
        "which branch?",
        """
In a variant with branches, `output` and `emit` read values of a branch by its name.

```attn fails
variant v {
    branch x { logits = score }
    branch y { logits = -score }
    output = out
}
```

```attn
variant v {
    branch x { logits = score }
    branch y { logits = -score }
    output = x.out - y.out
}
```
""",
    ),
    "A0408": Entry(
        "branches without output",
        """
A variant with branches says how their results combine.

```attn fails
variant v {
    branch x { logits = score }
    branch y { logits = -score }
}
```

```attn
variant v {
    branch x { logits = score }
    branch y { logits = -score }
    output = (x.out + y.out) / 2
}
```
""",
    ),
    "A0409": Entry(
        "the normaliser does not fit",
        """
Without `weight` rows are normalised by softmax, perhaps with a sink: `normalize = softmax(sink = e)`. With `weight`,
`normalize` is a denominator over `total`, the sum of the weights.

```attn fails
variant v {
    normalize = max(abs(total), 1.0)
}
```

```attn
variant v {
    weight    = logits
    normalize = max(abs(total), 1.0)
}
```
""",
    ),
    "A0410": Entry(
        "an emit per pair",
        """
An extra output has one value per row or one per key, not one per pair: the matrix of probabilities is never stored.

```attn fails
variant v {
    emit p = prob
}
```

```attn
variant v {
    emit mass = colsum(prob)
}
```
""",
    ),
    "A0411": Entry(
        "require reads an element",
        """
`require` is checked at the call, from parameters and shapes alone.

```attn fails
variant v(w: i32) {
    require q < w, "positions are below w"
    mask = q - k < w
}
```

```attn
variant v(w: i32) {
    require kv_len <= w, "the sequence is at most w long"
    mask = q - k < w
}
```
""",
    ),
    "A0413": Entry(
        "unknown hook",
        """
The hooks are `sm_scale query key value score logits mask weight normalize output`, and `emit NAME`. To name a value,
write `let`.

```attn fails
variant v {
    logit = score * 2.0
}
```

```attn
variant v {
    logits = score * 2.0
}
```
""",
    ),
    "A0414": Entry(
        "a hook written twice",
        """
Each hook has one expression. Conditions are joined with `and`.

```attn fails
variant v {
    mask = q >= k
    mask = q - k < 128
}
```

```attn
variant v {
    mask = q >= k and q - k < 128
}
```
""",
    ),
    "A0415": Entry(
        "softmax outside normalize",
        """
`softmax` is how rows are normalised when `weight` is absent; it is not a function of values. It takes nothing but a
sink, an extra logit in the denominator.

```attn fails
variant v {
    weight = softmax(logits)
}
```

```attn
variant v {
    normalize = softmax(sink = 0.0)
}
```
""",
    ),
    "A0416": Entry(
        "output in a branch",
        """
`output` combines the branches, so it stands behind them.

```attn fails
variant v {
    branch x { output = out * 2.0 }
    output = x.out
}
```

```attn
variant v {
    branch x { logits = score }
    output = x.out * 2.0
}
```
""",
    ),
}
