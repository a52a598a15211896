"""p-values of mean average precision that need no data: the random-arrangement null, counting, and correction.

The null that looks at the similarities themselves (the default) is in exchange.py.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import comb
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.retrieval.significance.arrangements import arrangements_reaching, draw_arrangements, is_countable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Null = Literal[
    "exchange", "copairs", "copairs_exact"
]  # the last: counted where one list allows it (`counted`), else drawn
Pattern = tuple[tuple[int, int], ...]  # of a compound: (kind of list, queries that have it), in order

# Two mean average precisions closer than this are equal: they differ by the order of a sum.
MAP_STEP = 1e-10
# Draws of arrangement nulls held at a time: 256 MiB.
_HELD = 1 << 25


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


def arrangement_null(positives: int, total: int, null_size: int, seed: int) -> Floats:
    """Return (null_size,) AP of uniformly random orders of a list with `positives` positives of `total` wells.

    A pure function of its arguments: the draws are keyed by (seed, positives, total).
    """
    if not 1 <= positives <= total:
        raise ValueError(f"a list needs 1 <= positives <= total, not {positives} of {total}")
    return draw_arrangements(positives, total, null_size, stream(seed, "arrangement", positives, total))


def arrangement_p_values(
    compound: ArrayLike,
    ap: ArrayLike,
    positives: ArrayLike,
    negatives: ArrayLike,
    *,
    null_size: int = 10_000,
    seed: int = 0,
    strict: bool = True,
    exact: bool = False,
) -> Floats:
    """Return the p-value of each compound's mean AP under copairs' null: p (C,), compounds 0..C-1.

    compound: (Q,) int, the compound of each query. ap: (Q,). positives, negatives: (Q,) lengths of its list. The null
    mAP is the mean over the compound's queries of random-arrangement APs in which queries with the same (positives,
    total) share one draw (copairs 0.5): conservative for replicates, whose queries are not independent. strict=True is
    copairs' null > observed; strict=False counts null >= observed.

    exact: where all the queries of a compound have one (positives, total), its null mAP is one AP; where the
    arrangements of that list can be counted too (see `counted`), p is the share of all of them that reach the observed
    mAP, nothing is drawn, and no 1 is added: with strict=True, p is 0 for an mAP of 1. Other compounds are as without.
    """
    codes, scores = np.asarray(compound, dtype=np.int64), np.asarray(ap, dtype=np.float64)
    lists, patterns = _patterns(codes, positives, negatives)
    queries = np.bincount(codes)
    observed = np.bincount(codes, scores) / np.maximum(queries, 1)
    least = observed + MAP_STEP if strict else observed - MAP_STEP
    null_of = lru_cache(maxsize=max(2, _HELD // max(1, null_size)))(
        lambda i: arrangement_null(*lists[i], null_size, seed)
    )
    out = np.full(len(queries), np.nan)
    for pattern, mine in sorted(patterns.items()):
        if exact and _is_counted(pattern, lists):
            m, n = lists[pattern[0][0]]
            out[mine] = arrangements_reaching(m, n, least[mine]) / comb(n, m)
        else:
            null = np.sort(sum(count * null_of(i) for i, count in pattern) / sum(count for _, count in pattern))
            reached = null_size - np.searchsorted(null, least[mine], side="right" if strict else "left")
            out[mine] = (reached + 1) / (null_size + 1)
    return out


def counted(compound: ArrayLike, positives: ArrayLike, negatives: ArrayLike) -> NDArray[np.bool_]:
    """Return (C,) whether `arrangement_p_values(exact=True)` counts a compound's arrangements rather than draw.

    It does where its queries have one (positives, total) with C(total - 1, positives - 1) <= 2^22: two positives of any
    list, three among up to 2,897 wells, four among 295.
    """
    codes = np.asarray(compound, dtype=np.int64)
    lists, patterns = _patterns(codes, positives, negatives)
    out = np.zeros(int(codes.max(initial=-1)) + 1, dtype=bool)
    for pattern, mine in patterns.items():
        out[mine] = _is_counted(pattern, lists)
    return out


def _patterns(
    codes: Ints, positives: ArrayLike, negatives: ArrayLike
) -> tuple[list[tuple[int, int]], dict[Pattern, list[int]]]:
    """Return the distinct (positives, total), and the compounds by how many queries they have with each of these."""
    m = np.asarray(positives, dtype=np.int64)
    lists, which = np.unique(
        np.stack([m, m + np.asarray(negatives, dtype=np.int64)], axis=1), axis=0, return_inverse=True
    )
    both, counts = np.unique(codes * max(1, len(lists)) + which.ravel(), return_counts=True)
    code, kind = np.divmod(both, max(1, len(lists)))
    patterns: dict[Pattern, list[int]] = {}
    cuts = np.flatnonzero(code[1:] != code[:-1]) + 1
    for part in np.split(np.arange(len(code)), cuts) if len(code) else []:
        pattern = tuple(zip(kind[part].tolist(), counts[part].tolist(), strict=True))
        patterns.setdefault(pattern, []).append(int(code[part[0]]))
    return [(m, n) for m, n in lists.tolist()], patterns


def _is_counted(pattern: Pattern, lists: list[tuple[int, int]]) -> bool:
    return len(pattern) == 1 and is_countable(*lists[pattern[0][0]])
