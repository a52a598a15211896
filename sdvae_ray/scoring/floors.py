"""Floors and intervals of every score. A floor is the score without the leak, without an effect, or by position alone.

Floors of one extractor, side and group are one Ray task; retrieval/floors/control_floors.py says what each is.
"""

from typing import Any

import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, weighing
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.floors.control_floors import floors_in
from sdvae_ray.retrieval.significance.bootstrap import intervals, paired_difference
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_COLUMN, WELL_KEY
from sdvae_ray.scoring.labels import Label
from sdvae_ray.scoring.normalised import Normaliser
from sdvae_ray.scoring.roles import chance_of

_COPIES = 4  # of the normalised profiles: all controls' space, another fit's, one in the order of names, one scored


def start_floors(run: Run, label: Label, space: Normaliser, wells: pl.DataFrame, held: int = 0) -> Any:
    """Return the Ray task that computes one group's floors; `floors_of` collects it.

    space: normalises the profiles of all `wells`, which have their roles. held: bytes of the normalised profiles.
    """
    return _floors.options(**weighing(_COPIES * held + 2 * space.held_bytes)).remote(run, label, space, wells)


def floors_of(tasks: list[Any]) -> pl.DataFrame:
    """Return the table of floors, empty without tasks: extractor, side, group, quantity and the columns of
    retrieval/floors/floor_tables.py.
    """
    frames = [frame for frame in ray.get(tasks) if frame is not None]
    return pl.concat(frames) if frames else pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})


def differences(run: Run, compounds: pl.DataFrame) -> pl.DataFrame:
    """Return every mean over compounds with its interval, and how it differs from the originals' mean.

    One row per extractor, side, group and quantity: quantity, estimate, low, high, compounds; image (the originals' mean over the
    same compounds), difference, difference_low, difference_high, unpaired, lost, gained. The columns from `image` on are null for
    the originals, and if the originals were not scored.
    """
    if compounds.height == 0:
        return pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    seed, parts = run.config.seed, []
    for (extractor,), rows in compounds.group_by("extractor", maintain_order=True):
        image = rows.filter(pl.col("side") == IMAGE_SIDE)
        for (side,), compounds_of_side in rows.group_by("side", maintain_order=True):
            means = intervals(compounds_of_side, seed=seed)
            if side != IMAGE_SIDE and image.height:
                paired = paired_difference(image, compounds_of_side, seed=seed).rename(
                    {"low": "difference_low", "high": "difference_high", "compounds": "paired"}
                )
                means = means.join(paired.drop("reconstruction"), on=["group", "quantity"], how="left")
            parts.append(means.with_columns(extractor=pl.lit(extractor), side=pl.lit(side)))
    return pl.concat(parts, how="diagonal_relaxed")


@ray.remote(num_cpus=TASK_CPUS)
def _floors(run: Run, label: Label, space: Normaliser, wells: pl.DataFrame) -> pl.DataFrame | None:
    try:
        table = floors_in(
            lambda fit, in_play: space(fit, in_play).features,
            wells.with_columns(group=pl.lit(label.group)),
            chance_of(run),
            position=WELL_COLUMN,
            key=WELL_KEY,
            negatives=run.config.score.negatives,
            repeats=run.config.score.floor_repeats,
        )
    except DataError:  # the row of the score itself says why
        return None
    return label.before(table)
