"""Embeddings of FOVs -> profiles of wells, through Ray: one task reads and writes one plate of an extractor and side.

profiles/<extractor>/<side>/<source>/<batch>/<plate>.parquet   before normalisation, wide, with every Metadata_* that is one per
well

The same tasks take the statistics of the patch embeddings, so that the distances between sides need no patches. The driver keeps
the wells' metadata and the statistics, never the profiles.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import numpy as np
import polars as pl
import ray
from numpy.typing import NDArray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, in_order
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.controls import GROUP
from sdvae_ray.errors import DataError
from sdvae_ray.randomness import generator
from sdvae_ray.run.run import PROFILES, Run
from sdvae_ray.run.stored.features import features
from sdvae_ray.run.stored.plates import PlateRows
from sdvae_ray.run.stored.table_files import write_wide_table
from sdvae_ray.schema import EMBEDDING, FOV_ID, PLATE_KEY, WELL_COLUMN, WELL_KEY, embeddings_table
from sdvae_ray.scoring.distances.distances import Patches, merge_patches, patch_statistics
from sdvae_ray.scoring.inputs.fovs import Fovs
from sdvae_ray.settings.score import ScoreConfig
from sdvae_ray.storage import join

FILE, ROW = "_file", "_at"  # columns: the number of the file that has a well's profile, and the row in it


@dataclass(frozen=True)
class Profiles:
    """The stored profiles of one extractor and side, float32.

    A profile is the mean or median of the embeddings of a well's FOVs; an embedding is the mean over the patches of a FOV.
    wells    the wells that have a profile: WELL_KEY, GROUP, every Metadata_* that has one value per well, FILE and ROW
    files    URIs, one per plate
    width    number of features of a profile, G * D
    patches  statistics of the patch embeddings that were kept; empty if none were
    plate_halves  the same of the plates in `half_of_plates` and of the others, for the originals alone
    """

    extractor: str
    side: str
    wells: pl.DataFrame
    files: list[str]
    width: int
    patches: Patches
    plate_halves: tuple[Patches, Patches] = field(default_factory=lambda: (Patches(), Patches()))


def build_profiles(
    run: Run, fovs: Fovs, extractor: str, side: str, shift: np.ndarray | None, place: str = PROFILES
) -> Profiles:
    """Write the profiles of an extractor and side, and return where they are. Ray must be connected.

    shift: (G, D), a vector near the mean, one for all sides of an extractor; None: zeros. place: the folder that the profiles stand
    in. Raises DataError if no FOV has an embedding.
    """
    root = run.uri(place, extractor, side)
    wells = fovs.plates_of_wells()
    uris = [f"{join(root, *map(_path_part, plate.key))}.parquet" for plate in fovs.plates]
    settings = ray.put((run, extractor, side, shift, fovs.constant))
    results = in_order(_profile_plate, [(settings, uri, plate) for plate, uri in zip(fovs.plates, uris, strict=True)])
    files, tables, patches, width = list[str](), list[pl.DataFrame](), Patches(), 0
    first = half_of_plates(fovs, run.config.seed) if side == IMAGE_SIDE else set[tuple[str, ...]]()
    halves = Patches(), Patches()
    for plate, uri, result in zip(fovs.plates, uris, results, strict=True):
        if result is None:
            continue
        names, width, statistics = result
        profiled = wells[plate.key]
        if not names.equals(profiled[WELL_COLUMN]):
            profiled = names.to_frame().join(profiled, on=WELL_COLUMN, how="left", maintain_order="left")
            profiled = profiled.select(fovs.wells.columns)
        tables.append(profiled.with_columns(pl.lit(len(files)).alias(FILE), pl.int_range(pl.len()).alias(ROW)))
        files.append(uri)
        patches = merge_patches(patches, statistics)
        if side == IMAGE_SIDE:
            here = halves[plate.key not in first]
            here |= merge_patches(here, statistics)
    if not files:
        raise DataError(f"no FOV has an embedding of {extractor} of {side}")
    for name in set(run.storage.list(root)) - {uri.removeprefix(f"{root}/") for uri in files}:
        run.storage.delete(join(root, name))  # of a plate that is no longer scored
    return Profiles(extractor, side, pl.concat(tables), files, width, patches, halves)


def half_of_plates(fovs: Fovs, seed: int) -> set[tuple[str, ...]]:
    """Return the keys of half of every group's plates, drawn by the seed."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    plates = fovs.wells.group_by(PLATE_KEY).agg(pl.col(GROUP).min()).select(GROUP, *PLATE_KEY).sort(pl.all())
    for group, *key in plates.rows():
        groups.setdefault(group, []).append(tuple(key))
    first = set()
    for group, keys in groups.items():
        order = generator(seed, "halves", "plates", group).permutation(len(keys))
        first |= {keys[at] for at in order[: len(keys) // 2]}
    return first


def well_profile(embeddings: NDArray[np.float16], settings: ScoreConfig) -> NDArray[np.floating[Any]]:
    """Return the profile (G, D) of a well from the embeddings (n, G, D) of its FOVs: float64, or float16 for score.half_mean, whose
    mean numpy sums in float32 and rounds once.
    """
    values: NDArray[Any] = embeddings if settings.half_mean else embeddings.astype(np.float64)
    return np.asarray(np.median(values, axis=0) if settings.aggregate == "median" else np.mean(values, axis=0))


@ray.remote(num_cpus=TASK_CPUS)
def _profile_plate(
    settings: tuple[Run, str, str, np.ndarray | None, Sequence[str]], uri: str, packed: PlateRows
) -> tuple[pl.Series, int, Patches] | None:
    """Write the profiles of one plate; return the names of its wells in the order of the file, the number of features, and the
    statistics of its patches. None if no FOV has an embedding.
    """
    run, extractor, side, shift, constant = settings
    plate = packed.table()
    table = embeddings_table(extractor, side)
    fov_ids, values = run.read(table, EMBEDDING, plate)
    if not fov_ids:
        return None
    rows = pl.DataFrame({FOV_ID: fov_ids, "row": np.arange(len(fov_ids))})
    rows = rows.join(plate, on=FOV_ID, how="left", maintain_order="left").sort(FOV_ID)
    keys, profiles = [], []
    for key, members in rows.group_by(WELL_KEY, maintain_order=True):
        keys.append(key)
        profiles.append(well_profile(values[members["row"].to_numpy()], run.config.score))
    wells = plate.select(*WELL_KEY, *constant).unique(WELL_KEY, keep="first", maintain_order=True)
    profiled = pl.DataFrame(keys, schema=dict.fromkeys(WELL_KEY, pl.String), orient="row")
    profiled = profiled.join(wells, on=list(WELL_KEY), how="left", maintain_order="left")
    _, groups, depth = values.shape
    names = [feature.name for feature in features(run.config, extractor, side, groups, depth)]
    values_of_wells = pl.DataFrame(np.asarray(profiles, np.float32).reshape(len(keys), -1), schema=names)
    stored = pl.concat([profiled, values_of_wells], how="horizontal")
    write_wide_table(uri, stored.to_arrow(), run.storage)
    return profiled[WELL_COLUMN], len(names), patch_statistics(run, extractor, table, plate, shift)


def _path_part(name: str) -> str:
    """Return a key quoted as the name of a folder or file."""
    return quote(name, safe=" +,=@()") if name.strip(".") else name.replace(".", "%2E")
