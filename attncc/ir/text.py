"""The IR as text: one assignment a line, printed and parsed back. It is the cache key and how pass tests are written.

    variant gemma2
    param softcap f32 = 50.0
    %0 = input score
    %1 = param softcap f32
    %2 = div %0 %1
    branch
      logits %2

Numbers follow the first use in the order of ``Variant.roots``, so equal variants print equal text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from attncc.diagnostics import ArtifactError, Source, Span
from attncc.ir.nodes import (
    BRANCH_HOOKS,
    After,
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Emit,
    Expr,
    Extent,
    Input,
    Load,
    Operand,
    Param,
    ParamDecl,
    Reduce,
    Require,
    Rotate,
    Select,
    Slice,
    Tensor,
    Unary,
    Variant,
)
from attncc.ir.types import Storage, Type, Value
from attncc.ir.verify import BINARY, REDUCE, UNARY
from attncc.ir.walk import walk


def dump(variant: Variant) -> str:
    """The text of a variant; ``parse(dump(v)) == v``."""
    number: dict[Expr, str] = {}
    lines = [f"variant {variant.name}"]
    for decl in variant.params:
        default = "" if decl.default is None else f" = {_value(decl.default)}"
        lines.append(f"param {decl.name} {decl.type.value}{default}")
    for node in walk(*(expr for _, expr in variant.roots())):
        number[node] = f"%{len(number)}"
        lines.append(f"{number[node]} = {_node(node, number)}")
    for tensor in variant.tensors:
        lines.append(" ".join(("tensor", tensor.name, tensor.storage.value, *(number[dim] for dim in tensor.dims))))
    for operand in variant.operands:
        lines.append(f"operand {operand.name} {operand.role} {number[operand.heads]} {number[operand.dim]}")
    for require in variant.requires:
        lines.append(f"require {number[require.cond]} {_quote(require.text)}")
    for branch in variant.branches:
        lines.append(f"branch {branch.name}".rstrip())
        lines.extend(f"  {name} {number[expr]}" for name, expr in branch.hooks().items())
    if variant.output is not None:
        lines.append(f"output {number[variant.output]}")
    lines.extend(f"emit {emit.name} {emit.axis} {number[emit.value]}" for emit in variant.emits)
    return "\n".join(lines) + "\n"


def _value(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _quote(text: str) -> str:
    return '"' + text.encode("unicode_escape").decode().replace('"', '\\"') + '"'


def _unquote(text: str) -> str:
    return text[1:-1].replace('\\"', '"').encode("latin-1").decode("unicode_escape")


def _node(node: Expr, number: dict[Expr, str]) -> str:
    operands = " ".join(number[operand] for operand in node.operands)
    match node:
        case Const():
            return f"const {node.type.value} {_value(node.value)}"
        case Coord():
            return f"coord {node.axis}"
        case Extent():
            return f"extent {node.name}"
        case Param():
            return f"param {node.name} {node.type.value}"
        case Input():
            return f"input {node.name} {node.branch}".rstrip()
        case Load():
            return f"load {node.tensor} {node.type.value} {operands}"
        case Cast():
            return f"cast {node.type.value} {operands}"
        case Unary() | Binary():
            return f"{node.op} {operands}"
        case Select():
            return f"select {operands}"
        case Reduce():
            return f"{node.kind} {node.axis} {operands}" if node.axis else f"{node.kind} {operands}"
        case Slice():
            return f"slice {operands}"
        case Rotate():
            return f"rotate {node.kind} {operands}"
        case After():
            return f"after {operands}"
    raise TypeError(f"not a node of the IR: {node!r}")


_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[^\s"]+')


@dataclass
class _Line:
    """A cursor over the words of one line, which reports mistakes at the word it stands on."""

    words: list[Span]
    whole: Span
    at: int = 0

    def more(self) -> bool:
        return self.at < len(self.words)

    def word(self, what: str) -> str:
        if not self.more():
            raise self.error(f"the line ends where {what} should stand", what, "the end of the line")
        self.at += 1
        return self.words[self.at - 1].text

    def one_of(self, what: str, allowed: type[Type] | type[Storage]) -> Type | Storage:
        word = self.word(what)
        try:
            return allowed(word)
        except ValueError:
            raise self.error(f"`{word}` is not {what}", ", ".join(item.value for item in allowed), word) from None

    def name(self, what: str) -> str:
        word = self.word(what)
        if not re.fullmatch(r"[^\W\d]\w*", word):
            raise self.error(f"`{word}` is not {what}", "an identifier", word)
        return word

    def end(self) -> None:
        if self.more():
            self.at += 1
            raise self.error("words after the end of the line", "the end of the line", self.words[self.at - 1].text)

    def error(self, message: str, expected: str, got: str) -> ArtifactError:
        span = self.words[self.at - 1] if 0 < self.at <= len(self.words) else self.whole
        help = "docs/ir.md describes the form"
        return ArtifactError("A0901", message, span=span, expected=expected, got=got, help=help)


class _Parser:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.values: dict[str, Expr] = {}
        self.name: str | None = None
        self.params: list[ParamDecl] = []
        self.tensors: list[Tensor] = []
        self.operands: list[Operand] = []
        self.requires: list[Require] = []
        self.branches: list[tuple[str, dict[str, Expr]]] = []
        self.output: Expr | None = None
        self.emits: list[Emit] = []
        self.statements: dict[str, Callable[[_Line], None]] = {
            "variant": self._variant,
            "param": self._param,
            "tensor": self._tensor,
            "operand": self._operand,
            "require": self._require,
            "branch": self._branch,
            "output": self._output,
            "emit": self._emit,
            **dict.fromkeys(BRANCH_HOOKS, self._hook),
        }

    def lines(self) -> Iterator[_Line]:
        start = 0
        for text in self.source.text.split("\n"):
            words = [Span(self.source, start + m.start(), start + m.end()) for m in _TOKEN.finditer(text)]
            if words and not words[0].text.startswith("#"):
                yield _Line(words, Span(self.source, start, start + len(text)))
            start += len(text) + 1

    def parse(self) -> Variant:
        for line in self.lines():
            first = line.word("a statement")
            if first.startswith("%"):
                if first in self.values:
                    raise line.error(f"`{first}` is assigned twice", "a new number", first)
                if line.word("`=`") != "=":
                    raise line.error("a value is assigned with `=`", "=", line.words[line.at - 1].text)
                self.values[first] = self._expr(line)
            elif first in self.statements:
                if self.name is None and first != "variant":
                    raise line.error("the text starts with `variant NAME`", "variant", first)
                self.statements[first](line)
            else:
                raise line.error(f"unknown statement `{first}`", ", ".join(self.statements), first)
            line.end()
        if self.name is None:
            raise ArtifactError("A0901", "empty IR text", expected="variant NAME", got="nothing")
        return Variant(
            self.name,
            tuple(self.params),
            tuple(self.tensors),
            tuple(self.operands),
            tuple(self.requires),
            tuple(Branch(name, **hooks) for name, hooks in self.branches) or (Branch(),),
            self.output,
            tuple(self.emits),
        )

    def _ref(self, line: _Line) -> Expr:
        word = line.word("a value such as %0")
        if word not in self.values:
            raise line.error(f"`{word}` is not assigned above", "a value assigned above", word)
        return self.values[word]

    def _refs(self, line: _Line) -> tuple[Expr, ...]:
        found: list[Expr] = []
        while line.more():
            found.append(self._ref(line))
        return tuple(found)

    def _type(self, line: _Line) -> Type:
        found = line.one_of("a type", Type)
        if not isinstance(found, Type):
            raise TypeError(found)
        return found

    def _constant(self, line: _Line, type: Type) -> Value:
        word = line.word(f"a constant of type {type.value}")
        try:
            if type is Type.BOOL:
                return {"true": True, "false": False}[word]
            return float(word) if type is Type.F32 else int(word)
        except (ValueError, KeyError):
            raise line.error(f"`{word}` is no {type.value}", f"a constant of type {type.value}", word) from None

    def _expr(self, line: _Line) -> Expr:
        op = line.word("an operation")
        if op in UNARY:
            return Unary(op, self._ref(line))
        if op in BINARY:
            return Binary(op, self._ref(line), self._ref(line))
        if op in REDUCE:
            indexed = line.more() and not line.words[line.at].text.startswith("%")
            axis = line.name("a loop index") if indexed else ""
            body = self._ref(line)
            return Reduce(op, body, axis, self._ref(line) if indexed else None)
        match op:
            case "const":
                type = self._type(line)
                return Const(self._constant(line, type), type)
            case "coord":
                return Coord(line.name("an axis"))
            case "extent":
                return Extent(line.name("an extent"))
            case "param":
                return Param(line.name("a parameter"), self._type(line))
            case "input":
                name = line.name("an input")
                return Input(name, line.name("a branch") if line.more() else "")
            case "load":
                tensor, type = line.name("a tensor"), self._type(line)
                return Load(tensor, self._refs(line), type)
            case "cast":
                return Cast(self._type(line), self._ref(line))
            case "select":
                return Select(self._ref(line), self._ref(line), self._ref(line))
            case "slice":
                return Slice(self._ref(line), self._ref(line), self._ref(line))
            case "rotate":
                kind = line.name("half or pairs")
                if kind not in ("half", "pairs"):
                    raise line.error(f"no rotation `{kind}`", "half or pairs", kind)
                return Rotate(kind, self._ref(line))
            case "after":
                return After(self._ref(line))
        raise line.error(f"unknown operation `{op}`", "an operation of the IR", op)

    def _variant(self, line: _Line) -> None:
        if self.name is not None:
            raise line.error("a second `variant`", "one variant a text", "variant")
        self.name = line.name("a name")

    def _param(self, line: _Line) -> None:
        name, type = line.name("a name"), self._type(line)
        default: Value | None = None
        if line.more():
            if line.word("`=`") != "=":
                raise line.error("a default is given with `=`", "=", line.words[line.at - 1].text)
            default = self._constant(line, type)
        self.params.append(ParamDecl(name, type, default))

    def _tensor(self, line: _Line) -> None:
        name, storage = line.name("a name"), line.one_of("a storage type", Storage)
        if not isinstance(storage, Storage):
            raise TypeError(storage)
        self.tensors.append(Tensor(name, storage, self._refs(line)))

    def _operand(self, line: _Line) -> None:
        name, role = line.name("a name"), line.name("a role")
        if role not in ("query", "key"):
            raise line.error(f"no role `{role}`", "query or key", role)
        self.operands.append(Operand(name, role, self._ref(line), self._ref(line)))

    def _require(self, line: _Line) -> None:
        cond = self._ref(line)
        word = line.word("a quoted text")
        if not (word.startswith('"') and word.endswith('"') and len(word) > 1):
            raise line.error("`require` ends with a quoted text", "a quoted text", word)
        self.requires.append(Require(cond, _unquote(word)))

    def _branch(self, line: _Line) -> None:
        name = line.name("a name") if line.more() else ""
        self.branches.append((name, {}))

    def _hook(self, line: _Line) -> None:
        hook = line.words[0].text
        if not self.branches:
            raise line.error(f"`{hook}` outside a branch", "branch", hook)
        if hook in self.branches[-1][1]:
            raise line.error(f"`{hook}` is given twice", "one value a hook", hook)
        self.branches[-1][1][hook] = self._ref(line)

    def _output(self, line: _Line) -> None:
        self.output = self._ref(line)

    def _emit(self, line: _Line) -> None:
        name, axis = line.name("a name"), line.name("row or col")
        if axis not in ("row", "col"):
            raise line.error(f"no emit axis `{axis}`", "row or col", axis)
        self.emits.append(Emit(name, axis, self._ref(line)))


def parse(text: str, name: str = "<ir>") -> Variant:
    """Read a variant back from its text. Raises ArtifactError A0901 with the span of what is wrong."""
    return _Parser(Source(name, text)).parse()
