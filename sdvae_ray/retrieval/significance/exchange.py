"""The null by exchange: what mean average precision a compound's wells would get if they were control wells.

Under no effect the wells of a compound are exchangeable with the control wells of the same plates. So pseudo-compounds
with the compound's number of wells per plate are drawn from that union, the rest of the union is their negatives, and
mAP is computed again on the actual similarities. The observed arrangement is one of the arrangements that can be drawn,
so p = (#{null >= observed} + 1) / (draws + 1) is valid whatever the similarities of replicates among themselves.

A compound may be scored in several spaces: each was normalised by a fit on some of the controls, and the other controls are the
negatives there (splits.py). Then mAP is the mean over the spaces, of the compound and of every draw alike, and draws are of the
pool: the controls that are negatives in every space. No fit has seen a well that changes places, so p is valid as with one space.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Bools, Floats, Ints, Profiles, unit_rows
from sdvae_ray.retrieval.ranking.formula import Ties
from sdvae_ray.retrieval.ranking.ranges import rows_by_code
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.exchange_draws import Scorer, draw
from sdvae_ray.retrieval.significance.exchange_ranks import Controls
from sdvae_ray.retrieval.significance.p_values import PValues, exceedances, p_value
from sdvae_ray.retrieval.significance.splits import Space

DRAWS = 1000  # draws per block: the unit of the random stream and of early stopping
_COMPOUNDS = 256  # that share the ranks of their controls, at most
_KEYS = 1 << 18  # similarities of compounds' wells to controls made at a time


@dataclass(frozen=True)
class Exchange(PValues):
    """One value per compound, in the order of the compounds' codes.

    mean_ap: (C,) float64, the observed mAP, NaN if no query has both a positive and a negative. p: (C,) in (0, 1], NaN if
    mean_ap is, and if no plate of the compound has a control to exchange with. draws: (C,) fewer than asked if p was clearly
    large early.
    """

    mean_ap: Floats


def exchange_p_values(
    spaces: Sequence[Space],
    compound: ArrayLike,
    negative_key: ArrayLike,
    plate: ArrayLike,
    names: Sequence[str],
    well_names: ArrayLike,
    chance: Chance,
    stop_above: float | None = 0.1,
) -> Exchange:
    """Return the observed mAP, its p-value by exchange and the number of draws, for compounds 0..C-1.

    spaces: one, or several whose mAP is averaged; the features of a space are (W, D) finite. compound: (W,) int code in 0..C-1,
    -1 for a well that belongs to no compound. negative_key, plate: (W,) int; a query's negatives are the negatives of the
    space with its negative_key, which is its plate or something coarser. names: (C,) text that, with the seed, keys each
    compound's draws. well_names: (W,) distinct text, or numbers that sort as the text does; wells are sorted by it first, so p
    does not depend on the order of rows. stop_above: after each block of 1,000 draws, a compound whose p is above it by five
    standard errors stops; None: no compound stops early.

    Memory beyond the arguments: O(W), and for each space the N rows that a compound is ranked against, O(P (N + P)) for the P
    wells on its plates, its own and controls, and the rows of up to 256 compounds. Raises ValueError if two wells of a plate
    differ in negative_key.
    """
    canonical = np.argsort(np.asarray(well_names), kind="stable")
    codes, scope, plates = (np.asarray(a)[canonical] for a in (compound, negative_key, plate))
    by_plate = np.lexsort((scope, plates))
    if (np.diff(scope[by_plate]) != 0)[np.diff(plates[by_plate]) == 0].any():
        raise ValueError("negative_key must be the plate or coarser: every plate has one negative_key")
    negatives = [space.is_negative[canonical] for space in spaces]
    controls = [dict(rows_by_code(scope, np.flatnonzero(is_negative))) for is_negative in negatives]
    pool = np.logical_and.reduce(negatives)
    wells = _Wells([space.features for space in spaces], canonical, scope, plates, controls, pool)
    mean_ap, p = np.full(len(names), np.nan), np.full(len(names), np.nan)
    draws = np.zeros(len(names), dtype=np.int64)
    compounds = [(code, own) for code, own in rows_by_code(codes, np.flatnonzero(codes >= 0)) if len(own) > 1]
    for alike in _with_the_same_plates(compounds, plates):
        for code, *values in _tested(alike, wells, _Null(chance, stop_above), names):
            mean_ap[code], p[code], draws[code] = values
    return Exchange(p, draws, mean_ap)


_Compounds = list[tuple[int, Ints]]  # codes and wells of compounds on the same plates


@dataclass(frozen=True)
class _Wells:
    """The wells in the order of their names, (W,): the row of each in the features (W, D) of every space, its scope and plate;
    the controls of each scope in every space; and whether it is a negative in every space.
    """

    x: list[Profiles]
    row: Ints
    scope: NDArray[np.integer]
    plate: NDArray[np.integer]
    controls_of: Sequence[Mapping[int, Ints]]
    pool: Bools

    def unit(self, space: int, wells: Ints) -> Floats:
        return unit_rows(self.x[space][self.row[wells]])

    def controls(self, space: int, scopes: NDArray[np.integer]) -> Ints:
        none = np.empty(0, dtype=np.int64)
        return np.concatenate([self.controls_of[space].get(scope, none) for scope in np.unique(scopes).tolist()])


class _Ranking:
    """One space as the compounds on some plates see it. drawable: (C,) wells of the pool on these plates, the same in every space.
    queries: which of a compound's wells have a negative in the space.
    """

    def __init__(self, wells: _Wells, space: int, first: Ints, ties: Ties) -> None:
        self.space, self.scope, self.ties = space, wells.scope[first], ties
        against = wells.controls(space, self.scope)
        rows = np.flatnonzero(np.isin(wells.plate[against], wells.plate[first]) & wells.pool[against])
        self.drawable = against[rows]
        self.controls = Controls(wells.unit(space, against), wells.scope[against], rows, ties)
        self.queries = np.flatnonzero(self.controls.lists(self.scope) < self.controls.no_list)

    def scorers(self, compounds: _Compounds, wells: _Wells) -> Iterator[Scorer]:
        """Yield the scorer of every compound, whose wells take the places after the drawable controls."""
        replicates = len(self.scope)
        places = np.arange(len(self.drawable), len(self.drawable) + replicates)
        step = max(1, _KEYS // (replicates * (1 + len(self.controls.unit))))  # compounds computed at a time
        for start in range(0, len(compounds), step):
            part = compounds[start : start + step]
            unit = wells.unit(self.space, np.concatenate([own for _, own in part]))
            keys = self.controls.keys(unit)
            for number in range(len(part)):
                rows = slice(number * replicates, (number + 1) * replicates)
                ranks = self.controls.with_wells(unit[rows], keys[rows], self.scope)
                yield Scorer(ranks, places, self.queries, self.ties)


@dataclass(frozen=True)
class _Null:
    chance: Chance
    stop_above: float | None

    def p(
        self, scorers: Sequence[Scorer], observed: float, pools: Sequence[Ints], counts: Sequence[int], name: str
    ) -> tuple[float, int]:
        """Return (p, number of draws); a draw takes counts[i] wells of pools[i] for every i."""
        reached = draws = 0
        while draws < self.chance.null_size:
            # one block at first, which often is enough to stop; then several at once
            ahead = min(max(DRAWS, 3 * draws), self.chance.null_size - draws)
            uniform = np.empty((-(-ahead // DRAWS), DRAWS, sum(counts)))
            for number, block in enumerate(uniform, start=draws // DRAWS):
                block_generator(self.chance.seed, "exchange", name, block=number).random(out=block)
            null = _mean_ap(scorers, draw(uniform.reshape(-1, sum(counts))[:ahead], pools, counts))
            for start in range(0, ahead, DRAWS):
                part = null[start : start + DRAWS]
                reached += exceedances(part, observed, self.chance.strict)
                draws += len(part)
                if self._clearly_above(reached / draws, draws):
                    return p_value(reached, draws), draws
        return p_value(reached, draws), draws

    def _clearly_above(self, share: float, draws: int) -> bool:
        return self.stop_above is not None and share - 5 * sqrt(share * (1 - share) / draws) > self.stop_above


def _mean_ap(scorers: Sequence[Scorer], drawn: Ints) -> Floats:
    """Return the mean AP (B,) of B draws, the mean over the spaces; drawn: (R, B) places."""
    total = scorers[0].mean_ap(drawn)
    for scorer in scorers[1:]:
        total += scorer.mean_ap(drawn)
    return total / len(scorers)


def _tested(
    compounds: _Compounds, wells: _Wells, null: _Null, names: Sequence[str]
) -> Iterator[tuple[int, float, float, int]]:
    """Yield (code, observed mAP, p, draws) of compounds on the same plates; (code, NaN, NaN, 0) without a query."""
    first = compounds[0][1]
    plates, counts = np.unique(wells.plate[first], return_counts=True)
    rankings = [_Ranking(wells, space, first, null.chance.ties) for space in range(len(wells.x))]
    rankings = [ranking for ranking in rankings if len(ranking.queries)]
    if not rankings:
        yield from ((code, np.nan, np.nan, 0) for code, _ in compounds)
        return
    drawable = rankings[0].drawable
    places = np.arange(len(drawable), len(drawable) + len(first))
    own_pools = np.split(places, np.cumsum(counts)[:-1])
    control_pools = [np.flatnonzero(wells.plate[drawable] == plate) for plate in plates]
    for (code, own), *scorers in zip(compounds, *(r.scorers(compounds, wells) for r in rankings), strict=True):
        observed = float(_mean_ap(scorers, places[:, None])[0])
        if not len(drawable):
            yield code, observed, np.nan, 0
            continue
        order = np.concatenate([drawable, own])  # a draw is a place among a plate's wells in canonical order
        pools = [pool[np.argsort(order[pool])] for pool in map(np.append, control_pools, own_pools)]
        yield code, observed, *null.p(scorers, observed, pools, counts.tolist(), names[code])


def _with_the_same_plates(compounds: _Compounds, plates: NDArray[np.integer]) -> Iterator[_Compounds]:
    """Yield lists of at most 256 compounds whose wells are on the same plates; each compound's wells are sorted by plate."""
    alike: dict[tuple[int, ...], _Compounds] = {}
    for code, own in compounds:
        by_plate = own[np.argsort(plates[own], kind="stable")]
        alike.setdefault(tuple(plates[by_plate].tolist()), []).append((code, by_plate))
    for same in alike.values():
        for start in range(0, len(same), _COMPOUNDS):
            yield same[start : start + _COMPOUNDS]
