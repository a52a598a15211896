"""Floors beside a retrieval score: what the same code gives without the leak, without an effect, or for position alone.

One row per group and quantity. A quantity gives wells other roles (fit, negative, query) or other labels; what is made
of them is `normalise` and `phenotypic_activity`, as in the score. The draws are in floor_draws.py, the table's
rows in floor_tables.py.

full                   fit on all controls, scored against all controls: the score itself
half_same              fit on one half of the control positions, scored against the same half; both ways
half_other             fit on one half, scored against the other; both ways: from half_same it differs by the leak alone
posing_position        control wells as compounds, one position across all plates each, as compounds are; no fit and
                       no negative well shares a position with them
posing_shuffled        the same wells put together from different positions: the difference is the position effect
labels_within_treated  compounds permuted among the treated wells of each plate
labels_within_all      compounds and roles permuted among the treated and control wells of each plate, before the fit
position_matched       scored against the controls at the query's own position on other plates
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.floors.floor_tables import POSITION, ROW, SCHEMA, WELL, Ways, canonical, summary
from sdvae_ray.retrieval.normalisation.normalise import Step, normalise, resolve_steps
from sdvae_ray.retrieval.significance.permutations import (
    Mask,
    Texts,
    can_reject,
    halves,
    permuted_rows,
    quarters,
    shuffled_positions,
)
from sdvae_ray.retrieval.tasks.activity import NO_CONTROLS, Activity, phenotypic_activity

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
    wells: pl.DataFrame | Mapping[str, ArrayLike],
    steps: str | Sequence[Step] = "published",
    *,
    position: str | ArrayLike = "Metadata_Well",
    key: Sequence[str] = ("well_id",),
    repeats: int = 3,
    seed: int = 0,
    **options: Any,
) -> pl.DataFrame:
    """Return every quantity of every group, in the order of QUANTITIES: a pure function of the wells and the seed.

    features: (W, D) finite numbers, before normalisation. wells: W rows as phenotypic_activity takes them. position: the
    column, or the (W,) text, that says where on its plate a well is ("A01"). repeats: splits of the control positions,
    and permutations of the labels; options: phenotypic_activity's others, the same for every quantity.

    Columns: fraction_retrieved, mean_map and mean_normalised_map are means over the repeats, within a repeat over compounds
    and for each compound over the ways it was scored (both halves in turn); lowest and highest are of the repeats'
    fraction_retrieved. compounds_scored (those with a p), retrieved, queries (wells with an AP): means over the repeats.
    negatives: median over queries. repeats: those that gave a number; 0 where it is null. status: "ok" or the reason.

    Raises DataError for a missing column, a well without a position, and what phenotypic_activity raises it for.
    """
    resolve_steps(steps)
    frame = canonical(pl.DataFrame(dict(wells)) if isinstance(wells, Mapping) else wells, position, key)
    x = np.asarray(features, dtype=np.float64)
    if x.ndim != 2 or len(x) != len(pl.DataFrame(wells)):
        raise DataError(
            f"profiles of shape {x.shape} came with {len(pl.DataFrame(wells))} wells; one row per well is needed"
        )

    def space_of(members: pl.DataFrame) -> Space:
        own, plate = x[members[ROW].to_numpy()], members["plate"].to_numpy().astype(str)
        return lambda fit: normalise(own, fit, plate, steps).features

    return _of_groups(frame, space_of, repeats, seed, options)


def floors_in(
    space: Callable[[Mask, Mask], Profiles],
    wells: pl.DataFrame,
    *,
    position: str = "Metadata_Well",
    key: Sequence[str] = ("well_id",),
    repeats: int = 3,
    seed: int = 0,
    **options: Any,
) -> pl.DataFrame:
    """The same of one group whose profiles are elsewhere: space((W,) fit, (W,) in play) gives them normalised, (W, D'), rows as
    in `wells`; the wells in play are those that a step with `fit: all` is fitted on."""
    frame = canonical(wells, position, key)
    rows = frame[ROW].to_numpy()
    in_play = np.zeros(wells.height, dtype=bool)
    in_play[rows] = True

    def space_of(members: pl.DataFrame) -> Space:
        def of(fit: Mask) -> Profiles:
            chosen = np.zeros(wells.height, dtype=bool)
            chosen[rows[fit]] = True
            return space(chosen, in_play)[rows]

        return of

    return _of_groups(frame, space_of, repeats, seed, options)


Profiles = NDArray[np.floating]
Space = Callable[[Mask], Profiles]  # a group's wells to fit on -> its normalised profiles


def _of_groups(
    frame: pl.DataFrame, space_of: Callable[[pl.DataFrame], Space], repeats: int, seed: int, options: Mapping[str, Any]
) -> pl.DataFrame:
    if repeats < 1:
        raise DataError(f"floors need at least 1 repeat, not {repeats}")
    asked = {"negatives": "plate", "null": "exchange", "threshold": 0.05, **options, "key": (WELL,), "seed": seed}
    rows = []
    for (name,), members in frame.group_by("group", maintain_order=True):
        group = _Group(str(name), space_of(members), members.drop(ROW), asked, seed)
        made = _quantities(group, repeats)
        rows += [{"group": str(name), "quantity": quantity, **summary(made[quantity])} for quantity in QUANTITIES]
    return pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("group", maintain_order=True)


@dataclass(frozen=True)
class _Group:
    """Treated and control wells of one group, in the order of their names."""

    name: str
    normalised: Space
    wells: pl.DataFrame
    options: dict[str, Any]
    seed: int

    @property
    def control(self) -> Mask:
        return self.wells["is_control"].to_numpy()

    @property
    def treated(self) -> Mask:
        return self.wells["is_treated"].to_numpy()

    @property
    def plate(self) -> Texts:
        return self.wells["plate"].to_numpy().astype(str)

    @property
    def position(self) -> Texts:
        return self.wells[POSITION].to_numpy().astype(str)

    def space(self, fit: Mask) -> Profiles | str:
        """The features normalised by a fit on those wells, or why not."""
        try:
            return self.normalised(fit)
        except DataError:
            if not self.control.any():
                return NO_CONTROLS
            short = min(int(fit[self.plate == plate].sum()) for plate in np.unique(self.plate)) < 2
            return TOO_FEW_CONTROLS if short else NOT_NORMALISED

    def activity(
        self, space: Profiles | str, negatives: Mask, queries: Mask, labels: Texts | None = None
    ) -> Activity | str:
        """The score of `queries` against `negatives`; labels (W,) instead of the compounds."""
        if isinstance(space, str):
            return space
        wells = self.wells.with_columns(is_control=pl.Series(negatives), is_treated=pl.Series(queries))
        if labels is not None:
            wells = wells.with_columns(compound=pl.Series(labels))
        play = negatives | queries
        return phenotypic_activity(space[play], wells.filter(pl.Series(play)), **self.options)


def _quantities(group: _Group, repeats: int) -> dict[str, list[Ways]]:
    """The runs of every quantity, by repeat."""
    made: dict[str, list[Ways]] = {quantity: [] for quantity in QUANTITIES}
    whole = group.space(group.control)
    made["full"] = [[group.activity(whole, group.control, group.treated)]]
    made["position_matched"] = [[_matched(group, whole)]]
    for repeat in range(repeats):
        _split_controls(group, repeat, made)
        _permute_labels(group, repeat, whole, made)
    return made


def _split_controls(group: _Group, repeat: int, made: dict[str, list[Ways]]) -> None:
    """Add the halves and the posing wells of one split of the control positions."""
    new: dict[str, Ways] = {name: [] for name in ("half_same", "half_other", "posing_position", "posing_shuffled")}
    positions = np.unique(group.position[group.control])
    sides = halves(positions, group.seed, group.name, repeat)
    for mine, other in (sides, sides[::-1]):
        fit, rest = (group.control & np.isin(group.position, half) for half in (mine, other))
        if not group.control.any():
            space: Profiles | str = NO_CONTROLS
        else:
            space = group.space(fit) if len(mine) else TOO_FEW_CONTROLS
        new["half_same"].append(group.activity(space, fit, group.treated))
        new["half_other"].append(group.activity(space, rest, group.treated))
        parts = quarters(other)
        for posing, facing in (parts, parts[::-1]):
            queries, against = (group.control & np.isin(group.position, part) for part in (posing, facing))
            possible: Profiles | str = space
            if not isinstance(space, str) and not can_reject(
                group.position[queries], group.plate[queries], group.plate[against], group.options
            ):
                possible = TOO_FEW_CONTROLS
            labels = shuffled_positions(group.position, group.plate, queries, group.seed, group.name, repeat)
            new["posing_position"].append(group.activity(possible, against, queries, group.position))
            new["posing_shuffled"].append(group.activity(possible, against, queries, labels))
    for quantity, ways in new.items():
        made[quantity].append(ways)


def _permute_labels(group: _Group, repeat: int, whole: Profiles | str, made: dict[str, list[Ways]]) -> None:
    key = (group.seed, group.name, repeat)
    rows = permuted_rows(group.plate, group.treated, "labels_within_treated", *key)
    labels = group.wells["compound"].to_numpy()[rows]
    made["labels_within_treated"].append([group.activity(whole, group.control, group.treated, labels)])
    rows = permuted_rows(group.plate, group.control | group.treated, "labels_within_all", *key)
    moved = group.wells.with_columns(group.wells[rows].select("compound", "is_control", "is_treated"))
    other = replace(group, wells=moved)
    made["labels_within_all"].append([other.activity(other.space(other.control), other.control, other.treated)])


def _matched(group: _Group, whole: Profiles | str) -> Activity | str:
    """A position takes the plate's part: negatives, and the wells exchanged under the null, are those of the position."""
    if not group.control.any():
        return NO_CONTROLS
    layouts = {frozenset(group.position[group.control & (group.plate == plate)]) for plate in np.unique(group.plate)}
    if len(layouts) == 1:
        return ONE_LAYOUT
    by_position = replace(
        group, wells=group.wells.with_columns(plate=pl.col(POSITION)), options={**group.options, "negatives": "plate"}
    )
    return by_position.activity(whole, group.control, group.treated)
