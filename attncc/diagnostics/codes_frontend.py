"""Codes A06: the Python front end."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0601": Entry(
        "a symbolic value has no truth value",
        """
A variant's function runs once, with values that stand for every (row, column) pair at a time, so there is no single
truth value that `if`, `and`, `or`, `not`, a chained comparison, or Python's `min` and `max` could look at.

```python fails
@attncc.variant
def window(at: At, *, w: int = 128):
    return hooks(mask=at.q >= at.k and at.q - at.k < w)
```

Write `&`, `|` and `~`, and mind the parentheses; select with `where(cond, a, b)`.

```python
@attncc.variant
def window(at: At, *, w: int = 128):
    return hooks(mask=(at.q >= at.k) & (at.q - at.k < w))
```

A parameter annotated `Const[bool]` or `Const[int]` is a Python number while tracing: `if` may look at it, and each
value is a kernel of its own.
""",
    ),
    "A0602": Entry(
        "a symbolic value is not a Python number",
        """
`int(x)`, `float(x)`, `range(x)` and a list's `[x]` need one number; a symbolic value stands for every element.

```python fails
SLOPES = [0.5, 0.25, 0.125, 0.0625]

@attncc.variant
def alibi(at: At):
    return hooks(logits=at.score + SLOPES[at.h] * (at.k - at.q))
```

A table is a parameter of the variant. A cast per element is `i32(x)` or `f32(x)`; a loop over a tensor's own size is
`sum_over`, `any_over` or `all_over`.

```python
@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]):
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q))
```
""",
    ),
    "A0603": Entry(
        "a symbolic value is not a sequence",
        """
A symbolic value cannot be looped over, unpacked or measured with `len`.

```python fails
@attncc.variant
def cosine(at: At):
    norm = sum(x * x for x in at.query)
    return hooks(query=at.query * rsqrt(norm))
```

The sum over the channels is `dot`.

```python
@attncc.variant
def cosine(at: At):
    return hooks(query=at.query * rsqrt(dot(at.query, at.query)))
```
""",
    ),
    "A0604": Entry(
        "something that is no value stands in a formula",
        """
Formulas are made of symbolic values and of Python and numpy numbers. `None` is usually a helper that lacks its
`return`; an array must be a parameter of the variant, so that the kernel can read it.

```python fails
def cap(x):
    30.0 * tanh(x / 30.0)

@attncc.variant
def softcap(at: At):
    return hooks(logits=cap(at.score))
```

```python
def cap(x):
    return 30.0 * tanh(x / 30.0)

@attncc.variant
def softcap(at: At):
    return hooks(logits=cap(at.score))
```
""",
    ),
    "A0605": Entry(
        "a captured tensor is read without, or with wrong, indices",
        """
A captured tensor is read one element at a time, with one index per axis; `at.d` is the channel.

```python fails
@attncc.variant
def scaled(at: At, *, weight: F32[Tensor, "num_heads, head_dim"]):
    return hooks(query=at.query * weight[at.h, :])
```

```python
@attncc.variant
def scaled(at: At, *, weight: F32[Tensor, "num_heads, head_dim"]):
    return hooks(query=at.query * weight[at.h, at.d])
```
""",
    ),
    "A0606": Entry(
        "a channel vector is used like a list",
        """
`at.query`, `at.key`, `at.value` and extra operands are vectors over the channels. They are sliced `[start : stop]` with
bounds made of numbers and sizes; a single channel or a step is not available. Where a formula depends on the channel,
use `at.d`.

```python fails
@attncc.variant
def half(at: At):
    return hooks(query=at.query[::2], key=at.key[::2])
```

```python
@attncc.variant
def half(at: At):
    n = at.head_dim // 2
    return hooks(query=at.query[:n], key=at.key[:n])
```
""",
    ),
    "A0607": Entry(
        "a function that cannot be a variant",
        """
A variant is a plain function `def name(at: At, *, parameters...)` that returns `hooks(...)`. Parameters are
keyword-only, because a call names them.

```python fails
@attncc.variant
def softcap(at: At, cap: float = 50.0):
    return hooks(logits=cap * tanh(at.score / cap))
```

```python
@attncc.variant
def softcap(at: At, *, cap: float = 50.0):
    return hooks(logits=cap * tanh(at.score / cap))
```
""",
    ),
    "A0608": Entry(
        "an annotation that declares no parameter",
        """
The annotation says what a parameter is: a number, a Python number while tracing (`Const`), a captured tensor, or an
extra score operand.

```python fails
@attncc.variant
def alibi(at: At, *, slopes: list):
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q))
```

