"""The originals against the originals: profiles by half of the sites, and the distances between parts of the originals' patches.

sites     half of every well's sites against the other half: what a side that changes nothing can differ by
plates    half of every group's plates against the other half: what another plate differs by
controls  negative controls against the compounds that the originals retrieve: what a phenotype differs by

halves/<first | second>/<extractor>/image/...   profiles by half of the sites, as those of profiles/
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.controls import CONTROL, GROUP, TREATED
from sdvae_ray.randomness import block_generator
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, PLATE_KEY, WELL_KEY, embeddings_table
from sdvae_ray.scoring.distances.distances import Patches, distances, merge_patches, patch_statistics
from sdvae_ray.scoring.floors import SiteHalves
from sdvae_ray.scoring.labels import slice_columns
from sdvae_ray.scoring.normalised import normaliser_of
from sdvae_ray.scoring.profiles import Profiles, build_profiles
from sdvae_ray.scoring.roles import well_roles

_PLACES = ("halves/first", "halves/second")


def profiles_of_site_halves(run: Run, fovs: pl.DataFrame, extractor: str, shift: np.ndarray | None) -> list[Profiles]:
    """Return the originals' profiles by half of every well's sites, and by the other half; wells of one site are left out.

    Empty if the run asks for neither ceilings nor references, or if no well has two sites. fovs, shift: see `build_profiles`.
    """
    wanted = run.config.score.floor_repeats or run.config.score.distributions.references
    several = fovs.filter(pl.len().over(WELL_KEY) > 1).sort(*WELL_KEY, FOV_ID)
    if not wanted or several.height == 0:
        return []
    drawn = block_generator(run.config.seed, "halves", "sites", several.height).random(several.height)
    several = several.with_columns(pl.Series("_drawn", drawn))
    second = several.select(pl.col("_drawn").rank("ordinal").over(WELL_KEY) % 2 == 0).to_series()
    several = several.drop("_drawn")
    return [
        build_profiles(run, several.filter(half), extractor, IMAGE_SIDE, shift, place)
        for place, half in zip(_PLACES, (~second, second), strict=True)
    ]


def site_halves_of(run: Run, halves: Sequence[Profiles], group: str) -> SiteHalves | None:
    """Return the normalisers of both halves of one group's sites, with their wells; None without halves of this group."""
    parts = []
    for profiles in halves:
        wells = well_roles(run, profiles.wells).filter(pl.col(GROUP) == group)
        if wells.height == 0:
            return None
        parts.append((normaliser_of(run, [(profiles, wells)]), wells))
    return (parts[0], parts[1]) if parts else None


def retrieved_of(compounds: Sequence[pl.DataFrame], extractor: str) -> pl.DataFrame:
    """Return GROUP and `compound` of the compounds that the originals retrieve. compounds: tables of scores, one per group."""
    tables = [table.filter((pl.col("extractor") == extractor) & (pl.col("side") == IMAGE_SIDE)) for table in compounds]
    schema = {GROUP: pl.String, "compound": pl.String}
    parts = [table.filter("retrieved").select(GROUP, "compound") for table in tables if table.height]
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema)


def references(
    run: Run,
    fovs: pl.DataFrame,
    originals: Profiles,
    halves: Sequence[Profiles],
    shift: np.ndarray | None,
    active: pl.DataFrame,
) -> list[pl.DataFrame]:
    """Return the distances between parts of the originals, with the column `reference`; no rows of a part that has no patches.

    halves: from `profiles_of_site_halves`. active: from `retrieved_of`. Ray must be connected.
    """
    pairs = {"plates": originals.plate_halves}
    if halves:
        pairs["sites"] = (halves[0].patches, halves[1].patches)
    if active.height:
        pairs["controls"] = _controls_and_active(run, fovs, originals.extractor, shift, active)
    tables = []
    for name, (first, second) in pairs.items():
        table = distances(run, originals.extractor, IMAGE_SIDE, first, second)
        tables.append(table.filter(pl.col("by") == GROUP).with_columns(reference=pl.lit(name)))
    return tables


def _controls_and_active(
    run: Run, fovs: pl.DataFrame, extractor: str, shift: np.ndarray | None, active: pl.DataFrame
) -> tuple[Patches, Patches]:
    """Return the statistics of the patches of negative controls, and of the compounds in `active`."""
    perturbation = pl.col(str(run.config.score.perturbation)).alias("compound")
    columns = [FOV_ID, "files", *PLATE_KEY, *slice_columns(run)]
    treated = (
        fovs.filter(TREATED)
        .with_columns(perturbation)
        .join(active, on=[GROUP, "compound"], how="semi", maintain_order="left")
    )
    totals = []
    settings = ray.put((run, embeddings_table(extractor, IMAGE_SIDE), shift))
    for chosen in (fovs.filter(CONTROL), treated):
        plates = chosen.select(columns).sort(*PLATE_KEY, FOV_ID).partition_by(*PLATE_KEY, maintain_order=True)
        total = Patches()
        for statistics in in_order(_patches_of_plate, ((settings, plate) for plate in plates)):
            total = merge_patches(total, statistics)
        totals.append(total)
    return totals[0], totals[1]


@ray.remote(num_cpus=TASK_CPUS)
def _patches_of_plate(settings: tuple[Run, str, np.ndarray | None], plate: pl.DataFrame) -> Patches:
    """Return the statistics of the patches of the FOVs of one plate."""
    run, table, shift = settings
    return patch_statistics(run, table, plate, shift)
