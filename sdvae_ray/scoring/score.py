"""The second stage: stored embeddings -> well profiles, FAISS indices and scores, per extractor, side and group.

Writes under the run's output

profiles/<extractor>/<side>/...         well profiles before normalisation; see sdvae_ray.scoring.profiles
index/<extractor>/<side>/<group>.*    a FAISS index over the normalised profiles, the wells of its ids, and the fit
scores/*.parquet                      see sdvae_ray.run.scores
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console

from sdvae_ray import shelves
from sdvae_ray.cluster.session import ray_session
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores, metric_distributions
from sdvae_ray.schema import ERROR, PLATE_COLUMN, WELL_KEY
from sdvae_ray.scoring.distances import GROUP, distances, near_the_mean, with_slices
from sdvae_ray.scoring.floors import differences, floors_of, start_floors
from sdvae_ray.scoring.fov_index import build_field_index
from sdvae_ray.scoring.latent_space import latent_space
from sdvae_ray.scoring.normalised import Normaliser, normaliser_of
from sdvae_ray.scoring.profiles import Profiles, build_profiles
from sdvae_ray.scoring.roles import (
    chance_of,
    fit_and_negatives,
    fittable,
    known_columns,
    well_roles,
    with_roles,
)
from sdvae_ray.scoring.tasks import start_tasks, tasks_of
from sdvae_ray.scoring.transfer import start_transfers, transfers_of
from sdvae_ray.scoring.well_index import (
    delete_well_indices,
    in_the_originals_space,
    own_well_recall,
    recall_queries,
    replicate_recalls,
    save_and_reload_index,
)

NOT_SCORED = "not scored: "
NO_PERTURBATION = "score.perturbation is null"


def score(run: Run, console: Console, address: str | None = None) -> Scores:
    """Scores what `encode` has committed. Raises DataError where there is nothing, ConfigError for columns that are not there."""
    resolve_steps(run.config.score.normalise)
    fovs = run.fovs()
    usable = _of_plates(run, fovs.filter(pl.col(ERROR).is_null()))
    if usable.height == 0:
        raise DataError(f"{run.output} has no usable FOVs to score: run `sdvae-ray encode` first")
    known_columns(run.config.score.group, usable, "score.group")
    known_columns(run.config.score.distributions.by, usable, "score.distributions.by")
    if run.config.score.batch is not None:
        known_columns((run.config.score.batch,), usable, "score.batch")
    if run.config.score.target is not None:
        known_columns((run.config.score.target,), usable, "score.target")
    usable = with_roles(run, with_slices(usable, run))
    pairs = run.embedded()
    of = f" of plates {', '.join(run.config.score.plates)} alone" if run.config.score.plates else ""
    said = f"score: {usable.height} FOVs{of}, {len(pairs)} pairs of extractor and side"
    console.print(said, highlight=False, soft_wrap=True)
    images: dict[str, Profiles] = {}
    parts: list[_Part] = []
    started = _Started([], [], [])
    apart: list[pl.DataFrame] = []
    with ray_session(address):
        extractors = dict.fromkeys(extractor for extractor, _ in pairs)
        shifts = {extractor: near_the_mean(run, usable, extractor) for extractor in extractors}
        for extractor, side in pairs:
            profiles = build_profiles(run, usable, extractor, side, shifts[extractor])
            if side == IMAGE_SIDE:
                images[extractor] = profiles
            else:
                image = images[extractor].patches if extractor in images else {}
                apart.append(distances(run, extractor, side, image, profiles.patches))
            if run.config.score.fov_index is not None:
                _index_fovs(run, run.config.score.fov_index.level, usable, extractor, side, console)
            parts += _score_side(run, profiles, images.get(extractor), started)
        latents, channels = latent_space(run, usable)
        found_floors = floors_of(started.floors)
        found_tasks = tasks_of(started.tasks, transfers_of(started.transfers))
    random = set(run.config.random_weights)
    compounds = _stacked([part.compounds for part in parts])
    scores = Scores(
        summary=pl.concat([part.summary for part in parts], how="diagonal_relaxed"),
        compounds=compounds,
        floors=found_floors,
        tasks=found_tasks,
        differences=_says_random(differences(run, compounds), random),
        wells=_stacked([part.wells for part in parts]),
        distributions=_says_random(_stacked(apart), random),
        metrics=_says_random(metric_distributions(run.config, usable, bands(run), run.storage), random),
        latents=_says_random(latents, random),
        latent_channels=_says_random(channels, random),
    )
    scores.write(run.output, run.storage)
    record = run.find_record()
    if record is not None:  # as it was scored: `score` may be run again with other settings
        record["config"]["score"] = run.config.model_dump(mode="json")["score"]
        run.write_record(record)
    return scores


def _of_plates(run: Run, fovs: pl.DataFrame) -> pl.DataFrame:
    """Those of score.plates; DataError, with the nearest match, for a plate that has none."""
    if run.config.score.plates is None or fovs.height == 0:
        return fovs
    there = fovs[PLATE_COLUMN].unique().to_list()
    for name in run.config.score.plates:
        if name not in there:
            raise DataError(f"score.plates: no usable FOV is of plate {name!r}{did_you_mean(name, there)}")
    return fovs.filter(pl.col(PLATE_COLUMN).is_in(run.config.score.plates))


def _index_fovs(run: Run, level: str, usable: pl.DataFrame, extractor: str, side: str, console: Console) -> None:
    what = "FOVs" if level == "fov" else "patches"
    try:
        record = build_field_index(run, usable, extractor, side, level)
    except DataError as error:
        said = f"no index of {what}: {error}"
    else:
        size, recall = record["bytes_per_vector"], record["recall"]
        said = f"{record['kind']}, {record['vectors']} {what}, {size:.0f} bytes each, recall@10 {recall:.3f}"
    console.print(f"index: {extractor} {side}: {said}", highlight=False, soft_wrap=True)


def bands(run: Run) -> dict[str, tuple[str, ...]]:
    """Metric -> names of its last axis, for those that have one."""
    found = {
        name: getattr(shelves.find("metrics", metric.name), "BANDS", ()) for name, metric in run.config.metrics.items()
    }
    return {name: tuple(names) for name, names in found.items() if names}


@dataclass(frozen=True)
class _Started:
    """Ray tasks that run beside the scores."""

    floors: list[Any]
    tasks: list[Any]
    transfers: list[Any]


@dataclass(frozen=True)
class _Part:
    """The tables of one extractor, side and group."""

    summary: pl.DataFrame
    compounds: pl.DataFrame | None = None
    wells: pl.DataFrame | None = None


def _score_side(run: Run, profiles: Profiles, image: Profiles | None, started: "_Started") -> list[_Part]:
    """The tables of every group; starts their floors and tasks."""
    roles = well_roles(run, profiles.wells)
    delete_well_indices(run, profiles.extractor, profiles.side)
    parts = []
    for (group,), wells in roles.group_by(GROUP, maintain_order=True):
        label = _label(run, profiles, str(group))
        if run.config.score.perturbation is None:
            parts.append(_not_scored(label, wells, NO_PERTURBATION))
            continue
        try:
            space = normaliser_of(run, [(profiles, wells)])
        except DataError as error:
            parts.append(_not_scored(label, wells, str(error)))
            continue
        width = 0
        try:
            parts.append(_score_group(run, label, space, wells, profiles, image, started.tasks))
            width = int(parts[-1].summary["features"][0])
        except DataError as error:
            parts.append(_not_scored(label, wells, str(error)))
        started.floors.append(start_floors(run, label, space, wells, 4 * width * wells.height))
    if run.config.score.perturbation is not None:
        head = _label(run, profiles, None)
        started.transfers.extend(start_transfers(run, head, profiles, roles))
    return parts


def _label(run: Run, profiles: Profiles, group: str | None) -> dict[str, object]:
    random = bool({profiles.extractor, profiles.side} & set(run.config.random_weights))
    return {"extractor": profiles.extractor, "side": profiles.side, "group": group, "random_weights": random}


def _not_scored(label: dict[str, object], wells: pl.DataFrame, reason: str) -> _Part:
    return _Part(pl.DataFrame([{**label, "wells": wells.height, "status": NOT_SCORED + reason}]))


def _stacked(frames: Sequence[pl.DataFrame | None]) -> pl.DataFrame:
    """The frames that are there; an empty one where nothing could be scored."""
    known = [frame for frame in frames if frame is not None]
    return (
        pl.concat(known, how="diagonal_relaxed")
        if known
        else pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    )


def _score_group(
    run: Run,
    label: dict[str, object],
    space: Normaliser,
    wells: pl.DataFrame,
    profiles: Profiles,
    image: Profiles | None,
    tasks: list[Any],
) -> _Part:
    fit, wells = fit_and_negatives(run, wells)
    among = fittable(run, wells)
    normalised = space(fit, among)
    activity = phenotypic_activity(
        normalised.features, wells, chance_of(run), key=WELL_KEY, negatives=run.config.score.negatives
    )
    index = save_and_reload_index(run, label, normalised, wells)
    treated = recall_queries(run, label, wells)
    recalls = replicate_recalls(run, index, normalised.features, wells, treated)
    both = None
    if image is not None and label["side"] != IMAGE_SIDE:
        both = in_the_originals_space(run, profiles, wells, fit, among, image)
    nearest = own_well_recall(both, treated)
    tasks.append(start_tasks(run, label, normalised.features, wells, both))
    summary = activity.groups.drop("group").with_columns(
        **{key: pl.lit(value) for key, value in {**label, **recalls, "reconstruction_recall": nearest}.items()},
        recall_queries=pl.lit(len(treated)),
        features=pl.lit(normalised.features.shape[1]),
        normalisation=pl.lit(json.dumps(normalised.record)),
        status=pl.lit("ok"),
    )
    head = {key: pl.lit(value) for key, value in label.items() if key != "group"}
    return _Part(summary, activity.compounds.with_columns(**head), activity.wells.with_columns(**head))


def _says_random(table: pl.DataFrame, random: set[str]) -> pl.DataFrame:
    """Adds random_weights: True where the row's extractor or side was built without weights."""
    names = [pl.col(name).is_in(list(random)) for name in ("extractor", "side") if name in table.columns]
    return table.with_columns(pl.any_horizontal(names).alias("random_weights"))
