"""The tensors of a call made on the command line: shapes from flags, contents from files or at random."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from attncc.cli.arrays import load
from attncc.diagnostics import CallError
from attncc.ir.nodes import EXTENTS

if TYPE_CHECKING:
    import numpy.typing as npt

    from attncc.ir.nodes import Expr, Operand, Tensor, Variant

    Array = npt.NDArray[Any]

VECTORS = ("q", "k", "v")


@dataclass(frozen=True)
class Shape:
    """The extents of a call; ``sizes`` holds names that tensors bind."""

    batch: int
    qo_len: int
    kv_len: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    head_dim_v: int
    sizes: Mapping[str, int]

    def extents(self) -> dict[str, int]:
        """All extents by name."""
        found = {name: value for name, value in vars(self).items() if name != "sizes"}
        return {**self.sizes, **found}


if TYPE_CHECKING:
    _Type = click.ParamType[int]
else:
    _Type = click.ParamType  # older clicks are not generic


class _Integer(_Type):
    """An integer within limits that the help need not repeat."""

    name = "n"

    def __init__(self, low: int, high: int) -> None:
        self.range = click.IntRange(low, high)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self.range.convert(value, param, ctx)


COUNT = _Integer(1, 2**31 - 1)
POSITION = _Integer(-(2**31), 2**31 - 1)


def _assignments(_: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or not value:
            raise click.BadParameter(f"{text!r} is not {option.make_metavar(_)}")
        found[name] = value
    return found


def _sizes(context: click.Context, option: click.Parameter, given: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name, value in _assignments(context, option, given).items():
        if name in EXTENTS:
            raise click.BadParameter(f"{name} has a flag of its own")
        if not value.isdigit() or int(value) < 1:
            raise click.BadParameter(f"{value!r} is not a positive integer")
        found[name] = int(value)
    return found


def shape_options(q_len: int, batch: int, heads: int, kv_heads: int) -> Callable[[Any], Any]:
    """The shape flags of a command, with its defaults; they arrive as one argument ``shape``."""

    def decorate(function: Any) -> Any:
        def collected(*args: Any, **flags: Any) -> Any:
            kv_len, num_kv, dim_v = flags.pop("kv_len"), flags.pop("kv_heads"), flags.pop("head_dim_v")
            qo_len, num_heads, dim = flags.pop("q_len"), flags.pop("heads"), flags.pop("head_dim")
            shape = Shape(
                batch=flags.pop("batch"),
                qo_len=qo_len,
                kv_len=kv_len or qo_len,
                num_heads=num_heads,
                num_kv_heads=num_kv or (kv_heads if num_heads == heads else num_heads),
                head_dim=dim,
                head_dim_v=dim_v or dim,
                sizes=flags.pop("sizes"),
            )
            return function(*args, shape=shape, **flags)

        collected.__name__, collected.__doc__ = function.__name__, function.__doc__
        collected.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        options = [
            click.option("--batch", type=COUNT, default=batch, show_default=True, help="Requests."),
            click.option("--q-len", type=COUNT, default=q_len, show_default=True, help="Query rows per request."),
            click.option("--kv-len", type=COUNT, help="Keys per request.  [default: --q-len]"),
            click.option("--heads", type=COUNT, default=heads, show_default=True, help="Query heads."),
            click.option("--kv-heads", type=COUNT, help=f"KV heads.  [default: {kv_heads}, or --heads]"),
            click.option("--head-dim", type=COUNT, default=128, show_default=True, help="Query and key channels."),
            click.option("--head-dim-v", type=COUNT, help="Value channels.  [default: --head-dim]"),
            click.option(
                "--size",
                "sizes",
                multiple=True,
                metavar="NAME=N",
                callback=_sizes,
                help="A size that only tensors use.  [default: --kv-len]",
            ),
        ]
        for option in reversed(options):
            collected = option(collected)
        return collected

    return decorate


input_option = click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=FILE",
    callback=_assignments,
    help="A tensor from FILE.npy, or FILE.safetensors[:KEY]; others are random.",
)
seed_option = click.option(
    "--seed", type=_Integer(0, 2**63 - 1), default=0, show_default=True, help="Of the random tensors."
)


@dataclass(frozen=True)
class Tensors:
    """The tensors of a call: q, k, v as float32 [batch, len, heads, dim], captured tensors and operands by name."""

    shape: Shape
    vectors: Mapping[str, Array]
    captured: Mapping[str, Array]
    operands: Mapping[str, Array]


def make_tensors(variant: Variant, shape: Shape, inputs: Mapping[str, str], seed: int) -> Tensors:
    """Read or make every tensor; shapes of q, k and v that come from files replace the flags.

    Random floats are normal, random conditions true one time in sixteen, random integers rise from 0 to 3 along the
    last axis (four documents, four images, four segments). Raises CallError A0802 and A0809 to A0811, ArtifactError
    A0920, A0921.
    """
    import numpy as np

    from attncc.binding import bind_extents

    known = [*VECTORS, *(t.name for t in variant.tensors), *(o.name for o in variant.operands)]
    for name in inputs:
        if name not in known:
            raise CallError(
                "A0802",
                f"`{variant.name}` has no tensor `{name}`",
                expected=", ".join(known),
                got=name,
                help="--input names a tensor of the variant, or q, k, v",
            )
    files = {name: load(path) for name, path in inputs.items()}
    shape = _fit(shape, {name: files[name] for name in VECTORS if name in files})
    shape = replace(shape, sizes=_complete(variant, shape, files))
    rng = np.random.default_rng(seed)
    extents = shape.extents()
    dims = {
        "q": (shape.batch, shape.qo_len, shape.num_heads, shape.head_dim),
        "k": (shape.batch, shape.kv_len, shape.num_kv_heads, shape.head_dim),
        "v": (shape.batch, shape.kv_len, shape.num_kv_heads, shape.head_dim_v),
    }
    vectors = {name: _vector(files.get(name), dims[name], rng) for name in VECTORS}
    captured = {tensor.name: _captured(tensor, files.get(tensor.name), extents, rng) for tensor in variant.tensors}
    bind_extents(variant, {name: array.shape for name, array in captured.items()}, extents)
    operands = {one.name: _vector(files.get(one.name), _operand(one, shape), rng) for one in variant.operands}
    return Tensors(shape, vectors, captured, operands)


def _fit(shape: Shape, files: Mapping[str, Array]) -> Shape:
    for name, array in files.items():
        if array.ndim != 4:
            raise CallError(
                "A0809",
                f"`{name}` has {array.ndim} axes",
                expected="[batch, len, heads, head_dim]",
                got=f"shape {list(array.shape)}",
                help="add an axis of size 1 for a single request or head",
            )
        batch, length, heads, dim = array.shape
        if name == "q":
            shape = replace(shape, batch=batch, qo_len=length, num_heads=heads, head_dim=dim)
        elif name == "k":
            shape = replace(shape, batch=batch, kv_len=length, num_kv_heads=heads, head_dim=dim)
        else:
            shape = replace(shape, batch=batch, kv_len=length, num_kv_heads=heads, head_dim_v=dim)
    for name, array in files.items():
        wanted = {
            "q": (shape.batch, shape.qo_len, shape.num_heads, shape.head_dim),
            "k": (shape.batch, shape.kv_len, shape.num_kv_heads, shape.head_dim),
            "v": (shape.batch, shape.kv_len, shape.num_kv_heads, shape.head_dim_v),
        }[name]
        if array.shape != wanted:
            raise CallError(
                "A0810",
                f"`{name}` does not fit the other inputs",
                expected=str(list(wanted)),
                got=str(list(array.shape)),
                help="q, k and v share the batch; k and v their length and heads; q and k the head_dim",
            )
    return shape


def _complete(variant: Variant, shape: Shape, files: Mapping[str, Array]) -> dict[str, int]:
    """The sizes that only tensors bind: of a file's shape, as given, or as many as there are keys."""
    from attncc.ir.nodes import Extent
    from attncc.ir.walk import walk

    sizes = dict(shape.sizes)
    for tensor in variant.tensors:
        if tensor.name in files and files[tensor.name].ndim == len(tensor.dims):
            for dim, size in zip(tensor.dims, files[tensor.name].shape, strict=True):
                if isinstance(dim, Extent):
                    sizes.setdefault(dim.name, size)
    for tensor in variant.tensors:
        for node in walk(*tensor.dims):
            if isinstance(node, Extent) and node.name not in shape.extents():
                sizes.setdefault(node.name, shape.kv_len)
    return sizes


