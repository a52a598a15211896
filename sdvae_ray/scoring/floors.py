"""What a score stands between: floors, FR over its floor, ceilings of the originals, and estimates of the leak of the fit.

All of one extractor, side and group are one Ray task; retrieval/floors says what each is.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, collected, weighing
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.retrieval.floors.ceilings import ceilings, leave_one_plate_out, sites_ceiling
from sdvae_ray.retrieval.floors.control_floors import ESTIMATES, floors_in
from sdvae_ray.retrieval.floors.floor_group import NO_GEOMETRY
from sdvae_ray.retrieval.floors.over_floor import over_floor
from sdvae_ray.retrieval.significance.bootstrap import intervals, paired_difference
from sdvae_ray.retrieval.tasks.activity import activity_in
from sdvae_ray.retrieval.tasks.activity_tables import Activity
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_COLUMN, WELL_KEY
from sdvae_ray.scoring.cross_fitting import cross_fits
from sdvae_ray.scoring.inputs.labels import Label
from sdvae_ray.scoring.inputs.roles import chance_of
from sdvae_ray.scoring.normalised import Normaliser

_COPIES = 4  # of the normalised profiles: a fit's, another fit's, one in the order of names, one scored
SiteHalves = tuple[
    tuple[Normaliser, pl.DataFrame], tuple[Normaliser, pl.DataFrame]
]  # profiles and wells of either half
UNKNOWN = "position effect unknown"  # status of FR over floor: nowhere do controls stand as the compounds do


@dataclass(frozen=True)
class FloorTables:
    """The tables of one or more groups: see run/scores.py."""

    floors: pl.DataFrame
    estimates: pl.DataFrame
    over_floor: pl.DataFrame
    ceilings: pl.DataFrame


def start_floors(
    run: Run,
    label: Label,
    normaliser: Normaliser,
    wells: pl.DataFrame,
    activity: Activity,
    splits: int,
    held: int,
    site_halves: SiteHalves | None = None,
) -> Any:
    """Return the Ray task that computes one group's tables; `floors_of` collects it.

    normaliser: of the profiles of all `wells`, which have their roles. activity: the score. splits: of the
    controls for the score, 0 if its fit is on the negatives. held: bytes of the normalised profiles. site_halves: of the originals.
    """
    also = sum(half.held_bytes for half, _ in site_halves or ())
    memory = weighing(_COPIES * held + 2 * normaliser.held_bytes + 2 * also)
    needed = replace(activity, wells=activity.wells.clear())  # one row per compound and group: little to send
    return _floors.options(**memory).remote(run, label, normaliser, wells, needed, splits, site_halves)


def floors_of(tasks: list[Any]) -> FloorTables:
    """Return the tables of all groups, stacked; empty tables without tasks."""
    parts: list[FloorTables] = collected(tasks)
    if not parts:
        empty = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
        return FloorTables(empty, empty, empty, empty)
    return FloorTables(
        *(
            pl.concat([getattr(part, name) for part in parts], how="diagonal_relaxed")
            for name in ("floors", "estimates", "over_floor", "ceilings")
        )
    )


def with_ceiling(over_floors: pl.DataFrame) -> pl.DataFrame:
    """Return the table of FR over floor with mAP between its floor and the originals' mAP.

    ceiling_normalised_map is the originals' of the same extractor and group. map_between is (mAP - floor) / (ceiling - floor),
    null if the ceiling is not above the floor.
    """
    if "normalised_map" not in over_floors.columns:
        return over_floors
    key = ["extractor", "group"]
    image = over_floors.filter(pl.col("side") == IMAGE_SIDE).select(*key, ceiling_normalised_map="normalised_map")
    room = pl.col("ceiling_normalised_map") - pl.col("floor_normalised_map")
    above = (pl.col("normalised_map") - pl.col("floor_normalised_map")) / room
    return over_floors.join(image, on=key, how="left", maintain_order="left").with_columns(
        map_between=pl.when(room > 0).then(above)
    )


def differences(run: Run, compounds: pl.DataFrame, wells: pl.DataFrame) -> pl.DataFrame:
    """Return every mean over compounds with its interval, and how it differs from the originals' mean.

    One row per extractor, side, group and quantity: quantity, estimate, low, high, compounds, plates; image (the originals' mean
    over the same compounds), difference, difference_low, difference_high, unpaired, lost, gained, mcnemar_p. The columns from
    `image` on are null for the originals, and if the originals were not scored.
    """
    if compounds.height == 0:
        return pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    seed, parts = run.config.seed, []
    for (extractor,), rows in compounds.group_by("extractor", maintain_order=True):
        of_extractor = wells.filter(pl.col("extractor") == extractor)
        image, image_wells = (table.filter(pl.col("side") == IMAGE_SIDE) for table in (rows, of_extractor))
        for (side,), compounds_of_side in rows.group_by("side", maintain_order=True):
            own = of_extractor.filter(pl.col("side") == side)
            means = intervals(compounds_of_side, seed=seed, wells=own)
            if side != IMAGE_SIDE and image.height:
                paired = paired_difference(image, compounds_of_side, seed=seed, wells=(image_wells, own), key=WELL_KEY)
                paired = paired.rename({"low": "difference_low", "high": "difference_high", "compounds": "paired"})
                means = means.join(
                    paired.drop("reconstruction"), on=["group", "quantity"], how="left", maintain_order="left"
                )
            parts.append(means.with_columns(extractor=pl.lit(extractor), side=pl.lit(side)))
    return pl.concat(parts, how="diagonal_relaxed")


def _by_sites(run: Run, label: Label, site_halves: SiteHalves, how: dict[str, Any]) -> pl.DataFrame:
    """Return the ceiling by halves of every well's sites: each half is normalised by its own controls and scored."""
    scores = []
    for normaliser, wells in site_halves:
        wells = wells.with_columns(group=pl.lit(label.group))
        spaces = cross_fits(run, wells, str(label.group), most=1).spaces(normaliser)
        scores.append(activity_in(spaces, wells, chance_of(run), **how))
    return sites_ceiling((scores[0], scores[1]))


