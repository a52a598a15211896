"""Nearest wells to a well, FOVs to a FOV, patches to a patch, from the indices that `score` has saved; and any to a new image.

No Ray, and no model: what a new image needs of them is in stages.query.
"""

from typing import NamedTuple

import numpy as np
import polars as pl

from sdvae_ray.engine.columns import kept_patches
from sdvae_ray.errors import ConfigError, DataError, nearest_or_first
from sdvae_ray.queries.saved_index import (
    ID,
    LEVELS,
    SIMILARITY,
    chosen,
    open_index,
    saved,
)
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import read_table
from sdvae_ray.schema import EMBEDDING, FOV_ID, METADATA, PATCHES, PLATE_COLUMN, WELL_COLUMN, embeddings_table
from sdvae_ray.storage import Storage, join

PROFILES = "profiles"
Found = tuple[pl.DataFrame, dict[str, str]]


def search_well(run: Run, well: str, extractor: str | None, side: str | None, count: int) -> Found:
    """(the `count` nearest other wells of the well's group, nearest first, with their cosine similarity; what was searched).

    well: PLATE/WELL. extractor, side: the run's first and the originals where None, or the first side where there are no originals.
    Raises DataError for what is not there, with the nearest match.
    """
    names = saved(run)
    if not names:
        raise DataError(f"{run.output} has no index: run `sdvae-ray score` first")
    one, of_side = chosen(run, names, extractor, side)
    plate, _, position = well.partition("/")
    known: list[str] = []
    for name in (each for each in names if each.startswith(f"{one}/{of_side}/")):
        opened = open_index(run, name)
        rows = opened.names.where({PLATE_COLUMN: plate, WELL_COLUMN: position})
        if rows.height == 0:
            known += opened.names.some([PLATE_COLUMN, WELL_COLUMN])
            continue
        if rows.height > 1:
            raise DataError(
                f"{rows.height} wells are {well}: the same plate name stands in several batches of this run"
            )
        asked = rows.row(0, named=True)
        found = opened.nearest(opened.index.reconstruct(asked[ID]), count, without=asked[ID])
        about = {"well": well, "extractor": one, "side": of_side, "group": str(asked["group"])}
        perturbation = run.config.score.perturbation
        if perturbation is not None and perturbation in asked:
            about["perturbation"] = str(asked[perturbation] or "")
        return found.select(SIMILARITY, *_metadata(found)), about
    raise DataError(f"no well {well!r} (PLATE/WELL) in the index of {one} on {of_side}{nearest_or_first(well, known)}")


def search_fov(run: Run, fov_id: str, extractor: str | None, side: str | None, count: int) -> Found:
    """The same of one FOV in the index over FOVs (score.fov_index); its settings are those it was measured with."""
    return _search_row(run, fov_id, None, extractor, side, count)


def search_patch(run: Run, fov_id: str, patch: int, extractor: str | None, side: str | None, count: int) -> Found:
    """The same of one patch of a FOV, counted row by row from 0, in the index over patches; `patch` is that of each neighbour."""
    return _search_row(run, fov_id, patch, extractor, side, count)


class Space(NamedTuple):
    """Where a new image is searched for. level: of `LEVELS`. name: of the index, None for profiles of wells."""

    level: str
    extractor: str
    side: str
    name: str | None


def image_space(run: Run, level: str, extractor: str | None, side: str | None) -> Space:
    """The index of the level; where the run has none of FOVs, its profiles of wells. Raises DataError where there is neither."""
    names = saved(run, level)
    if names or level == "patch":
        one, of_side = _of_level(run, names, level, extractor, side)
        return Space(level, one, of_side, join(one, of_side, LEVELS[level]))
    profiles = [name for name in run.storage.list(run.uri(PROFILES)) if name.endswith(".parquet")]
    if not profiles:
        raise DataError(f"{run.output} has no profiles: run `sdvae-ray score` first")
    return Space(level, *chosen(run, profiles, extractor, side, "profiles"), None)


