"""Transfer: a treated well of one group, such as a cell line or a time, queries the wells of another.

transfer_activity         its compound's wells there against the negative controls there
transfer_distinctiveness  its compound's wells there against the treated wells of all other compounds there

The negatives are on all plates of the target, since the query is on none of them. Each score has two floors, by the same code:

floor     compounds permuted among the treated wells of each plate of the target: what treated wells have in common, and the
          leak of a fit into the negatives
position  control wells query the controls at their own position in the target against those at its other positions

A compound is mostly at the same position in both groups (PROTOCOL F4), and a permutation takes it off its position too: the
first floor does not tell a position from a compound, the second measures what position alone transfers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.retrieval.arrays import Bools, Profiles, as_profiles
from sdvae_ray.retrieval.ranking.average_precision import AveragePrecision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.ranking.similarity import Distance
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.permutations import Texts, permuted_rows
from sdvae_ray.retrieval.tasks.activity_tables import NO_CONTROLS, NO_TREATED, OK, ZERO_NORM
from sdvae_ray.retrieval.tasks.groups import score_groups
from sdvae_ray.retrieval.tasks.transfer_pairs import ACTIVITY, NUMBERS, SCHEMA, TASKS, Pair
from sdvae_ray.retrieval.tasks.well_table import POSITION, ROW, checked_wells, in_play, well_name

# Why something has no number, beside no_treated, no_controls and zero_norm.
NO_COMPOUND = "no_shared_compound"  # no compound is in both groups
ONE_COMPOUND = "one_compound"  # the target has no other compound
TOO_FEW_WELLS = "too_few_wells"  # mAP but no fraction retrieved: no p can reach the threshold
NOT_PERMUTABLE = "one_compound_per_plate"  # permuting the compounds of a plate changes nothing
NO_POSITION = "no_shared_position"  # no position has a control in both groups
ONE_POSITION = "one_position"  # all controls of the target are at one

_MEANS = {"map": "mean_map", "normalised_map": "mean_normalised_map"}


@dataclass(frozen=True)
class Posing:
    """The controls that pose in the position floor: their features (W, D), of a fit on other controls, and their mask `wells`
    (W,).
    """

    features: ArrayLike
    wells: ArrayLike


def transfer(
    features: ArrayLike,
    wells: pl.DataFrame,
    pair: Pair,
    chance: Chance,
    *,
    posing: Posing | None = None,
    position: str = "Metadata_Well",
    key: Sequence[str] = ("well_id",),
    repeats: int = 3,
) -> pl.DataFrame:
    """Return the scores of both tasks in both directions: four rows of SCHEMA.

    The rows depend on the wells and the seed alone, not on the order of rows. features: (W, D) finite numbers; both groups must
    be normalised together. wells: W rows, see `checked_wells`; every group is one of the pair's. position: the column with a
    well's position on its plate. key: the columns that together name a well. repeats: permutations of the compounds. p-values
    are those of copairs' null.

    posing: None: every control poses in `features`. That is right if no control had a part in a fit (score.fit half, or no step
    that whitens). Whitening by n wells along about n axes makes exactly these wells unlike each other at every position, and
    the floor would see no position effect.

    queries: wells with an AP. groups: compounds scored (position_groups: positions); the means are taken over them. floor_*:
    means over the repeats. The rank lists of both tasks and of the positions differ in length, so compare their normalised mAP.
    zero_norm: treated and control wells that are left out because they have no direction. status, floor_status,
    position_status: "ok" or the reason.

    Raises DataError for features that are not finite; ValueError for repeats < 1, for a well of another group, for another
    number of rows than wells, and for a table that `checked_wells` refuses.
    """
    if repeats < 1:
        raise ValueError(f"floors need at least 1 repeat, not {repeats}")
    table = checked_wells(wells, key, position)
    strangers = table.filter(~pl.col("group").is_in([pair.first, pair.second]))
    if len(strangers):
        raise ValueError(f"well {well_name(strangers)} is in neither group, {pair.first} or {pair.second}")
    table = in_play(table)
    rows = table[ROW].to_numpy()

    def scorer_of(profiles: ArrayLike) -> _Scorer:
        x = as_profiles(profiles)
        if len(x) != len(wells):
            raise ValueError(f"profiles of shape {x.shape} came with {len(wells)} wells; one row per well is needed")
        return _Scorer(x[rows], _has_direction(x[rows], chance.distance), chance)

    scorer, poses = scorer_of(features), table["is_control"].to_numpy()
    position_scorer = scorer if posing is None else scorer_of(posing.features)
    if posing is not None:
        poses = poses & np.asarray(posing.wells, dtype=bool)[rows]
    head = {"column": pair.column, "zero_norm": int((~scorer.usable).sum())}
    ways = (_one_way(table, scorer, position_scorer, poses, *way, repeats) for way in pair.ways)
    return pl.DataFrame([{**head, **row} for way in ways for row in way], schema=SCHEMA)


def _one_way(
    table: pl.DataFrame,
    scorer: "_Scorer",
    position_scorer: "_Scorer",
    poses: Bools,
    source: str,
    target: str,
    repeats: int,
) -> Iterator[dict[str, Any]]:
    """Yield one row for each task. poses: (W,) bool, the controls that pose; `position_scorer` scores them."""
    treated, control = table["is_treated"].to_numpy(), table["is_control"].to_numpy()
    names = ("compound", "plate", "group", POSITION)
    compound, plate, group, position = (table[name].fill_null("").to_numpy().astype(str) for name in names)
    here, there = group == source, group == target
    movable = treated & there & scorer.usable
    permuted = [
        compound[permuted_rows(plate, movable, "transfer", scorer.chance.seed, target, repeat)]
        for repeat in range(repeats)
    ]
    can_permute = any(len(np.unique(compound[movable & (plate == name)])) > 1 for name in np.unique(plate[movable]))
    at_position = position_scorer.score(
        _Lists(poses & here, poses & there, None, (NO_CONTROLS, NO_POSITION, ONE_POSITION)), position
    )
    for task in TASKS:
        negatives, lacking = (control & there, NO_CONTROLS) if task == ACTIVITY else (None, ONE_COMPOUND)
        lists = _Lists(treated & here, treated & there, negatives, (NO_TREATED, NO_COMPOUND, lacking))
        score = scorer.score(lists, compound)
        floor: dict[str, Any] = {"status": NOT_PERMUTABLE}
        if can_permute or "map" not in score:
            floor = _mean([scorer.score(lists, labels) for labels in permuted])
        yield {
            "source": source,
            "target": target,
            "task": task,
            **{_MEANS.get(name, name): value for name, value in score.items()},
            **{f"floor_{name}": floor.get(name) for name in (*NUMBERS, "status")},
            **{f"position_{name}": at_position.get(name) for name in ("groups", *NUMBERS, "status")},
        }


@dataclass(frozen=True)
class _Lists:
    """The roles of the wells in the rank lists, as masks (W,). A query's positives are the wells of `positives` with its label.

    negatives: None: the wells of `positives` with other labels. reasons: why there is no score, three texts: without a query or
    a well of `positives`; without a label that both have; without a negative.
    """

    queries: Bools
    positives: Bools
    negatives: Bools | None
    reasons: tuple[str, str, str]


@dataclass(frozen=True)
class _Scorer:
    """The profiles x (W, D) and how to score rank lists of them. Wells that are not usable (W,) have no direction and are left
    out.
    """

    x: Profiles
    usable: Bools
    chance: Chance

    def score(self, lists: _Lists, labels: Texts) -> dict[str, Any]:
        """Return queries, groups, map, normalised_map, fraction_retrieved and status; only the status if there is no score."""
        nobody, nothing_shared, no_negative = lists.reasons
        queries, positives = lists.queries & self.usable, lists.positives & self.usable
        if not (queries.any() and positives.any()):
            return {"status": ZERO_NORM if lists.queries.any() and lists.positives.any() else nobody}
        queries &= np.isin(labels, labels[positives])
        if not queries.any():
            return {"status": nothing_shared}
        negatives = np.zeros_like(queries) if lists.negatives is None else lists.negatives & self.usable
        if not negatives.any() and (lists.negatives is not None or len(np.unique(labels[positives])) < 2):
            return {"status": no_negative}
        listed = queries | positives | negatives
        table = pl.DataFrame({"label": labels[listed], "is_query": queries[listed], "is_negative": negatives[listed]})
        rules = PairRules(
            pos_sameby=["label", "is_negative"],
            pos_diffby=["is_query"],
            neg_diffby=["is_query", "label" if lists.negatives is None else "is_negative"],
        )
        scores = score_groups(self.x[listed], table, rules, table["label"], self.chance, queries[listed])
        groups, possible = scores.groups, _can_reject(scores.lists, self.chance)
        return {
            "queries": int(groups["replicates"].sum()),
            "groups": groups.height,
            "map": groups["map"].mean(),
            "normalised_map": groups["normalised_map"].mean(),
            "fraction_retrieved": groups["retrieved"].mean() if possible else None,
            "status": OK if possible else TOO_FEW_WELLS,
        }


def _can_reject(lists: AveragePrecision, chance: Chance) -> bool:
    """Return whether a rank list has enough orders for its p to reach the threshold."""
    lengths = {(int(m), int(n)) for m, n in zip(lists.positives, lists.negatives, strict=True) if m and n}
    return max(min(comb(m + n, m), chance.null_size + 1) for m, n in lengths) >= 1 / chance.threshold


def _mean(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of the numbers over the repeats. Their status is one: all repeats have the same rank lists."""
    means = pl.DataFrame(repeats, schema=dict.fromkeys(NUMBERS, pl.Float64)).mean().row(0, named=True)
    return {**means, "status": repeats[0]["status"]}


def _has_direction(x: Profiles, distance: Distance) -> Bools:
    if distance == "euclidean":
        return np.ones(len(x), dtype=bool)
    return np.asarray((x != (x[:, :1] if distance == "correlation" else 0)).any(axis=1))
