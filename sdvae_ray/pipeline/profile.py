"""Embeddings of FOVs -> profiles of wells, plate by plate through Ray: one task reads one plate of one (extractor, side).

The same tasks take the moments of the patch embeddings, from which distances between sides are had without the patches.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
import ray

from sdvae_ray.config import IMAGE_SIDE, RunConfig, StorageConfig
from sdvae_ray.distributions.fid import Moments, merge, moments
from sdvae_ray.schema import EMBEDDINGS, FOV_ID, PLATE, WELL, embeddings_table
from sdvae_ray.storage import Storage
from sdvae_ray.tables import data_tables, read_column

GROUP = "group"  # values of score.group joined by " / "; "all" where there are none
_TASK_CPUS = 0.5


@dataclass(frozen=True)
class Profiles:
    """Profiles of one extractor and side.

    wells     the wells that have one, rows in the order of `features`: WELL, group and every Metadata_* that is one per well
    features  (W, G, D) float32, mean or median over the well's FOVs of the FOV's mean over patches
    patches   per (group, G): moments of the kept patch embeddings, (D,); empty where none were kept
    """

    extractor: str
    side: str
    wells: pl.DataFrame
    features: np.ndarray
    patches: dict[tuple[str, int], Moments]


def with_group(fovs: pl.DataFrame, group: tuple[str, ...]) -> pl.DataFrame:
    """Adds the column `group`."""
    if not group:
        return fovs.with_columns(pl.lit("all").alias(GROUP))
    return fovs.with_columns(
        pl.concat_str([pl.col(name).fill_null("-") for name in group], separator=" / ").alias(GROUP)
    )


def sides_of_tables(output: str, storage: Storage) -> list[tuple[str, str]]:
    """(extractor, side) of every embeddings table, image side first."""
    found = [table.split("/")[1:] for table in data_tables(output, storage) if table.startswith(f"{EMBEDDINGS}/")]
    return sorted(
        ((extractor, side) for extractor, side in found), key=lambda pair: (pair[0], pair[1] != IMAGE_SIDE, pair[1])
    )


def build_profiles(config: RunConfig, fovs: pl.DataFrame, extractor: str, side: str) -> Profiles:
    """`fovs`: usable rows of fovs with `file` and `group`. Runs one Ray task per plate; Ray must be connected."""
    per_well = well_table(fovs)
    plates = fovs.partition_by(*PLATE, maintain_order=True)
    parts = ray.get(
        [
            _profile_plate.options(num_cpus=_TASK_CPUS).remote(
                config.output,
                config.storage,
                extractor,
                side,
                plate.select(FOV_ID, "file", GROUP, *WELL),
                config.score.aggregate,
            )
            for plate in plates
        ]
    )
    names = pl.concat([part[0] for part in parts])
    patches: dict[tuple[str, int], Moments] = {}
    for _, _, found in parts:
        for key, value in found.items():
            patches[key] = merge(patches[key], value) if key in patches else value
    wells = names.join(per_well, on=list(WELL), how="left", maintain_order="left")
    return Profiles(extractor, side, wells, np.concatenate([part[1] for part in parts]), patches)


def well_table(fovs: pl.DataFrame) -> pl.DataFrame:
    """One row per well: WELL, group, and every Metadata_* that has one value in each well."""
    candidates = [name for name in fovs.columns if name.startswith("Metadata_") and name not in WELL]
    varying = fovs.group_by(WELL).agg(pl.col(candidates).n_unique()).select(pl.col(candidates).max())
    constant = [name for name in candidates if varying[name][0] == 1]
    return fovs.select(*WELL, GROUP, *constant).unique(WELL, keep="first", maintain_order=True).sort(WELL)


@ray.remote
def _profile_plate(
    output: str, storage_config: StorageConfig, extractor: str, side: str, plate: pl.DataFrame, aggregate: str
) -> tuple[pl.DataFrame, np.ndarray, dict[tuple[str, int], Moments]]:
    """(wells, (W, G, D) profiles, moments) of one plate."""
    storage, table = Storage(storage_config), embeddings_table(extractor, side)
    ids, values = read_column(output, table, "embedding", plate, storage)
    rows = pl.DataFrame({FOV_ID: ids, "row": np.arange(len(ids))}).join(
        plate, on=FOV_ID, how="left", maintain_order="left"
    )
    reduce = np.median if aggregate == "median" else np.mean
    wells, profiles = [], []
    for well, members in rows.sort(FOV_ID).group_by(WELL, maintain_order=True):
        wells.append(well)
        profiles.append(reduce(values[members["row"].to_numpy()].astype(np.float64), axis=0))
    names = pl.DataFrame(wells, schema=dict.fromkeys(WELL, pl.String), orient="row")
    return names, np.asarray(profiles, np.float32), _patch_moments(output, table, plate, storage)


def _patch_moments(output: str, table: str, plate: pl.DataFrame, storage: Storage) -> dict[tuple[str, int], Moments]:
    try:
        ids, values = read_column(output, table, "patches", plate, storage)
    except KeyError:  # keep_patches: 0
        return {}
    groups = dict(plate.select(FOV_ID, GROUP).iter_rows())
    of_row = np.array([groups[fov] for fov in ids])
    found = {}
    for group in sorted(set(of_row.tolist())):
        chosen = values[of_row == group].astype(np.float64)  # (n, k, G, D)
        for index in range(chosen.shape[2]):
            found[group, index] = moments(chosen[:, :, index].reshape(-1, chosen.shape[3]))
    return found
