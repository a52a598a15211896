"""p-values of mean average precision that need no data: the random-arrangement null, counting, and correction.

The null that looks at the similarities themselves (the default) is in exchange.py.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Null = Literal["exchange", "copairs"]

# Two mean average precisions closer than this are equal: they differ by the order of a sum.
MAP_STEP = 1e-10
# Uniform numbers made at a time by the arrangement null.
_CHUNK = 1 << 21


def exceedances(null: Floats, observed: float, strict: bool = False) -> int:
    """Return how many draws of `null` reach `observed`: null >= observed, or null > observed if `strict`."""
    return int(np.count_nonzero(null > observed + MAP_STEP if strict else null >= observed - MAP_STEP))


def p_value(reached: int, draws: int) -> float:
    """Return (reached + 1) / (draws + 1): the observed value is one more draw, so p > 0 (Phipson & Smyth 2010)."""
    return (reached + 1) / (draws + 1)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return p-values corrected for the false discovery rate (Benjamini & Hochberg 1995), in the order given.

    p: (n,) in [0, 1]; NaN is no test: it stays NaN and is not counted.
    """
    values = np.asarray(p, dtype=np.float64)
    out = np.full(values.shape, np.nan)
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    scaled = values[order] * len(order) / np.arange(1, len(order) + 1)
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out


def stream(seed: int, *key: str | int, block: int = 0) -> np.random.Generator:
    """Return the random stream of (seed, key, block): counter-based, the same whatever was drawn before it.

    seed: 0 <= seed < 2^64. Philox keyed by the seed and a 64-bit hash of the key; the block is the counter's top word.
    """
    text = "\x1f".join(str(part) for part in key)
    digest = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
    counter = np.array([0, 0, 0, block], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=np.array([seed, digest], dtype=np.uint64), counter=counter))


def choose(uniform: Floats, size: int) -> Ints:
    """Return (B, k) distinct integers of [0, size) per row from (B, k) uniforms: a partial Fisher-Yates shuffle."""
    draws, k = uniform.shape
    if k == 1:
        return (uniform * size).astype(np.int64)
    deck = np.broadcast_to(np.arange(size), (draws, size)).copy()
    row = np.arange(draws)
    for i in range(k):
        j = i + (uniform[:, i] * (size - i)).astype(np.int64)
        deck[row, i], deck[row, j] = deck[row, j], deck[row, i]
    return deck[:, :k]


def arrangement_null(positives: int, total: int, null_size: int, seed: int) -> Floats:
    """Return (null_size,) AP of uniformly random orders of a list with `positives` positives of `total` wells.

    A pure function of its arguments: the draws are keyed by (seed, positives, total).
    """
    if not 1 <= positives <= total:
        raise ValueError(f"a list needs 1 <= positives <= total, not {positives} of {total}")
    random = stream(seed, "arrangement", positives, total)
    rows = max(1, _CHUNK // total)
    out = np.empty(null_size)
    for start in range(0, null_size, rows):
        uniform = random.random((min(rows, null_size - start), positives))
        rank = np.sort(choose(uniform, total), axis=1) + 1
        out[start : start + len(rank)] = (np.arange(1, positives + 1) / rank).mean(axis=1)
    return out


def arrangement_p_values(
    compound: ArrayLike,
    ap: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    null_size: int = 10_000,
    seed: int = 0,
    strict: bool = True,
) -> Floats:
    """Return the p-value of each compound's mean AP under copairs' null: p (C,), compounds 0..C-1.

    compound: (Q,) int, the compound of each query. ap: (Q,). positives, negatives: (Q,) lengths of its list. The null
    mAP is the mean over the compound's queries of random-arrangement APs in which queries with the same (positives,
    total) share one draw (copairs 0.5): conservative for replicates, whose queries are not independent. strict=True is
    copairs' null > observed; strict=False counts null >= observed.
    """
    codes, scores = np.asarray(compound, dtype=np.int64), np.asarray(ap, dtype=np.float64)
    total = np.asarray(positives, dtype=np.int64) + np.asarray(negatives, dtype=np.int64)
    lists, which = np.unique(np.stack([np.asarray(positives), total], axis=1), axis=0, return_inverse=True)
    nulls = [arrangement_null(int(m), int(n), null_size, seed) for m, n in lists]
    out = np.full(int(codes.max(initial=-1)) + 1, np.nan)
    made: dict[tuple[int, ...], Floats] = {}
    for code in np.unique(codes):
        mine = codes == code
        counts = np.bincount(which.ravel()[mine], minlength=len(lists))
        pattern = tuple(counts.tolist())
        if pattern not in made:
            made[pattern] = np.sum([c * nulls[i] for i, c in enumerate(counts) if c], axis=0) / counts.sum()
        out[code] = p_value(exceedances(made[pattern], float(scores[mine].mean()), strict), null_size)
    return out
