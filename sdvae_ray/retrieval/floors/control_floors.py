"""Floors of a retrieval score: the number that the same code gives without the leak, without an effect, or for position alone.

One row per group and quantity. A quantity gives wells other roles (fit, negative, query) or other labels; then they are
normalised and scored by `phenotypic_activity`, as in the score. significance/permutations.py draws, floor_tables.py makes
the rows.

full                   fit on all controls, scored against all controls: the score itself
half_same              fit on one half of the control positions, scored against the same half; once for each half
half_other             fit on one half, scored against the other half; once for each half. It differs from half_same by
                       the leak alone
posing_position        control wells pose as compounds: the controls at one position, on all plates, are one compound; no
                       well of the fit and no negative is at a position of a posing well
posing_shuffled        the same wells, but a compound's wells are at different positions: the difference is the position effect
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
from sdvae_ray.retrieval.floors.floor_tables import SCHEMA, Ways, summary
from sdvae_ray.retrieval.normalisation.normalise import Step, normalise, resolve_steps
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.permutations import (
    Texts,
    can_reject,
    halves,
    permuted_rows,
    quarters,
    shuffled_positions,
)
from sdvae_ray.retrieval.tasks.activity import NO_CONTROLS, Activity, Negatives, phenotypic_activity
from sdvae_ray.retrieval.tasks.well_table import NAME, POSITION, ROW, checked_wells, in_play

Normalise = Callable[[Bools], Profiles]  # a group's wells to fit on, (W,) -> its normalised profiles (W, D')

QUANTITIES = (
    "full", "half_same", "half_other", "posing_position", "posing_shuffled",
    "labels_within_treated", "labels_within_all", "position_matched",
)  # fmt: skip

# Why a quantity has no number, beside the reasons of activity.py.
TOO_FEW_CONTROLS = "too_few_controls"  # to be split, for a step of the fit, or for any p to reach the threshold
ONE_LAYOUT = "one_layout"  # the controls are at the same positions on every plate
NOT_NORMALISED = "not_normalised"  # a step cannot be fitted for another reason, such as controls that do not differ


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
) -> pl.DataFrame:
    """Return the table of floors: one row for every group and every quantity, in the order of QUANTITIES.

    The table depends on the wells and the seed alone, not on the order of rows. features: (W, D) finite numbers, before
    normalisation. wells: W rows, see `checked_wells`. steps: the normalisation, as `normalise` takes it. chance, negatives: see
    `phenotypic_activity`. position: the column with a well's position on its plate ("A01"). key: the columns that together name
    a well. repeats: how often the control positions are split and the labels permuted.

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
        tables.append(_table(_normaliser(own, plate, steps), members, chance, negatives, repeats))
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
) -> pl.DataFrame:
    """Return the table of `floors` for one group of wells; a function of the caller reads and normalises the profiles.

    normalised(fit, in_play) takes two masks (W,) and returns the profiles (W, D') of all `wells`, normalised by a fit on the
    wells of `fit`; a step with `fit: all` is fitted on the wells of `in_play`. A DataError from it becomes a status.
    """
    members = in_play(checked_wells(wells, key, position))
    rows = members[ROW].to_numpy()
    playing = np.zeros(wells.height, dtype=bool)
    playing[rows] = True

    def of_members(fit: Bools) -> Profiles:
        fitted = np.zeros(wells.height, dtype=bool)
        fitted[rows[fit]] = True
        return normalised(fitted, playing)[rows]

    return _table(of_members, members, chance, negatives, repeats)


def _normaliser(x: Profiles, plate: Texts, steps: str | Sequence[Step]) -> Normalise:
    return lambda fit: normalise(x, fit, plate, steps).features


def _table(
    normalised: Normalise, members: pl.DataFrame, chance: Chance, negatives: Negatives, repeats: int
) -> pl.DataFrame:
    """Return the table of one group; members: its wells in play, in the order of their names."""
    if repeats < 1:
        raise ValueError(f"floors need at least 1 repeat, not {repeats}")
    if not len(members):
        return pl.DataFrame(schema=SCHEMA)
    name = str(members["group"][0])
    runs = _runs(_Group(name, normalised, members.drop(ROW), chance, negatives), repeats)
    rows = [{"group": name, "quantity": quantity, **summary(runs[quantity])} for quantity in QUANTITIES]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


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


