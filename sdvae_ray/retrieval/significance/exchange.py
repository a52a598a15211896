"""The null by exchange: what mean average precision a compound's wells would get if they were control wells.

Under no effect the wells of a compound are exchangeable with the control wells of the same plates. So pseudo-compounds
with the compound's number of wells per plate are drawn from that union, the rest of the union is their negatives, and
mAP is computed again on the actual similarities. The observed arrangement is one of those that can be drawn, so
p = (#{null >= observed} + 1) / (draws + 1) is valid whatever the similarities of replicates among themselves.

One task is some compounds of one set of plates. Tasks may run in forked processes, which read the profiles where they
are; threads would take turns, for a compound is hundreds of numpy calls of microseconds.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.retrieval.ranking.average_precision import Ties, checked_profiles, grouped, unit_rows
from sdvae_ray.retrieval.significance.exchange_draws import Scorer, draw
from sdvae_ray.retrieval.significance.exchange_ranks import Controls, Keys
from sdvae_ray.retrieval.significance.p_values import Floats, Ints, exceedances, p_value, stream

DRAWS = 1000  # draws per block: the unit of the random stream and of early stopping
_COMPOUNDS = 256  # of a task, at most: they share the ranks of their controls
_KEYS = 1 << 18  # similarities of compounds' wells to controls made at a time


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
    well_names: ArrayLike,
    *,
    null_size: int = 10_000,
    seed: int = 0,
    strict: bool = False,
    stop_above: float | None = 0.1,
    ties: Ties = "average",
    workers: int = 1,
) -> Exchange:
    """Return the observed mAP, its p-value by exchange and the draws made, for compounds 0..C-1.

    features: (W, D) finite; floating-point ones are not copied. compound: (W,) int code in 0..C-1, -1 where the well
    belongs to none. is_negative: (W,) bool. negative_key, plate: (W,) int; a query's negatives share its negative_key:
    its plate, or something coarser. names: (C,) text that, with the seed, keys each compound's draws. well_names: (W,)
    distinct text, or numbers that order as the text does; wells are put in its order first, so p does not depend on the
    order of rows. strict counts null > observed. stop_above: a compound whose p is above it by five standard errors
    after a block of 1,000 draws stops there; None never stops. workers: processes; results do not depend on it. More
    than one are forked (not on Windows), which is not for a process that has threads at work, such as Ray's driver.

    Memory beyond the arguments: O(W), and per process the N rows that a compound is ranked against, O(P (N + P)) for the
    P wells on its plates, its own and controls, and the rows of up to 256 compounds.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers}")
    x, _ = checked_profiles(features)
    canonical = np.argsort(np.asarray(well_names), kind="stable")
    codes, negative, scope, plates = (np.asarray(a)[canonical] for a in (compound, is_negative, negative_key, plate))
    by_plate = np.lexsort((scope, plates))
    if (np.diff(scope[by_plate]) != 0)[np.diff(plates[by_plate]) == 0].any():
        raise ValueError("negative_key must be the plate or coarser: every plate has one negative_key")
    wells = _Wells(x, canonical, scope, plates, dict(grouped(scope, np.flatnonzero(negative))))
    null = _Null(null_size, seed, strict, stop_above)
    out = Exchange(np.full(len(names), np.nan), np.full(len(names), np.nan), np.zeros(len(names), dtype=np.int64))

    compounds = [(code, own) for code, own in grouped(codes, np.flatnonzero(codes >= 0)) if len(own) > 1]

    def run(task: _Task) -> list[_Found]:
        return list(_test(task, wells, null, names, ties))

    for found in _in_processes(run, _tasks(compounds, plates, workers), workers):
        for code, *values in found:
            out.mean_ap[code], out.p[code], out.draws[code] = values
    return out


_Found = tuple[int, float, float, int]  # code, observed mAP, p, draws
_Task = list[tuple[int, Ints]]  # codes and wells of compounds on the same plates


@dataclass(frozen=True)
class _Wells:
    """In canonical order, (W,): the row of x (W, D), the scope and the plate; the controls of each scope."""

    x: NDArray[np.floating]
    row: Ints
    scope: NDArray[np.integer]
    plate: NDArray[np.integer]
    controls_of: Mapping[int, Ints]

    def unit(self, wells: Ints) -> Floats:
        return unit_rows(self.x[self.row[wells]])[0]

    def controls(self, scopes: NDArray[np.integer]) -> Ints:
        none = np.empty(0, dtype=np.int64)
        return np.concatenate([self.controls_of.get(scope, none) for scope in np.unique(scopes).tolist()])