@ray.remote(num_cpus=TASK_CPUS)
def _floors(
    run: Run,
    label: Label,
    normaliser: Normaliser,
    wells: pl.DataFrame,
    activity: Activity,
    splits: int,
    site_halves: SiteHalves | None,
) -> FloorTables:
    settings, chance = run.config.score, chance_of(run)
    wells = wells.with_columns(group=pl.lit(label.group))
    cut = activity.cut(chance.threshold)
    floors = floors_in(
        lambda fit, in_play: normaliser(fit, in_play).features,
        wells,
        chance,
        position=WELL_COLUMN,
        key=WELL_KEY,
        negatives=settings.negatives,
        repeats=settings.floor_repeats,
        splits=splits,
        cut=cut,
    )
    is_estimate = pl.col("quantity").is_in(ESTIMATES)
    # fewer wells of a compound can change places: with the pool of several splits few of these tests could reject
    spaces = cross_fits(run, wells, str(label.group), most=1).spaces(normaliser)
    how: dict[str, Any] = {"key": WELL_KEY, "negatives": settings.negatives}
    lowest, highest = leave_one_plate_out(spaces, wells, chance, **how)
    ratio = over_floor(activity.compounds["retrieved"].cast(pl.Float64), floors.poses["retrieved"], seed=chance.seed)
    posing = floors.table.filter(pl.col("quantity") == "posing").row(0, named=True)
    group = activity.groups.row(0, named=True)
    status = group["status"] if group["status"] != "ok" else posing["status"]
    row = {
        "fraction_retrieved": group["fraction_retrieved"],
        "plates_low": lowest,
        "plates_high": highest,
        **{name: None if np.isnan(value) else value for name, value in vars(ratio).items() if name != "fraction"},
        "normalised_map": group["mean_normalised_map"],
        "floor_normalised_map": floors.poses["normalised_map"].mean(),
        "cut": cut,
        "status": UNKNOWN if status == NO_GEOMETRY else status,
    }
    numbers = {name: pl.Int64 if name in ("compounds", "poses") else pl.Float64 for name in row if name != "status"}
    of_image = pl.DataFrame()
    if label.side == IMAGE_SIDE:
        halves = [ceilings(spaces, wells, chance, repeats=settings.floor_repeats, **how)]
        if site_halves is not None:
            halves.append(_by_sites(run, label, site_halves, how))
        of_image = label.before(pl.concat(halves))
    return FloorTables(
        label.before(floors.table.filter(~is_estimate)),
        label.before(floors.table.filter(is_estimate)),
        label.before(pl.DataFrame([row], schema={**numbers, "status": pl.String})),
        of_image,
    )
