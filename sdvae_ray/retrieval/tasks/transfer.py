"""Transfer: a treated well of one group, such as a cell line or a time, queries the wells of another.

transfer_activity         its compound's wells there against the negative controls there
transfer_distinctiveness  its compound's wells there against the treated wells of all other compounds there

The negatives are of the whole target, for a query is on none of its plates. Beside each score stand two floors, by the same code:

floor     compounds permuted among the treated wells of each plate of the target: what treated wells have in common, and the
          leak of a fit into the negatives
position  control wells query the controls at their own position in the target against those at its other positions

A compound is mostly at the same position in both groups (PROTOCOL F4), and a permutation takes it off its position too: the
first floor does not tell a position from a compound, the second measures what position alone transfers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.ranking.average_precision import Ties
from sdvae_ray.retrieval.ranking.by_rules import matched_average_precision
from sdvae_ray.retrieval.ranking.similarity import Distance
from sdvae_ray.retrieval.significance.p_values import Floats
from sdvae_ray.retrieval.significance.permutations import Mask, Texts, permuted_rows
from sdvae_ray.retrieval.tasks.activity import NO_CONTROLS, NO_TREATED, OK, ZERO_NORM
from sdvae_ray.retrieval.tasks.groups import score_groups
from sdvae_ray.retrieval.tasks.transfer_pairs import ACTIVITY, NUMBERS, SCHEMA, TASKS, Pair

# Why something has no number, beside no_treated, no_controls and zero_norm.
NO_COMPOUND = "no_shared_compound"  # no compound is in both groups
ONE_COMPOUND = "one_compound"  # the target has no other compound
TOO_FEW_WELLS = "too_few_wells"  # mAP but no fraction retrieved: no p can reach the threshold
NOT_PERMUTABLE = "one_compound_per_plate"  # permuting the compounds of a plate changes nothing
NO_POSITION = "no_shared_position"  # no position has a control in both groups
ONE_POSITION = "one_position"  # all controls of the target are at one

_ROW, _NAME, _POSITION = "_row", "_name", "_position"
_MEANS = {"map": "mean_map", "normalised_map": "mean_normalised_map"}


@dataclass(frozen=True)
class Posing:
    """Where the position floor is measured: features (W, D) of a fit on other controls, and which (W,) controls pose."""

    features: ArrayLike
    wells: ArrayLike


def transfer(
    features: ArrayLike,
    wells: pl.DataFrame,
    pair: Pair,
    *,
    posing: Posing | None = None,
    position: str = "Metadata_Well",
    key: Sequence[str] = ("well_id",),
    distance: Distance = "cosine",
    ties: Ties = "average",
    null_size: int = 10_000,
    seed: int = 0,
    strict: bool = False,
    threshold: float = 0.05,
    exact: bool = False,
    repeats: int = 3,
) -> pl.DataFrame:
    """Return both tasks both ways, four rows of SCHEMA: a pure function of the wells and the seed, whatever the order of rows.

    features: (W, D) finite, both groups in one space: normalised together. wells: W rows with the `key` columns, `compound`,
    `plate`, `group` (one of the pair's), `is_control` and `is_treated` (the wells that are not controls if absent). position: the
    column that says where on its plate a well is. repeats: permutations of the compounds; p: copairs' null
    (exact: see inference.arrangement_p_values).

    posing: without it, every control poses in `features`. That is right where they had no part in a fit (score.fit half, or no
    step that whitens): whitening by n wells along about n axes makes these wells, and no others, unlike each other at every
    position, and the floor sees no position effect there is.

    queries: wells with an AP. groups: compounds scored (position_groups: positions), over which means are taken. floor_*: means
    over the repeats. The lists of both tasks and of the positions differ in length, so normalised mAP is what compares. zero_norm:
    treated and control wells left out for having no direction. status, floor_status, position_status: "ok" or the reason.

    Raises DataError for a missing column, a well of another group or in two roles, repeated keys, a treated well without a
    compound, a well without a position, and features that are not finite.
    """
    if repeats < 1:
        raise DataError(f"floors need at least 1 repeat, not {repeats}")
    frame = _in_play(wells, pair, position, key)
    rows, ranking = frame[_ROW].to_numpy(), {"distance": distance, "ties": ties}
    chance = {"null_size": null_size, "seed": seed, "strict": strict, "threshold": threshold, "exact": exact}

    def space_of(profiles: ArrayLike) -> _Space:
        x = np.asarray(profiles)
        if x.ndim != 2 or len(x) != len(wells):
            raise DataError(f"profiles of shape {x.shape} came with {len(wells)} wells; one row per well is needed")
        return _Space(x[rows], _has_direction(x[rows], distance), ranking, chance)

    space, poses = space_of(features), frame["is_control"].to_numpy()
    apart = space if posing is None else space_of(posing.features)
    if posing is not None:
        poses = poses & np.asarray(posing.wells, dtype=bool)[rows]
    head = {"column": pair.column, "zero_norm": int((~space.usable).sum())}
    ways = (_one_way(frame, space, apart, poses, *way, repeats) for way in pair.ways)
    return pl.DataFrame([{**head, **row} for way in ways for row in way], schema=SCHEMA)


def _one_way(
    frame: pl.DataFrame, space: _Space, apart: _Space, poses: Mask, source: str, target: str, repeats: int
) -> Iterator[dict[str, Any]]:
    """The row of each task; `poses` (W,) are the controls that pose, in the space `apart`."""
    treated, control = frame["is_treated"].to_numpy(), frame["is_control"].to_numpy()
    names = ("compound", "plate", "group", _POSITION)
    compound, plate, group, position = (frame[name].fill_null("").to_numpy().astype(str) for name in names)
    here, there = group == source, group == target
    movable = treated & there & space.usable
    permuted = [
        compound[permuted_rows(plate, movable, "transfer", space.chance["seed"], target, repeat)]
        for repeat in range(repeats)
    ]
    can_permute = any(len(np.unique(compound[movable & (plate == name)])) > 1 for name in np.unique(plate[movable]))
    at_position = apart.ask(
        _Question(poses & here, poses & there, None, (NO_CONTROLS, NO_POSITION, ONE_POSITION)), position
    )
    for task in TASKS:
        against, lacking = (control & there, NO_CONTROLS) if task == ACTIVITY else (None, ONE_COMPOUND)
        question = _Question(treated & here, treated & there, against, (NO_TREATED, NO_COMPOUND, lacking))
        score = space.ask(question, compound)
        floor: dict[str, Any] = {"status": NOT_PERMUTABLE}
        if can_permute or "map" not in score:
            floor = _mean([space.ask(question, labels) for labels in permuted])
        yield {
            "source": source,
            "target": target,
            "task": task,
            **{_MEANS.get(name, name): value for name, value in score.items()},
            **{f"floor_{name}": floor.get(name) for name in (*NUMBERS, "status")},
            **{f"position_{name}": at_position.get(name) for name in ("groups", *NUMBERS, "status")},
        }


@dataclass(frozen=True)
class _Question:
    """(W,) masks: the wells `asked` query those `there` of their label against those in `against`, or of other labels there.

    reasons: where nobody asks or is there, where no label is on both sides, where there is no negative.
    """

    asked: Mask
    there: Mask
    against: Mask | None
    reasons: tuple[str, str, str]


@dataclass(frozen=True)
class _Space:
    """x: (W, D). usable: (W,). ranking: distance and ties. chance: what score_groups is asked."""

    x: Floats
    usable: Mask
    ranking: dict[str, Any]
    chance: dict[str, Any]

    def ask(self, question: _Question, labels: Texts) -> dict[str, Any]:
        """queries, groups, map, normalised_map, fraction_retrieved and status; the status alone where nothing can be scored."""
        nobody, nothing_shared, no_negative = question.reasons
        asked, there = question.asked & self.usable, question.there & self.usable
        if not (asked.any() and there.any()):
            return {"status": ZERO_NORM if question.asked.any() and question.there.any() else nobody}
        asked &= np.isin(labels, labels[there])
        if not asked.any():
            return {"status": nothing_shared}
        against = np.zeros_like(asked) if question.against is None else question.against & self.usable
        if not against.any() and (question.against is not None or len(np.unique(labels[there])) < 2):
            return {"status": no_negative}
        played = asked | there | against
        table = pl.DataFrame({"label": labels[played], "asked": asked[played], "against": against[played]})
        found = matched_average_precision(
            self.x[played],
            table,
            pos_sameby=["label", "against"],
            pos_diffby=["asked"],
            neg_sameby=[],
            neg_diffby=["asked", "label" if question.against is None else "against"],
            queries=asked[played],
            **self.ranking,
        )
        groups = score_groups(found, table["label"].gather(found.well), **self.chance)
        lists = {(int(m), int(n)) for m, n in zip(found.positives, found.negatives, strict=True) if m and n}
        orders = max(min(comb(m + n, m), self.chance["null_size"] + 1) for m, n in lists)
        possible = orders >= 1 / self.chance["threshold"]
        return {
            "queries": int(groups["replicates"].sum()),
            "groups": groups.height,
            "map": groups["map"].mean(),
            "normalised_map": groups["normalised_map"].mean(),
            "fraction_retrieved": groups["retrieved"].mean() if possible else None,
            "status": OK if possible else TOO_FEW_WELLS,
        }


def _mean(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the numbers; the status is that of all repeats, for they have the same lists."""
    means = pl.DataFrame(repeats, schema=dict.fromkeys(NUMBERS, pl.Float64)).mean().row(0, named=True)
    return {**means, "status": repeats[0]["status"]}


def _has_direction(x: Floats, distance: Distance) -> Mask:
    if distance == "euclidean":
        return np.ones(len(x), dtype=bool)
    return np.asarray((x != (x[:, :1] if distance == "correlation" else 0)).any(axis=1))


def _in_play(wells: pl.DataFrame, pair: Pair, position: str, key: Sequence[str]) -> pl.DataFrame:
    """Treated and control wells in the order of their names, so that no draw depends on that of the rows."""
    texts = list(dict.fromkeys([*key, "compound", "plate", "group", position]))
    for column in (*texts, "is_control"):
        if column not in wells.columns:
            raise DataError(f"the table of wells has no column {column!r}{did_you_mean(column, wells.columns)}")
    treated = pl.col("is_treated") if "is_treated" in wells.columns else ~pl.col("is_control")
    frame = wells.with_columns(is_treated=treated).with_columns(
        pl.col(texts).cast(pl.String), pl.col("is_control", "is_treated").cast(pl.Boolean).fill_null(False)
    )
    name = pl.concat_str(pl.col(*key), separator="/").alias(_NAME)
    frame = frame.with_columns(name, pl.col(position).alias(_POSITION)).with_row_index(_ROW)
    frame = frame.filter(pl.col("is_control") | pl.col("is_treated")).sort("group", _NAME)
    for wrong, what in (
        (pl.any_horizontal(pl.col(_NAME, "plate", _POSITION).is_null()), "has no key, plate or position"),
        (
            ~pl.col("group").is_in([pair.first, pair.second]).fill_null(False),
            f"is in neither group, {pair.first} or {pair.second}",
        ),
        (pl.col("is_control") & pl.col("is_treated"), "is both a control and treated; it can be one of the two"),
        (pl.col("is_treated") & pl.col("compound").is_null(), "is treated but has no compound"),
        (pl.struct(*key).is_duplicated(), "appears more than once; profiles are one row per well"),
    ):
        rows = frame.filter(wrong)
        if len(rows):
            raise DataError(f"well {rows[_NAME][0]} {what} ({len(rows)} such rows)")
    return frame