@dataclass(frozen=True)
class _Null:
    size: int
    seed: int
    strict: bool
    stop_above: float | None

    def p(
        self, scorer: Scorer, observed: float, pools: Sequence[Ints], counts: Sequence[int], name: str
    ) -> tuple[float, int]:
        """Return p and the draws made; counts[i] wells of pools[i] are a draw."""
        reached = draws = 0
        while draws < self.size:
            # one block at first, which often is enough to stop; then several at once
            ahead = min(max(DRAWS, 3 * draws), self.size - draws)
            uniform = np.empty((-(-ahead // DRAWS), DRAWS, sum(counts)))
            for number, block in enumerate(uniform, start=draws // DRAWS):
                stream(self.seed, "exchange", name, block=number).random(out=block)
            null = scorer.mean_ap(draw(uniform.reshape(-1, sum(counts))[:ahead], pools, counts))
            for start in range(0, ahead, DRAWS):
                part = null[start : start + DRAWS]
                reached += exceedances(part, observed, self.strict)
                draws += len(part)
                if self._clearly_above(reached / draws, draws):
                    return p_value(reached, draws), draws
        return p_value(reached, draws), draws

    def _clearly_above(self, share: float, draws: int) -> bool:
        return self.stop_above is not None and share - 5 * sqrt(share * (1 - share) / draws) > self.stop_above


def _test(task: _Task, wells: _Wells, null: _Null, names: Sequence[str], ties: Ties) -> Iterator[_Found]:
    """Yield what is found of each compound: NaN, NaN, 0 without a query."""
    first = task[0][1]
    plates, counts = np.unique(wells.plate[first], return_counts=True)
    scope = wells.scope[first]
    against = wells.controls(scope)
    drawable = np.flatnonzero(np.isin(wells.plate[against], plates))
    controls = Controls(wells.unit(against), wells.scope[against], drawable, ties)
    queries = np.flatnonzero(controls.lists(scope) < controls.no_list)
    if not len(queries):
        yield from ((code, np.nan, np.nan, 0) for code, _ in task)
        return
    places = np.arange(len(drawable), len(drawable) + len(first))
    mine = np.split(places, np.cumsum(counts)[:-1])
    theirs = [np.flatnonzero(wells.plate[against[drawable]] == plate) for plate in plates]
    for code, own, unit, keys in _rows(task, wells, controls):
        scorer = Scorer(controls.with_wells(unit, keys, scope), places, queries, ties)
        observed = float(scorer.mean_ap(places[:, None])[0])
        if not len(drawable):
            yield code, observed, np.nan, 0
            continue
        order = np.concatenate([against[drawable], own])  # a draw is a place among a plate's wells in canonical order
        pools = [pool[np.argsort(order[pool])] for pool in map(np.append, theirs, mine)]
        yield code, observed, *null.p(scorer, observed, pools, counts.tolist(), names[code])


def _rows(task: _Task, wells: _Wells, controls: Controls) -> Iterator[tuple[int, Ints, Floats, Keys]]:
    """Yield (code, own wells, their unit rows, their keys to the controls), made for some compounds at a time."""
    replicates = len(task[0][1])
    step = max(1, _KEYS // (replicates * (1 + len(controls.unit))))
    for start in range(0, len(task), step):
        part = task[start : start + step]
        unit = wells.unit(np.concatenate([own for _, own in part]))
        keys = controls.keys(unit)
        for number, (code, own) in enumerate(part):
            mine = slice(number * replicates, (number + 1) * replicates)
            yield code, own, unit[mine], keys[mine]


def _tasks(compounds: Sequence[tuple[int, Ints]], plates: NDArray[np.integer], workers: int) -> list[_Task]:
    """Return the compounds by the plates of their wells, in parts that keep all workers busy."""
    alike: dict[tuple[int, ...], _Task] = {}
    for code, own in compounds:
        by_plate = own[np.argsort(plates[own], kind="stable")]
        alike.setdefault(tuple(plates[by_plate].tolist()), []).append((code, by_plate))
    size = min(_COMPOUNDS, max(16, len(compounds) // (4 * workers)))
    return [same[start : start + size] for same in alike.values() for start in range(0, len(same), size)]


def _in_processes(run: Callable[[_Task], list[_Found]], tasks: Sequence[_Task], workers: int) -> Iterator[list[_Found]]:
    """Yield what `run` gives for each task, in order. `run` and the profiles in it come with the fork, not by pickle."""
    if workers == 1:
        yield from map(run, tasks)
        return
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=fork, initializer=_install, initargs=(run, tasks)) as pool:
        try:
            yield from pool.map(_run_installed, range(len(tasks)))
        finally:
            pool.shutdown(cancel_futures=True)


_installed: tuple[Callable[[_Task], list[_Found]], Sequence[_Task]]  # in a forked process


def _install(run: Callable[[_Task], list[_Found]], tasks: Sequence[_Task]) -> None:
    global _installed
    _installed = run, tasks


def _run_installed(number: int) -> list[_Found]:
    run, tasks = _installed
    return run(tasks[number])