def _runs(group: _Group, repeats: int) -> dict[str, list[Ways]]:
    """Return the scores of every quantity, one list for every repeat."""
    runs: dict[str, list[Ways]] = {quantity: [] for quantity in QUANTITIES}
    whole = group.profiles(group.control)
    runs["full"] = [[group.activity(whole, group.control, group.treated)]]
    runs["position_matched"] = [[_matched(group, whole)]]
    for repeat in range(repeats):
        for quantity, ways in {**_split_controls(group, repeat), **_permuted_labels(group, repeat, whole)}.items():
            runs[quantity].append(ways)
    return runs


def _split_controls(group: _Group, repeat: int) -> dict[str, Ways]:
    """Return the scores of the halves and of the posing wells, for one split of the control positions."""
    scores: dict[str, Ways] = {name: [] for name in ("half_same", "half_other", "posing_position", "posing_shuffled")}
    both = halves(np.unique(group.position[group.control]), group.chance.seed, group.name, repeat)
    for fitted, other in (both, both[::-1]):
        fit, rest = (group.control & np.isin(group.position, half) for half in (fitted, other))
        if not group.control.any():
            profiles: Profiles | str = NO_CONTROLS
        else:
            profiles = group.profiles(fit) if len(fitted) else TOO_FEW_CONTROLS
        scores["half_same"].append(group.activity(profiles, fit, group.treated))
        scores["half_other"].append(group.activity(profiles, rest, group.treated))
        quarter_pair = quarters(other)
        for posing, facing in (quarter_pair, quarter_pair[::-1]):
            queries, negatives = (group.control & np.isin(group.position, part) for part in (posing, facing))
            possible = profiles
            if not isinstance(profiles, str) and not can_reject(
                group.position[queries],
                group.plate[queries],
                group.plate[negatives],
                group.chance,
                by_plate=group.negatives == "plate",
            ):
                possible = TOO_FEW_CONTROLS
            labels = shuffled_positions(group.position, group.plate, queries, group.chance.seed, group.name, repeat)
            scores["posing_position"].append(group.activity(possible, negatives, queries, group.position))
            scores["posing_shuffled"].append(group.activity(possible, negatives, queries, labels))
    return scores


def _permuted_labels(group: _Group, repeat: int, whole: Profiles | str) -> dict[str, Ways]:
    """Return the scores with permuted labels; whole: the profiles normalised by all controls."""
    key = (group.chance.seed, group.name, repeat)
    rows = permuted_rows(group.plate, group.treated, "labels_within_treated", *key)
    labels = group.wells["compound"].to_numpy()[rows]
    treated = group.activity(whole, group.control, group.treated, labels)
    rows = permuted_rows(group.plate, group.control | group.treated, "labels_within_all", *key)
    moved = group.wells.with_columns(group.wells[rows].select("compound", "is_control", "is_treated"))
    other = replace(group, wells=moved)
    everyone = other.activity(other.profiles(other.control), other.control, other.treated)
    return {"labels_within_treated": [treated], "labels_within_all": [everyone]}


def _matched(group: _Group, whole: Profiles | str) -> Activity | str:
    """Return the score in which a control's position takes the part of its plate. The negatives of a query are the controls at its
    own position. Under the null, a compound's wells change places with these."""
    if not group.control.any():
        return NO_CONTROLS
    layouts = {frozenset(group.position[group.control & (group.plate == plate)]) for plate in np.unique(group.plate)}
    if len(layouts) == 1:
        return ONE_LAYOUT
    wells = group.wells.with_columns(plate=pl.col(POSITION))
    by_position = replace(group, wells=wells, negatives="plate")
    return by_position.activity(whole, group.control, group.treated)
