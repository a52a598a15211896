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
from sdvae_ray.run.stored.plates import PlateRows
from sdvae_ray.schema import FOV_ID, WELL_KEY, embeddings_table
from sdvae_ray.scoring.distances.distances import Patches, distances, merge_patches, patch_statistics
from sdvae_ray.scoring.floors import SiteHalves
from sdvae_ray.scoring.inputs.fovs import Fovs, WellsOfPlate, well_table
from sdvae_ray.scoring.inputs.labels import slice_columns
from sdvae_ray.scoring.inputs.roles import well_roles
from sdvae_ray.scoring.normalised import normaliser_of
from sdvae_ray.scoring.profiles import Profiles, build_profiles

_PLACES = ("halves/first", "halves/second")


def profiles_of_site_halves(run: Run, fovs: Fovs, extractor: str, shift: np.ndarray | None) -> list[Profiles]:
    """Return the originals' profiles by half of every well's sites, and by the other half; wells of one site are left out.

    Empty if the run asks for neither ceilings nor references, or if no well has two sites. shift: see `build_profiles`.
    """
    if not (run.config.score.floor_repeats or run.config.score.distributions.references):
        return []
    return [
        build_profiles(run, half, extractor, IMAGE_SIDE, shift, place)
        for place, half in zip(_PLACES, site_halves(run, fovs), strict=False)
    ]


def site_halves(run: Run, fovs: Fovs) -> list[Fovs]:
    """Return the FOVs of half of every well's sites, and of the other half; wells of one site are left out; empty if all are."""
    several = list(in_order(_count_of_several, [(plate,) for plate in fovs.plates]))
    if sum(several) == 0:
        return []
    drawn = block_generator(run.config.seed, "halves", "sites", sum(several)).random(sum(several))
    ends = np.cumsum(several)
    draws = [drawn[end - count : end] for end, count in zip(ends, several, strict=True)]
    halves = in_order(_halves_of_plate, list(zip(fovs.plates, draws, strict=True)))
    parts: tuple[list[PlateRows], list[PlateRows]] = ([], [])
    wells: tuple[list[WellsOfPlate], list[WellsOfPlate]] = ([], [])
    for chosen in halves:
        for number, (rows, own) in enumerate(chosen):
            if rows.height:
                parts[number].append(rows)
                wells[number].append(own)
    return [Fovs(plates, well_table(of_plates)) for plates, of_plates in zip(parts, wells, strict=True)]


def _of_several(plate: PlateRows) -> pl.DataFrame:
    return plate.table().filter(pl.len().over(WELL_KEY) > 1).sort(*WELL_KEY, FOV_ID)


@ray.remote(num_cpus=TASK_CPUS)
def _count_of_several(plate: PlateRows) -> int:
    """Return the number of FOVs in wells of several sites."""
    return _of_several(plate).height


@ray.remote(num_cpus=TASK_CPUS)
def _halves_of_plate(plate: PlateRows, drawn: np.ndarray) -> list[tuple[PlateRows, WellsOfPlate]]:
    """Return the FOVs of both halves of a plate. drawn: a number for every FOV in a well of several sites."""
    several = _of_several(plate)
    order = pl.Series("_drawn", drawn, pl.Float64)
    second = several.with_columns(order).select(pl.col("_drawn").rank("ordinal").over(WELL_KEY) % 2 == 0).to_series()
    halves = [several.filter(~second), several.filter(second)]
    return [(PlateRows.of(plate.key, half), WellsOfPlate.of(half)) for half in halves]


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
    fovs: Fovs,
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
    run: Run, fovs: Fovs, extractor: str, shift: np.ndarray | None, active: pl.DataFrame
) -> tuple[Patches, Patches]:
    """Return the statistics of the patches of negative controls, and of the compounds in `active`."""
    settings = ray.put((run, extractor, shift, active))
    controls, compounds = Patches(), Patches()
    for of_controls, of_compounds in in_order(_patches_of_plate, [(settings, plate) for plate in fovs.plates]):
        controls = merge_patches(controls, of_controls)
        compounds = merge_patches(compounds, of_compounds)
    return controls, compounds


@ray.remote(num_cpus=TASK_CPUS)
def _patches_of_plate(
    settings: tuple[Run, str, np.ndarray | None, pl.DataFrame], packed: PlateRows
) -> tuple[Patches, Patches]:
    """Return the statistics of the patches of one plate: of its negative controls, and of its compounds among the active ones."""
    run, extractor, shift, active = settings
    plate = packed.table().sort(FOV_ID)
    named = plate.with_columns(pl.col(str(run.config.score.perturbation)).alias("compound"))
    treated = named.filter(TREATED).join(active, on=[GROUP, "compound"], how="semi", maintain_order="left")
    table = embeddings_table(extractor, IMAGE_SIDE)
    first, second = (
        patch_statistics(run, extractor, table, part.select(FOV_ID, "files", *slice_columns(run)), shift)
        for part in (plate.filter(CONTROL), treated)
    )
    return first, second
