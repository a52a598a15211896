"""The roles of wells: treated wells, negative controls, and the controls that the normalisation is fitted on."""

import numpy as np
import polars as pl

from sdvae_ray.controls import CONTROL, with_roles
from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.randomness import generator
from sdvae_ray.retrieval.ranking.similarity import Distance
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.run.run import Run
from sdvae_ray.schema import PLATE_KEY, WELL_COLUMN


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


def fittable(run: Run, wells: pl.DataFrame) -> np.ndarray:
    """Return a mask (W,): the wells that a step with `fit: all` may be fitted on. These are all wells; with score.fit half, all
    wells without the negatives."""
    if run.config.score.fit == "half":
        return ~wells[CONTROL].to_numpy()
    return np.ones(wells.height, dtype=bool)


def fit_and_negatives(run: Run, wells: pl.DataFrame) -> tuple[np.ndarray, pl.DataFrame]:
    """Return (a mask (W,) of the controls to fit the normalisation on, the table of wells with is_control for the negatives).

    score.fit controls: both are all controls. score.fit half: one half of the controls (`halved`) is for the fit, and is_control
    is True for the other half, so that no negative has a part in the space that it is compared in.
    """
    control = wells[CONTROL].to_numpy()
    if run.config.score.fit == "controls":
        return control, wells
    fit = halved(run, wells)
    return fit, wells.with_columns(pl.Series(CONTROL, control & ~fit))


def halved(run: Run, wells: pl.DataFrame) -> np.ndarray:
    """Return a mask (W,): the controls at one half of the control positions, drawn by the seed. Raises DataError for fewer than 2
    control positions."""
    control = wells[CONTROL].to_numpy()
    positions = sorted(set(wells.filter(pl.col(CONTROL))[WELL_COLUMN].to_list()))
    if len(positions) < 2:
        raise DataError(f"halves of the controls need 2 positions at least, and they are at {len(positions)}")
    order = generator(run.config.seed, "control halves").permutation(len(positions))
    fitted = {positions[number] for number in order[: len(positions) // 2]}
    return control & wells[WELL_COLUMN].is_in(fitted).to_numpy()
