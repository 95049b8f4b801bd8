"""Codes A06: the Python front end."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0601": Entry(
        "a symbolic value has no truth value",
        """
A variant's function runs once, with values that stand for every (row, column) pair at a time, so there is no single
truth value that `if`, `and`, `or`, `not`, a chained comparison, or Python's `min` and `max` could look at.

    hooks(mask=at.q >= at.k and at.q - at.k < w)        # fails
    hooks(mask=(at.q >= at.k) & (at.q - at.k < w))      # works; mind the parentheses

    hooks(mask=0 <= at.q - at.k < w)                    # fails
    hooks(mask=(at.q >= at.k) & (at.q - at.k < w))

    hooks(logits=-at.score if at.h == 0 else at.score)  # fails
    hooks(logits=where(at.h == 0, -at.score, at.score))

A parameter annotated `Const[bool]` or `Const[int]` is a Python number while tracing: `if` may look at it, and each
value is a kernel of its own.
""",
    ),
    "A0602": Entry(
        "a symbolic value is not a Python number",
        """
`int(x)`, `float(x)`, `range(x)` and a list's `[x]` need one number; a symbolic value stands for every element.

    int(at.q / size)                        # fails
    i32(at.q / size)                        # works: a cast per element

    SLOPES[at.h]                            # fails: SLOPES is a Python list
    slopes[at.h]                            # works: slopes: F32[Tensor, "num_heads"] is a parameter

    for i in range(blocks.shape[1]): ...    # fails: the size is known at the call
    any_over(blocks.shape[1], lambda i: blocks[at.h, i] == at.k // 64)
""",
    ),
    "A0603": Entry(
        "a symbolic value is not a sequence",
        """
A symbolic value cannot be looped over, unpacked or measured with `len`.

    for x in at.query: total += x * x       # fails
    dot(at.query, at.query)                 # works: the sum over the channels

Loops over a Python `range` run while tracing; loops over a tensor's own size are `sum_over`, `any_over` and `all_over`.
""",
    ),
    "A0604": Entry(
        "something that is no value stands in a formula",
        """
Formulas are made of symbolic values and of Python and numpy numbers. An array is a parameter of the variant, so that
the kernel can read it:

    bias = torch.zeros(8)
    def v(at: At): return hooks(logits=at.score + bias[0])                              # fails

    def v(at: At, *, bias: F32[Tensor, "num_heads"]):
        return hooks(logits=at.score + bias[at.h])                                      # works; call v(bias=...)

`None` is usually a helper that lacks its `return`.
""",
    ),
    "A0605": Entry(
        "a captured tensor is read without, or with wrong, indices",
        """
A captured tensor is read one element at a time, with one index per axis.

    at.score + slopes * (at.k - at.q)            # fails
    at.score + slopes[at.h] * (at.k - at.q)      # works

    at.query * weight[at.h, :]                   # fails
    at.query * weight[at.h, at.d]                # works: `at.d` is the channel
""",
    ),
    "A0606": Entry(
        "a channel vector is used like a list",
        """
`at.query`, `at.key`, `at.value` and extra operands are vectors over the channels. They are sliced `[start : stop]` with
bounds made of numbers and sizes; a single channel or a step is not available. Where a formula depends on the channel,
use `at.d`.

    at.query[0]                         # fails
    at.query[0 : at.head_dim // 2]      # works
""",
    ),
    "A0607": Entry(
        "a function that cannot be a variant",
        """
A variant is a plain function `def name(at: At, *, parameters...)` that returns `hooks(...)`. Parameters are
keyword-only, because a call names them.

    def softcap(at: At, cap: float = 50.0): ...       # fails
    def softcap(at: At, *, cap: float = 50.0): ...    # works
""",
    ),
    "A0608": Entry(
        "an annotation that declares no parameter",
        """
The annotation says what a parameter is:

    cap: float                              # f32, one value or one per request
    window: int                             # i32
    bits: UInt32                            # u32
    causal: bool
    n: Const[int] = 4                       # a Python number while tracing
    slopes: F32[Tensor, "num_heads"]        # a captured tensor; F16 BF16 I8 I16 I32 I64 U8 U32 Bool alike
    q_pe: Query[Tensor, "num_heads, 64"]    # an extra score operand; Key alike

With `from __future__ import annotations`, the names must be importable where the function stands.
""",
    ),
    "A0609": Entry(
        "dims that cannot be read",
        """
The dims of a tensor are one string: axes separated by commas, each an integer expression over sizes (`batch num_heads
num_kv_heads head_dim head_dim_v qo_len kv_len`), `Const[int]` parameters, and new names, which the shape binds.

    doc: I32[Tensor, "batch kv_len"]        # fails
    doc: I32[Tensor, "batch, kv_len"]       # works
    table: F32[Tensor, "n, head_dim // 2"]  # binds n

An extra operand has two: heads and channels.
""",
    ),
    "A0610": Entry(
        "a tensor with a default",
        """
Tensors are given when the variant is called; a default would be a hidden allocation on some device.

    def alibi(at: At, *, slopes: F32[Tensor, "num_heads"] = None): ...    # fails
    def alibi(at: At, *, slopes: F32[Tensor, "num_heads"]): ...           # works
""",
    ),
    "A0611": Entry(
        "an unknown name of `at`, of a value, or of a hook",
        """
`at` has the coordinates `b h hk row col q k own d`, the inputs `sm_scale query key value score logits prob out total
lse` and the sizes `batch num_heads num_kv_heads head_dim head_dim_v qo_len kv_len`. `hooks` takes `sm_scale query key
value score logits mask weight normalize output emit branches`. Functions are no methods:

    (at.score / 30.0).tanh()      # fails
    tanh(at.score / 30.0)         # works: from attncc import tanh
""",
    ),
    "A0612": Entry(
        "a function of another library on a symbolic value",
        """
`math`, `numpy` and `torch` compute with numbers and arrays; a formula uses the functions of attncc, which have the
same names.

    math.tanh(at.score / cap)     # fails
    attncc.tanh(at.score / cap)   # works

Applied to Python numbers and `Const` parameters, `math` works as ever.
""",
    ),
    "A0613": Entry(
        "a symbolic value is changed or used as a key",
        """
Symbolic values are immutable and stand for many elements: nothing can be assigned into them, and they are no keys of
dicts and sets. Hooks are returned, not assigned:

    at.mask = at.q >= at.k                # fails
    return hooks(mask=at.q >= at.k)       # works
""",
    ),
    "A0614": Entry(
        "a construct outside a variant",
        """
`sum_over`, `any_over`, `all_over` and `require` belong to the variant that is being traced. Use them in its function,
or in a helper that it calls, not at module level.
""",
    ),
    "A0615": Entry(
        "an argument of the wrong form",
        """
    sum_over(n, lambda i: table[at.h, i])        # a length and a function of one index
    require(window > 0, "window is positive")    # a condition and a text
    hooks(emit={"top": rowmax(at.logits)})       # extra outputs by name
    hooks(branches={"x": branch(...)}, output=at.branch("x").out)
""",
    ),
    "A0616": Entry(
        "a variant's function returns no hooks",
        """
The function states its hooks by returning them:

    def causal(at: At):
        hooks(mask=at.q >= at.k)             # fails: nothing is returned

    def causal(at: At):
        return hooks(mask=at.q >= at.k)      # works
""",
    ),
}
