"""The parameter block of a variant: ``struct Params`` and, field by field, where the host writes what.

Knows declarations, not expressions. ``attncc.codegen.launch_block`` says what the words inside a field are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from attncc.codegen.emit.text import Text
from attncc.codegen.launch_block import LAUNCH_BYTES
from attncc.ir.nodes import Extent, Tensor, Variant
from attncc.ir.types import Storage, Type

SCALAR_CTYPE = {Type.F32: "float", Type.I32: "int", Type.U32: "unsigned", Type.BOOL: "int"}
STORAGE_CTYPE = {
    Storage.F32: "float",
    Storage.F16: "attncc::f16",
    Storage.BF16: "attncc::bf16",
    Storage.BOOL: "bool",
    Storage.U8: "unsigned char",
    Storage.I8: "signed char",
    Storage.I16: "short",
    Storage.I32: "int",
    Storage.I64: "attncc::i64",
    Storage.U32: "unsigned",
}

# Words that a generated declaration cannot use: C++ keywords, macros of common host headers, and names the generated
# text itself uses where a parameter's name would hide them.
_KEYWORDS = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t class co_await
co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable
namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
requires return short signed sizeof static static_assert static_cast struct switch template this thread_local throw
true try typedef typeid typename typeof union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
_MACROS = "NULL NAN INFINITY EOF assert errno linux unix INT_MAX INT_MIN UINT_MAX HUGE_VAL stdin stdout stderr"
_OWN = "attncc exact fast launch Params Variant Config"
_TOKENS = (Extent("qo_len"), Extent("kv_len"))
_RESERVED = frozenset((_KEYWORDS + _MACROS + " " + _OWN).split())


class Names:
    """C++ identifiers for names a user chose, each different, stable in the order they are asked for."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.taken = set(taken)

    def pick(self, wanted: str) -> str:
        """``wanted`` where C++ allows it; else the nearest free name."""
        base = "".join(char if char.isascii() else f"u{ord(char):x}" for char in wanted) or "v"
        base = re.sub(r"_{2,}", "_", base)  # a double underscore belongs to the compiler
        if base[0] == "_" or base[0].isdigit():
            base = "v" + base
        if base in _RESERVED or re.fullmatch(r"[ti]\d+", base):  # t0 is a local of ours, i0 a loop index
            base += "_"
        name, count = base, 1
        while name in self.taken:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


@dataclass(frozen=True)
class Field:
    """One parameter or captured tensor in the block.

    ``name`` is the variant's, ``member`` the C++ member; ``type`` a value type (params) or a storage type (tensors);
    ``offset`` and ``size`` in bytes from the start of the block; ``rank`` is 0 for params.
    """

    name: str
    kind: Literal["param", "tensor"]
    type: str
    member: str
    ctype: str
    offset: int
    size: int
    rank: int


@dataclass(frozen=True)
class Block:
    """The fields after ``launch`` and the size of the whole in bytes."""

    fields: tuple[Field, ...]
    size: int

    def field(self, name: str) -> Field:
        return next(field for field in self.fields if field.name == name)

    def write(self, out: Text) -> None:
        """``struct Params``, with its size asserted: fields are multiples of 8 bytes, so the offsets follow."""
        with out.block("struct Params", "};"):
            out.add("attncc::Launch launch;")
            for field in self.fields:
                remark = f"{field.kind} {field.name}: {field.type}, byte {field.offset}"
                out.add(f"{field.ctype} {field.member};  // {remark}")
        out.add(f'static_assert(sizeof(Params) == {self.size}, "the host fills the block by the offsets above");')


def over_tokens(tensor: Tensor) -> bool:
    """Whether a tensor is [batch, qo_len or kv_len, ...], so that padded and ragged storage bind to it."""
    return len(tensor.dims) > 1 and tensor.dims[0] is Extent("batch") and tensor.dims[1] in _TOKENS


def layout(variant: Variant) -> Block:
    """Parameters in the order of declaration, then tensors. Every field is a multiple of 8 bytes: no padding."""
    names, fields, offset = Names(), [], LAUNCH_BYTES
    for decl in variant.params:
        ctype = f"attncc::Scalar<{SCALAR_CTYPE[decl.type]}>"
        fields.append(Field(decl.name, "param", decl.type.value, names.pick(decl.name), ctype, offset, 16, 0))
        offset += 16
    for tensor in variant.tensors:
        rank, tokens = len(tensor.dims), over_tokens(tensor)
        kind, size = ("TokenTensorRef", 16 + 16 * rank) if tokens else ("TensorRef", 8 + 16 * rank)
        ctype, member = f"attncc::{kind}<{STORAGE_CTYPE[tensor.storage]}, {rank}>", names.pick(tensor.name)
        fields.append(Field(tensor.name, "tensor", tensor.storage.value, member, ctype, offset, size, rank))
        offset += size
    return Block(tuple(fields), offset)
