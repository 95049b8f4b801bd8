"""``Variant::ranges`` from a TileProgram: straight-line C++ over 64-bit integers. Knows no expressions of the IR."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from attncc.codegen.emit.expressions import (
    ADD,
    AND,
    ATOM,
    CHOICE,
    EQUALITY,
    MUL,
    OR,
    RELATION,
    SHIFT,
    UNARY,
    Printed,
    parenthesise,
)
from attncc.codegen.emit.text import Text
from attncc.passes.tile_program import EVERYTHING, TileProgram

Read = Callable[[str, str], str]

_INFIX = {
    "add": ("+", ADD),
    "sub": ("-", ADD),
    "mul": ("*", MUL),
    "lt": ("<", RELATION),
    "le": ("<=", RELATION),
    "eq": ("==", EQUALITY),
    "and": ("&", AND),
    "or": ("|", OR),
}
_CONDITIONS = frozenset({"lt", "le", "eq", "and", "or"})
_LONG = 70


def range_count(program: TileProgram) -> int:
    """How many ranges the C++ of a program writes at most; at least 1, the size of an array."""
    return max(1, len(_ranges(program)))


def _ranges(program: TileProgram) -> list[tuple[int, int, int]]:
    """(lo, hi, partial) as indices into the code. A cover range that is full as a whole is written once."""
    full = [(lo, hi, 0) for lo, hi in program.full]
    return [(lo, hi, 1) for lo, hi in program.cover if (lo, hi, 0) not in full] + full


def write_ranges(out: Text, program: TileProgram, read: Read, load: Callable[[str, list[str]], str]) -> None:
    """Statements that fill the array ``out`` and return the count.

    ``read(kind, name)`` spells an input, param or extent, ``load(tensor, indices)`` an element.
    """
    ranges = _ranges(program)
    out.add("using i64 = attncc::i64;")
    uses = _uses(program, ranges)
    values: dict[int, Printed] = {}
    names = 0
    for index, instruction in enumerate(program.code):
        if not uses[index]:
            continue
        op, arguments = instruction[0], instruction[1:]
        printed = _print(op, arguments, values, read, load)
        shared = uses[index] > 1 and op not in ("const", "input", "extent")
        if shared or len(printed[0]) > _LONG:
            ctype = "bool" if op in _CONDITIONS else "i64"
            out.add(f"const {ctype} v{names} = {printed[0]};")
            printed, names = (f"v{names}", ATOM), names + 1
        values[index] = printed
    for place, (lo, hi, partial) in enumerate(ranges):
        first, last = (_end(program.code[end], values[end][0], read) for end in (lo, hi))
        out.add(f"out[{place}] = {{{first}, {last}, {partial}}};")
    out.add(f"return {len(ranges)};")


def _end(instruction: tuple[Any, ...], text: str, read: Read) -> str:
    """A range end as an int; past either end of the columns it is that end."""
    if instruction[0] == "const" and instruction[1] <= 0:
        return "0"
    if instruction[0] == "const" and instruction[1] >= EVERYTHING:
        return read("extent", "kv_len")
    return f"attncc::bounds::end({text})"


def _uses(program: TileProgram, ranges: list[tuple[int, int, int]]) -> Counter[int]:
    """How often each value is read by what the ranges need."""
    uses: Counter[int] = Counter(end for lo, hi, _ in ranges for end in (lo, hi))
    for index in range(len(program.code) - 1, -1, -1):
        if uses[index]:
            uses.update(_operands(program.code[index]))
    return uses


def _operands(instruction: tuple[Any, ...]) -> tuple[int, ...]:
    op = instruction[0]
    if op in ("const", "input", "param", "extent"):
        return ()
    return tuple(instruction[2:] if op == "load" else instruction[1:])


def _print(
    op: str,
    arguments: tuple[Any, ...],
    values: dict[int, Printed],
    read: Read,
    load: Callable[[str, list[str]], str],
) -> Printed:
    if op == "const":
        return _constant(int(arguments[0]))
    if op in ("input", "param", "extent"):
        return f"i64({read(op, str(arguments[0]))})", ATOM
    if op == "load":
        return f"i64({load(str(arguments[0]), [values[index][0] for index in arguments[1:]])})", ATOM
    operands = [values[index] for index in arguments]
    if op == "select":
        cond, then, other = (parenthesise(operand, CHOICE + 1) for operand in operands)
        return f"{cond} ? {then} : {other}", CHOICE
    if op == "floordiv" and (shift := _power_of_two(operands[1][0])) is not None:
        return f"{parenthesise(operands[0], ADD)} >> {shift}", SHIFT
    if op not in _INFIX:
        return f"attncc::bounds::{op}({', '.join(text for text, _ in operands)})", ATOM
    symbol, level = _INFIX[op]
    if level in (AND, OR):
        return f" {symbol} ".join(parenthesise(operand, UNARY) for operand in operands), level
    left, right = operands
    return f"{parenthesise(left, level)} {symbol} {parenthesise(right, level + 1)}", level


def _constant(value: int) -> Printed:
    text = f"{value}ll"
    return text, ATOM if value >= 0 else UNARY


def _power_of_two(text: str) -> int | None:
    digits = text.removesuffix("ll")
    if not digits.isdigit() or int(digits) <= 0 or int(digits) & (int(digits) - 1):
        return None
    return int(digits).bit_length() - 1
