"""Codes A08: calls."""

from __future__ import annotations

from attncc.diagnostics.catalogue import Entry

CODES: dict[str, Entry] = {
    "A0801": Entry(
        "parameters given by position",
        """
A variant takes its parameters by name; query, key and value are arguments of `attncc.attention`.

    gemma2(30.0)              # fails
    gemma2(softcap=30.0)      # works
""",
    ),
    "A0802": Entry(
        "no such parameter",
        """
The name is no parameter, constant, tensor or operand of the variant. With `@attncc.variant`, mypy reports it too.

    gemma2(sofcap=30.0)       # fails: did you mean `softcap`?
    gemma2(softcap=30.0)      # works
""",
    ),
    "A0803": Entry(
        "a parameter has no value",
        """
Every parameter without a default, every tensor and every extra operand is given when the variant is called.

    alibi()                   # fails: `slopes` has no default
    alibi(slopes=slopes)      # works
""",
    ),
    "A0804": Entry(
        "a parameter's value has the wrong type",
        """
A runtime parameter is one Python number, or an array with one element per request in the parameter's own type
(`f32[batch]` for `f32`). Floats are not rounded to integers for you.

    window(w=128.0)                            # fails: w is an i32
    window(w=128)                              # works
    gemma2(softcap=torch.full((batch,), 30.0)) # works: f32, one per request

A constant (`const` in a file, `Const[...]` in Python) is one Python number: the kernel is compiled for it. A value per
head is a tensor: `slopes: f32[num_heads]`.
""",
    ),
    "A0805": Entry(
        "a tensor was expected",
        """
Captured tensors are torch, cupy or numpy arrays. Lists are not converted, because that would copy to a device without
saying so.

    alibi(slopes=[0.5, 0.25])                              # fails
    alibi(slopes=torch.tensor([0.5, 0.25], device="cuda")) # works
""",
    ),
    "A0806": Entry(
        "a tensor of the wrong dtype",
        """
A captured tensor has the dtype that the variant declares; converting it would copy it.

    documents(doc=ids)             # fails if ids is int64 and doc is declared i32[batch, kv_len]
    documents(doc=ids.int())       # works; or declare doc: i64[batch, kv_len]
""",
    ),
    "A0807": Entry(
        "no such variant in the file",
        """
The file declares no variant of that name (masks and functions are not variants), or several where one must be named.

    attncc.load("gemma2.attn").gema2()     # fails
    attncc.load("gemma2.attn").gemma2()    # works
""",
    ),
    "A0808": Entry(
        "this is no variant",
        """
`attncc.attention` and `attncc.compile` take a variant called with its parameters, or one whose parameters all have
defaults.

    attncc.attention(q, k, v, lambda at: ...)       # fails
    attncc.attention(q, k, v, gemma2(softcap=30.0)) # works
""",
    ),
    "A0809": Entry(
        "a tensor with the wrong number of axes",
        """
The tensor has more or fewer axes than its declaration.

    doc: i32[batch, kv_len]        # declared with two axes
    documents(doc=ids[0])          # fails: one axis
    documents(doc=ids)             # works
""",
    ),
    "A0810": Entry(
        "a tensor whose shape does not fit the call",
        """
Each axis of a captured tensor is declared as a size: of the call (`batch num_heads num_kv_heads head_dim head_dim_v
qo_len kv_len`), an expression of sizes, or a new name, which the first tensor that has it as a bare axis binds. On `qo_len` and
`kv_len` axes of a padded batch the size is that of the storage, the longest request.

    alibi(slopes=torch.zeros(4))   # fails for 8 query heads: slopes is f32[num_heads]
""",
    ),
    "A0811": Entry(
        "a size that nothing binds",
        """
A new name in a tensor's dims gets its value from an axis that is this name alone.

    variant v(table: f32[num_heads, 2 * n + 1])                  # fails: nothing says what n is
    variant v(table: f32[num_heads, 2 * n + 1], far: i32[n])     # works: far binds n
    variant v(table: f32[num_heads, n])                          # works
""",
    ),
    "A0812": Entry(
        "a `require` condition does not hold",
        """
The variant states what its parameters and sizes must meet, and this call does not. The text is the variant's own.

    require window > 0, "the window holds at least the row itself"
""",
    ),
    "A0813": Entry(
        "a `require` condition on a value that lies on the device",
        """
A condition over a parameter given as one value per request is checked on the host. Reading an array on the device would
wait for it, which attncc never does behind your back: pass the values in host memory, one Python number, or drop the condition.
""",
    ),
}
