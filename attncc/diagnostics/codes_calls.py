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
qo_len kv_len`), an expression of sizes, or a new name, which the first tensor that has it as a bare axis binds. On
`qo_len` and `kv_len` axes of a padded batch the size is that of the storage, the longest request.

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
wait for it, which attncc never does behind your back: pass the values in host memory, one Python number, or drop the
condition.
""",
    ),
    "A0820": Entry(
        "sizes that make no attention",
        """
Every size is at least 1, query heads divide evenly among the KV heads, and a request or head to look at exists.

    attncc viz alibi.attn --heads 8 --kv-heads 3      # wrong: 8 is no multiple of 3
    attncc viz alibi.attn --heads 8 --kv-heads 2      # right
""",
    ),
    "A0821": Entry(
        "not enough memory",
        """
The tensors that the command line asks for, or the reference's work on them, do not fit into this machine's memory. The
reference works block by block, so it needs little beside the tensors: use a smaller batch, fewer heads or shorter
lengths.
""",
    ),
    "A0830": Entry(
        "unknown layout",
        """
`layout` says where the head axis of q, k, v and out stands: "nhd" is [batch, len, heads, dim], "hnd" is
[batch, heads, len, dim], which is what PyTorch's `scaled_dot_product_attention` takes.

    attncc.attention(q, k, v, layout="bshd")    # fails
    attncc.attention(q, k, v, layout="nhd")     # works
""",
    ),
    "A0831": Entry(
        "this variant takes no explicit starts",
        """
A captured tensor of the variant lies over storage (`kv_len` or `qo_len`) and is indexed by a position (`q` or `k`).
With `q_start` or `k_start` given, positions are no longer storage indices, and the tensor would be read in the wrong
place. Index it by `own`, `row` or `col`:

    mask = doc[b, q] == doc[b, k] and causal      # refuses explicit starts
    mask = doc[b, own] == doc[b, col] and causal  # takes them
""",
    ),
    "A0832": Entry(
        "not a tensor",
        """
q, k, v, `out` and captured tensors are torch tensors, cupy arrays or numpy arrays. Lists and scalars are not converted.
""",
    ),
    "A0833": Entry(
        "tensors on different devices",
        """
Everything a call reads or writes lies on one device and q, k, v and out come from one library: attncc copies nothing
behind your back. CPU tensors run the reference, CUDA tensors a kernel.

    attncc.attention(q.cuda(), k.cuda(), v.cuda(), alibi(slopes=s))          # fails: s is on the CPU
    attncc.attention(q.cuda(), k.cuda(), v.cuda(), alibi(slopes=s.cuda()))   # works
""",
    ),
    "A0834": Entry(
        "wrong number of dimensions",
        """
q, k and v have four dimensions. A single request has a batch axis of 1: `q[None]`.
""",
    ),
    "A0835": Entry(
        "shapes do not fit together",
        """
q, k and v agree in batch; q and k in head_dim; k and v in length and heads. `layout` says which axis is which.
""",
    ),
    "A0836": Entry(
        "query heads cannot share the KV heads",
        """
Each KV head serves a group of query heads of the same size, so the number of query heads is a multiple of the number
of KV heads. The wrong `layout` is a common cause: then lengths are read as heads.
""",
    ),
    "A0837": Entry(
        "wrong dtype",
        """
q, k and v have one float dtype: f16 or bf16 on a GPU; f32 and f64 as well on a CPU. Convert them before the call.

    attncc.attention(q.half(), k.bfloat16(), v.bfloat16())    # fails
    attncc.attention(q.half(), k.half(), v.half())            # works
""",
    ),
    "A0838": Entry(
        "an input requires a gradient",
        """
attncc is forward only: it would silently cut the graph. Call it in inference mode, or detach the input.

    attncc.attention(q, k, v)              # fails while q.requires_grad
    with torch.no_grad():
        attncc.attention(q, k, v)          # works
""",
    ),
    "A0839": Entry(
        "the last dimension is not contiguous",
        """
Any strides will do, but the channels of one row lie side by side. A transpose that moves the last axis breaks this.

    attncc.attention(q.mT, k, v)                  # fails
    attncc.attention(q.mT.contiguous(), k, v)     # works
""",
    ),
    "A0840": Entry(
        "rows are not aligned",
        """
Kernels move 16 bytes at a time, so every row of q, k, v and out starts at a multiple of 16 bytes: the tensor's start
and its batch, head and token strides. A slice that begins in the middle of a buffer, `buffer[1:]` of an odd width,
breaks this. Copy it, or pad the buffer's rows.
""",
    ),
    "A0841": Entry(
        "`out` cannot take the result",
        """
`out` is laid out, typed and placed as q is, with head_dim_v channels; no two of its elements share memory, and it
shares none with q, k and v, which other blocks still read while it is written.

    attncc.attention(q, k, v, out=q)                          # fails
    attncc.attention(q, k, v, out=torch.empty_like(q))        # works when head_dim_v == head_dim
""",
    ),
    "A0842": Entry(
        "starts and lengths",
        """
`q_start` and `k_start` are an int from 0 to 2**29, or one such i32 per request; `qo_lens` and `kv_lens` one i32 per
request, at most the length of the storage. Tensors lie on the device of q; torch makes int64 by default:

    kv_lens=torch.tensor([17, 512])                                        # fails: int64
    kv_lens=torch.tensor([17, 512], dtype=torch.int32, device=q.device)    # works
""",
    ),
    "A0843": Entry(
        "`sm_scale` is not a finite number",
        """
`sm_scale` is a finite number, or an f32 tensor, without axes or with one value per request, on the device of q. A scale
per head is a part of the formula: write it into the variant, `sm_scale = scale[h]`.
""",
    ),
    "A0844": Entry(
        "too large for one launch",
        """
A launch has at most 65535 requests and 65535 KV heads, and counts packed query rows and keys in 32 bits. A request has
fewer than 2**28 tokens, and a KV head at most 16384 query heads. Split the batch into several calls.
""",
    ),
    "A0846": Entry(
        "this variant has no LSE",
        """
The log-sum-exp belongs to a softmax. A variant with `weight`, or with several branches, has none.
""",
    ),
    "A0847": Entry(
        "a parameter per request has the wrong shape",
        """
A parameter is one Python number, a tensor without axes, or a contiguous tensor with one value per request. What lies
on the GPU is read by the kernel: a captured graph sees the value of the day at every replay.

    gemma2(softcap=caps[:, 0])                  # fails: every other element
    gemma2(softcap=caps[:, 0].contiguous())     # works
""",
    ),
    "A0848": Entry(
        "no GPU to compile for",
        """
`attncc.compile` takes the GPU of this machine as its target. Without one, name it:

    attncc.compile(gemma2)                      # fails without a GPU
    attncc.compile(gemma2, target="sm_90a")     # works
""",
    ),
    "A0849": Entry(
        "a shape is missing",
        """
`Compiled.resolve` takes the shapes of q, k and v, by name; those of captured tensors may be added to be checked too.
""",
    ),
    "A0850": Entry(
        "an extra operand does not fit",
        """
An operand declared `query[heads, dim]` is laid out as q is, one declared `key[heads, dim]` as k is, each with the heads
and channels of its declaration.
""",
    ),
    "A0851": Entry(
        "an indptr that describes no batch",
        """
In a ragged batch the tokens of all requests lie one after another, [tokens, heads, dim], and an indptr, i32[batch + 1],
says where each request begins: request b has the tokens from indptr[b] up to indptr[b + 1]. Two requests of 3 and 4
tokens:

    qo_indptr=torch.tensor([0, 3, 7], dtype=torch.int32, device=q.device)

`max_qo_len` and `max_kv_len`, ints, are the longest request; they go with an indptr. On a GPU the values are trusted:
reading them would wait for the device.
""",
    ),
    "A0852": Entry(
        "this call has no partial state",
        """
`partial=True` gives a state that `attncc.merge_states` combines with others and finishes. It is no result yet: it goes
with neither `out`, nor `return_lse`, nor `return_emits`, and a variant with branches or extra outputs has none.
""",
    ),
    "A0853": Entry(
        "states that do not merge",
        """
`attncc.merge_states` takes what calls with `partial=True` gave: states of the same rows, heads and dtype, on one
device, and of one kind of reduction. It finishes once, with the sink, the denominator and the output of one variant:
of states that come from several variants, name it.

    attncc.merge_states([prefix, suffix])                      # both from `causal`
    attncc.merge_states([prefix, suffix], variant=causal)      # one of them from a variant without a mask
""",
    ),
    "A0854": Entry(
        "a number of splits",
        """
`num_splits` is an int from 1 on: how many parts the keys are cut into, each computed by blocks of their own and
combined in order. Without it, attncc cuts where the batch alone does not fill the GPU.
""",
    ),
}
