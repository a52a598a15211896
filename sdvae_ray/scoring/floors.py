"""Floors and intervals beside every score: what the same code gives without the leak, without an effect, by position alone.

Floors of one extractor, side and group are one Ray task; retrieval/floors/control_floors.py says what each is.
"""

from typing import Any

import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import weighing
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.floors.control_floors import floors_in
from sdvae_ray.retrieval.significance.bootstrap import intervals, paired_difference
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_COLUMN
from sdvae_ray.scoring.normalised import Normaliser
from sdvae_ray.scoring.roles import activity_options

_TASK_CPUS = 0.5
_COPIES = 4  # of the normalised profiles: all controls' space, another fit's, one in the order of names, one scored


def start_floors(run: Run, label: dict[str, object], space: Normaliser, wells: pl.DataFrame, each: int = 0) -> Any:
    """A task whose result `floors_of` gives. space: of all `wells`, which have their roles; each: bytes of it normalised."""
    options = {"num_cpus": _TASK_CPUS, **weighing(_COPIES * each + 2 * space.held)}
    return _floors.options(**options).remote(run, label, space, wells)


def floors_of(tasks: list[Any]) -> pl.DataFrame:
    """extractor, side, group, random_weights, quantity and the numbers of retrieval.floors; empty where nothing was started."""
    frames = [frame for frame in ray.get(tasks) if frame is not None]
    return pl.concat(frames) if frames else pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})


def differences(run: Run, compounds: pl.DataFrame) -> pl.DataFrame:
    """Per extractor, side and group: every mean over compounds with its interval, and the side's minus the originals'.

    quantity, estimate, low, high, compounds; image (the originals' mean over the same compounds), difference,
    difference_low, difference_high, unpaired, lost, gained: null for the originals and where they were not scored.
    """
    if compounds.height == 0:
        return pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    seed, parts = run.config.seed, []
    for (extractor,), rows in compounds.group_by("extractor", maintain_order=True):
        image = rows.filter(pl.col("side") == IMAGE_SIDE)
        for (side,), mine in rows.group_by("side", maintain_order=True):
            found = intervals(mine, seed=seed)
            if side != IMAGE_SIDE and image.height:
                paired = paired_difference(image, mine, seed=seed).rename(
                    {"low": "difference_low", "high": "difference_high", "compounds": "paired"}
                )
                found = found.join(paired.drop("reconstruction"), on=["group", "quantity"], how="left")
            parts.append(found.with_columns(extractor=pl.lit(extractor), side=pl.lit(side)))
    return pl.concat(parts, how="diagonal_relaxed")


@ray.remote
def _floors(run: Run, label: dict[str, object], space: Normaliser, wells: pl.DataFrame) -> pl.DataFrame | None:
    try:
        found = floors_in(
            lambda fit, in_play: space(fit, in_play).features,
            wells.with_columns(group=pl.lit(str(label["group"]))),
            position=WELL_COLUMN,
            repeats=run.config.score.floor_repeats,
            **activity_options(run),
        )
    except DataError:  # said by the score itself
        return None
    head = [pl.lit(label[name]).alias(name) for name in ("extractor", "side", "random_weights")]
    return found.with_columns(*head)
