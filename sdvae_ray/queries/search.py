"""The wells nearest to a well, FOVs to a FOV, patches to a patch, from the indices that `score` has saved; and all three to a new
image.

No Ray and no model: the embedding of a new image is made in queries.new_image.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from sdvae_ray.engine.columns import kept_patches
from sdvae_ray.errors import ConfigError, DataError, nearest_or_first
from sdvae_ray.queries.saved_index import ID, LEVELS, SIMILARITY, chosen, chosen_indices, known_names, open_index, saved
from sdvae_ray.retrieval.arrays import unit_rows
from sdvae_ray.run.run import PROFILES, Run
from sdvae_ray.run.stored.table_files import read_table
from sdvae_ray.schema import EMBEDDING, FOV_ID, METADATA, PATCHES, PLATE_COLUMN, WELL_COLUMN, embeddings_table
from sdvae_ray.storage import Storage, join


class Answer(NamedTuple):
    """The nearest neighbours, and what was searched.

    neighbours: SIMILARITY (cosine) and the keys and Metadata_* of wells, FOVs or patches, nearest first. facts: the query's
    `well`, or `fov` and `patch`; extractor, side, group; the perturbation of the well; `as` and `note` for a new image.
    """

    neighbours: pl.DataFrame
    facts: dict[str, str]


def search_well(run: Run, well: str, extractor: str | None, side: str | None, count: int) -> Answer:
    """Return the `count` nearest other wells of the well's group.

    well: PLATE/WELL. extractor, side: see `saved_index.chosen`. Raises DataError, with the nearest match, for an unknown well, and
    for a name that two wells have.
    """
    indices = chosen_indices(run, None, extractor, side)
    plate, _, position = well.partition("/")
    known: list[str] = []
    for name in indices.names:
        opened = open_index(run, name)
        rows = opened.table.filter(pl.col(PLATE_COLUMN) == plate, pl.col(WELL_COLUMN) == position).collect()
        if rows.height == 0:
            known += known_names(opened.table, PLATE_COLUMN, WELL_COLUMN)
            continue
        if rows.height > 1:
            several = "the same plate name stands in several batches of this run"
            raise DataError(f"{rows.height} wells are {well}: {several}")
        row = rows.row(0, named=True)
        facts = {"well": well, "extractor": indices.extractor, "side": indices.side, "group": str(row["group"])}
        perturbation = run.config.score.perturbation
        if perturbation is not None and perturbation in row:
            facts["perturbation"] = str(row[perturbation] or "")
        neighbours = opened.nearest(opened.index.reconstruct(row[ID]), count, without=row[ID])
        return Answer(neighbours.select(SIMILARITY, f"^{METADATA}.*$"), facts)
    tail = nearest_or_first(well, known)
    raise DataError(f"no well {well!r} (PLATE/WELL) in the index of {indices.extractor} on {indices.side}{tail}")


def search_row(run: Run, fov_id: str, patch: int | None, extractor: str | None, side: str | None, count: int) -> Answer:
    """Return the `count` FOVs nearest to a FOV; with `patch`, the patches nearest to that patch of the FOV.

    patch: its number, counted row by row from 0. extractor, side: see `saved_index.chosen`. Raises DataError for an unknown FOV,
    ConfigError for a patch that was not kept.
    """
    level = "fov" if patch is None else "patch"
    indices = chosen_indices(run, level, extractor, side)
    opened = open_index(run, join(indices.extractor, indices.side, LEVELS[level]))
    row = opened.table.filter(pl.col(FOV_ID) == fov_id).collect()
    if row.height == 0:
        tail = nearest_or_first(fov_id, known_names(opened.table, FOV_ID))
        raise DataError(f"no FOV {fov_id!r} in the {indices.noun}{tail}")
    facts = {"fov": fov_id, **({} if patch is None else {"patch": str(patch)})}
    facts |= {"extractor": indices.extractor, "side": indices.side, "group": "all"}
    table = embeddings_table(indices.extractor, indices.side)
    if patch is None:
        vector, number = run.read(table, EMBEDDING, row).values[0], 0
    else:
        number = _stored_number(run, indices.extractor, row.row(0, named=True), patch)
        vector = run.read(table, PATCHES, row).values[0][number]
    own = int(row[ID][0]) + number
    return Answer(opened.nearest(vector.astype(np.float32).reshape(-1), count, without=own), facts)


class SearchSpace(NamedTuple):
    """The index in which a new image is searched for. name: the index's; None: search the profiles of wells, without an index."""

    extractor: str
    side: str
    name: str | None


def image_space(run: Run, level: str, extractor: str | None, side: str | None) -> SearchSpace:
    """Return where to search for a new image: the index of the level, "fov" or "patch"; without an index of FOVs the profiles of
    wells. Raises DataError if the run has neither the index nor profiles."""
    if level == "patch" or saved(run, level):
        indices = chosen_indices(run, level, extractor, side)
        return SearchSpace(indices.extractor, indices.side, indices.names[0])
    profiles = [name for name in run.storage.list(run.uri(PROFILES)) if name.endswith(".parquet")]
    if not profiles:
        raise DataError(f"{run.output} has no profiles: run `sdvae-ray score` first")
    return SearchSpace(*chosen(run, profiles, extractor, side, "profiles"), None)


def search_vector(run: Run, vector: np.ndarray, space: SearchSpace, count: int) -> Answer:
    """Return the nearest neighbours of a new image's embedding (D,): FOVs or patches by their index, or wells by their profiles."""
    facts = {"extractor": space.extractor, "side": space.side}
    if space.name is not None:
        return Answer(open_index(run, space.name).nearest(vector, count), facts | {"group": "all"})
    neighbours = nearest_profiles(run.uri(PROFILES, space.extractor, space.side), vector, count, run.storage)
    return Answer(neighbours, facts | {"group": "all wells, profiles not normalised"})


def nearest_profiles(folder: str, vector: np.ndarray, count: int, storage: Storage) -> pl.DataFrame:
    """Return the `count` wells nearest to a vector (D,) by cosine, exactly: SIMILARITY and their Metadata_*.

    folder: holds one table of profiles per plate: Metadata_*, then D features. One table is in memory at a time. Raises DataError
    for profiles with another number of features.
    """
    nearest = pl.DataFrame()
    unit = unit_rows(vector[None])[0]
    for name in storage.list(folder):
        table = pl.DataFrame(read_table(join(folder, name), storage))
        features = table.select(pl.exclude(f"^{METADATA}.*$")).to_numpy()
        if features.shape[1] != len(vector):
            stored = f"{join(folder, name)} has {features.shape[1]} features"
            raise DataError(f"{stored}, the image's embedding {len(vector)}")
        cosine = pl.Series(SIMILARITY, unit_rows(features) @ unit).cast(pl.Float32)
        rows = table.select(cosine, f"^{METADATA}.*$")
        nearest = pl.concat([nearest, rows], how="diagonal") if nearest.height else rows
        nearest = nearest.sort(SIMILARITY, descending=True, maintain_order=True).head(count)
    return nearest


def _stored_number(run: Run, extractor: str, row: Mapping[str, Any], patch: int) -> int:
    """Return the index of a patch among the patches of its FOV that were kept. Raises ConfigError for a patch that was not kept."""
    fov_id = row[FOV_ID]
    kept = kept_patches(run.config, extractor, fov_id, run.config.image.policy_of(row).patches).tolist()
    if patch not in kept:
        numbers = ", ".join(map(str, kept))
        raise ConfigError(f"patch {patch} of {fov_id} was not kept by {extractor} (allowed: {numbers})")
    return kept.index(patch)
