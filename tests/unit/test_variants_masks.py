"""The mask variants (1 to 24): which pairs they allow, and what attention they give, against plain loops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from attncc.passes.canonicalize import canonicalize
from attncc.reference import Sizes, attended, attention
from attncc.reference.structure import keys_seen
from tests.dense import Pair, Problem, problem, scores, softmax
from tests.variant_files import FILES, variant

Rule = Callable[[Pair], bool]
Given = tuple[dict[str, Any], dict[str, Any], Rule]


@dataclass(frozen=True)
class Case:
    """``make`` gives the parameters, the tensors, and the rule as a function of one pair."""

    file: str
    name: str
    make: Callable[[Problem, np.random.Generator], Given]
    shape: dict[str, Any] = field(default_factory=dict)


def causal(given: Problem, rng: np.random.Generator) -> Given:
    return {}, {}, lambda at: at.q >= at.k


def causal_top_left(given: Problem, rng: np.random.Generator) -> Given:
    return {}, {}, lambda at: at.row >= at.col


def window(given: Problem, rng: np.random.Generator) -> Given:
    w = int(rng.integers(1, 6))
    return {"w": w}, {}, lambda at: at.k in range(at.q - w + 1, at.q + 1)


def symmetric(given: Problem, rng: np.random.Generator) -> Given:
    w = int(rng.integers(0, 5))
    return {"w": w}, {}, lambda at: at.k in range(at.q - w, at.q + w + 1)


def dilated(given: Problem, rng: np.random.Generator) -> Given:
    w, step = int(rng.integers(2, 9)), int(rng.integers(1, 4))
    return (
        {"w": w, "dilation": step},
        {},
        lambda at: any(at.k == at.q + n * step for n in range(-w, w + 1)) and (abs(at.q - at.k) <= w),
    )


def prefix(given: Problem, rng: np.random.Generator) -> Given:
    lengths = rng.integers(0, given.cols, given.batch)
    return {"prefix": lengths}, {}, lambda at: at.k < lengths[at.b] or at.q >= at.k


def packed(given: Problem, rng: np.random.Generator, documents: int = 3) -> Any:
    return np.sort(rng.integers(0, documents, (given.batch, given.cols)), axis=1).astype(np.int32)


def documents(given: Problem, rng: np.random.Generator) -> Given:
    doc = packed(given, rng)
    return {}, {"doc": doc}, lambda at: doc[at.b, at.own] == doc[at.b, at.col] and at.q >= at.k


def prefix_documents(given: Problem, rng: np.random.Generator) -> Given:
    doc = packed(given, rng)
    start = np.array([[np.searchsorted(line, n) for n in range(3)] for line in doc], np.int32)
    length = rng.integers(0, 4, (given.batch, 3)).astype(np.int32)

    def rule(at: Pair) -> bool:
        mine = doc[at.b, at.own]
        members = [col for col in range(given.cols) if doc[at.b, col] == mine]
        return at.col in members and (at.col in members[: length[at.b, mine]] or at.col <= at.own)

    return {}, {"doc": doc, "start": start, "length": length}, rule


def longformer(given: Problem, rng: np.random.Generator) -> Given:
    marked, w = rng.random((given.batch, given.cols)) < 0.2, int(rng.integers(0, 4))
    return (
        {"w": w},
        {"marked": marked},
        lambda at: bool(abs(at.q - at.k) <= w or marked[at.b, at.own] or marked[at.b, at.col]),
    )


def streaming(given: Problem, rng: np.random.Generator) -> Given:
    n, w = int(rng.integers(0, 4)), int(rng.integers(1, 5))
    return {"sinks": n, "w": w}, {}, lambda at: at.k <= at.q and (at.k < n or at.k > at.q - w)


def chunked(given: Problem, rng: np.random.Generator) -> Given:
    size = int(rng.integers(1, 6))
    return {"chunk": size}, {}, lambda at: at.k in range(at.q - at.q % size, at.q + 1)


def block_diffusion(given: Problem, rng: np.random.Generator) -> Given:
    n, size = given.cols // 2, 3

    def rule(at: Pair) -> bool:  # the three parts of the mask in section 3.4 of the paper
        block_q, block_k = at.q % n // size, at.k % n // size
        noisy_q, noisy_k = at.q < n, at.k < n
        diagonal = block_q == block_k and noisy_q == noisy_k
        offset = block_q > block_k and not noisy_k and noisy_q
        causal = block_q >= block_k and not noisy_k and not noisy_q
        return diagonal or offset or causal

    return {"n": n, "block": size}, {}, rule


def shared_prefix(given: Problem, rng: np.random.Generator) -> Given:
    doc, low = packed(given, rng), int(rng.integers(0, 3))
    high = int(rng.integers(low, low + 4))
    return (
        {"low": low, "high": high},
        {"doc": doc},
        lambda at: bool((doc[at.b, at.own] == doc[at.b, at.col] and at.q >= at.k) or at.k in range(low, high)),
    )


def tree(given: Problem, rng: np.random.Generator) -> Given:
    context = given.cols - given.rows
    parents = np.array([[-1, *(int(rng.integers(0, n)) for n in range(1, given.rows))] for _ in range(given.batch)])

    def lineage(b: int, node: int) -> set[int]:
        found = set()
        while node >= 0:
            found.add(node)
            node = int(parents[b, node])
        return found

    ancestor = np.array(
        [[[m in lineage(b, n) for m in range(given.rows)] for n in range(given.rows)] for b in range(given.batch)]
    )
    return (
        {"context": context},
        {"ancestor": ancestor},
        lambda at: at.k < context or (at.k - context in lineage(at.b, at.row)),
    )


def neighbours(x: int, size: int, r: int) -> range:
    """NATTEN's window of 2r + 1 places, moved inwards at the border."""
    first = min(max(x - r, 0), size - (2 * r + 1))
    return range(first, first + 2 * r + 1)


