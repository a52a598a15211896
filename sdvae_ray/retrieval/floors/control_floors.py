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
from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.floors.floor_tables import POSES, SCHEMA, Ways, poses_table, summary
from sdvae_ray.retrieval.floors.geometry import place_poses, shuffled_labels
from sdvae_ray.retrieval.normalisation.normalise import Step, normalise, resolve_steps
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.permutations import Texts, halves, permuted_rows
from sdvae_ray.retrieval.significance.splits import control_splits
from sdvae_ray.retrieval.tasks.activity import NO_CONTROLS, NO_TREATED, OK, Activity, Negatives, phenotypic_activity
from sdvae_ray.retrieval.tasks.well_table import NAME, POSITION, ROW, checked_wells, in_play

Normalise = Callable[[Bools], Profiles]  # a group's wells to fit on, (W,) -> its normalised profiles (W, D')

ESTIMATES = ("full", "half_same", "half_other")
POSING = ("posing", "posing_shuffled")
FLOORS = (*POSING, "labels_within_treated", "labels_within_all", "position_matched")
QUANTITIES = (*ESTIMATES, *FLOORS)
_PARTS = 4  # of the poses: one poses, the controls at all other positions are the fit and the negatives

# Why a quantity has no number, beside the reasons of activity.py.
TOO_FEW_CONTROLS = "too_few_controls"  # to be split, for a step of the fit, or for any p to reach the threshold
ONE_LAYOUT = "one_layout"  # the controls are at the same positions on every plate
NOT_NORMALISED = "not_normalised"  # a step cannot be fitted for another reason, such as controls that do not differ
NO_GEOMETRY = "no_geometry"  # nowhere do controls stand as a compound's wells do: the position effect is unknown


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
    crossed: bool = False,
) -> pl.DataFrame:
    """Return the table of floors: one row for every group and every quantity, in the order of QUANTITIES.

    The table depends on the wells and the seed alone, not on the order of rows. features: (W, D) finite numbers, before
    normalisation. wells: W rows, see `checked_wells`. steps: the normalisation, as `normalise` takes it. chance, negatives: see
    `phenotypic_activity`. position: the column with a well's position on its plate ("A01"). key: the columns that together name
    a well. repeats: how often the control positions are split, poses placed and labels permuted. crossed: the score's fit and
    negatives share no control; then labels are permuted in a split too. In posing they never share one.

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
        own, plate = x[members[ROW].to_numpy()], members["plate"].to_numpy().astype(str)
        tables.append(_floors(_normaliser(own, plate, steps), members, chance, negatives, repeats, crossed, None).table)
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
    crossed: bool = False,
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

    return _floors(of_members, members, chance, negatives, repeats, crossed, cut)


def _normaliser(x: Profiles, plate: Texts, steps: str | Sequence[Step]) -> Normalise:
    return lambda fit: normalise(x, fit, plate, steps).features


def _floors(
    normalised: Normalise,
    members: pl.DataFrame,
    chance: Chance,
    negatives: Negatives,
    repeats: int,
    crossed: bool,
    cut: float | None,
) -> Floors:
    """Return the floors of one group; members: its wells in play, in the order of their names."""
    if repeats < 1:
        raise ValueError(f"floors need at least 1 repeat, not {repeats}")
    if not len(members):
        return Floors(pl.DataFrame(schema=SCHEMA), pl.DataFrame(schema=POSES))
    name = str(members["group"][0])
    runs = _runs(_Group(name, normalised, members.drop(ROW), chance, negatives), repeats, crossed, cut)
    rows = [{"group": name, "quantity": quantity, **summary(runs[quantity])} for quantity in QUANTITIES]
    return Floors(pl.DataFrame(rows, schema=SCHEMA, orient="row"), poses_table(name, runs["posing"]))


@dataclass(frozen=True)
class _Group:
    """Treated and control wells of one group, in the order of their names, and how they are scored."""

    name: str
    normalise: Normalise
    wells: pl.DataFrame
    chance: Chance
    negatives: Negatives

    @property
    def control(self) -> Bools:
        return self.wells["is_control"].to_numpy()

    @property
    def treated(self) -> Bools:
        return self.wells["is_treated"].to_numpy()

    @property
    def plate(self) -> Texts:
        return self.wells["plate"].to_numpy().astype(str)

    @property
    def position(self) -> Texts:
        return self.wells[POSITION].to_numpy().astype(str)

    def profiles(self, fit: Bools) -> Profiles | str:
        """Return the profiles (W, D') normalised by a fit on the wells of `fit` (W,), or the reason why they cannot be
        normalised.
        """
        try:
            return self.normalise(fit)
        except DataError:
            if not self.control.any():
                return NO_CONTROLS
            fewest = min(int(fit[self.plate == plate].sum()) for plate in np.unique(self.plate))
            return TOO_FEW_CONTROLS if fewest < 2 else NOT_NORMALISED

    def activity(
        self, profiles: Profiles | str, negatives: Bools, queries: Bools, labels: Texts | None = None
    ) -> Activity | str:
        """Return the score of `queries` against `negatives`, both (W,); labels (W,), if given, replace the compounds. `profiles`
        may be the reason why there are no profiles; that reason comes back."""
        if isinstance(profiles, str):
            return profiles
        wells = self.wells.with_columns(is_control=pl.Series(negatives), is_treated=pl.Series(queries))
        if labels is not None:
            wells = wells.with_columns(compound=pl.Series(labels))
        playing = negatives | queries
        profiles, wells = profiles[playing], wells.filter(pl.Series(playing))
        return phenotypic_activity(profiles, wells, self.chance, key=(NAME,), negatives=self.negatives)


def _runs(group: _Group, repeats: int, crossed: bool, cut: float | None) -> dict[str, list[Ways]]:
    """Return the scores of every quantity, one list for every repeat."""
    runs: dict[str, list[Ways]] = {quantity: [] for quantity in QUANTITIES}
    whole = group.profiles(group.control)
    full = group.activity(whole, group.control, group.treated)
    runs["full"] = [[full]]
    if cut is None:
        cut = 0.0 if isinstance(full, str) else full.cut(group.chance.threshold)
    for repeat in range(repeats):
        (fit, profiles), _ = halves_fitted = _halves(group, repeat)
        scored_in = (profiles, group.control & ~fit) if crossed else (whole, group.control)
        if repeat == 0:
            runs["position_matched"] = [[_matched(group, *scored_in)]]
        for quantity, ways in {
            **_estimates(group, halves_fitted),
            **_posing(group, repeat, cut),
            **_permuted_labels(group, repeat, *scored_in, crossed),
        }.items():
            runs[quantity].append(ways)
    return runs


_Fitted = tuple[Bools, Profiles | str]  # the controls of a fit (W,), and the profiles or the reason why there are none


def _halves(group: _Group, repeat: int) -> tuple[_Fitted, _Fitted]:
    """Return both halves of the control positions as fits."""
    both = halves(np.unique(group.position[group.control]), group.chance.seed, group.name, repeat)
    first, second = (group.control & np.isin(group.position, half) for half in both)
    return (first, _profiles(group, first)), (second, _profiles(group, second))


def _profiles(group: _Group, fit: Bools) -> Profiles | str:
    if not group.control.any():
        return NO_CONTROLS
    return group.profiles(fit) if fit.any() else TOO_FEW_CONTROLS


def _estimates(group: _Group, both: tuple[_Fitted, _Fitted]) -> dict[str, Ways]:
    """Return the scores of the halves against themselves and against each other, for one split of the control positions."""
    scores: dict[str, Ways] = {"half_same": [], "half_other": []}
    for (fit, profiles), (rest, _) in (both, both[::-1]):
        scores["half_same"].append(group.activity(profiles, fit, group.treated))
        scores["half_other"].append(group.activity(profiles, rest, group.treated))
    return scores


def _posing(group: _Group, repeat: int, cut: float) -> dict[str, Ways]:
    """Return the scores of posing controls: a part of the poses at a time, in a fit on half of the controls at other positions."""
    key = (group.chance.seed, group.name, repeat)
    if not group.control.any() or not group.treated.any():
        return {name: [NO_CONTROLS if group.treated.any() else NO_TREATED] for name in POSING}
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
        profiles: Profiles | str = TOO_FEW_CONTROLS
        negatives = rest
        try:
            (split,) = control_splits(group.position, group.plate, rest, 1, *key)
        except DataError:
            pass
        else:
            profiles, negatives = group.profiles(split.fit), split.negatives
        rows = np.concatenate([pose.rows for pose in poses])
        queries = np.zeros(len(group.wells), dtype=bool)
        queries[rows] = True
        labels = np.full(len(group.wells), "", dtype=object)
        for pose in poses:
            labels[pose.rows] = pose.label
        shuffled = labels.copy()
        for row, label in shuffled_labels(poses, group.plate, *key).items():
            shuffled[row] = label
        for name, names in zip(POSING, (labels, shuffled), strict=True):
            scores[name].append(_at_cut(group.activity(profiles, negatives, queries, names), cut))
    return scores


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


def _permuted_labels(
    group: _Group, repeat: int, profiles: Profiles | str, negatives: Bools, crossed: bool
) -> dict[str, Ways]:
    """Return the scores with permuted labels; profiles, negatives: of the score that keeps its fit."""
    key = (group.chance.seed, group.name, repeat)
    rows = permuted_rows(group.plate, group.treated, "labels_within_treated", *key)
    labels = group.wells["compound"].to_numpy()[rows]
    treated = group.activity(profiles, negatives, group.treated, labels)
    rows = permuted_rows(group.plate, group.control | group.treated, "labels_within_all", *key)
    other = replace(group, wells=group.wells.with_columns(group.wells[rows].select("compound", "is_control", "is_treated")))
    fit, rest = other.control, other.control
    if crossed and other.control.any():
        try:
            (split,) = control_splits(other.position, other.plate, other.control, 1, *key)
        except DataError:
            fit = np.zeros_like(fit)
        else:
            fit, rest = split.fit, split.negatives
    everyone = other.activity(_profiles(other, fit), rest, other.treated)
    return {"labels_within_treated": [treated], "labels_within_all": [everyone]}


def _matched(group: _Group, profiles: Profiles | str, negatives: Bools) -> Activity | str:
    """Return the score in which a control's position takes the part of its plate. The negatives of a query are the controls at its
    own position. Under the null, a compound's wells change places with these."""
    if not group.control.any():
        return NO_CONTROLS
    layouts = {frozenset(group.position[group.control & (group.plate == plate)]) for plate in np.unique(group.plate)}
    if len(layouts) == 1:
        return ONE_LAYOUT
    wells = group.wells.with_columns(plate=pl.col(POSITION))
    return replace(group, wells=wells, negatives="plate").activity(profiles, negatives, group.treated)
