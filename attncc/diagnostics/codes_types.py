"""Codes A03: types."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0301": Entry(
        "a condition used as a number",
        """
Conditions are not numbers: nothing turns `true` into 1 by itself.

```attn fails
variant v {
    logits = score + (q >= k)
}
```

```attn
variant v {
    logits = score + (1.0 if q >= k else 0.0)
}
```

`f32(x)` and `i32(x)` also convert.
""",
    ),
    "A0302": Entry(
        "a number used as a condition",
        """
`and`, `or`, `not`, `if` and masks take conditions. Compare the number with something.

```attn fails
variant v {
    mask = q >= k and q % 4
}
```

```attn
variant v {
    mask = q >= k and q % 4 != 0
}
```
""",
    ),
    "A0303": Entry(
        "i32 and u32 mixed",
        """
Signed and unsigned integers do not mix by themselves, because a negative i32 would become a huge u32. Literals take
the type of the other side.

```attn fails
variant v(w: u32) {
    mask = q - k < w
}
```

```attn
variant v(w: u32) {
    mask = q - k < i32(w)
}
```
""",
    ),
    "A0304": Entry(
        "an integer is needed",
        """
Indices, bit operations and shifts take integers. `/` always gives a float; `//` divides integers and rounds down.

```attn fails
variant v(bias: f32[n]) {
    logits = score + bias[(q - k) / 2]
}
```

```attn
variant v(bias: f32[n]) {
    logits = score + bias[(q - k) // 2]
}
```
""",
    ),
    "A0305": Entry(
        "wrong number of arguments",
        """
A function of the language was called with too few or too many arguments; `expected` shows its signature.

```attn fails
variant v {
    logits = clamp(score, 10.0)
}
```

```attn
variant v {
    logits = clamp(score, -10.0, 10.0)
}
```
""",
    ),
    "A0306": Entry(
        "literal out of range",
        """
Values have 32 bits: integers from -2147483648 to 4294967295 (above 2147483647 they are u32), floats up to 3.4e38.
Infinity is `inf`.

```attn fails
variant v {
    logits = score if q >= k else -1e40
}
```

```attn
variant v {
    logits = score if q >= k else -inf
}
```
""",
    ),
    "A0307": Entry(
        "a reduction with a wrong extent",
        """
In the text of the IR, `sum`, `any` and `all` have an extent, and the other reductions have none. The front ends never
write anything else; edited IR text can.
""",
    ),
    "A0308": Entry(
        "an argument of another type",
        """
A parameter of a mask or def that declares its type takes values of that type; an integer also becomes f32. A tensor
is passed by its bare name and must agree in element type and number of axes. Parameters without a type take anything.

```attn fails
mask window(w: i32) = q - k < w
variant v {
    mask = window(128.0)
}
```

```attn
mask window(w: i32) = q - k < w
variant v {
    mask = window(128)
}
```
""",
    ),
    "A0310": Entry(
        "wrong use of [ ]",
        """
Tensors are read one element at a time, with an index for every axis. Channel vectors (`query`, `key`, `value`,
operands) are sliced with two bounds. Other values have no elements.

```attn fails
variant v {
    query = query[0]
}
```

```attn
variant v {
    query = query[0 : 64]
    key   = key[0 : 64]
}
```
""",
    ),
}
