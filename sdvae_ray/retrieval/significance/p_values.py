"""p-values that need no profiles: copairs' null of random orders, drawn or counted, and the correction of many p-values.

The null by exchange, which looks at the similarities themselves, is in exchange.py.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats, Ints
from sdvae_ray.retrieval.significance.arrangements import arrangements_reaching, draw_arrangements, is_countable
from sdvae_ray.retrieval.significance.chance import Chance

Pattern = tuple[tuple[int, int], ...]  # of a compound: (kind of list, queries that have such a list), in order

# Two mean average precisions closer than this are equal: they differ by the order of a sum.
MAP_STEP = 1e-10
_HELD = 1 << 25  # draws of nulls held at a time: 256 MiB


@dataclass(frozen=True)
class PValues:
    """One value per compound. p: (C,) float64, NaN without a test. draws: (C,) int64, 0 if p was not drawn."""

    p: Floats
    draws: Ints


def exceedances(null: Floats, observed: float, strict: bool = False) -> int:
    """Return how many draws of `null` reach `observed`: null >= observed, or null > observed if `strict`."""
    return int(np.count_nonzero(null > observed + MAP_STEP if strict else null >= observed - MAP_STEP))


def p_value(reached: int, draws: int) -> float:
    """Return (reached + 1) / (draws + 1): the observed value is one more draw, so p > 0 (Phipson & Smyth 2010)."""
    return (reached + 1) / (draws + 1)


def benjamini_hochberg(p: ArrayLike) -> Floats:
    """Return p-values corrected for the false discovery rate (Benjamini & Hochberg 1995), in the order given.

    p: (n,) in [0, 1]; NaN means no test: it stays NaN and is not counted.
    """
    corrected = np.array(p, dtype=np.float64)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = false_discovery_control(corrected[tested])
    return corrected


def arrangement_null(positives: int, total: int, null_size: int, seed: int) -> Floats:
    """Return the AP of uniformly random orders of a list with `positives` positives among `total` wells, (null_size,).

    A pure function of its arguments: the draws are keyed by (seed, positives, total). Raises ValueError unless 1 <= positives
    <= total.
    """
    if not 1 <= positives <= total:
        raise ValueError(f"a list needs 1 <= positives <= total, not {positives} of {total}")
    random = block_generator(seed, "arrangement", positives, total)
    return draw_arrangements(positives, total, null_size, random)


def arrangement_p_values(
    compound: ArrayLike, ap: ArrayLike, positives: ArrayLike, negatives: ArrayLike, chance: Chance
) -> PValues:
    """Return the p-value of each compound's mean AP under copairs' null, for compounds 0..C-1.

    compound: (Q,) int, the compound of each query. ap: (Q,). positives, negatives: (Q,) how many of each the query's list has.
    The null mAP is the mean over the compound's queries of random-arrangement APs in which queries with the same (positives,
    total) share one draw (copairs 0.5): conservative for replicates, whose queries are not independent.

    null="copairs_exact": if all queries of a compound have one (positives, total), its null mAP is a single AP. If the
    arrangements of that list can be counted (two positives in any list, three among up to 2,897 wells, four among 295), p is
    the share of them that reach the observed mAP. Nothing is drawn, and no 1 is added: if strict, p is 0 for an mAP of 1. The p
    of other compounds is drawn.
    """
    codes = np.asarray(compound, dtype=np.int64)
    lists, patterns = _patterns(codes, positives, negatives)
    queries = np.bincount(codes)
    observed = np.bincount(codes, np.asarray(ap, dtype=np.float64)) / np.maximum(queries, 1)
    least = observed + MAP_STEP if chance.strict else observed - MAP_STEP
    size = chance.null_size

    @lru_cache(maxsize=max(2, _HELD // size))
    def null_of(kind: int) -> Floats:
        return arrangement_null(*lists[kind], size, chance.seed)

    p, draws = np.full(len(queries), np.nan), np.zeros(len(queries), dtype=np.int64)
    for pattern, compounds in sorted(patterns.items()):
        kind = pattern[0][0]
        if chance.null == "copairs_exact" and len(pattern) == 1 and is_countable(*lists[kind]):
            m, n = lists[kind]
            p[compounds] = arrangements_reaching(m, n, least[compounds]) / comb(n, m)
        else:
            null = np.sort(sum(count * null_of(i) for i, count in pattern) / sum(count for _, count in pattern))
            reached = size - np.searchsorted(null, least[compounds], side="right" if chance.strict else "left")
            p[compounds], draws[compounds] = (reached + 1) / (size + 1), size
    return PValues(p, draws)


def _patterns(
    codes: Ints, positives: ArrayLike, negatives: ArrayLike
) -> tuple[list[tuple[int, int]], dict[Pattern, list[int]]]:
    """Return the distinct (positives, total), and the compounds by pattern: how many queries they have of each (positives,
    total).
    """
    m = np.asarray(positives, dtype=np.int64)
    lists, kind_of_query = np.unique(
        np.stack([m, m + np.asarray(negatives, dtype=np.int64)], axis=1), axis=0, return_inverse=True
    )
    both, counts = np.unique(codes * max(1, len(lists)) + kind_of_query.ravel(), return_counts=True)
    code, kind = np.divmod(both, max(1, len(lists)))
    patterns: dict[Pattern, list[int]] = {}
    cuts = np.flatnonzero(code[1:] != code[:-1]) + 1
    for part in np.split(np.arange(len(code)), cuts) if len(code) else []:
        pattern = tuple(zip(kind[part].tolist(), counts[part].tolist(), strict=True))
        patterns.setdefault(pattern, []).append(int(code[part[0]]))
    return [(m, n) for m, n in lists.tolist()], patterns
