"""``struct Params`` and ``struct Variant`` of a variant: the joint of ``device/joint.cuh``, generated.

Knows the IR and the contract of the joint, and no kernel family. The text uses ``Config::head_dim``, ``exact`` and
``fast``, which ``source`` defines above it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from attncc.codegen.emit.columns import in_columns
from attncc.codegen.emit.diagonals import DELTA
from attncc.codegen.emit.expressions import CTYPE, Emitter, Facts, Leaf
from attncc.codegen.emit.formula import formula, shortest
from attncc.codegen.emit.hooks import LSE, REFERENCE, SCORE, TOTAL, kernel_hooks
from attncc.codegen.emit.params import STORAGE_CTYPE, Block, Names, layout
from attncc.codegen.emit.positions import COL, COL_BASE, COL_STEP, ROW
from attncc.codegen.emit.ranges import range_count, write_ranges
from attncc.codegen.emit.screen import is_read_by_column, write_bounds, write_program
from attncc.codegen.emit.settled import settling, write_settled
from attncc.codegen.emit.stages import Member, Plan, key_reads, pair_cost, plan, value_name
from attncc.codegen.emit.text import Text
from attncc.codegen.emit.vectors import LENGTHS, VectorHook, kept, reads
from attncc.codegen.emit.views import Axes, Pointer, Whole
from attncc.diagnostics import Span
from attncc.ir.nodes import Coord, Expr, Extent, Param, Variant
from attncc.ir.types import Type, round_f32
from attncc.ir.verify import axes
from attncc.ir.walk import walk
from attncc.passes.bounds import logit_bound
from attncc.passes.ranges import tile_program

_INLINE = "static __device__ __forceinline__"
_OUT_OF_LINE = "static __device__ __attribute__((noinline))"
_INLINE_LIMIT = 90  # instructions a pair; two copies for each of a thread's 64 and more pairs are inlined
_GEOMETRY = {"$q_start": "q_start", "$k_start": "k_start", "qo_len": "qo_len", "kv_len": "kv_len"}
_LAUNCH = ("batch", "num_heads", "num_kv_heads")
# Vector hooks: the Variant's function, and what it takes behind the vector; the struct of what it has computed before,
# the function that does, and what that takes.
_VECTORS = {
    "query": ("query", "int row, int h, int d", "QueryChannel", "query_channel", "int row, int d"),
    "key": ("key_vector", "int col, int d", "KeyChannel", "key_channel", "int col, int d"),
    "value": ("value_vector", "int col, int d", "ValueChannel", "value_channel", "int col, int d"),
    "out": (
        "output",
        "float total, float lse, int row, int h, int d",
        "OutputRow",
        "output_row",
        "float total, float lse, int row, int h",
    ),
}
_RANGE_INPUTS = {
    "row_lo": "row_lo",
    "rows": "row_hi - row_lo",
    "b": "work.b",
    "hk": "work.hk",
    "group": "params.launch.group",
    "q_start": "g.q_start",
    "k_start": "g.k_start",
}


@dataclass(frozen=True)
class Screening:
    """A Variant's screen: whether it differs by KV head, and whether tiles may hold one query head each."""

    per_head: bool
    unpacked: bool


@dataclass(frozen=True)
class Biasing:
    """A Variant's bias by key that products may add: whether what they add differs by KV head."""

    per_head: bool


@dataclass(frozen=True)
class VariantSource:
    """The generated ``Params`` and ``Variant``. ``block`` is the parameter ABI after ``launch``; ``screen`` and
    ``biases``: the launch rules' terms of a Variant that has a screen, a bias by key. ``transformed``: of q, k and v,
    those on which it has a hook. ``settles``: its values of row − col may."""

    text: Text
    block: Block
    screen: Screening | None
    transformed: tuple[str, ...] = ()
    settles: bool = False
    biases: Biasing | None = None


def emit_variant(variant: Variant) -> VariantSource:
    """The C++ of a canonical variant whose hooks are within hooks.SERVES."""
    writer = _Writer(variant)
    transformed = tuple(name[0] for name in ("query", "key", "value") if name in writer.hooks.vectors)
    return VariantSource(
        writer.write(), writer.block, writer.screening, transformed, bool(writer.settling), writer.biasing
    )


