"""The null by exchange: what mean average precision a compound's wells would get if they were control wells.

Under no effect the wells of a compound are exchangeable with the control wells of the same plates. So pseudo-compounds
with the compound's number of wells per plate are drawn from that union, the rest of the union is their negatives, and
mAP is computed again on the actual similarities. The observed arrangement is one of those that can be drawn, so
p = (#{null >= observed} + 1) / (draws + 1) is valid whatever the similarities of replicates among themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.retrieval.inference import Floats, Ints, choose, exceedances, p_value, stream
from sdvae_ray.retrieval.precision import Ties, grouped, precision_of_counts, rank_keys, tie_runs, unit_rows

DRAWS = 1000  # draws per block: the unit of the random stream and of early stopping
_CHUNK = 1 << 20  # ranks gathered at a time
_BITS = 20  # of each packed count: pools of up to 2^20 wells
_MASK = (1 << _BITS) - 1


@dataclass(frozen=True)
class Exchange:
    """One value per compound, in the order of its code.

    mean_ap: (C,) float64, the observed mAP, NaN where no query has both a positive and a negative. p: (C,) float64 in
    (0, 1], NaN there and where no plate of the compound has a control to exchange with. draws: (C,) int64, the draws
    made: fewer than asked where p was clearly large early, 0 where p is NaN.
    """

    mean_ap: Floats
    p: Floats
    draws: Ints


def exchange_p_values(
    features: ArrayLike,
    compound: ArrayLike,
    is_negative: ArrayLike,
    negative_key: ArrayLike,
    plate: ArrayLike,
    names: Sequence[str],
    well_names: Sequence[str],
    *,
    null_size: int = 10_000,
    seed: int = 0,
    strict: bool = False,
    stop_above: float | None = 0.1,
    ties: Ties = "average",
) -> Exchange:
    """Return the observed mAP, its p-value by exchange and the draws made, for compounds 0..C-1.

    features: (W, D) finite. compound: (W,) int code in 0..C-1, -1 where the well belongs to none. is_negative: (W,)
    bool. negative_key, plate: (W,) int; a query's negatives share its negative_key: its plate, or something coarser.
    names: (C,) text that, with the seed, keys each compound's draws. well_names: (W,) distinct text; wells are put in
    its order first, so p does not depend on the order of rows. strict counts null > observed. stop_above: a compound
    whose p is above it by five standard errors after a block of 1,000 draws stops there; None never stops.
    Memory: O(P^2) for a pool of P wells, one compound and every control it is ranked against.
    """
    canonical = np.argsort(np.asarray(well_names, dtype=str), kind="stable")
    unit = unit_rows(features)[0][canonical]
    codes, negative, scope, plates = (np.asarray(a)[canonical] for a in (compound, is_negative, negative_key, plate))
    if len(np.unique(np.stack([plates, scope]), axis=1).T) != len(np.unique(plates)):
        raise ValueError("negative_key must be the plate or coarser: every plate has one negative_key")
    controls_of = dict(grouped(scope, np.flatnonzero(negative)))
    todo = [(np.unique(scope[own]), code, own) for code, own in grouped(codes, np.flatnonzero(codes >= 0))]
    todo.sort(key=lambda item: (item[0].tolist(), item[1]))  # neighbours share the block of their controls
    out = Exchange(np.full(len(names), np.nan), np.full(len(names), np.nan), np.zeros(len(names), dtype=np.int64))
    last: list[int] = []
    for scopes, code, own in todo:
        if scopes.tolist() != last:
            last = scopes.tolist()
            controls = np.concatenate([np.empty(0, dtype=np.int64), *(controls_of.get(s, own[:0]) for s in last)])
            among_controls = rank_keys(unit[controls] @ unit[controls].T, ties)
        pool = np.concatenate([own, controls])
        keys = np.empty((len(pool), len(pool)), dtype=among_controls.dtype)
        keys[: len(own)] = rank_keys(unit[own] @ unit[pool].T, ties)
        keys[:, : len(own)] = keys[: len(own)].T
        keys[len(own) :, len(own) :] = among_controls
        order = np.argsort(pool)  # back to canonical order: a draw is a place in it
        lists = _rank_lists(keys[np.ix_(order, order)], scope[pool][order], ties)
        out.mean_ap[code], out.p[code], out.draws[code] = _test(
            lists, plates[pool][order], scope[pool][order], order < len(own), names[code],
            null_size=null_size, seed=seed, strict=strict, stop_above=stop_above,
        )  # fmt: skip
    return out


@dataclass(frozen=True)
class _Lists:
    """Every pool well as a query: where every other one stands in its row.

    packed: (P, P) int64, four fields a cell, high to low: the class of similarity (0 is the best of the row), the
    wells of the row's own scope strictly above, those level (itself included), and one bit, whether the well is itself
    of the row's scope. Its integer order is the order of the list. tied: whether any two of a row are level.
    """

    packed: Ints
    tied: bool
    ties: Ties


def _rank_lists(keys: NDArray[np.floating], scope: NDArray[np.generic], ties: Ties) -> _Lists:
    size = len(keys)
    if size > _MASK:
        raise ValueError(f"a pool of {size} wells is too large for the null by exchange; use negatives by plate")
    keys = keys.copy()
    np.fill_diagonal(keys, -np.inf)
    order = np.argsort(-keys, axis=1, kind="stable")
    ranked = np.take_along_axis(keys, order, axis=1)
    local = (scope[:, None] == scope[None, :]) & ~np.eye(size, dtype=bool)
    ordered_local = np.take_along_axis(local, order, axis=1).astype(np.int64)
    before = np.zeros((size, size + 1), dtype=np.int64)
    np.cumsum(ordered_local, axis=1, out=before[:, 1:])
    start, stop = tie_runs(ranked)
    above = np.take_along_axis(before, start, axis=1)
    level = np.take_along_axis(before, stop, axis=1) - above
    packed = np.empty((size, size), dtype=np.int64)
    cells = (((start << _BITS | above) << _BITS | level) << 1) | ordered_local
    np.put_along_axis(packed, order, cells, axis=1)
    return _Lists(packed, bool((stop - start > 1).any()), ties)


def _mean_ap(lists: _Lists, drawn: Ints, queries: Ints) -> Floats:
    """Return the mAP of pseudo-compounds, (B,); drawn: (B, R) pool wells; queries: the columns that have negatives."""
    replicates = drawn.shape[1]
    others = np.stack([np.delete(np.arange(replicates), q) for q in queries])
    cells = np.sort(lists.packed[drawn[:, queries, None], drawn[:, others]], axis=-1)
    local = cells & 1
    above = cells >> (_BITS + 1) & _MASK
    local_before = np.cumsum(local, axis=-1) - local
    if not lists.tied:
        rank = np.arange(1, replicates) + above - local_before
        return np.asarray((np.arange(1, replicates) / rank).mean(axis=(1, 2)))
    group = cells >> (2 * _BITS + 1)
    start, stop = tie_runs(group)
    drawn_above = np.take_along_axis(local_before, start, axis=-1)
    drawn_level = np.take_along_axis(local_before + local, stop - 1, axis=-1) - drawn_above
    level = (cells >> 1 & _MASK) - drawn_level
    return np.asarray(precision_of_counts(group, above - drawn_above, level, lists.ties).mean(axis=-1))


def _test(
    lists: _Lists,
    plate: NDArray[np.generic],
    scope: NDArray[np.generic],
    own: NDArray[np.bool_],
    name: str,
    *,
    null_size: int,
    seed: int,
    strict: bool,
    stop_above: float | None,
) -> tuple[float, float, int]:
    """Return (observed mAP, p, draws) of one compound; plate, scope, own: (P,) of its pool."""
    pools = [np.flatnonzero(plate == p) for p in np.unique(plate[own])]
    mine = [pool[own[pool]] for pool in pools]
    observed_wells = np.concatenate(mine)
    controls = np.array([int((~own & (scope == scope[well])).sum()) for well in observed_wells])
    queries = np.flatnonzero(controls > 0)
    if len(observed_wells) < 2 or not len(queries):
        return np.nan, np.nan, 0
    observed = float(_mean_ap(lists, observed_wells[None], queries)[0])
    if all(len(pool) == len(wells) for pool, wells in zip(pools, mine, strict=True)):
        return observed, np.nan, 0
    rows = max(1, _CHUNK // (len(queries) * (len(observed_wells) - 1)))
    reached = draws = 0
    while draws < null_size:
        block = stream(seed, "exchange", name, block=draws // DRAWS).random((DRAWS, len(observed_wells)))
        block = block[: null_size - draws]
        for first in range(0, len(block), rows):
            null = _mean_ap(lists, _draw(block[first : first + rows], pools, mine), queries)
            reached += exceedances(null, observed, strict)
        draws += len(block)
        share = reached / draws
        if stop_above is not None and share - 5 * np.sqrt(share * (1 - share) / draws) > stop_above:
            break
    return observed, p_value(reached, draws), draws


def _draw(uniform: Floats, pools: list[Ints], mine: list[Ints]) -> Ints:
    """Return pseudo-compounds (B, R): from each plate's pool as many distinct wells as the compound has there."""
    cuts = np.cumsum([len(wells) for wells in mine])[:-1]
    parts = np.split(uniform, cuts, axis=1)
    return np.concatenate([pool[choose(u, len(pool))] for pool, u in zip(pools, parts, strict=True)], axis=1)