def _vector(file: Array | None, dims: tuple[int, ...], rng: Any) -> Array:
    import numpy as np

    if file is None:
        return np.asarray(rng.standard_normal(dims, np.float32))
    if file.shape != dims:
        raise CallError(
            "A0810", "an operand does not fit q, k and v", expected=str(list(dims)), got=str(list(file.shape))
        )
    return file.astype(np.float32)


def _captured(tensor: Tensor, file: Array | None, extents: Mapping[str, int], rng: Any) -> Array:
    import numpy as np

    dtype = _dtype(tensor.storage.value)
    if file is not None:
        return file.astype(dtype)
    dims = tuple(_size(dim, extents) for dim in tensor.dims)
    if tensor.storage.value in ("f32", "f16", "bf16"):
        return np.asarray(rng.standard_normal(dims, np.float32)).astype(dtype)
    if tensor.storage.value == "bool":
        return np.asarray(rng.random(dims) < 1 / 16)
    return np.sort(rng.integers(0, 4, dims), axis=-1).astype(dtype) if dims else np.asarray(rng.integers(0, 4), dtype)


def _operand(operand: Operand, shape: Shape) -> tuple[int, ...]:
    length = shape.qo_len if operand.role == "query" else shape.kv_len
    return (shape.batch, length, _size(operand.heads, shape.extents()), _size(operand.dim, shape.extents()))


def _size(dim: Expr, extents: Mapping[str, int]) -> int:
    from attncc.ir.extents import evaluate

    size = evaluate(dim, extents)
    return 0 if size is None else max(size, 0)  # a name that nothing binds: bind_extents says so


def _dtype(storage: str) -> Any:
    """The numpy type of a storage type; bf16, which numpy has not, is held as float32."""
    import numpy as np

    from attncc.binding import DTYPES

    return np.dtype(next(name for name, kind in DTYPES.items() if kind.value == storage.replace("bf16", "f32")))
