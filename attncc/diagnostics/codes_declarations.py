"""Codes A05: parameters, tensors and constants."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0504": Entry(
        "unknown constant",
        """
A value was given at compile time for a parameter that the variant does not have, or that is not `const`. Runtime
parameters are given at the call and need no new kernel.

```attn
variant dilated(const step: i32 = 2, window: i32 = 64) {
    mask = (q - k) % step == 0 and q - k < window
}
```

Here `-D step=4` is right, and `-D window=32` is this error.
""",
    ),
    "A0505": Entry(
        "constant without a value",
        """
A `const` parameter is part of the kernel, so its value must be known when the variant is compiled: from a default,
from `-D name=value` on the command line, or from the call in Python.

```attn fails
variant dilated(const step: i32) {
    mask = (q - k) % step == 0
}
```

```attn
variant dilated(const step: i32 = 2) {
    mask = (q - k) % step == 0
}
```
""",
    ),
    "A0506": Entry(
        "a value of another type",
        """
The value of a parameter, or its default, does not fit the declared type.

```attn fails
variant window(w: i32 = 0.5) {
    mask = q - k < w
}
```

```attn
variant window(w: i32 = 64) {
    mask = q - k < w
}
```
""",
    ),
    "A0507": Entry(
        "declared twice",
        """
Two parameters, tensors or operands of a variant have the same name, or two of its emits. In .attn text this is A0202;
here it comes from IR text or from a Python twin. Rename one of them.
""",
    ),
    "A0508": Entry(
        "not a shape",
        """
The axes of a tensor are extents (`batch num_heads num_kv_heads head_dim head_dim_v qo_len kv_len`), integers,
constants, their sums, differences, products and quotients, or new names, which the tensor's shape binds.

```attn fails
variant v(bias: f32[h]) {
    logits = score + bias[h]
}
```

```attn
variant v(bias: f32[num_heads]) {
    logits = score + bias[h]
}
```
""",
    ),
    "A0509": Entry(
        "not declared in the IR",
        """
The text of the IR reads a parameter, tensor, coordinate or input that it does not declare. The front ends never write
this; edited IR text can.
""",
    ),
    "A0510": Entry(
        "wrong number of indices",
        """
A tensor is read with one index for every axis it declares.

```attn fails
variant documents(doc: i32[batch, kv_len]) {
    mask = doc[own] == doc[col]
}
```

```attn
variant documents(doc: i32[batch, kv_len]) {
    mask = doc[b, own] == doc[b, col]
}
```
""",
    ),
    "A0511": Entry(
        "unknown type",
        """
Parameters are `f32`, `i32`, `u32` or `bool`. Tensors have one of the element types `f32 f16 bf16 bool u8 i8 i16 i32
i64 u32` and axes in brackets. `query[heads, channels]` and `key[heads, channels]` declare extra operands of the
score.

```attn fails
variant v(softcap: float = 30.0) {
    logits = softcap * tanh(score / softcap)
}
```

```attn
variant v(softcap: f32 = 30.0) {
    logits = softcap * tanh(score / softcap)
}
```
""",
    ),
    "A0512": Entry(
        "unbound extent",
        """
A new name in a shape gets its value from a tensor that has the name alone as an axis; `2 * n + 1` alone does not say
what n is.

```attn fails
variant v(bias: f32[2 * n + 1]) {
    logits = score + bias[clamp(q - k, -n, n) + n]
}
```

```attn
variant v(bias: f32[m]) {
    let n = m // 2
    logits = score + bias[clamp(q - k, -n, n) + n]
}
```
""",
    ),
    "A0513": Entry(
        "a shape that depends on a runtime parameter",
        """
Shapes are known when a call begins; runtime parameters may even differ per request. Use a constant, or a new name.

```attn fails
variant v(w: i32, bias: f32[w]) {
    logits = score + bias[min(q - k, w - 1)]
}
```

```attn
variant v(bias: f32[w]) {
    logits = score + bias[min(q - k, w - 1)]
}
```
""",
    ),
    "A0514": Entry(
        "a default that is not a literal",
        """
Defaults are literals: numbers, perhaps with a sign, `true`, `false`, `inf` or `pi`.

```attn fails
variant v(factor: f32 = 1.0 / 8.0) {
    logits = score * factor
}
```

```attn
variant v(factor: f32 = 0.125) {
    logits = score * factor
}
```
""",
    ),
    "A0515": Entry(
        "const or default on a tensor",
        """
Tensors and operands are given at each call; they are neither constant nor do they have defaults.

```attn fails
variant v(const bias: f32[num_heads]) {
    logits = score + bias[h]
}
```

```attn
variant v(bias: f32[num_heads]) {
    logits = score + bias[h]
}
```
""",
    ),
    "A0516": Entry(
        "an operand without its two axes",
        """
An extra operand has heads and channels: `query[num_heads, 64]` is one vector of 64 channels per row and query head,
`key[num_kv_heads, 64]` the same per key.

```attn fails
variant mla(q_pe: query[64], k_pe: key[64]) {
    score = sm_scale * (dot(query, key) + dot(q_pe, k_pe))
}
```

```attn
variant mla(q_pe: query[num_heads, 64], k_pe: key[1, 64]) {
    score = sm_scale * (dot(query, key) + dot(q_pe, k_pe))
}
```
""",
    ),
}
