"""The indices that `score` saved: their names, how they are opened, and the tables that map an id to a well or FOV.

index/<extractor>/<side>/<group>.*     exact, over the normalised profiles of one group's wells; `.fit.npz` normalises another well
too
index/<extractor>/<side>/fovs.*        over FOVs, if score.fov_index asks for it
index/<extractor>/<side>/patches.*     over patches, if score.fov_index.level asks for them

An index is a `.faiss` and a `.parquet` with one row per well or FOV, ascending by `id`. An index over FOVs or patches has a `.json`
with its measured recall. A local index is mapped into memory, and a search reads the parts that it touches. A remote index is
copied to this machine once per content (`storage.local_copy`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.run.run import Run
from sdvae_ray.schema import PATCHES
from sdvae_ray.storage import local_copy

ID, SIMILARITY, PATCH = "id", "similarity", "patch"
ROOT = "index"
FIT = ".fit.npz"  # ends the name of a file of retrieval.normalisation.saved_fit, beside the index of a group
PATCHES_PER_FOV = "patches_per_fov"  # in the .json of an index of patches
LEVELS = {
    "fov": "fovs",
    "patch": PATCHES,
}  # the name of an index's files; an index of wells has no level, and a group's name
_NOUNS = {None: "index of wells", "fov": "index of FOVs", "patch": "index of patches"}
_REMEDIES = {
    None: "run `sdvae-ray score` first",
    "fov": "set score.fov_index and run `sdvae-ray score`",
    "patch": "set score.fov_index.level: patch and run `sdvae-ray score`",
}
_COMPARED = 50_000  # names compared letter by letter with an unknown one
_VECTOR = "_vector"  # a column: the id of a vector


@dataclass(frozen=True)
class SavedIndex:
    """An index and its table; a query reads only the row groups of the table that can hold its rows.

    patches: the largest number of patches of a FOV in an index of patches; a row's vectors have ids from `id` to at most `id` +
    patches - 1. 0 in any other index, in which a row's vector has the row's id.
    """

    index: faiss_index.Index
    table: pl.LazyFrame
    patches: int

    def vectors(self, ids: np.ndarray) -> np.ndarray:
        """Return (N, D) float32: the vectors of length 1 under the ids (N,) of an index of wells."""
        return np.stack([self.index.reconstruct(int(number)) for number in ids])

    def nearest(self, vector: np.ndarray, count: int, without: int | None = None) -> pl.DataFrame:
        """Return the rows of the `count` vectors nearest to a vector (D,), nearest first, with their cosine.

        An index of patches adds `patch`, the number of the patch in its field. without: an id to leave out, such as the query's
        own.
        """
        wanted = min(count + (without is not None), self.index.ntotal)
        similarity, ids = faiss_index.search(self.index, vector.reshape(1, -1), wanted)
        vectors = pl.DataFrame({_VECTOR: ids[0], SIMILARITY: similarity[0]})
        vectors = vectors.filter(pl.col(_VECTOR) >= 0, pl.col(_VECTOR) != (-1 if without is None else without))
        per_row = max(1, self.patches)
        vectors = vectors.head(count).with_columns((pl.col(_VECTOR) // per_row * per_row).alias(ID))
        table = self.table.filter(pl.col(ID).is_in(vectors[ID].to_list())).collect()
        rows = vectors.join(table.with_columns(pl.col(ID).cast(pl.Int64)), on=ID, how="left", maintain_order="left")
        if self.patches:
            rows = rows.with_columns(pl.col(PATCHES).list.get(pl.col(_VECTOR) - pl.col(ID)).alias(PATCH))
        return rows.drop(_VECTOR, ID, "files", PATCHES, strict=False)


def open_index(run: Run, name: str) -> SavedIndex:
    """Open an index by its name, as `saved` returns it."""
    patches = 0
    if name.endswith(f"/{PATCHES}"):
        patches = int(json.loads(run.storage.read_bytes(f"{run.uri(ROOT, name)}.json"))[PATCHES_PER_FOV])
    index = faiss_index.open_mapped(local_copy(f"{run.uri(ROOT, name)}.faiss", run.storage))
    return SavedIndex(index, open_table(run, name), patches)


def open_table(run: Run, name: str) -> pl.LazyFrame:
    """Open the table of an index by the index's name, as `saved` returns it."""
    return pl.scan_parquet(local_copy(f"{run.uri(ROOT, name)}.parquet", run.storage))


def known_names(table: pl.LazyFrame, *columns: str) -> list[str]:
    """Return the values of `columns`, joined by "/", in the first rows of a table, for the nearest match of an unknown name."""
    return table.head(_COMPARED).select(pl.concat_str(columns, separator="/")).collect().to_series().to_list()


def saved(run: Run, level: str | None = None) -> list[str]:
    """Return <extractor>/<side>/<name> of the indices of a level, "fov" or "patch"; None: of the indices of wells."""
    names = [name.removesuffix(".faiss") for name in run.storage.list(run.uri(ROOT)) if name.endswith(".faiss")]
    level_of = {files: level for level, files in LEVELS.items()}
    return [name for name in names if level_of.get(name.rpartition("/")[2]) == level]


class Indices(NamedTuple):
    """The indices of one extractor and side. names: as `saved` returns them. noun: what an error calls these indices."""

    extractor: str
    side: str
    names: list[str]
    noun: str


def chosen_indices(run: Run, level: str | None, extractor: str | None, side: str | None) -> Indices:
    """Return the indices of a level (see `saved`) for the extractor and side that `chosen` picks.

    Raises DataError if the run has no index of the level, or none of the extractor or side.
    """
    names = saved(run, level)
    if not names:
        raise DataError(f"{run.output} has no {_NOUNS[level]}: {_REMEDIES[level]}")
    one, other = chosen(run, names, extractor, side, _NOUNS[level])
    return Indices(one, other, [name for name in names if name.startswith(f"{one}/{other}/")], _NOUNS[level])


def chosen(run: Run, names: Sequence[str], extractor: str | None, side: str | None, noun: str) -> tuple[str, str]:
    """Return (extractor, side). extractor None: the run's first. side None: the originals, or the first side if they are absent.

    names: texts <extractor>/<side>/... of what exists. noun: for the error. Raises DataError, with the nearest match, for an
    extractor or a side that no name has.
    """
    present, known = {name.split("/")[0] for name in names}, run.config.extractors
    extractors = [*(name for name in known if name in present), *sorted(present - known.keys())]
    extractor = _one_of(extractors, extractor, extractors[0], f"{noun} of extractor")
    sides = sorted({name.split("/")[1] for name in names if name.startswith(f"{extractor}/")})
    return extractor, _one_of(sides, side, IMAGE_SIDE if IMAGE_SIDE in sides else sides[0], f"{noun} of side")


def _one_of(names: Sequence[str], name: str | None, default: str, noun: str) -> str:
    if name is not None and name not in names:
        raise DataError(f"no {noun} {name!r}{did_you_mean(name, names)}")
    return name or default