def search_vector(run: Run, vector: np.ndarray, space: Space, count: int) -> Found:
    """The nearest to a new image's embedding (D,): FOVs or patches in their index, or wells by their profiles."""
    about = {"extractor": space.extractor, "side": space.side}
    if space.name is not None:
        return open_index(run, space.name).nearest(vector, count), about | {"group": "all"}
    folder = run.uri(PROFILES, space.extractor, space.side)
    return nearest_profiles(folder, vector, count, run.storage), about | {"group": "all wells, profiles not normalised"}


def nearest_profiles(folder: str, vector: np.ndarray, count: int, storage: Storage) -> pl.DataFrame:
    """The wells of tables of profiles (Metadata_*, then D features) nearest to (D,) by cosine, with their Metadata_*.

    Exact; a file, which is a plate, is held at a time. Raises DataError for profiles of other features.
    """
    best = pl.DataFrame()
    unit = _unit(vector[None])[0]
    for name in storage.list(folder):
        frame = pl.DataFrame(read_table(join(folder, name), storage))
        features = frame.select(pl.exclude(f"^{METADATA}.*$")).to_numpy()
        if features.shape[1] != len(vector):
            raise DataError(
                f"{join(folder, name)} has {features.shape[1]} features, the image's embedding {len(vector)}"
            )
        cosine = pl.Series(SIMILARITY, _unit(features) @ unit).cast(pl.Float32)
        rows = frame.select(cosine, pl.col(f"^{METADATA}.*$"))
        best = pl.concat([best, rows], how="diagonal") if best.height else rows
        best = best.sort(SIMILARITY, descending=True, maintain_order=True).head(count)
    return best


def _search_row(
    run: Run,
    fov_id: str,
    patch: int | None,
    extractor: str | None,
    side: str | None,
    count: int,
) -> Found:
    level = "fov" if patch is None else "patch"
    one, of_side = _of_level(run, saved(run, level), level, extractor, side)
    opened = open_index(run, join(one, of_side, LEVELS[level]))
    row = opened.names.where({FOV_ID: fov_id})
    if row.height == 0:
        tail = nearest_or_first(fov_id, opened.names.some([FOV_ID]))
        raise DataError(f"no FOV {fov_id!r} in the {_what(level)}{tail}")
    place = 0 if patch is None else _place(run, one, fov_id, patch)
    column = EMBEDDING if patch is None else PATCHES
    _, values = run.read(embeddings_table(one, of_side), column, row)
    vector = values[0] if patch is None else values[0][place]
    found = opened.nearest(vector.astype(np.float32).reshape(-1), count, without=int(row[ID][0]) + place)
    about = {"fov": fov_id, **({} if patch is None else {"patch": str(patch)})}
    return found, {**about, "extractor": one, "side": of_side, "group": "all"}


def _place(run: Run, extractor: str, fov_id: str, patch: int) -> int:
    """Of a patch among those of its FOV that were kept."""
    kept = kept_patches(run.config, extractor, fov_id).tolist()
    if patch not in kept:
        listed = ", ".join(map(str, kept))
        raise ConfigError(f"patch {patch} of {fov_id} was not kept by {extractor} (allowed: {listed})")
    return kept.index(patch)


_HOW = {
    "fov": "set score.fov_index and run `sdvae-ray score`",
    "patch": "set score.fov_index.level: patch and run `sdvae-ray score`",
}


def _what(level: str) -> str:
    return f"index of {'FOVs' if level == 'fov' else 'patches'}"


def _of_level(run: Run, names: list[str], level: str, extractor: str | None, side: str | None) -> tuple[str, str]:
    if not names:
        raise DataError(f"{run.output} has no {_what(level)}: {_HOW[level]}")
    return chosen(run, names, extractor, side, _what(level))


def _metadata(frame: pl.DataFrame) -> list[str]:
    return [name for name in frame.columns if name.startswith(METADATA)]


def _unit(vectors: np.ndarray) -> np.ndarray:
    x = np.asarray(vectors, np.float64)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm == 0, 1, norm)
