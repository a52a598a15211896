"""One extractor and side, scored: every group's wells are normalised, ranked and indexed, and its tasks and floors are started."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.controls import CONTROL, GROUP
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.tasks.activity import activity_in
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_KEY
from sdvae_ray.scoring.audits import Searched, start_audits
from sdvae_ray.scoring.cross_fitting import cross_fits
from sdvae_ray.scoring.distances.references import site_halves_of
from sdvae_ray.scoring.floors import start_floors
from sdvae_ray.scoring.indices.well_index import (
    delete_well_indices,
    in_the_originals_space,
    neighbours_in,
    own_well_recall,
    recall_queries,
    replicate_recalls,
    save_and_reload_index,
)
from sdvae_ray.scoring.inputs.labels import Label
from sdvae_ray.scoring.inputs.roles import chance_of, well_roles
from sdvae_ray.scoring.normalised import Normaliser, normaliser_of
from sdvae_ray.scoring.profiles import Profiles
from sdvae_ray.scoring.tasks import start_tasks
from sdvae_ray.scoring.transfer import start_transfers


@dataclass(frozen=True)
class Results:
    """The tables so far, one per extractor, side and group, and the Ray tasks whose tables are still to come."""

    summary: list[pl.DataFrame] = field(default_factory=list)
    compounds: list[pl.DataFrame] = field(default_factory=list)
    wells: list[pl.DataFrame] = field(default_factory=list)
    distributions: list[pl.DataFrame] = field(default_factory=list)
    floors: list[Any] = field(default_factory=list)
    tasks: list[Any] = field(default_factory=list)
    transfers: list[Any] = field(default_factory=list)
    audits: list[Any] = field(default_factory=list)
    references: list[pl.DataFrame] = field(default_factory=list)

    def not_scored(self, label: Label, wells: pl.DataFrame, reason: object) -> None:
        """Add a row to `summary` that says why a group has no scores."""
        self.summary.append(label.before(pl.DataFrame({"wells": [wells.height], "status": [f"not scored: {reason}"]})))


def score_side(
    run: Run, profiles: Profiles, originals: Profiles | None, halves: Sequence[Profiles], results: Results
) -> None:
    """Score every group of an extractor and side. originals: their profiles; None if this side is the originals, or they have
    none. halves: for the originals, their profiles by half of every well's sites, and by the other half; empty without.
    """
    label = Label(profiles.extractor, profiles.side)
    delete_well_indices(run, label.extractor, label.side)
    roles = well_roles(run, profiles.wells)
    for (name,), wells in roles.group_by(GROUP, maintain_order=True):
        group = label.of_group(str(name))
        if run.config.score.perturbation is None:
            results.not_scored(group, wells, "score.perturbation is null")
            continue
        try:
            normaliser = normaliser_of(run, [(profiles, wells)])
        except DataError as error:
            results.not_scored(group, wells, error)
            continue
        try:
            _score_group(run, group, normaliser, _Group(wells, profiles, originals, halves), results)
        except DataError as error:
            results.not_scored(group, wells, error)
    if run.config.score.perturbation is not None:
        results.transfers.extend(start_transfers(run, label, profiles, roles))


@dataclass(frozen=True)
class _Group:
    """The wells of a group with their roles, the profiles of their side, the originals' profiles (None for the originals), and for
    the originals the profiles of both halves of the sites.
    """

    wells: pl.DataFrame
    profiles: Profiles
    originals: Profiles | None
    halves: Sequence[Profiles]


def _score_group(run: Run, label: Label, normaliser: Normaliser, group: _Group, results: Results) -> None:
    """Score a group, save its index and start its tasks and floors."""
    fits = cross_fits(run, group.wells, str(label.group))
    spaces = fits.spaces(normaliser)
    activity = activity_in(spaces, group.wells, chance_of(run), key=WELL_KEY, negatives=run.config.score.negatives)
    control = group.wells[CONTROL].to_numpy()
    normalised = normaliser(control, np.ones_like(control))  # as it is stored for search: the fit of all controls
    index = save_and_reload_index(run, label, normalised, group.wells)
    queries = recall_queries(run, label, group.wells)
    neighbours = neighbours_in(run, index, normalised.features, queries)
    recalls = replicate_recalls(run, neighbours, group.wells, queries)
    both = None
    fit, fittable, scored = fits.first(group.wells)
    if group.originals is not None:
        both = in_the_originals_space(run, group.originals, group.profiles, group.wells, fit, fittable)
    results.tasks.append(start_tasks(run, label, normalised.features, scored, both))
    results.audits.append(
        start_audits(run, label, Searched(spaces[0].features, normalised.features, both, neighbours, queries), scored)
    )
    splits = len(fits.splits) if fits.crossed else 0
    width = int(normalised.features.shape[1])
    columns = {
        **recalls,
        "reconstruction_recall": own_well_recall(both, queries),
        "recall_queries": len(queries),
        "features": width,
        "normalisation": json.dumps(normalised.record),
        "splits": splits,
        "p_valid": fits.p_valid,
        "status": "ok",
    }
    summary = activity.groups.rename({"status": "retrieval_status"})
    results.summary.append(
        label.before(summary.with_columns(pl.lit(value).alias(name) for name, value in columns.items()))
    )
    results.compounds.append(label.before(activity.compounds))
    results.wells.append(label.before(activity.wells))
    if run.config.score.floor_repeats:
        held = 4 * width * group.wells.height
        site_halves = site_halves_of(run, group.halves, str(label.group))
        results.floors.append(start_floors(run, label, normaliser, group.wells, activity, splits, held, site_halves))
