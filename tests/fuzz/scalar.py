"""A variant evaluated one pair at a time in plain Python: slow, simple, and sharing nothing with the oracle but the IR.

Score-free f32 values are rounded to f32 after every operation, what depends on the call's data is a Python float.
``nudge`` is applied to every data-dependent f32 result and before every rounding of a transcendental function: an
honest evaluator may differ by as much, so where a nudge moves the answer there is none to compare with.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attncc.ir.nodes import (
    After,
    Binary,
    Branch,
    Cast,
    Const,
    Coord,
    Expr,
    Extent,
    Input,
    Load,
    Param,
    Reduce,
    Rotate,
    Select,
    Slice,
    Unary,
    Variant,
)
from attncc.ir.types import Type

Number = Any
Env = Mapping[str, Any]
MASK = 0xFFFFFFFF
VECTORS = {"query": "head_dim", "key": "head_dim", "value": "head_dim_v", "out": "head_dim_v"}


def to_f32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def wrap(value: int, kind: Type) -> int:
    value &= MASK
    return value - (1 << 32) if kind is Type.I32 and value >> 31 else value


def guarded(function: Callable[..., float], overflow: float = math.inf) -> Callable[..., float]:
    """``function`` as C has it: NaN outside the domain, an infinity on overflow."""

    def total(*values: float) -> float:
        try:
            result = function(*values)
        except OverflowError:
            return overflow
        except ValueError:
            return math.nan
        return math.nan if isinstance(result, complex) else result

    return total


def log(x: float) -> float:
    return -math.inf if x == 0 else guarded(math.log)(x)


def power(x: float, y: float) -> float:
    odd = not math.isinf(y) and not math.isnan(y) and y == int(y) and int(y) % 2 == 1
    if x == 0 and y < 0:
        return math.copysign(math.inf, x) if odd else math.inf
    return guarded(math.pow, -math.inf if x < 0 and odd else math.inf)(x, y)


exp = guarded(math.exp)
FUNCTIONS: dict[str, Callable[[float], float]] = {
    "exp": exp,
    "exp2": guarded(lambda x: math.exp2(x)),
    "log": log,
    "log2": lambda x: -math.inf if x == 0 else guarded(math.log2)(x),
    "log1p": lambda x: -math.inf if x == -1 else guarded(math.log1p)(x),
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + exp(-x)),
    "softplus": lambda x: x if math.isnan(x) else max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "sqrt": guarded(math.sqrt),
    "rsqrt": lambda x: math.copysign(math.inf, x) if x == 0 else 1 / guarded(math.sqrt)(x),
    "sin": guarded(math.sin),
    "cos": guarded(math.cos),
    "erf": math.erf,
}
WHOLE: dict[str, Callable[[float], float]] = {
    "neg": lambda x: -x,
    "abs": abs,
    "floor": lambda x: x if not math.isfinite(x) else math.copysign(math.floor(x), x),
    "round": lambda x: x if not math.isfinite(x) else math.copysign(round(x), x),
}


def float_binary(op: str, x: float, y: float) -> float:
    match op:
        case "add":
            return x + y
        case "sub":
            return x - y
        case "mul":
            return x * y
        case "div":
            return x / y if y else 0.0
        case "pow":
            return power(x, y)
        case "min" | "max":
            if math.isnan(x) or math.isnan(y):
                return y if math.isnan(x) else x
            return min(x, y) if op == "min" else max(x, y)
        case "mod" | "floordiv":
            if y == 0:
                return 0.0
            if math.isnan(x) or math.isnan(y) or math.isinf(x):
                return math.nan
            whole, rest = divmod(x, y)
            return rest if op == "mod" else whole
    raise NotImplementedError(op)


def int_binary(op: str, x: int, y: int) -> int:
    match op:
        case "add":
            return x + y
        case "sub":
            return x - y
        case "mul":
            return x * y
        case "floordiv":
            return x // y if y else 0
        case "mod":
            return x % y if y else 0
        case "min":
            return min(x, y)
        case "max":
            return max(x, y)
        case "bitand":
            return x & y
        case "bitor":
            return x | y
        case "bitxor":
            return x ^ y
        case "shl":
            return x << (y & 31)
        case "shr":
            return x >> (y & 31)
    raise NotImplementedError(op)


def convert(value: Number, kind: Type) -> Number:
    if kind is Type.BOOL:
        return value != 0
    if kind is Type.F32:
        return to_f32(float(value))
    if isinstance(value, float):
        low, high = (-(1 << 31), (1 << 31) - 1) if kind is Type.I32 else (0, MASK)
        if math.isnan(value):
            return 0
        return low if value <= low else high if value >= high else int(value)
    return wrap(int(value), kind)


def add_up(values: list[float]) -> float:
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


@dataclass
class Scalar:
    """One call. Arrays are indexed as the oracle's; ``params`` are scalars, starts are per request."""

    variant: Variant
    q: Any
    k: Any
    v: Any
    params: Mapping[str, Number]
    tensors: Mapping[str, Any]
    extents: Mapping[str, int]
    q_start: list[int]
    k_start: list[int]
    nudge: Callable[[float], float] = lambda x: x
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict)
    data: dict[Expr, bool] = field(default_factory=dict)

    # Expressions ------------------------------------------------------------------------------------------------------

    def is_data(self, node: Expr) -> bool:
        if node not in self.data:
            here = isinstance(node, Input) and node.name != "sm_scale"
            self.data[node] = here or any(self.is_data(operand) for operand in node.operands)
        return self.data[node]

    def rounded(self, node: Expr, value: Number) -> Number:
        if node.type is not Type.F32:
            return value
        return self.nudge(value) if self.is_data(node) else to_f32(value)

    def length(self, node: Expr) -> int | None:
        """Channels of a vector; None for what does not say."""
        if isinstance(node, Input):
            return self.extents.get(VECTORS.get(node.name, ""))
        if isinstance(node, Slice):
            return self.number(node.stop, {}) - self.number(node.start, {})
        if isinstance(node, Reduce) and node.kind == "dot":
            return None
        return next((n for operand in node.operands if (n := self.length(operand)) is not None), None)

    def number(self, node: Expr, env: Env) -> Number:
        """The value at one place: ``env`` has b h row col d, loop indices, the branch and the hook it stands in."""
        match node:
            case Const():
                return node.value
            case Coord():
                return self.coordinate(node.axis, env)
            case Extent():
                return self.extents[node.name]
            case Param():
                return self.params[node.name]
            case Input():
                return self.input(node, env)
            case Load():
                return self.load(node, env)
            case Cast():
                value = self.number(node.operand, env)
                if node.type is Type.F32 and isinstance(value, float):
                    return value
                return convert(value, node.type)
            case Unary():
                return self.unary(node, self.number(node.operand, env))
            case Binary():
                return self.binary(node, self.number(node.left, env), self.number(node.right, env))
            case Select():
                return self.number(node.then if self.number(node.cond, env) else node.other, env)
            case Slice():
                return self.number(node.operand, {**env, "d": env["d"] + self.number(node.start, {})})
            case Rotate():
                return self.rotate(node, env)
            case After():
                later = [{**env, "col": col} for col in range(env["col"] + 1, self.extents["kv_len"])]
                return self.nudge(add_up([self.number(node.operand, at) for at in later if self.attends(at)]))
            case Reduce():
                return self.reduce(node, env)
        raise NotImplementedError(node)

    def coordinate(self, axis: str, env: Env) -> int:
        match axis:
            case "hk":
                return int(env["h"]) * self.extents["num_kv_heads"] // self.extents["num_heads"]
            case "q":
                return int(env["row"]) + self.q_start[env["b"]]
            case "k":
                return int(env["col"]) + self.k_start[env["b"]]
            case "own":
                return int(env["row"]) + self.extents["kv_len"] - self.extents["qo_len"]
        return int(env[axis])

    def load(self, node: Load, env: Env) -> Number:
        at = self.tensors[node.tensor]
        for size, index in zip(self.tensors[node.tensor].shape, node.indices, strict=True):
            if 0 in self.tensors[node.tensor].shape:
                return {Type.F32: 0.0, Type.BOOL: False}.get(node.type, 0)
            at = at[min(max(self.number(index, env), 0), size - 1)]
        return at.item()

    def unary(self, node: Unary, x: Number) -> Number:
        if node.type is Type.BOOL:
            return not x
        if node.type is not Type.F32:
            return wrap({"neg": -x, "abs": abs(x), "bitnot": ~x}[node.op], node.type)
        if node.op in FUNCTIONS:
            return self.rounded(node, self.nudge(FUNCTIONS[node.op](x)))
        return self.rounded(node, WHOLE[node.op](x))

    def binary(self, node: Binary, x: Number, y: Number) -> Number:
        kind = node.left.type
        if node.op in ("lt", "le", "eq"):
            return x < y if node.op == "lt" else x <= y if node.op == "le" else x == y
        if kind is Type.BOOL:
            return x and y if node.op == "and" else x or y if node.op == "or" else x != y
        if kind is Type.F32:
            value = float_binary(node.op, x, y)
            return self.rounded(node, self.nudge(value) if node.op == "pow" else value)
        return wrap(int_binary(node.op, x, y), kind)

    def rotate(self, node: Rotate, env: Env) -> Number:
        count, d = self.length(node.operand), env["d"]
        assert count is not None
        if node.kind == "pairs":
            first, there = d % 2 == 0, d ^ 1
        else:
            first, there = d < count // 2, (d + count // 2) % count
        value = self.number(node.operand, {**env, "d": there})
        return -value if first else value

    def reduce(self, node: Reduce, env: Env) -> Number:
        match node.kind:
            case "dot":
                count = self.length(node.body)
                assert count is not None
                return self.nudge(add_up([self.number(node.body, {**env, "d": d}) for d in range(count)]))
            case "sum" | "any" | "all":
                assert node.extent is not None
                values = [self.number(node.body, {**env, node.axis: i}) for i in range(self.number(node.extent, env))]
                if node.kind != "sum":
                    return any(values) if node.kind == "any" else all(values)
                total: Number = 0.0 if node.type is Type.F32 else 0
                for value in values:
                    total = (
                        self.rounded(node, total + value) if node.type is Type.F32 else wrap(total + value, node.type)
                    )
                return total
        if node.kind == "colsum":
            places = [{**env, "row": row} for row in range(self.extents["qo_len"])]
        else:
            places = [{**env, "col": col} for col in range(self.extents["kv_len"])]
        places = [place for place in places if self.attends(place)]
        values = [self.number(node.body, place) for place in places]
        if node.kind == "rowmax":
            return max(values, default=-math.inf) if not any(map(math.isnan, values)) else math.nan
        if node.kind == "expect":
            values = [self.probability(place) * value for place, value in zip(places, values, strict=True)]
        return add_up(values)

    # Hooks ------------------------------------------------------------------------------------------------------------

    def cached(self, what: str, env: Env, make: Callable[[], Any]) -> Any:
        key = (what, env["branch"], *(env.get(axis) for axis in ("b", "h", "row", "col", "d")))
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def branch(self, env: Env) -> Branch:
        return self.variant.branch(env["branch"])

    def input(self, node: Input, env: Env) -> Number:
        env = {**env, "branch": node.branch or env["branch"]}
        match node.name:
            case "total" if env["hook"] == "normalize":
                return env["total"]
            case "query" | "key" if env["hook"] == "score":
                return self.vector(node.name, env)
            case "query" | "key" | "value":
                return self.stored(node.name, env)
            case "sm_scale":
                return self.sm_scale(env)
            case "score":
                return self.score(env)
            case "logits":
                return self.logits(env)
            case "prob":
                return self.probability(env)
        return self.row(env)[node.name][env["d"]] if node.name == "out" else self.row(env)[node.name]

    def stored(self, name: str, env: Env) -> float:
        if name == "query":
            return float(self.q[env["b"]][env["row"]][env["h"]][env["d"]])
        array = self.k if name == "key" else self.v
        return float(array[env["b"]][env["col"]][self.coordinate("hk", env)][env["d"]])

    def vector(self, name: str, env: Env) -> float:
        hook = getattr(self.branch(env), name)
        if hook is None:
            return self.stored(name, env)
        place = {**env, "hook": name}
        return float(self.cached(name, place, lambda: self.number(hook, place)))

    def sm_scale(self, env: Env) -> float:
        hook = self.branch(env).sm_scale
        return (
            to_f32(1 / math.sqrt(self.extents["head_dim"])) if hook is None else self.number(hook, {**env, "hook": ""})
        )

    def score(self, env: Env) -> float:
        def make() -> float:
            place = {**env, "hook": "score"}
            hook = self.branch(env).score
            if hook is not None:
                return float(self.number(hook, place))
            products = [
                self.vector("query", {**place, "d": d}) * self.vector("key", {**place, "d": d})
                for d in range(self.extents["head_dim"])
            ]
            return self.nudge(self.sm_scale(env) * add_up(products))

        return float(self.cached("score", {**env, "d": None}, make))

    def logits(self, env: Env) -> float:
        hook = self.branch(env).logits
        if hook is None:
            return self.score(env)
        place = {**env, "hook": "logits"}
        return float(self.cached("logits", {**place, "d": None}, lambda: float(self.number(hook, place))))

    def attends(self, env: Env) -> bool:
        hook = self.branch(env).mask
        place = {**env, "hook": "mask", "d": None}
        allowed = hook is None or self.cached("mask", place, lambda: self.number(hook, place))
        return bool(allowed and self.logits(env) != -math.inf)

    def row(self, env: Env) -> dict[str, Any]:
        """What the reduction gives a row: out, lse or total."""
        return dict(self.cached("row", {**env, "col": None, "d": None}, lambda: self.reduced(env)))

    def reduced(self, env: Env) -> dict[str, Any]:
        branch = self.branch(env)
        keys = [{**env, "col": col} for col in range(self.extents["kv_len"])]
        keys = [key for key in keys if self.attends(key)]
        width = self.extents["head_dim_v"]
        if branch.weight is not None:
            weights = [self.number(branch.weight, {**key, "hook": "weight"}) for key in keys]
            total = add_up(weights)
            below = 1.0
            if branch.normalize is not None:
                below = self.number(branch.normalize, {**env, "hook": "normalize", "total": total})
            sums = self.mix(keys, weights)
            out = [value / below if keys and below != 0 else 0.0 for value in sums]
            return {"out": out, "total": total, "lse": math.nan, "below": below}
        logits = [self.logits(key) for key in keys]
        if branch.sink is not None:
            sink = self.number(branch.sink, {**env, "hook": "sink"})
            logits = [*logits, *([sink] if sink != -math.inf else [])]
        if any(math.isnan(x) or x == math.inf for x in logits):
            return {"out": [math.nan] * width, "lse": math.nan, "total": math.nan, "top": math.nan, "below": 1.0}
        if not logits:
            return {"out": [0.0] * width, "lse": -math.inf, "total": 0.0}
        top = max(logits)
        total = math.fsum(math.exp(x - top) for x in logits)
        lse = top + math.log(total)
        shares = [math.exp(self.logits(key) - top) / total for key in keys]
        return {"out": self.mix(keys, shares), "lse": lse, "total": exp(lse), "top": top, "below": total}

    def mix(self, keys: list[dict[str, Any]], weights: list[float]) -> list[float]:
        """Σ weight · value, channel by channel."""
        found = []
        for d in range(self.extents["head_dim_v"]):
            values = [self.vector("value", {**key, "d": d}) for key in keys]
            found.append(add_up([weight * value for weight, value in zip(weights, values, strict=True)]))
        return found

    def probability(self, env: Env) -> float:
        row = self.row(env)
        weight = self.branch(env).weight
        if weight is None:
            return exp(self.logits(env) - row["top"]) / row["below"]
        value = self.number(weight, {**env, "hook": "weight"})
        return float(value / row["below"]) if row["below"] != 0 else 0.0

    def output(self, env: Env) -> list[float]:
        """The output of a row."""
        if self.variant.output is None:
            return list(self.row(env)["out"])
        place = {**env, "hook": "output"}
        return [self.number(self.variant.output, {**place, "d": d}) for d in range(self.extents["head_dim_v"])]

    def emit(self, name: str, env: Env) -> float:
        """An extra output, at a row or at a column."""
        value = next(emit.value for emit in self.variant.emits if emit.name == name)
        return float(self.number(value, {**env, "hook": "emit", "d": 0}))
