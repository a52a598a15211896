"""The second stage: stored embeddings -> well profiles, FAISS indices and scores, per extractor, side and group.

Writes under the run's output

profiles/<extractor>/<side>.parquet   well profiles before normalisation, wide, with every Metadata_* that is one per well
index/<extractor>/<side>/<group>.*    a FAISS index over the normalised profiles and the wells of its ids
scores/*.parquet                      see sdvae_ray.scores
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
from rich.console import Console

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.distributions.fid import frechet_distance
from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.pipeline.neighbours import own_well_recall, replicate_recalls, save_and_reload_index
from sdvae_ray.pipeline.profile import GROUP, Profiles, build_profiles, sides_of_tables, with_group
from sdvae_ray.pipeline.session import ray_session
from sdvae_ray.retrieval.activity import phenotypic_activity
from sdvae_ray.retrieval.normalise import normalise, resolve_steps
from sdvae_ray.schema import ERROR, WELL
from sdvae_ray.scores import Scores, metric_distributions
from sdvae_ray.selection import select
from sdvae_ray.storage import Storage, join
from sdvae_ray.tables import read_fovs, write_table

CONTROL, TREATED = "is_control", "is_treated"
NOT_SCORED = "not scored: "


def score(config: RunConfig, console: Console, address: str | None = None) -> Scores:
    """Scores what `encode` has committed. Raises DataError where there is nothing, ConfigError for columns that are not there."""
    storage = Storage(config.storage)
    resolve_steps(_steps(config))
    fovs = read_fovs(config.output, storage)
    usable = fovs.filter(pl.col(ERROR).is_null())
    if usable.height == 0:
        raise DataError(f"{config.output} has no usable FOVs to score: run `sdvae-ray encode` first")
    usable = _with_roles(config, with_group(usable, _known(config.score.group, usable, "score.group")))
    pairs = sides_of_tables(config.output, storage)
    console.print(f"score: {usable.height} FOVs, {len(pairs)} pairs of extractor and side", highlight=False)
    images: dict[str, Profiles] = {}
    parts: list[_Part] = []
    fid: list[pl.DataFrame] = []
    with ray_session(address):
        for extractor, side in pairs:
            profiles = build_profiles(config, usable, extractor, side)
            if side == IMAGE_SIDE:
                images[extractor] = profiles
            elif extractor in images:
                fid.append(_fid(images[extractor], profiles))
            parts += _score_side(config, profiles, images.get(extractor), storage)
    random = set(config.random_weights)
    scores = Scores(
        summary=pl.concat([part.summary for part in parts], how="diagonal_relaxed"),
        compounds=_stacked([part.compounds for part in parts]),
        wells=_stacked([part.wells for part in parts]),
        fid=_says_random(pl.concat(fid) if fid else _fid_frame([]), random),
        metrics=_says_random(metric_distributions(config.output, config.metrics, storage), random),
    )
    scores.write(config.output, storage)
    return scores


@dataclass(frozen=True)
class _Part:
    """The tables of one extractor, side and group."""

    summary: pl.DataFrame
    compounds: pl.DataFrame | None = None
    wells: pl.DataFrame | None = None


def _known(columns: tuple[str, ...], fovs: pl.DataFrame, where: str) -> tuple[str, ...]:
    for name in columns:
        if name not in fovs.columns:
            metadata = [column for column in fovs.columns if column.startswith("Metadata_")]
            raise ConfigError(f"{where}: there is no column {name!r}{did_you_mean(name, metadata)}")
    return columns


def _with_roles(config: RunConfig, fovs: pl.DataFrame) -> pl.DataFrame:
    """Adds is_control and is_treated: a well without a perturbation that is no control, or that is excluded, is neither."""
    _known((config.score.perturbation,), fovs, "score.perturbation")
    control = select(config.score.control, fovs.columns, "score.control")
    excluded = select(config.score.exclude, fovs.columns, "score.exclude") if config.score.exclude else pl.lit(False)
    named = pl.col(config.score.perturbation).is_not_null() & (pl.col(config.score.perturbation) != "")
    return fovs.with_columns((control & ~excluded).alias(CONTROL)).with_columns(
        (~pl.col(CONTROL) & named & ~excluded).alias(TREATED)
    )


def _steps(config: RunConfig) -> str | list[str | dict[str, dict[str, object]]]:
    steps = config.score.normalise
    return steps if isinstance(steps, str) else list(steps)


def _score_side(config: RunConfig, profiles: Profiles, image: Profiles | None, storage: Storage) -> list[_Part]:
    roles = well_roles(profiles.wells, config)
    raw = profiles.features.reshape(len(roles), -1)
    name = f"{profiles.extractor}/{profiles.side}"
    write_table(join(config.output, "profiles", f"{name}.parquet"), _profile_table(roles, profiles), storage)
    parts = []
    for (group,), members in roles.with_row_index("row").group_by(GROUP, maintain_order=True):
        rows = members["row"].to_numpy()
        label = {
            "extractor": profiles.extractor,
            "side": profiles.side,
            "group": str(group),
            "random_weights": bool({profiles.extractor, profiles.side} & set(config.random_weights)),
        }
        try:
            parts.append(_score_group(config, label, raw[rows], members, profiles, image, storage))
        except DataError as error:
            parts.append(_Part(pl.DataFrame([{**label, "wells": len(rows), "status": NOT_SCORED + str(error)}])))
    return parts


def well_roles(wells: pl.DataFrame, config: RunConfig) -> pl.DataFrame:
    """Adds what retrieval asks for: compound, plate, is_control, is_treated."""
    with_roles = _with_roles(config, wells)
    return with_roles.with_columns(
        pl.col(config.score.perturbation).fill_null("").alias("compound"),
        pl.concat_str(pl.col(WELL[:3]), separator="/").alias("plate"),
    )


def _profile_table(wells: pl.DataFrame, profiles: Profiles) -> pa.Table:
    """Metadata_* and one float32 column per feature, `<extractor>_<pass or stain>_<number>`: as pycytominer and copairs read."""
    _, groups, depth = profiles.features.shape
    names = [f"{profiles.extractor}_{group}_{number}" for group in range(groups) for number in range(depth)]
    features = pl.DataFrame(profiles.features.reshape(len(wells), -1), schema=names)
    metadata = wells.select(pl.col("^Metadata_.*$"))
    return pl.concat([metadata, features], how="horizontal").to_arrow()


def _stacked(frames: list[pl.DataFrame | None]) -> pl.DataFrame:
    """The frames that are there; an empty one where nothing could be scored."""
    known = [frame for frame in frames if frame is not None]
    return (
        pl.concat(known, how="diagonal_relaxed")
        if known
        else pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    )


def _score_group(
    config: RunConfig,
    label: dict[str, object],
    features: np.ndarray,
    wells: pl.DataFrame,
    profiles: Profiles,
    image: Profiles | None,
    storage: Storage,
) -> _Part:
    settings = config.score
    control, plate = wells[CONTROL].to_numpy(), wells["plate"].to_numpy()
    normalised = normalise(features, control, plate, _steps(config))
    activity = phenotypic_activity(
        normalised.features,
        wells,
        key=WELL,
        negatives=settings.negatives,
        ties=settings.ties,
        null=settings.null,
        null_size=settings.null_size,
        seed=config.seed,
        threshold=settings.threshold,
    )
    index = save_and_reload_index(config, label, normalised.features, wells, storage)
    treated = np.flatnonzero(wells[TREATED].to_numpy())
    recalls = replicate_recalls(config, index, normalised.features, wells, treated)
    nearest = None
    if image is not None and label["side"] != IMAGE_SIDE:
        nearest = own_well_recall(features, wells, image, treated, _steps(config))
    summary = activity.groups.drop("group").with_columns(
        **{key: pl.lit(value) for key, value in {**label, **recalls, "reconstruction_recall": nearest}.items()},
        features=pl.lit(normalised.features.shape[1]),
        status=pl.lit("ok"),
    )
    head = {key: pl.lit(value) for key, value in label.items() if key != "group"}
    return _Part(summary, activity.compounds.with_columns(**head), activity.wells.with_columns(**head))


def _fid(image: Profiles, side: Profiles) -> pl.DataFrame:
    rows = []
    for (group, part), found in sorted(side.patches.items()):
        reference = image.patches.get((group, part))
        if reference is not None and min(reference.n, found.n) >= 2:
            distance = frechet_distance(reference, found)
            rows.append((side.extractor, side.side, group, part, reference.n, found.n, found.sum.size, distance))
    return _fid_frame(rows)


def _says_random(table: pl.DataFrame, random: set[str]) -> pl.DataFrame:
    """Adds random_weights: True where the row's extractor or side was built without weights."""
    names = [pl.col(name).is_in(list(random)) for name in ("extractor", "side") if name in table.columns]
    return table.with_columns(pl.any_horizontal(names).alias("random_weights"))


def _fid_frame(rows: list[tuple[str, str, str, int, int, int, int, float]]) -> pl.DataFrame:
    schema = {
        "extractor": pl.String,
        "side": pl.String,
        "group": pl.String,
        "part": pl.Int64,
        "n_image": pl.Int64,
        "n_side": pl.Int64,
        "dimensions": pl.Int64,
        "fid": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")