class _Writer:
    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.branch = variant.branches[0]
        self.block = layout(variant)
        self.hooks = kernel_hooks(variant)
        hooks = self.hooks
        self.plan: Plan = plan(hooks.pairs, hooks.rows, hooks.channels, hooks.screened)
        self.facts = Facts.of([*hooks.pairs, *hooks.rows, *hooks.channels, *hooks.screened], variant.spans)
        self.program = tile_program(variant)
        self.out = Text()
        self.uses_geometry = False

    # ---- the whole ---------------------------------------------------------------------------------------------------

    def write(self) -> Text:
        out = self.out
        self.block.write(out)
        out.add()
        with out.block("struct Variant", "};"):
            out.add("using Params = ::Params;")
            self._facts()
            self._structs()
            self._item()
            self._row()
            self._key()
            self._diagonal()
            out.add()
            with out.block(f"{_INLINE} Tile tile(const Params&, const Item&, const attncc::Box&)"):
                out.add("return {};")
            self._ranges()
            self._screen()
            hooks, branch = self.hooks, self.branch
            for name, hook in hooks.vectors.items():
                self._vector_functions(name, hook)
            if hooks.weight is not None:
                self._pair_function("weight", "float", "float score, ", "const Tile&, ", hooks.weight, branch.weight)
                self._normalize()
            if hooks.logits is not None:
                self._pair_function("logits", "float", "float score, ", "const Tile&, ", hooks.logits, branch.logits)
                self._key_added()
                self._sink()
            if self.hooks.mask is None:
                out.add()
                diagonal = "const Diagonal&, " if self.plan.diagonal else ""
                with out.block(f"{_INLINE} bool mask(const Item&, const Row&, const Key&, {diagonal}int, int)"):
                    out.add("return true;")
            else:
                self._pair_function("mask", "bool", "", "", self.hooks.mask, self.branch.mask)
        return out

    def _facts(self) -> None:
        def vector(name: str) -> str:
            hook = self.hooks.vectors.get(name)
            if hook is None:
                return "{false, 0}"
            return f"{{true, {len(hook.terms)}{', true' if hook.across else ''}}}"

        hooks, true = self.hooks, {False: "false", True: "true"}
        values = [
            (true[hooks.logits is not None and not hooks.plain], "has_logits"),
            (true[hooks.mask is not None], "has_mask"),
            (true[hooks.sink is not None], "has_sink"),
            (true[bool(self.plan.key)], "has_key"),
            ("false", "has_tile"),
            (str(self.num_ranges), "num_ranges"),
            (shortest(self.logit_bound) + "f", "logit_bound"),
            (true[hooks.weight is not None], "has_weight"),
            (true[bool(self.plan.diagonal)], "has_diagonal"),
            (true[self.diagonal_per_head], "diagonal_per_head"),
            *((vector(name), f"{'output' if name == 'out' else name} (present, sums, across)") for name in LENGTHS),
            (true[bool(self.key_reads)], "key_reads"),
            (true[hooks.screen is not None], "has_screen"),
            (true[self.screen_per_head], "screen_per_head"),
            (true[self.key_in_mask_only], "key_in_mask_only"),
            (true[bool(self.settling)], "settles"),
            (true[hooks.special], "has_special"),
            (true[self.key_adds], "key_adds"),
            (true[self.key_adds and self.key_in_mask], "key_in_mask"),
            (true[self.key_adds and self.key_adds_per_head], "key_adds_per_head"),
            (true[self.mask_in_columns], "mask_in_columns"),
        ]
        while values[-1][0] in ("false", "{false, 0}"):  # C++ fills the rest with zeros
            values.pop()
        self.out.add("static constexpr attncc::Facts facts = {")
        for value, name in values:
            self.out.add(f"    /* {name} */ {value},")
        self.out.add("};")

    @property
    def screen_per_head(self) -> bool:
        mask = self.hooks.mask
        return self.hooks.screen is not None and mask is not None and not axes(mask).isdisjoint(("h", "hk"))

    @property
    def key_in_mask_only(self) -> bool:
        scores = [expr for expr in (self.hooks.logits, self.hooks.weight) if expr is not None]
        read = set(walk(*scores)) if scores else set()
        return bool(self.plan.key) and not any(member.expr in read for member in self.plan.key)

    @property
    def key_adds(self) -> bool:
        """Whether logits are a scaled score and a member of Key."""
        added = self.hooks.added
        return added is not None and not self.plan.diagonal and any(m.expr is added[1] for m in self.plan.key)

    @property
    def key_adds_per_head(self) -> bool:
        """Whether the score's factor or the bias differs from one KV head to the next."""
        return any("hk" in axes(expr) for expr in self.hooks.added or ())

    @property
    def key_in_mask(self) -> bool:
        read = set(walk(self.hooks.mask)) if self.hooks.mask is not None else set()
        return any(member.expr in read for member in self.plan.key)

    @property
    def mask_in_columns(self) -> bool:
        return self.hooks.mask is not None and in_columns(self.hooks.mask)

    @property
    def diagonal_per_head(self) -> bool:
        return any("h" in axes(member.expr) for member in self.plan.diagonal)

    @cached_property
    def settling(self) -> tuple[Expr, ...]:
        return settling(member.expr.operands[0] for member in self.plan.diagonal)

    @property
    def screening(self) -> Screening | None:
        return None if self.hooks.screen is None else Screening(self.screen_per_head, self.diagonal_per_head)

    @property
    def biasing(self) -> Biasing | None:
        return Biasing(self.key_adds_per_head) if self.key_adds else None

    @property
    def num_ranges(self) -> int:
        return 1 if self.hooks.mask is None else range_count(self.program)

    @property
    def logit_bound(self) -> float:
        """In the log2 domain, with room for the rounding of the last multiplication; 0 where none is proven."""
        bound = None if self.hooks.logits is None else logit_bound(self.variant)
        return 0.0 if bound is None else round_f32(bound * math.log2(math.e) * (1 + 2**-16))

    @property
    def key_reads(self) -> tuple[Member, ...]:
        """Loads of a key that read at places known by then: all of them can be under way at once."""
        return key_reads(self.plan)

    def _structs(self) -> None:
        structs = [("Item", self.plan.item), ("Row", self.plan.row), ("Key", self.plan.key), ("Tile", ())]
        if self.plan.diagonal:
            structs.append(("Diagonal", self.plan.diagonal))
        if self.key_reads:
            structs.append(("KeyRead", self.key_reads))
        for name, members in structs:
            self._struct(name, members, stored=name == "KeyRead")

    def _struct(self, name: str, members: tuple[Member, ...], *, stored: bool = False) -> None:
        """``stored``: its members are elements as they are stored."""
        self.out.add()
        if not members:
            self.out.add(f"struct {name} {{}};")
            return
        with self.out.block(f"struct {name}", "};"):
            for member in members:
                text = formula(member.expr, 90)
                remark = "" if text == member.name else f"  // {text}"
                ctype = self._stored_ctype(member.expr) if stored else self._ctype(member.expr)
                self.out.add(f"{ctype} {member.name};{remark}")

    def _stored_ctype(self, expr: Expr) -> str:
        """The storage type of the tensor that an Element reads."""
        (tensor,) = (node.tensor for node in walk(expr.operands[0]) if isinstance(node, Pointer))
        return STORAGE_CTYPE[self.variant.tensor(tensor).storage]

    def _ctype(self, expr: Expr) -> str:
        match expr:
            case Pointer():
                return f"const {STORAGE_CTYPE[self.variant.tensor(expr.tensor).storage]}*"
            case Axes():
                return f"attncc::Axes<{len(expr.axes)}>"
            case Whole():
                return f"const {self.block.field(expr.tensor).ctype}*"
        return CTYPE[expr.type]

    # ---- what is computed ahead --------------------------------------------------------------------------------------

    def _item(self) -> None:
        members, used = self.plan.item, bool(self.plan.item)
        self.out.add()
        head = "(const Params& params, const attncc::Work& work)" if used else "(const Params&, const attncc::Work&)"
        with self.out.block(f"{_INLINE} Item item{head}"):
            body = Text()
            self.uses_geometry = False
            values = self._emitter(body, self._uniform_leaf, "params.").values(m.expr for m in members)
            if self.uses_geometry:
                self.out.add("const attncc::Geometry& g = work.geometry;")
            self._aggregate(body, values, members)

    def _row(self) -> None:
        def leaf(node: Expr) -> str | None:
            if isinstance(node, Coord) and node.axis in ("row", "h"):
                return node.axis
            return item_leaf(node)

        item_leaf = self._member_leaf({"item.": self.plan.item})
        self._stage_function("Row row", "int row, int h", self.plan.row, leaf)

    def _key(self) -> None:
        item_leaf = self._member_leaf({"item.": self.plan.item})

        def leaf(node: Expr) -> str | None:
            return "col" if node is COL else item_leaf(node)

        if not self.key_reads:
            self._stage_function("Key key", "int col", self.plan.key, leaf)
            return
        arguments = "const Params& params, const Item& item, "
        self._read_function("KeyRead read_key", "int col", self.key_reads, leaf)
        stored = {member.expr: f"attncc::to_value(read.{member.name})" for member in self.key_reads}
        self.out.add()
        with self.out.block(f"{_INLINE} Key key({arguments}const KeyRead& read, int col)"):
            body = Text()
            emitter = self._emitter(body, lambda node: stored.get(node) or leaf(node), "params.")
            self._aggregate(body, emitter.values(member.expr for member in self.plan.key), self.plan.key)

    def _read_function(self, name: str, arguments: str, members: tuple[Member, ...], leaf: Leaf) -> None:
        """A function of elements as they are stored: nothing waits for them there."""
        self.out.add()
        with self.out.block(f"{_INLINE} {name}(const Params& params, const Item& item, {arguments})"):
            body = Text()
            operands = [operand for member in members for operand in member.expr.operands]
            texts = iter(self._emitter(body, leaf, "params.").values(operands))
            places = [[next(texts) for _ in member.expr.operands] for member in members]
            self._aggregate(body, [f"attncc::stored({', '.join(place)})" for place in places], members)

    def _diagonal(self) -> None:
        members = tuple(replace(m, expr=m.expr.operands[0]) for m in self.plan.diagonal)
        if not members:
            return
        item_leaf = self._member_leaf({"item.": self.plan.item})
        given: dict[Expr, str] = {DELTA: "delta", Coord("h"): "h"}
        arguments = "int h, int delta"
        self._stage_function("Diagonal diagonal", arguments, members, lambda node: given.get(node) or item_leaf(node))
        if not self.settling:
            return
        self.out.add()
        with self.out.block(f"{_INLINE} bool settled(const Params& params, const Item& item, int lo, int hi)"):
            write_settled(self.out, self.settling, self._emitter(self.out, item_leaf, "params.").values)

    def _stage_function(self, name: str, arguments: str, members: tuple[Member, ...], leaf: Leaf) -> None:
        self.out.add()
        if not members:
            types = ", ".join(part.split()[0] for part in arguments.split(", "))
            with self.out.block(f"{_INLINE} {name}(const Params&, const Item&, {types})"):
                self.out.add("return {};")
            return
        with self.out.block(f"{_INLINE} {name}(const Params& params, const Item& item, {arguments})"):
            body = Text()
            values = self._emitter(body, leaf, "params.").values(member.expr for member in members)
            self._aggregate(body, values, members)

    def _aggregate(self, body: Text, values: list[str], members: tuple[Member, ...]) -> None:
        self.out.extend(body)
        # & and | of conditions give an int in C++, which braces do not narrow.
        values = [
            f"bool({value})" if member.expr.type is Type.BOOL and ("&" in value or "|" in value) else value
            for value, member in zip(values, members, strict=True)
        ]
        whole = f"return {{{', '.join(values)}}};"
        if len(whole) < 80:
            self.out.add(whole)
            return
        with self.out.block("return", "};"):
            for value, member in zip(values, members, strict=True):
                self.out.add(f"{value},", self._span(member.expr))

    # ---- what is computed for pairs and rows -------------------------------------------------------------------------

    def _pair_function(self, name: str, ctype: str, first: str, tile: str, expr: Expr, written: Expr | None) -> None:
        plan = self.plan
        members = {"item.": plan.item, "r.": plan.row, "c.": plan.key, "diagonal.": plan.diagonal}
        member_leaf = self._member_leaf(members)
        leaves: dict[Expr, str] = {SCORE: "score", ROW: "row", COL: "col", REFERENCE: "reference"}
        leaves |= {COL_BASE: "column.base", COL_STEP: "column.step"}
        apart = any(node in (COL_BASE, COL_STEP) for node in walk(expr))
        self.out.add()
        self.out.comment(f"{name} = {'sm_scale * dot(query, key)' if written is None else formula(written)}")
        span = self._span(written) if written is not None else None
        diagonal = "const Diagonal& diagonal, " if plan.diagonal else ""
        arguments = f"({first}const Item& item, const Row& r, {tile}const Key& c, {diagonal}int row, "
        many = name == "mask" and self.mask_in_columns
        arguments += "Column column" if many else "attncc::Column column" if apart else "int col"
        arguments += ", float reference = 0.0f)" if name == "logits" else ")"

        def leaf(node: Expr) -> str | None:
            return leaves.get(node) or member_leaf(node)

        out_of_line = not many and pair_cost(expr, (*plan.item, *plan.row, *plan.key)) > _INLINE_LIMIT
        passed = self._out_of_line(name, ctype, expr, leaf, span) if out_of_line else []
        if many:
            self.out.add("template <class Column>  // a column, or all of a thread's in a row", span)
        with self.out.block(f"{_INLINE} {'auto' if many else ctype} {name}{arguments}", span=span):
            if apart and any(node is COL for node in walk(expr)):
                self.out.add("const int col = column;")
            if out_of_line:
                self.out.add(f"return {name}_of({', '.join(passed)});", span)
            else:
                emitter = self._emitter(self.out, leaf, "")
                emitter.written = span
                emitter.deduced = many
                (value,) = emitter.values([expr])
                self.out.add(f"return {value};", span)

    def _key_added(self) -> None:
        """The two summands of logits that have a bias by key."""
        added = self.hooks.added
        if added is None or not self.key_adds:
            return
        leaf = self._member_leaf({"item.": self.plan.item, "c.": self.plan.key})
        functions = ("scaled(float score, const Item& item)", "key_added(const Key& c)")
        for function, expr in zip(functions, added, strict=True):
            self.out.add()
            with self.out.block(f"{_INLINE} float {function}"):
                (value,) = self._emitter(self.out, lambda node: "score" if node is SCORE else leaf(node), "").values(
                    [expr]
                )
                self.out.add(f"return {value};")

    def _out_of_line(self, name: str, ctype: str, expr: Expr, leaf: Leaf, span: Span | None) -> list[str]:
        """Writes ``name_of``, a function of exactly what ``expr`` reads, and returns what to pass."""
        passed: dict[str, tuple[str, str]] = {}  # what is read -> (type, name)
        names = Names()

        def argument(node: Expr) -> str | None:
            text = leaf(node)
            if text is None:
                return None
            if text not in passed:
                passed[text] = (self._ctype(node), names.pick(text.rpartition(".")[2]))
            return passed[text][1]

        body = Text()
        (value,) = self._emitter(body, argument, "").values([expr])
        declared = [f"{kind} {argument_name}" for kind, argument_name in passed.values()]
        self.out.comment("Out of line: a kernel visits many pairs a tile, and copies for each would not fit its cache.")
        with self.out.block(f"{_OUT_OF_LINE} {ctype} {name}_of({', '.join(declared)})", span=span):
            self.out.extend(body)
            self.out.add(f"return {value};", span)
        self.out.add()
        return list(passed)

    def _vector_functions(self, name: str, hook: VectorHook) -> None:
        """The hook for one channel, what it has computed before, and one function for the terms of all its sums."""
        function, arguments, struct, before, taken = _VECTORS[name]
        hook_name = "output" if name == "out" else name
        written = self.hooks.written[name]
        span = self._span(written)
        item_leaf = self._member_leaf({"item.": self.plan.item})
        leaves: dict[Expr, str] = {Coord(axis): axis for axis in ("row", "h", "col", "d")}
        leaves |= {TOTAL: "total", LSE: "lse"}
        head = f"const Params& params, const Item& item, const X& x, const float* sums, {arguments}"
        items = {member.expr for member in self.plan.item}
        names = Names()
        members = tuple(Member(names.pick(value_name(expr)), expr) for expr in kept(hook.value, name, items))
        self._struct(struct, members)
        self._stage_function(f"{struct} {before}", taken, members, lambda node: leaves.get(node) or item_leaf(node))

        known = {member.expr: f"kept.{member.name}" for member in members}
        takes = f"const {struct}& kept"
        if name == "out":
            names, before_reads = Names(), dict(known)
            read = tuple(Member(names.pick(value_name(expr)), expr) for expr in reads(hook.value))
            self._struct("OutputRead", read, stored=True)

            def place(node: Expr) -> str | None:
                return before_reads.get(node) or leaves.get(node) or item_leaf(node)

            self._read_function("OutputRead output_read", "const OutputRow& kept, int row, int h, int d", read, place)
            known |= {member.expr: f"attncc::to_value(read.{member.name})" for member in read}
            takes += ", const OutputRead& read"

        def value(expr: Expr, known: Mapping[Expr, str]) -> None:
            def leaf(node: Expr) -> str | None:
                return known.get(node) or leaves.get(node) or item_leaf(node)

            (text,) = self._emitter(self.out, leaf, "params.").values([expr])
            self.out.add(f"return {text};", span)

        self.out.add()
        self.out.comment(f"{hook_name} = {formula(written)}")
        self.out.add("template <class X>")
        with self.out.block(f"{_INLINE} float {function}({head}, {takes})", span=span):
            value(hook.value, known)
        if not hook.terms:
            return
        self.out.add("template <class X>")
        with self.out.block(f"{_INLINE} float {function}_term(int i, {head})", span=span):
            for number, term in enumerate(hook.terms[:-1]):
                with self.out.block(f"if (i == {number})"):
                    value(term, {})
            value(hook.terms[-1], {})

    def _normalize(self) -> None:
        expr = self.hooks.normalize
        self.out.add()
        self.out.comment(f"normalize = {'1.0' if self.branch.normalize is None else formula(self.branch.normalize)}")
        span = None if self.branch.normalize is None else self._span(self.branch.normalize)
        if expr is None:
            with self.out.block(f"{_INLINE} float normalize(const Item&, const Row&, float)"):
                self.out.add("return 1.0f;")
            return
        member_leaf = self._member_leaf({"item.": self.plan.item, "r.": self.plan.row})
        with self.out.block(f"{_INLINE} float normalize(const Item& item, const Row& r, float total)", span=span):
            emitter = self._emitter(self.out, lambda node: "total" if node is TOTAL else member_leaf(node), "")
            (value,) = emitter.values([expr])
            self.out.add(f"return {value};", span)

    def _sink(self) -> None:
        self.out.add()
        if self.hooks.sink is None:
            with self.out.block(f"{_INLINE} float sink(const Item&, const Row&)"):
                self.out.add("return -attncc::infinity();")
            return
        self.out.comment(f"sink = {formula(self.branch.sink)}" if self.branch.sink is not None else "")
        span = self._span(self.branch.sink) if self.branch.sink is not None else None
        with self.out.block(f"{_INLINE} float sink(const Item& item, const Row& r)", span=span):
            leaf = self._member_leaf({"item.": self.plan.item, "r.": self.plan.row})
            (value,) = self._emitter(self.out, leaf, "").values([self.hooks.sink])
            self.out.add(f"return {value};", span)

    def _ranges(self) -> None:
        self.out.add()
        lo, hi = ("", "") if self.hooks.mask is None else (" row_lo", " row_hi")
        arguments = f"(const Params& params, const attncc::Work& work, int{lo}, int{hi}, attncc::Range* out)"
        body = Text()
        if self.hooks.mask is None:
            body.add("out[0] = {0, g.kv_len, 0};")
            body.add("return 1;")
        else:
            write_ranges(body, self.program, self._range_leaf, self._range_load)
        with self.out.block(f"{_INLINE} int ranges{arguments}"):
            if re.search(r"\bg\.", body.render()):
                self.out.add("const attncc::Geometry& g = work.geometry;")
            self.out.extend(body)

    def _screen(self) -> None:
        """Bounds of rows and of columns, and what they prove of the mask."""
        hook = self.hooks.screen
        if hook is None:
            return
        write_bounds(self.out, "RowBounds", hook.rows)
        write_bounds(self.out, "KeyBounds", hook.keys)
        item_leaf = self._member_leaf({"item.": self.plan.item})
        row_leaf = self._member_leaf({"item.": self.plan.item, "r.": self.plan.row})
        places: dict[Expr, str] = {Coord(axis): axis for axis in ("row", "h", "col")}

        def points(body: Text, exprs: Iterable[Expr], leaf: Leaf) -> list[str]:
            return self._emitter(body, lambda node: leaf(node) or places.get(node), "params.").values(exprs)

        read = [member.expr for member in hook.keys if is_read_by_column(member.expr)]
        alone = len(read) == len(hook.keys)  # keys are nothing but elements, read four at a time
        functions = [("RowBounds row_bounds", "const Row& r, ", "int row, int h", row_leaf, hook.rows)]
        if not alone:
            functions.append(("KeyBounds key_point", "", "int col", item_leaf, hook.keys))
        for name, first, last, leaf, members in functions:
            self.out.add()
            with self.out.block(f"{_INLINE} {name}(const Params& params, const Item& item, {first}{last})"):
                values = points(self.out, [member.expr for member in members], leaf)
                self.out.add(f"return {{{', '.join(f'attncc::interval::point({value})' for value in values)}}};")
        self.out.add()
        with self.out.block(
            f"{_INLINE} KeyBounds key_bounds(const Params& params, const Item& item, int col, int last)"
        ):
            if alone:
                values = points(self.out, [place for expr in read for place in expr.operands[:2]], item_leaf)
                pairs = zip(values[::2], values[1::2], strict=True)
                fours = [f"attncc::bounds_of_four(params, {at}, {axes}, col, last)" for at, axes in pairs]
                self.out.add(f"return {{{', '.join(fours)}}};")
            else:
                self.out.add("KeyBounds four = key_point(params, item, col < last ? col : last);")
                with self.out.block("for (int i = col + 1; i < col + 4; ++i)"):
                    self.out.add("four.merge(key_point(params, item, i < last ? i : last));")
                self.out.add("return four;")
        self.out.add()
        self.out.comment(f"screen: {formula(self.branch.mask)}" if self.branch.mask is not None else "")
        arguments = "(const Params& params, const Item& item, const RowBounds& r, const KeyBounds& c, "
        with self.out.block(f"{_INLINE} attncc::Interval<bool> screen{arguments}const attncc::Box& box)"):
            write_program(self.out, hook, dict(zip(hook.items, points(self.out, hook.items, item_leaf), strict=True)))

    def _range_leaf(self, kind: str, name: str) -> str:
        if kind == "param":
            return f"params.{self.block.field(name).member}.get(work.b)"
        if kind == "extent":
            return f"Config::{name}" if name in ("head_dim", "head_dim_v") else self._extent(name)
        return _RANGE_INPUTS[name]

    def _range_load(self, tensor: str, indices: list[str]) -> str:
        return f"params.{self.block.field(tensor).member}.load({', '.join(indices)})"

    # ---- leaves ------------------------------------------------------------------------------------------------------

    def _emitter(self, out: Text, leaf: Leaf, block: str) -> Emitter:
        return Emitter(out, self.facts, leaf, lambda name: block + self.block.field(name).member)

    @staticmethod
    def _member_leaf(structs: Mapping[str, tuple[Member, ...]]) -> Leaf:
        known = {member.expr: prefix + member.name for prefix, members in structs.items() for member in members}
        return known.get

    def _uniform_leaf(self, node: Expr) -> str | None:
        """What ``params``, ``work`` and the request's geometry ``g`` hold."""
        match node:
            case Coord(axis="b" | "hk"):
                return f"work.{node.axis}"
            case Param(name="$sm_scale"):
                return "params.launch.sm_scale.get(work.b)"
            case Param():
                value = f"params.{self.block.field(node.name).member}.get(work.b)"
                return f"({value} != 0)" if node.type is Type.BOOL else value
            case Extent() if node.name not in ("head_dim", "head_dim_v"):
                return self._extent(node.name)
        return None

    def _extent(self, name: str) -> str:
        if name in _GEOMETRY:
            self.uses_geometry = True
            return f"g.{_GEOMETRY[name]}"
        if name in _LAUNCH:
            return f"params.launch.{name}"
        for tensor in self.variant.tensors:
            for axis, dim in enumerate(tensor.dims):
                if dim is Extent(name):
                    return f"int(params.{self.block.field(tensor.name).member}.extent[{axis}])"
        raise ValueError(f"no tensor of {self.variant.name} has an axis of length {name}")

    def _span(self, expr: Expr) -> Span | None:
        spans = self.variant.spans.get(expr)
        return spans[0] if spans else None
