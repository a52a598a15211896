"""Embeddings of FOVs -> profiles of wells, plate by plate through Ray: one task reads and writes one plate of an (extractor, side).

profiles/<extractor>/<side>/<source>/<batch>/<plate>.parquet   before normalisation, wide, with the Metadata_* that are one per well

The same tasks take the statistics of the patch embeddings, from which distances between sides are had without the patches. The
driver keeps the wells' metadata and those statistics, never the profiles.
"""

from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import in_order
from sdvae_ray.errors import DataError
from sdvae_ray.run.run import PROFILES, Run
from sdvae_ray.run.tables import write_wide_table
from sdvae_ray.schema import EMBEDDING, FOV_ID, METADATA, PLATE_KEY, WELL_KEY, embeddings_table
from sdvae_ray.scoring.distances import GROUP, Patches, merge_all, patch_statistics, slice_columns
from sdvae_ray.storage import join

FILE, ROW = "_file", "_at"  # where a well's profile is: number of the file and row in it
_TASK_CPUS = 0.5


@dataclass(frozen=True)
class Profiles:
    """Stored profiles of one extractor and side: mean or median over the well's FOVs of the FOV's mean over patches, float32.

    wells    the wells that have one: WELL_KEY, group, every Metadata_* that is one per well, and FILE and ROW
    files    URIs, one of each plate
    width    features of a profile, G * D
    patches  what distances between sides need of the kept patch embeddings, of each slice; empty where none were kept
    """

    extractor: str
    side: str
    wells: pl.DataFrame
    files: list[str]
    width: int
    patches: Patches


def build_profiles(run: Run, fovs: pl.DataFrame, extractor: str, side: str, shift: np.ndarray | None) -> Profiles:
    """`fovs`: usable rows of fovs with `files`, `group` and the slices. Runs one Ray task per plate; Ray must be connected.

    shift: (G, D), near the mean, the same for all sides of an extractor; zeros where None. Raises DataError where no FOV has one.
    """
    root = run.uri(PROFILES, extractor, side)
    per_well = well_table(fovs)
    of_plate = per_well.select(*WELL_KEY, pl.col(f"^{METADATA}.*$").exclude(WELL_KEY)).partition_by(
        PLATE_KEY, as_dict=True
    )
    plates = (
        fovs.select(FOV_ID, "files", *WELL_KEY, *slice_columns(run))
        .sort(PLATE_KEY)
        .partition_by(PLATE_KEY, as_dict=True)
    )
    settings = ray.put((run, extractor, side, shift))
    task = _profile_plate.options(num_cpus=_TASK_CPUS)
    uris = [f"{join(root, *map(_path_part, key))}.parquet" for key in plates]
    asked = ((settings, uri, plates[key], of_plate[key]) for key, uri in zip(plates, uris, strict=True))
    files, wells, patches, width = list[str](), list[pl.DataFrame](), Patches(), 0
    for uri, found in zip(uris, in_order(task, asked), strict=True):
        if found is None:
            continue
        names, width, statistics = found
        wells.append(names.with_columns(pl.lit(len(files)).alias(FILE), pl.int_range(pl.len()).alias(ROW)))
        files.append(uri)
        patches = merge_all([patches, statistics])
    if not files:
        raise DataError(f"no FOV has an embedding of {extractor} of {side}")
    for name in set(run.storage.list(root)) - {uri.removeprefix(f"{root}/") for uri in files}:
        run.storage.delete(join(root, name))  # of plates that are no longer scored
    table = pl.concat(wells).join(per_well, on=list(WELL_KEY), how="left", maintain_order="left")
    return Profiles(extractor, side, table, files, width, patches)


def well_table(fovs: pl.DataFrame) -> pl.DataFrame:
    """One row per well: WELL_KEY, group, and every Metadata_* that has one value in each well."""
    candidates = [name for name in fovs.columns if name.startswith(METADATA) and name not in WELL_KEY]
    varying = fovs.group_by(WELL_KEY).agg(pl.col(candidates).n_unique()).select(pl.col(candidates).max())
    constant = [name for name in candidates if varying[name][0] == 1]
    return fovs.select(*WELL_KEY, GROUP, *constant).unique(WELL_KEY, keep="first", maintain_order=True).sort(WELL_KEY)


@ray.remote
def _profile_plate(
    settings: tuple[Run, str, str, np.ndarray | None], uri: str, plate: pl.DataFrame, wells: pl.DataFrame
) -> tuple[pl.DataFrame, int, Patches] | None:
    """Writes one plate's profiles. (its wells in the order of the file, features, patch statistics); None where it has none."""
    run, extractor, side, shift = settings
    table = embeddings_table(extractor, side)
    ids, values = run.read(table, EMBEDDING, plate)
    if not ids:
        return None
    rows = pl.DataFrame({FOV_ID: ids, "row": np.arange(len(ids))}).join(
        plate, on=FOV_ID, how="left", maintain_order="left"
    )
    reduce = np.median if run.config.score.aggregate == "median" else np.mean
    names, profiles = [], []
    for well, members in rows.sort(FOV_ID).group_by(WELL_KEY, maintain_order=True):
        names.append(well)
        profiles.append(reduce(values[members["row"].to_numpy()].astype(np.float64), axis=0))
    keys = pl.DataFrame(names, schema=dict.fromkeys(WELL_KEY, pl.String), orient="row")
    metadata = keys.join(wells, on=list(WELL_KEY), how="left", maintain_order="left")
    found = np.asarray(profiles, np.float32)
    columns = [f"{extractor}_{group}_{number}" for group in range(found.shape[1]) for number in range(found.shape[2])]
    features = pl.DataFrame(found.reshape(len(keys), -1), schema=columns)
    write_wide_table(uri, pl.concat([metadata, features], how="horizontal").to_arrow(), run.storage)
    return keys, features.width, patch_statistics(run, table, plate, shift)


def _path_part(name: str) -> str:
    """A key as the name of a folder or file."""
    return quote(name, safe=" +,=@()") if name.strip(".") else name.replace(".", "%2E")
