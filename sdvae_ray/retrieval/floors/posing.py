"""Posing: control wells are scored as compounds that stand as the compounds do (geometry.py), a part of them at a time.

No well of a fit and no negative is at a position of a posing well, and no negative has a part in its fit.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Bools
from sdvae_ray.retrieval.floors.floor_group import NO_GEOMETRY, TOO_FEW_CONTROLS, FloorGroup
from sdvae_ray.retrieval.floors.floor_tables import Ways
from sdvae_ray.retrieval.floors.geometry import Pose, place_poses, shuffled_labels
from sdvae_ray.retrieval.significance.permutations import Texts
from sdvae_ray.retrieval.significance.splits import control_splits
from sdvae_ray.retrieval.tasks.activity_tables import NO_CONTROLS, NO_TREATED, OK, Activity

POSING = ("posing", "posing_shuffled")
_PARTS = 4  # of the poses: one poses, the controls at all other positions are the fits and the negatives


def posing(group: FloorGroup, repeat: int, cut: float, splits: int) -> dict[str, Ways]:
    """Return the scores of posing controls, and of the same wells with their poses shuffled; one for each part of the poses.

    cut: the p up to which a pose is retrieved. splits: of the other controls, as many as the score has; one if they are too few.
    """
    if not group.control.any() or not group.treated.any():
        return {name: [NO_CONTROLS if group.treated.any() else NO_TREATED] for name in POSING}
    key = (group.chance.seed, group.name, repeat)
    units = place_poses(group.wells, *key)
    if not units:
        return {name: [NO_GEOMETRY] for name in POSING}
    order = block_generator(key[0], "floors", "parts", group.name, block=repeat).permutation(len(units))
    scores: dict[str, Ways] = {name: [] for name in POSING}
    for number in range(min(_PARTS, len(units))):
        part = [units[at] for at in order[number::_PARTS]]
        poses = [pose for unit in part for pose in unit.poses]
        taken = [position for unit in part for position in unit.positions]
        rest = group.control & ~np.isin(group.position, taken)
        for name, way in zip(POSING, _scores(group, repeat, cut, poses, rest, splits), strict=True):
            scores[name].append(way)
    return scores


def _scores(
    group: FloorGroup, repeat: int, cut: float, poses: Sequence[Pose], rest: Bools, splits: int
) -> list[Activity | str]:
    """Return the scores of the poses and of the shuffled poses. rest: (W,) the controls at other positions."""
    key = (group.chance.seed, group.name, repeat)
    queries = np.zeros(len(group.wells), dtype=bool)
    queries[np.concatenate([pose.rows for pose in poses])] = True
    labels = _labels(len(queries), {row: pose.label for pose in poses for row in pose.rows.tolist()})
    shuffled = _labels(len(queries), shuffled_labels(poses, group.plate, *key))
    scores: list[Activity | str] = [TOO_FEW_CONTROLS] * len(POSING)
    for number in dict.fromkeys((max(splits, 1), 1)):
        try:
            parts = control_splits(group.position, group.plate, rest, number, *key)
        except DataError:
            continue
        spaces = [(group.fitted_on(part.fit), part.negatives) for part in parts]
        scores = [_at_cut(group.activity_over(spaces, queries, names), cut) for names in (labels, shuffled)]
        if any(not isinstance(way, str) and way.compounds["retrieved"].count() for way in scores):
            break
    return scores


def _labels(count: int, label_of_row: dict[int, str]) -> Texts:
    labels = np.full(count, "", dtype=object)
    for row, label in label_of_row.items():
        labels[row] = label
    return labels


def _at_cut(scores: Activity | str, cut: float) -> Activity | str:
    """Return the scores of poses, retrieved if p is at most the cut of the score. A correction of few poses among themselves
    would ask less or more of them than of the compounds."""
    if isinstance(scores, str):
        return scores
    possible = pl.col("least_p") <= cut
    compounds = scores.compounds.with_columns(
        retrieved=pl.when(possible).then(pl.col("p") <= cut),
        status=pl.when(pl.col("p").is_null()).then("status").when(possible).then(pl.lit(OK)).otherwise(
            pl.lit(TOO_FEW_CONTROLS)
        ),
    )  # fmt: skip
    return replace(scores, compounds=compounds)
