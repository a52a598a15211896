"""Floors of a retrieval score: the number that the same code gives without an effect, or for position alone; and estimates.

One row per group and quantity. A quantity gives wells other roles (fit, negative, query) or other labels; then they are
normalised and scored by `phenotypic_activity`, as in the score. geometry.py places the poses, significance/permutations.py
draws, floor_tables.py makes the rows.

Estimates of what the fit does. They are no floors: the compounds keep their effects.
full                   fit on all controls, scored against all controls
half_same              fit on one half of the control positions, scored against the same half; once for each half
half_other             fit on one half, scored against the other half; once for each half. It differs from half_same by
                       the leak alone

Floors
posing                 control wells pose as compounds with the compounds' own geometry (geometry.py); no well of the fit and
                       no negative is at a position of a posing well. A pose is retrieved if its p is one that retrieves a compound
posing_shuffled        the same wells, but a compound's wells are of different poses: the difference is the position effect
labels_within_treated  compounds permuted among the treated wells of each plate
labels_within_all      compounds and roles permuted among the treated and control wells of each plate, before the fit
position_matched       scored against the controls at the query's own position on other plates
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Profiles
from sdvae_ray.retrieval.floors.floor_group import ONE_LAYOUT, FloorGroup, Normalise
from sdvae_ray.retrieval.floors.floor_tables import POSES, SCHEMA, Ways, poses_table, summary
from sdvae_ray.retrieval.floors.posing import POSING, posing
from sdvae_ray.retrieval.normalisation.normalise import Step, normalise, resolve_steps
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.permutations import halves, permuted_rows
from sdvae_ray.retrieval.significance.splits import control_splits
from sdvae_ray.retrieval.tasks.activity import Negatives
from sdvae_ray.retrieval.tasks.activity_tables import NO_CONTROLS, Activity
from sdvae_ray.retrieval.tasks.well_table import POSITION, ROW, checked_wells, in_play

ESTIMATES = ("full", "half_same", "half_other")
FLOORS = (*POSING, "labels_within_treated", "labels_within_all", "position_matched")
QUANTITIES = (*ESTIMATES, *FLOORS)


@dataclass(frozen=True)
class Floors:
    """table: see `floors`. poses: one row per pose: group, pose (its plates and positions), retrieved in [0, 1] and
    normalised_map, means over the repeats; both null if the pose had no p."""

    table: pl.DataFrame
    poses: pl.DataFrame


def floors(
    features: ArrayLike,
    wells: pl.DataFrame,
    steps: str | Sequence[Step],
    chance: Chance,
    *,
    position: str = "Metadata_Well",
    key: Sequence[str] = ("well_id",),
    negatives: Negatives = "plate",
    repeats: int = 3,
    splits: int = 0,
) -> pl.DataFrame:
    """Return the table of floors: one row for every group and every quantity, in the order of QUANTITIES.

    The table depends on the wells and the seed alone, not on the order of rows. features: (W, D) finite numbers, before
    normalisation. wells: W rows, see `checked_wells`. steps: the normalisation, as `normalise` takes it. chance, negatives: see
    `phenotypic_activity`. position: the column with a well's position on its plate ("A01"). key: the columns that together name
    a well. repeats: how often the control positions are split, poses placed and labels permuted. splits: of the
    controls for the score; posing has as many if it can, and labels are permuted in one. 0: the score's fit is on the negatives,
    and so is that of permuted labels; in posing no fit ever is.

    Columns: group and quantity. fraction_retrieved in [0, 1], mean_map and mean_normalised_map: means over the repeats. In a
    repeat the number is the mean over compounds; a compound that is scored twice in a repeat, once for each half of the
    controls, counts with the mean of both scores. lowest, highest: the extremes of fraction_retrieved over the repeats.
    compounds_scored (compounds with a p-value), retrieved (compounds), queries (wells with an AP): means over the repeats.
    negatives: the median number of negatives of a query. repeats: how many repeats gave a fraction_retrieved. status: "ok", or
    why fraction_retrieved is null; then repeats is 0.

    Features that are not finite or cannot be normalised give a status, not an error. Raises ConfigError for unknown steps;
    ValueError for a table that `checked_wells` refuses, another number of rows than wells, repeats < 1, or a distance other
    than cosine.
    """
    resolve_steps(steps)
    x = np.asarray(features, dtype=np.float64)
    if len(x) != len(wells):
        raise ValueError(f"profiles of shape {x.shape} came with {len(wells)} wells; one row per well is needed")
    tables = []
    for _, members in in_play(checked_wells(wells, key, position)).group_by("group", maintain_order=True):
        own = x[members[ROW].to_numpy()]
        tables.append(
            _floors(_normaliser(own, members, steps), members, chance, negatives, repeats, splits, None).table
        )
    return pl.concat(tables) if tables else pl.DataFrame(schema=SCHEMA)


def floors_in(
    normalised: Callable[[Bools, Bools], Profiles],
    wells: pl.DataFrame,
    chance: Chance,
    *,
    position: str = "Metadata_Well",
    key: Sequence[str] = ("well_id",),
    negatives: Negatives = "plate",
    repeats: int = 3,
    splits: int = 0,
    cut: float | None = None,
) -> Floors:
    """Return the floors of one group of wells; a function of the caller reads and normalises the profiles.

    normalised(fit, in_play) takes two masks (W,) and returns the profiles (W, D') of all `wells`, normalised by a fit on the
    wells of `fit`; a step with `fit: all` is fitted on the wells of `in_play`. A DataError from it becomes a status. cut: the p up
    to which the score retrieves a compound (`Activity.cut`); None: that of the quantity `full`. The other arguments: see `floors`.
    """
    members = in_play(checked_wells(wells, key, position))
    rows = members[ROW].to_numpy()
    playing = np.zeros(wells.height, dtype=bool)
    playing[rows] = True

    def of_members(fit: Bools) -> Profiles:
        fitted = np.zeros(wells.height, dtype=bool)
        fitted[rows[fit]] = True
        return normalised(fitted, playing)[rows]

    return _floors(of_members, members, chance, negatives, repeats, splits, cut)


def _normaliser(x: Profiles, members: pl.DataFrame, steps: str | Sequence[Step]) -> Normalise:
    plate, place = (members[name].to_numpy().astype(str) for name in ("plate", POSITION))
    return lambda fit: normalise(x, fit, plate, steps, position=place).features


def _floors(
    normalised: Normalise,
    members: pl.DataFrame,
    chance: Chance,
    negatives: Negatives,
    repeats: int,
    splits: int,
    cut: float | None,
) -> Floors:
    """Return the floors of one group; members: its wells in play, in the order of their names."""
    if repeats < 1:
        raise ValueError(f"floors need at least 1 repeat, not {repeats}")
    if not len(members):
        return Floors(pl.DataFrame(schema=SCHEMA), pl.DataFrame(schema=POSES))
    name = str(members["group"][0])
    runs = _runs(FloorGroup(name, normalised, members.drop(ROW), chance, negatives), repeats, splits, cut)
    rows = [{"group": name, "quantity": quantity, **summary(runs[quantity])} for quantity in QUANTITIES]
    return Floors(pl.DataFrame(rows, schema=SCHEMA, orient="row"), poses_table(name, runs["posing"]))


def _runs(group: FloorGroup, repeats: int, splits: int, cut: float | None) -> dict[str, list[Ways]]:
    """Return the scores of every quantity, one list for every repeat."""
    runs: dict[str, list[Ways]] = {quantity: [] for quantity in QUANTITIES}
    whole = group.profiles(group.control)
    full = group.activity(whole, group.control, group.treated)
    runs["full"] = [[full]]
    if cut is None:
        cut = 0.0 if isinstance(full, str) else full.cut(group.chance.threshold)
    for repeat in range(repeats):
        (fit, profiles), _ = halves_fitted = _halves(group, repeat)
        scored_in = (profiles, group.control & ~fit) if splits else (whole, group.control)
        if repeat == 0:
            runs["position_matched"] = [[_matched(group, *scored_in)]]
        for quantity, ways in {
            **_estimates(group, halves_fitted),
            **posing(group, repeat, cut, splits),
            **_permuted_labels(group, repeat, *scored_in, splits > 0),
        }.items():
            runs[quantity].append(ways)
    return runs


_Fitted = tuple[Bools, Profiles | str]  # the controls of a fit (W,), and the profiles or the reason why there are none


def _halves(group: FloorGroup, repeat: int) -> tuple[_Fitted, _Fitted]:
    """Return both halves of the control positions as fits."""
    both = halves(np.unique(group.position[group.control]), group.chance.seed, group.name, repeat)
    first, second = (group.control & np.isin(group.position, half) for half in both)
    return (first, group.fitted_on(first)), (second, group.fitted_on(second))


def _estimates(group: FloorGroup, both: tuple[_Fitted, _Fitted]) -> dict[str, Ways]:
    """Return the scores of the halves against themselves and against each other, for one split of the control positions."""
    scores: dict[str, Ways] = {"half_same": [], "half_other": []}
    for (fit, profiles), (rest, _) in (both, both[::-1]):
        scores["half_same"].append(group.activity(profiles, fit, group.treated))
        scores["half_other"].append(group.activity(profiles, rest, group.treated))
    return scores


def _permuted_labels(
    group: FloorGroup, repeat: int, profiles: Profiles | str, negatives: Bools, crossed: bool
) -> dict[str, Ways]:
    """Return the scores with permuted labels; profiles, negatives: of the score that keeps its fit."""
    key = (group.chance.seed, group.name, repeat)
    rows = permuted_rows(group.plate, group.treated, "labels_within_treated", *key)
    labels = group.wells["compound"].to_numpy()[rows]
    treated = group.activity(profiles, negatives, group.treated, labels)
    rows = permuted_rows(group.plate, group.control | group.treated, "labels_within_all", *key)
    other = replace(
        group, wells=group.wells.with_columns(group.wells[rows].select("compound", "is_control", "is_treated"))
    )
    fit, rest = other.control, other.control
    if crossed and other.control.any():
        try:
            (split,) = control_splits(other.position, other.plate, other.control, 1, *key)
        except DataError:
            fit = np.zeros_like(fit)
        else:
            fit, rest = split.fit, split.negatives
    everyone = other.activity(other.fitted_on(fit), rest, other.treated)
    return {"labels_within_treated": [treated], "labels_within_all": [everyone]}


def _matched(group: FloorGroup, profiles: Profiles | str, negatives: Bools) -> Activity | str:
    """Return the score in which a control's position takes the part of its plate. The negatives of a query are the controls at its
    own position. Under the null, a compound's wells change places with these."""
    if not group.control.any():
        return NO_CONTROLS
    layouts = {frozenset(group.position[group.control & (group.plate == plate)]) for plate in np.unique(group.plate)}
    if len(layouts) == 1:
        return ONE_LAYOUT
    wells = group.wells.with_columns(plate=pl.col(POSITION))
    return replace(group, wells=wells, negatives="plate").activity(profiles, negatives, group.treated)
