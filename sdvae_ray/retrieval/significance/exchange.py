"""The null by exchange: what mean average precision a compound's wells would get if they were control wells.

Under no effect the wells of a compound are exchangeable with the control wells of the same plates. So pseudo-compounds
with the compound's number of wells per plate are drawn from that union, the rest of the union is their negatives, and
mAP is computed again on the actual similarities. The observed arrangement is one of the arrangements that can be drawn,
so p = (#{null >= observed} + 1) / (draws + 1) is valid whatever the similarities of replicates among themselves.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats, Ints, Profiles, as_profiles, unit_rows
from sdvae_ray.retrieval.ranking.formula import Ties
from sdvae_ray.retrieval.ranking.ranges import rows_by_code
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.exchange_draws import Scorer, draw
from sdvae_ray.retrieval.significance.exchange_ranks import Controls, Keys
from sdvae_ray.retrieval.significance.p_values import PValues, exceedances, p_value

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
    features: ArrayLike,
    compound: ArrayLike,
    is_negative: ArrayLike,
    negative_key: ArrayLike,
    plate: ArrayLike,
    names: Sequence[str],
    well_names: ArrayLike,
    chance: Chance,
    stop_above: float | None = 0.1,
) -> Exchange:
    """Return the observed mAP, its p-value by exchange and the number of draws, for compounds 0..C-1.

    features: (W, D) finite; floating-point numbers are not copied. compound: (W,) int code in 0..C-1, -1 for a well that
    belongs to no compound. is_negative: (W,) bool. negative_key, plate: (W,) int; a query's negatives are the wells of
    is_negative with its negative_key, which is its plate or something coarser. names: (C,) text that, with the seed, keys each
    compound's draws. well_names: (W,) distinct text, or numbers that sort as the text does; wells are sorted by it first, so p
    does not depend on the order of rows. stop_above: after each block of 1,000 draws, a compound whose p is above it by five
    standard errors stops; None: no compound stops early.

    Memory beyond the arguments: O(W), the N rows that a compound is ranked against, O(P (N + P)) for the P wells on its plates,
    its own and controls, and the rows of up to 256 compounds. Raises ValueError if two wells of a plate differ in negative_key.
    """
    x = as_profiles(features)
    canonical = np.argsort(np.asarray(well_names), kind="stable")
    codes, negative, scope, plates = (np.asarray(a)[canonical] for a in (compound, is_negative, negative_key, plate))
    by_plate = np.lexsort((scope, plates))
    if (np.diff(scope[by_plate]) != 0)[np.diff(plates[by_plate]) == 0].any():
        raise ValueError("negative_key must be the plate or coarser: every plate has one negative_key")
    wells = _Wells(x, canonical, scope, plates, dict(rows_by_code(scope, np.flatnonzero(negative))))
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
    """The wells in the order of their names, (W,): the row of each in x (W, D), its scope and plate; and the controls of each
    scope.
    """

    x: Profiles
    row: Ints
    scope: NDArray[np.integer]
    plate: NDArray[np.integer]
    controls_of: Mapping[int, Ints]

    def unit(self, wells: Ints) -> Floats:
        return unit_rows(self.x[self.row[wells]])

    def controls(self, scopes: NDArray[np.integer]) -> Ints:
        none = np.empty(0, dtype=np.int64)
        return np.concatenate([self.controls_of.get(scope, none) for scope in np.unique(scopes).tolist()])


@dataclass(frozen=True)
class _Null:
    chance: Chance
    stop_above: float | None

    def p(
        self, scorer: Scorer, observed: float, pools: Sequence[Ints], counts: Sequence[int], name: str
    ) -> tuple[float, int]:
        """Return (p, number of draws); a draw takes counts[i] wells of pools[i] for every i."""
        reached = draws = 0
        while draws < self.chance.null_size:
            # one block at first, which often is enough to stop; then several at once
            ahead = min(max(DRAWS, 3 * draws), self.chance.null_size - draws)
            uniform = np.empty((-(-ahead // DRAWS), DRAWS, sum(counts)))
            for number, block in enumerate(uniform, start=draws // DRAWS):
                block_generator(self.chance.seed, "exchange", name, block=number).random(out=block)
            null = scorer.mean_ap(draw(uniform.reshape(-1, sum(counts))[:ahead], pools, counts))
            for start in range(0, ahead, DRAWS):
                part = null[start : start + DRAWS]
                reached += exceedances(part, observed, self.chance.strict)
                draws += len(part)
                if self._clearly_above(reached / draws, draws):
                    return p_value(reached, draws), draws
        return p_value(reached, draws), draws

    def _clearly_above(self, share: float, draws: int) -> bool:
        return self.stop_above is not None and share - 5 * sqrt(share * (1 - share) / draws) > self.stop_above


def _tested(
    compounds: _Compounds, wells: _Wells, null: _Null, names: Sequence[str]
) -> Iterator[tuple[int, float, float, int]]:
    """Yield (code, observed mAP, p, draws) of compounds on the same plates; (code, NaN, NaN, 0) without a query."""
    ties: Ties = null.chance.ties
    first = compounds[0][1]
    plates, counts = np.unique(wells.plate[first], return_counts=True)
    scope = wells.scope[first]
    against = wells.controls(scope)
    drawable = np.flatnonzero(np.isin(wells.plate[against], plates))
    controls = Controls(wells.unit(against), wells.scope[against], drawable, ties)
    queries = np.flatnonzero(controls.lists(scope) < controls.no_list)
    if not len(queries):
        yield from ((code, np.nan, np.nan, 0) for code, _ in compounds)
        return
    places = np.arange(len(drawable), len(drawable) + len(first))
    own_pools = np.split(places, np.cumsum(counts)[:-1])
    control_pools = [np.flatnonzero(wells.plate[against[drawable]] == plate) for plate in plates]
    for code, own, unit, keys in _unit_rows_and_keys(compounds, wells, controls):
        scorer = Scorer(controls.with_wells(unit, keys, scope), places, queries, ties)
        observed = float(scorer.mean_ap(places[:, None])[0])
        if not len(drawable):
            yield code, observed, np.nan, 0
            continue
        order = np.concatenate([against[drawable], own])  # a draw is a place among a plate's wells in canonical order
        pools = [pool[np.argsort(order[pool])] for pool in map(np.append, control_pools, own_pools)]
        yield code, observed, *null.p(scorer, observed, pools, counts.tolist(), names[code])


def _unit_rows_and_keys(
    compounds: _Compounds, wells: _Wells, controls: Controls
) -> Iterator[tuple[int, Ints, Floats, Keys]]:
    """Yield (code, the compound's wells, their unit rows, their keys to the controls); some compounds are computed at a time."""
    replicates = len(compounds[0][1])
    step = max(1, _KEYS // (replicates * (1 + len(controls.unit))))
    for start in range(0, len(compounds), step):
        part = compounds[start : start + step]
        unit = wells.unit(np.concatenate([own for _, own in part]))
        keys = controls.keys(unit)
        for number, (code, own) in enumerate(part):
            rows = slice(number * replicates, (number + 1) * replicates)
            yield code, own, unit[rows], keys[rows]


def _with_the_same_plates(compounds: _Compounds, plates: NDArray[np.integer]) -> Iterator[_Compounds]:
    """Yield lists of at most 256 compounds whose wells are on the same plates; each compound's wells are sorted by plate."""
    alike: dict[tuple[int, ...], _Compounds] = {}
    for code, own in compounds:
        by_plate = own[np.argsort(plates[own], kind="stable")]
        alike.setdefault(tuple(plates[by_plate].tolist()), []).append((code, by_plate))
    for same in alike.values():
        for start in range(0, len(same), _COMPOUNDS):
            yield same[start : start + _COMPOUNDS]
