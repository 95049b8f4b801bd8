"""``attncc run``: compute a variant on given or random tensors, and say how well it agrees with the reference."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from attncc.cli import console
from attncc.cli.files import STDIN, write
from attncc.cli.inputs import COUNT, POSITION, Shape, Tensors, input_option, make_tensors, seed_option, shape_options
from attncc.cli.variants import choose, define_option, variant_option

if TYPE_CHECKING:
    import numpy.typing as npt

    from attncc.binding import BoundVariant
    from attncc.reference.attention import Result

    Array = npt.NDArray[Any]


@click.command("run", short_help="Compute a variant; compare with the reference.")
@click.argument("file", metavar="FILE")
@variant_option
@define_option
@shape_options(q_len=256, batch=2, heads=8, kv_heads=2)
@click.option("--dtype", type=click.Choice(("bf16", "f16")), default="bf16", show_default=True, help="Of q, k and v.")
@click.option("--q-start", type=POSITION, help="Position of the first row.  [default: rows are the newest tokens]")
@click.option("--k-start", type=POSITION, help="Position of the first key.  [default: 0]")
@click.option(
    "--device",
    type=click.Choice(("auto", "cpu", "gpu")),
    default="auto",
    show_default=True,
    help="auto: the GPU if there is one.",
)
@input_option
@seed_option
@click.option("--repeat", type=COUNT, default=20, show_default=True, help="Times the time is taken on a GPU.")
@click.option("-o", "--output", metavar="FILE", help="Write the output tensor to FILE.npy (float32).")
@console.error_format_option
def command(
    file: str,
    name: str | None,
    defines: dict[str, str],
    shape: Shape,
    dtype: str,
    q_start: int | None,
    k_start: int | None,
    device: str,
    inputs: dict[str, str],
    seed: int,
    repeat: int,
    output: str | None,
) -> int:
    """Compute FILE's variant and compare the result with the float64 reference.

    On a GPU the compiled kernel is computed and timed; the exit status is 1 if a row is further from the reference
    than the same formula evaluated op by op in the dtype explains. Without a GPU the reference itself is the result.
    """
    if output is not None and output != STDIN and not output.endswith(".npy"):
        raise click.UsageError("-o writes .npy files")
    chosen = choose(file, name, defines)
    tensors = _rounded(make_tensors(chosen.variant, shape, inputs, seed), dtype)
    bound = chosen.bind(tensors.shape.batch, tensors.captured, tensors.operands)
    _check(bound, tensors, q_start, k_start)
    starts = {name: value for name, value in (("q_start", q_start), ("k_start", k_start)) if value is not None}
    print(f"{bound!r}")
    print(_shapes(tensors, dtype))
    if device == "gpu" or (device == "auto" and _gpu_count()):
        status, out = _on_gpu(bound, tensors, dtype, starts, repeat)
    else:
        status, out = _on_cpu(bound, tensors, dtype, starts)
    if output is not None:
        write(output, _npy(out))
        if output != STDIN:
            print(f"out: {output}")
    return status


def _rounded(tensors: Tensors, dtype: str) -> Tensors:
    """The query, key, value and operands as the kernel's dtype can hold them."""
    from dataclasses import replace

    from attncc.reference.rounding import PRECISIONS

    round = PRECISIONS[dtype].round
    return replace(
        tensors,
        vectors={name: round(array) for name, array in tensors.vectors.items()},
        operands={name: round(array) for name, array in tensors.operands.items()},
    )


def _check(bound: BoundVariant, tensors: Tensors, q_start: int | None, k_start: int | None) -> None:
    """What a call checks before it runs: the variant's own conditions, and whether it can take starts."""
    from attncc.binding import check_requires, refuses_starts

    check_requires(bound.variant, bound.params, tensors.shape.extents())
    reason = refuses_starts(bound.variant)
    if reason is not None and (q_start is not None or k_start is not None):
        raise click.UsageError(f"this variant takes no --q-start and no --k-start: {reason}")


def _shapes(tensors: Tensors, dtype: str) -> str:
    return f"{dtype}: " + ", ".join(f"{name} {list(array.shape)}" for name, array in tensors.vectors.items())


def _reference(bound: BoundVariant, tensors: Tensors, starts: dict[str, int], dtype: str | None = None) -> Result:
    from attncc.reference import attention

    q, k, v = (tensors.vectors[name] for name in ("q", "k", "v"))
    return attention(
        bound.variant,
        q,
        k,
        v,
        params=bound.params,
        tensors=bound.tensors,
        operands=bound.operands,
        q_start=starts.get("q_start"),
        k_start=starts.get("k_start"),
        dtype=dtype,
    )


def _on_cpu(bound: BoundVariant, tensors: Tensors, dtype: str, starts: dict[str, int]) -> tuple[int, Array]:
    import numpy as np

    with console.progress("computing the reference on the CPU"):
        begin = time.perf_counter()
        exact = _reference(bound, tensors, starts)
        seconds = time.perf_counter() - begin
        eager = _reference(bound, tensors, starts, dtype)
    print(f"cpu: the reference in float64, {seconds:.2f} s; on a GPU this runs the compiled kernel")
    _describe(exact)
    own = np.linalg.norm(eager.out - exact.out) / max(float(np.linalg.norm(exact.out)), 1e-30)
    print(f"the same formula op by op in {dtype} is {own:.1e} away from it")
    return 0, exact.out


def _on_gpu(
    bound: BoundVariant, tensors: Tensors, dtype: str, starts: dict[str, int], repeat: int
) -> tuple[int, Array]:
    from attncc.cli.gpu import compute
    from attncc.reference.accuracy import lse_bound, lse_reference, row_bound

    with console.progress(f"compiling and running {bound.name} on the GPU"):
        found = compute(bound, tensors, dtype, starts, repeat)
    with console.progress("computing the reference on the CPU"):
        exact = _reference(bound, tensors, starts)
        eager = _reference(bound, tensors, starts, dtype)
    print(f"gpu: {found.kernel}, {found.milliseconds:.3f} ms a launch")
    _describe(exact)
    rows = row_bound(found.out, exact.out, eager.out, dtype)
    print(f"{'agrees' if rows.ok else 'DISAGREES'} with the reference: {rows}")
    if found.lse is None or exact.lse is None:
        return 0 if rows.ok else 1, found.out
    lse = lse_bound(found.lse, exact.lse, lse_reference(bound.variant, eager.lse))
    print(f"{'agrees' if lse.ok else 'DISAGREES'} with the reference: {lse}")
    return 0 if rows.ok and lse.ok else 1, found.out


def _describe(result: Result) -> None:
    import numpy as np

    rows = np.linalg.norm(result.out, axis=-1)
    unseen = int((rows == 0).sum())
    print(
        f"out {list(result.out.shape)}: root mean square {np.sqrt(np.mean(result.out**2)):.4f}, {unseen} rows are zero"
    )
    for name, values in result.emits.items():
        print(f"{name} {list(values.shape)}: {values.min():.4f} to {values.max():.4f}")


def _npy(array: Array) -> bytes:
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, array.astype(np.float32))
    return file.getvalue()


def _gpu_count() -> int:
    from attncc.cli.environment import gpu_count

    return gpu_count()
