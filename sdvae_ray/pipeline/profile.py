"""Embeddings of FOVs -> profiles of wells, plate by plate through Ray: one task reads one plate of one (extractor, side).

The same tasks take the statistics of the patch embeddings, from which distances between sides are had without the patches.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import ray

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.errors import DataError
from sdvae_ray.pipeline.distances import GROUP, Patches, merge_all, patch_statistics, slice_columns
from sdvae_ray.schema import EMBEDDINGS, FOV_ID, PLATE, WELL, embeddings_table
from sdvae_ray.stages.columns import EMBEDDING
from sdvae_ray.storage import Storage
from sdvae_ray.tables import data_tables, read_column

_TASK_CPUS = 0.5


@dataclass(frozen=True)
class Profiles:
    """Profiles of one extractor and side.

    wells     the wells that have one, rows in the order of `features`: WELL, group and every Metadata_* that is one per well
    features  (W, G, D) float32, mean or median over the well's FOVs of the FOV's mean over patches
    patches   what distances between sides need of the kept patch embeddings, of each slice; empty where none were kept
    """

    extractor: str
    side: str
    wells: pl.DataFrame
    features: np.ndarray
    patches: Patches


def sides_of_tables(output: str, storage: Storage) -> list[tuple[str, str]]:
    """(extractor, side) of every embeddings table, image side first."""
    found = [table.split("/")[1:] for table in data_tables(output, storage) if table.startswith(f"{EMBEDDINGS}/")]
    return sorted(
        ((extractor, side) for extractor, side in found), key=lambda pair: (pair[0], pair[1] != IMAGE_SIDE, pair[1])
    )


def build_profiles(
    config: RunConfig, fovs: pl.DataFrame, extractor: str, side: str, shift: np.ndarray | None
) -> Profiles:
    """`fovs`: usable rows of fovs with `files`, `group` and the slices. Runs one Ray task per plate; Ray must be connected.

    shift: (G, D), near the mean, the same for all sides of an extractor; zeros where None. Raises DataError where no FOV has one.
    """
    per_well, slices = well_table(fovs), slice_columns(config)
    task = _profile_plate.options(num_cpus=_TASK_CPUS)
    settings = ray.put((config, extractor, side, shift))
    plates = fovs.select(FOV_ID, "files", *WELL, *slices).partition_by(*PLATE, maintain_order=True)
    parts = [part for part in ray.get([task.remote(settings, plate) for plate in plates]) if part is not None]
    if not parts:
        raise DataError(f"no FOV has an embedding of {extractor} of {side}")
    names = pl.concat([part[0] for part in parts])
    wells = names.join(per_well, on=list(WELL), how="left", maintain_order="left")
    return Profiles(
        extractor, side, wells, np.concatenate([part[1] for part in parts]), merge_all(part[2] for part in parts)
    )


def well_table(fovs: pl.DataFrame) -> pl.DataFrame:
    """One row per well: WELL, group, and every Metadata_* that has one value in each well."""
    candidates = [name for name in fovs.columns if name.startswith("Metadata_") and name not in WELL]
    varying = fovs.group_by(WELL).agg(pl.col(candidates).n_unique()).select(pl.col(candidates).max())
    constant = [name for name in candidates if varying[name][0] == 1]
    return fovs.select(*WELL, GROUP, *constant).unique(WELL, keep="first", maintain_order=True).sort(WELL)


@ray.remote
def _profile_plate(
    settings: tuple[RunConfig, str, str, np.ndarray | None], plate: pl.DataFrame
) -> tuple[pl.DataFrame, np.ndarray, Patches] | None:
    """(wells, (W, G, D) profiles, patch statistics) of one plate; None where no FOV of it has an embedding."""
    config, extractor, side, shift = settings
    storage, table = Storage(config.storage), embeddings_table(extractor, side)
    ids, values = read_column(config.output, table, EMBEDDING, plate, storage)
    if not ids:
        return None
    rows = pl.DataFrame({FOV_ID: ids, "row": np.arange(len(ids))}).join(
        plate, on=FOV_ID, how="left", maintain_order="left"
    )
    reduce = np.median if config.score.aggregate == "median" else np.mean
    wells, profiles = [], []
    for well, members in rows.sort(FOV_ID).group_by(WELL, maintain_order=True):
        wells.append(well)
        profiles.append(reduce(values[members["row"].to_numpy()].astype(np.float64), axis=0))
    names = pl.DataFrame(wells, schema=dict.fromkeys(WELL, pl.String), orient="row")
    return names, np.asarray(profiles, np.float32), patch_statistics(config, table, plate, shift, storage)
