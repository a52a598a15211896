"""The roles of wells: treated wells and negative controls, and how their scores are compared with chance."""

import polars as pl

from sdvae_ray.controls import with_roles
from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.retrieval.ranking.similarity import Distance
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.run.run import Run
from sdvae_ray.schema import PLATE_KEY


def known_columns(columns: tuple[str, ...], fovs: pl.DataFrame, where: str) -> None:
    """Raise ConfigError, with the nearest match, for a column that `fovs` does not have. where: opens the error message."""
    for name in columns:
        if name not in fovs.columns:
            metadata = [column for column in fovs.columns if column.startswith("Metadata_")]
            raise ConfigError(f"{where}: there is no column {name!r}{did_you_mean(name, metadata)}")


def well_roles(run: Run, wells: pl.DataFrame) -> pl.DataFrame:
    """Return the table of wells with the columns that retrieval takes: compound, plate, is_control, is_treated."""
    compound = (
        pl.lit("") if run.config.score.perturbation is None else pl.col(run.config.score.perturbation).fill_null("")
    )
    return with_roles(run.config.score, wells).with_columns(
        compound.alias("compound"), pl.concat_str(pl.col(PLATE_KEY), separator="/").alias("plate")
    )


def chance_of(run: Run, distance: Distance = "cosine") -> Chance:
    """Return how the run's scores are compared with chance. Phenotypic activity and its floors take distance="cosine"."""
    settings, seed = run.config.score, run.config.seed
    return Chance(settings.null, settings.null_size, seed, settings.strict, settings.threshold, settings.ties, distance)


def task_chance(run: Run) -> Chance:
    """Return how scores other than phenotypic activity are compared with chance; their distance is score.task_distance."""
    return chance_of(run, run.config.score.task_distance)