```python
@attncc.variant
def every_kind(
    at: At,
    *,
    cap: float,                              # f32, one value or one per request
    window: int,                             # i32
    bits: UInt32,                            # u32
    causal: bool,
    n: Const[int] = 4,
    slopes: F32[Tensor, "num_heads"],        # F16 BF16 I8 I16 I32 I64 U8 U32 Bool alike
    q_pe: Query[Tensor, "num_heads, 64"],
    k_pe: Key[Tensor, "1, 64"],
):
    return hooks(logits=at.score + slopes[at.h])
```

With `from __future__ import annotations`, the names must be known where the function stands.
""",
    ),
    "A0609": Entry(
        "dims that cannot be read",
        """
The dims of a tensor are one string: axes separated by commas, each an integer expression over sizes (`batch num_heads
num_kv_heads head_dim head_dim_v qo_len kv_len`), `Const[int]` parameters, and new names, which the shape binds. An
extra operand has two: heads and channels.

```python fails
@attncc.variant
def documents(at: At, *, doc: I32[Tensor, "batch kv_len"]):
    return hooks(mask=doc[at.b, at.own] == doc[at.b, at.col])
```

```python
@attncc.variant
def documents(at: At, *, doc: I32[Tensor, "batch, kv_len"]):
    return hooks(mask=doc[at.b, at.own] == doc[at.b, at.col])
```
""",
    ),
    "A0610": Entry(
        "a tensor with a default",
        """
Tensors are given when the variant is called; a default would be a hidden allocation on some device.

```python fails
@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"] = None):
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q))
```

```python
@attncc.variant
def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]):
    return hooks(logits=at.score + slopes[at.h] * (at.k - at.q))
```
""",
    ),
    "A0611": Entry(
        "an unknown name of `at`, of a value, or of a hook",
        """
`at` has the coordinates `b h hk row col q k own d`, the inputs `sm_scale query key value score logits prob out total
lse` and the sizes `batch num_heads num_kv_heads head_dim head_dim_v qo_len kv_len`. `hooks` takes `sm_scale query key
value score logits mask weight normalize output emit branches`. Functions are no methods.

```python fails
@attncc.variant
def softcap(at: At):
    return hooks(logits=30.0 * (at.score / 30.0).tanh())
```

```python
@attncc.variant
def softcap(at: At):
    return hooks(logits=30.0 * tanh(at.score / 30.0))
```
""",
    ),
    "A0612": Entry(
        "a function of another library on a symbolic value",
        """
`math`, `numpy` and `torch` compute with numbers and arrays; a formula uses the functions of attncc, which have the
same names. Applied to Python numbers and `Const` parameters, `math` works as ever.

```python fails
import numpy as np

@attncc.variant
def softcap(at: At):
    return hooks(logits=30.0 * np.tanh(at.score / 30.0))
```

```python
@attncc.variant
def softcap(at: At):
    return hooks(logits=30.0 * attncc.tanh(at.score / 30.0))
```
""",
    ),
    "A0613": Entry(
        "a symbolic value is changed or used as a key",
        """
Symbolic values are immutable and stand for many elements: nothing can be assigned into them, and they are no keys of
dicts and sets. Hooks are returned, not assigned.

```python fails
@attncc.variant
def causal(at: At):
    at.mask = at.q >= at.k
```

```python
@attncc.variant
def causal(at: At):
    return hooks(mask=at.q >= at.k)
```
""",
    ),
    "A0614": Entry(
        "a construct outside a variant",
        """
`sum_over`, `any_over`, `all_over` and `require` belong to the variant that is being traced. Use them in its function,
or in a helper that it calls, not at module level.

```python fails
low = any_over(4, lambda i: i == 2)
```

```python
def low(at: At):
    return any_over(4, lambda i: at.h == 2 * i)

@attncc.variant
def even(at: At):
    return hooks(mask=low(at))
```
""",
    ),
    "A0615": Entry(
        "an argument of the wrong form",
        """
`sum_over`, `any_over` and `all_over` take a length and a function of one index; `require` a condition and a text;
`hooks` takes `emit={"name": value}` and `branches={"name": branch(...)}`.

```python fails
@attncc.variant
def selected(at: At, *, sets: I32[Tensor, "num_heads, n"]):
    return hooks(mask=any_over(sets.shape[1], sets[at.h, 0] == at.k))
```

```python
@attncc.variant
def selected(at: At, *, sets: I32[Tensor, "num_heads, n"]):
    return hooks(mask=any_over(sets.shape[1], lambda i: sets[at.h, i] == at.k))
```
""",
    ),
    "A0616": Entry(
        "a variant's function returns no hooks",
        """
The function states its hooks by returning them.

```python fails
@attncc.variant
def causal(at: At):
    hooks(mask=at.q >= at.k)
```

```python
@attncc.variant
def causal(at: At):
    return hooks(mask=at.q >= at.k)
```
""",
    ),
}
