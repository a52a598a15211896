"""The ladder of positives: a task's score with its positives from anywhere, and from another plate, batch, source or position.

What wells of one plate, laboratory or position share counts as retrieval on the lower rungs; on a higher rung it cannot help. The
negatives stay those of the task. Every rung has its permuted floor, by the same code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Floats, Ints
from sdvae_ray.retrieval.floors.permuted import permuted_floor
from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.ranking.formula import normalised_average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity_tables import OK

ANY = "any"
APART = ("plate", "batch", "source", "position")  # columns of the wells, in which a positive differs from the query
RUNGS = (ANY, *APART)
Row = dict[str, Any]


@dataclass(frozen=True)
class RankedTask:
    """The rank lists of a task.

    name       text that keys the draws of the floor, with the seed
    features   (W, D)
    wells      W rows: the columns of the rules, `label` (the name of a query's positives) and those of APART; a text, or a null
               that makes a rung impossible
    rules      of positives and negatives; a rung adds its column to pos_diffby
    queries    (W,) bool
    movable    (W,) bool, the wells whose profiles change places in the floor, within `within`
    within     (W,) text
    """

    name: str
    features: Floats
    wells: pl.DataFrame
    rules: PairRules
    queries: Bools
    movable: Bools
    within: pl.Series


def impossible(task: RankedTask, rung: str) -> str | None:
    """Return why no query has a positive on another `rung`: one_<rung>, same_<rung> or no_<rung>; None if some query has one."""
    if rung == ANY:
        return None
    values = task.wells[rung]
    if values.null_count():
        return f"no_{rung}"  # not known of every well
    if values.n_unique() < 2:
        return f"one_{rung}"
    label = task.rules.multilabel_col
    wells = task.wells.filter(pl.Series(task.queries)) if label is None else task.wells.explode(label)
    apart = wells.group_by(task.rules.pos_sameby).agg(pl.col(rung).n_unique().alias("values"))["values"]
    return None if (apart.max() or 0) > 1 else f"same_{rung}"  # type: ignore[operator]  # of whole numbers


def numbers_of(recall_at: Sequence[int]) -> tuple[str, ...]:
    """Return the names of the numbers that have a floor."""
    return ("mean_map", "mean_normalised_map", *(f"recall_at_{k}" for k in recall_at))


def floor_name(number: str) -> str:
    """Return the name of the floor of a number."""
    return f"floor_{number.removeprefix('mean_')}"


def ladder(task_at: Callable[[str], RankedTask], chance: Chance, recall_at: Sequence[int], repeats: int) -> list[Row]:
    """Return one row per rung of RUNGS, for the task that task_at(rung) returns.

    Columns: rung, queries, groups, the numbers of `numbers_of`, floor_<number> (means over the repeats), status and floor_status.
    Means are over the labels, and within a label over its queries. A rung that the wells do not allow has the status of
    `impossible` alone; one that excludes no positive has the numbers of the lowest; a DataError becomes a status too.
    """
    rows: list[Row] = []
    for rung in RUNGS:
        try:
            task = task_at(rung)
            if rung != ANY and _excludes_nothing(task, rung):
                row = {name: value for name, value in rows[0].items() if name != "rung"}
            else:
                row = _rung(task, rung, chance, recall_at, repeats)
        except DataError as error:
            row = {"status": f"not scored: {error}"}
        rows.append({"rung": rung, **row})
    return rows


def _excludes_nothing(task: RankedTask, rung: str) -> bool:
    """Return whether no two queries of one label have one value of `rung`: all positives are apart already."""
    if task.rules.multilabel_col is not None:
        return False  # its profiles are others on every rung
    queries = task.wells.filter(pl.Series(task.queries)).select(*task.rules.pos_sameby, rung)
    return not queries.null_count().sum_horizontal()[0] and not queries.is_duplicated().any()


def _rung(task: RankedTask, rung: str, chance: Chance, recall_at: Sequence[int], repeats: int) -> Row:
    if reason := impossible(task, rung):
        return {"status": reason}
    apart = () if rung == ANY else (rung,)
    rules = replace(task.rules, pos_diffby=(*task.rules.pos_diffby, *apart))

    def score(rows: Ints) -> Row:
        return _means(task, rules, task.features[rows], chance, recall_at)

    row = score(np.arange(len(task.features)))
    numbers = numbers_of(recall_at)
    what, within = f"stringency {task.name}", task.within.to_numpy().astype(str)
    floor = permuted_floor(
        score, within, task.movable, what=what, seed=chance.seed, repeats=repeats, numbers=numbers
    )  # fmt: skip
    floors = {floor_name(name): floor.get(name) for name in (*numbers, "status")}
    return {**row, "status": OK, **floors}


def _means(task: RankedTask, rules: PairRules, features: Floats, chance: Chance, recall_at: Sequence[int]) -> Row:
    """Return queries, groups and the numbers of a rung. Raises DataError if no query has a positive and a negative."""
    lists = average_precision(
        features,
        task.wells,
        rules,
        queries=task.queries,
        distance=chance.distance,
        ties=chance.ties,
        recall_at=recall_at,
    )
    names = task.wells["label"].gather(lists.well) if lists.label is None else lists.label
    known = pl.Series(~np.isnan(lists.ap))
    if not known.any():
        raise DataError("no query has both a positive and a negative")
    normalised = normalised_average_precision(lists.ap, lists.positives, lists.total)
    columns = dict(zip(numbers_of(recall_at), (lists.ap, normalised, *lists.recall.T), strict=True))
    scored = pl.DataFrame({"name": names.cast(pl.String), **columns}).filter(known)
    means = scored.group_by("name").agg(pl.col(list(columns)).mean()).sort("name")
    return {
        "queries": scored.height,
        "groups": means.height,
        **means.select(pl.col(list(columns)).mean()).row(0, named=True),
    }