def natten(given: Problem, rng: np.random.Generator) -> Given:
    width, height, r = 5, 4, 1
    return (
        {"width": width, "height": height, "r": r},
        {},
        lambda at: (
            at.k % width in neighbours(at.q % width, width, r) and at.k // width in neighbours(at.q // width, height, r)
        ),
    )


def by_place(places: list[tuple[int, int]], width: int, height: int, r: int) -> Rule:
    return lambda at: (
        places[at.k][0] in neighbours(places[at.q][0], width, r)
        and (places[at.k][1] in neighbours(places[at.q][1], height, r))
    )


def tiled_natten(given: Problem, rng: np.random.Generator) -> Given:
    width, height, tile, r = 6, 4, 2, 1
    places = [
        (left + x, top + y)
        for top in range(0, height, tile)
        for left in range(0, width, tile)
        for y in range(tile)
        for x in range(tile)
    ]
    return {"width": width, "height": height, "tile": tile, "r": r}, {}, by_place(places, width, height, r)


def morton_natten(given: Problem, rng: np.random.Generator) -> Given:
    size, r = 4, 1

    def code(x: int, y: int) -> int:
        return sum((x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1 for bit in range(16))

    where = {code(x, y): (x, y) for x in range(size) for y in range(size)}
    return {"width": size, "height": size, "r": r}, {}, by_place([where[n] for n in range(size**2)], size, size, r)


def sliding_tile(given: Problem, rng: np.random.Generator) -> Given:
    grid, windows, tile = (3, 2, 4), (3, 1, 3), 2
    places = [(t, y, x) for t in range(grid[0]) for y in range(grid[1]) for x in range(grid[2]) for _ in range(tile)]
    names = ("nt", "ny", "nx", "wt", "wy", "wx")
    params = {"tile": tile, **dict(zip(names, (*grid, *windows), strict=True))}
    return (
        params,
        {},
        lambda at: all(
            there in neighbours(here, size, window // 2)
            for here, there, size, window in zip(places[at.q], places[at.k], grid, windows, strict=True)
        ),
    )


def spatial_temporal(given: Problem, rng: np.random.Generator) -> Given:
    frame, spatial = 4, rng.random(given.heads) < 0.5

    def rule(at: Pair) -> bool:
        (frame_q, place_q), (frame_k, place_k) = divmod(at.q, frame), divmod(at.k, frame)
        return frame_k == 0 or (abs(frame_q - frame_k) <= 1 if spatial[at.h] else place_q == place_k)

    return {"frame": frame}, {"spatial": spatial}, rule


def interleaved(given: Problem, rng: np.random.Generator) -> Given:
    img = rng.integers(0, 3, (given.batch, given.cols)).astype(np.int32)
    low = rng.integers(0, given.rows, (given.batch, 3)).astype(np.int32)
    high = low + rng.integers(0, 5, (given.batch, 3)).astype(np.int32)
    return (
        {},
        {"img": img, "low": low, "high": high},
        lambda at: at.row in range(low[at.b, img[at.b, at.col]], high[at.b, img[at.b, at.col]]),
    )


def transfusion(given: Problem, rng: np.random.Generator) -> Given:
    img = rng.integers(-1, 2, (given.batch, given.cols)).astype(np.int8)
    return (
        {},
        {"img": img},
        lambda at: bool(at.q >= at.k or (img[at.b, at.own] == img[at.b, at.col] and img[at.b, at.col] >= 0)),
    )


def block_topk(given: Problem, rng: np.random.Generator) -> Given:
    tile, block = 2, 3
    tiles, blocks = -(-given.rows // tile), -(-given.cols // block)
    selected = rng.integers(0, blocks, (given.batch, given.heads, tiles, 2)).astype(np.int32)
    return (
        {"tile": tile, "block": block},
        {"selected": selected},
        lambda at: bool(at.q >= at.k and at.col // block in selected[at.b, at.h, at.row // tile]),
    )


def vertical_slash(given: Problem, rng: np.random.Generator) -> Given:
    vertical = rng.integers(0, given.cols, (given.heads, 2)).astype(np.int32)
    slash = rng.integers(0, given.cols, (given.heads, 3)).astype(np.int32)
    return (
        {},
        {"vertical": vertical, "slash": slash},
        lambda at: bool(at.q >= at.k and (at.k in vertical[at.h] or at.q - at.k in slash[at.h])),
    )


def flashmask(given: Problem, rng: np.random.Generator) -> Given:
    names = ("lower_start", "lower_end", "upper_start", "upper_end")
    shape = (given.batch, given.kv_heads, given.cols)
    tensors = {name: rng.integers(0, given.rows + 1, shape).astype(np.int32) for name in names}

    def rule(at: Pair) -> bool:
        ls, le, us, ue = (int(tensors[name][at.b, at.hk, at.col]) for name in names)
        return at.row not in range(ls, le) and at.row not in range(us, ue)

    return {}, tensors, rule


def permuted(given: Problem, rng: np.random.Generator) -> Given:
    pos_q, pos_k = (
        np.stack([rng.permutation(n) for _ in range(given.batch)]).astype(np.int32) for n in (given.rows, given.cols)
    )
    return {}, {"pos_q": pos_q, "pos_k": pos_k}, lambda at: bool(pos_q[at.b, at.row] >= pos_k[at.b, at.col])


def packed_bits(given: Problem, rng: np.random.Generator) -> Given:
    allowed = rng.random((given.batch, given.rows, given.cols)) < 0.5
    words = np.zeros((given.batch, given.rows, -(-given.cols // 32)), np.uint32)
    for b, row, col in np.argwhere(allowed):
        words[b, row, col // 32] |= np.uint32(1 << col % 32)
    return {}, {"bits": words}, lambda at: bool(allowed[at.b, at.row, at.col])


POSITIONS = {"starts": True}
CASES = [
    Case("v01_causal", "causal", causal, {"ragged": True}),
    Case("v01_causal", "causal", causal, POSITIONS),
    Case("v01_causal", "causal_top_left", causal_top_left, POSITIONS),
    Case("v02_sliding_window", "sliding_window", window, POSITIONS),
    Case("v02_sliding_window", "sliding_window", window, {"ragged": True}),
    Case("v03_symmetric_local", "symmetric_local", symmetric, POSITIONS),
    Case("v04_dilated", "dilated", dilated, POSITIONS),
    Case("v05_prefix_lm", "prefix_lm", prefix, POSITIONS),
    Case("v06_documents", "documents", documents, {"ragged": True}),
    Case("v06_documents", "documents", documents, POSITIONS),
    Case("v07_prefix_documents", "prefix_documents", prefix_documents),
    Case("v08_longformer", "longformer", longformer, POSITIONS),
    Case("v09_streaming_llm", "streaming_llm", streaming, POSITIONS),
    Case("v10_chunked", "chunked", chunked, POSITIONS),
    Case("v11_block_diffusion", "block_diffusion", block_diffusion, {"rows": 16, "cols": 16}),
    Case("v12_shared_prefix", "shared_prefix", shared_prefix, POSITIONS),
    Case("v13_tree", "tree", tree),
    Case("v14_natten", "natten", natten, {"rows": 20, "cols": 20}),
    Case("v15_reordered_natten", "tiled_natten", tiled_natten, {"rows": 24, "cols": 24}),
    Case("v15_reordered_natten", "morton_natten", morton_natten, {"rows": 16, "cols": 16}),
    Case("v16_sliding_tile", "sliding_tile", sliding_tile, {"rows": 48, "cols": 48, "batch": 1}),
    Case("v17_spatial_temporal", "spatial_temporal", spatial_temporal, POSITIONS),
    Case("v18_interleaved", "interleaved", interleaved, {"rows": 9, "cols": 5}),
    Case("v19_transfusion", "transfusion", transfusion, {"ragged": True}),
    Case("v20_block_topk", "block_topk", block_topk, POSITIONS),
    Case("v21_vertical_slash", "vertical_slash", vertical_slash, POSITIONS),
    Case("v22_flashmask", "flashmask", flashmask, POSITIONS),
    Case("v23_permuted", "permuted", permuted, {"ragged": True}),
    Case("v24_packed_bits", "packed_bits", packed_bits, {"cols": 45, "ragged": True}),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{'-'.join(case.shape) or 'plain'}")
def test_mask(case: Case, seed: int) -> None:
    rng = np.random.default_rng((seed, *case.name.encode()))
    given = problem(rng, **case.shape)
    params, tensors, rule = case.make(given, rng)
    mask = given.over_pairs(rule, False)
    made = variant(case.file, case.name)
    expected = softmax(given, scores(given), mask)

    sizes = Sizes(given.batch, given.heads, given.kv_heads, given.dim, given.v.shape[3], given.rows, given.cols)
    np.testing.assert_array_equal(
        attended(made, sizes=sizes, params=params, tensors=tensors, **given.call()), mask, err_msg="mask"
    )
    for form in (made, canonicalize(made)):
        got = attention(form, given.q, given.k, given.v, params=params, tensors=tensors, **given.call())
        np.testing.assert_allclose(got.out, expected.out, rtol=1e-5, atol=1e-6)
        assert got.lse is not None
        np.testing.assert_allclose(got.lse, expected.lse, rtol=1e-5, atol=1e-6)

    def run(q: Any, k: Any, v: Any) -> Any:
        return attention(made, q, k, v, params=params, tensors=tensors, **given.call()).out

    np.testing.assert_array_equal(keys_seen(run, sizes), mask, err_msg="keys seen")


def test_every_mask_variant_has_a_case() -> None:
    assert {case.file for case in CASES} == {file for file in FILES if int(file[1:3]) <= 24}
