"""Indices as `score` saved them: their names, opened in place, and the tables that say what an id stands for.

index/<extractor>/<side>/<group>.*     exact, over the normalised profiles of one group's wells; `.fit.npz` normalises another well
too
index/<extractor>/<side>/fovs.*        over FOVs, where score.fov_index asks for it
index/<extractor>/<side>/patches.*     over patches, where score.fov_index.level asks for them

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
    """An index and its table, of which a query reads the row groups that can hold its rows.

    patches: of every FOV, in an index of patches: the vectors of a row of the table have the ids `id` to `id` + patches - 1. 0 in
    any other index, where the vector of a row has the row's id.
    """

    index: faiss_index.Index
    table: pl.LazyFrame
    patches: int

    def nearest(self, vector: np.ndarray, count: int, without: int | None = None) -> pl.DataFrame:
        """Returns the rows of the `count` vectors nearest to a vector (D,), nearest first, with their cosine.

        An index of patches adds `patch`, the number of the patch in its field. without: an id to leave out, such as the vector's
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
    """Opens the index of a name that `saved` gives."""
    patches = 0
    if name.endswith(f"/{PATCHES}"):
        patches = int(json.loads(run.storage.read_bytes(f"{run.uri(ROOT, name)}.json"))[PATCHES_PER_FOV])
    index = faiss_index.open_mapped(local_copy(f"{run.uri(ROOT, name)}.faiss", run.storage))
    return SavedIndex(index, open_table(run, name), patches)


def open_table(run: Run, name: str) -> pl.LazyFrame:
    """Opens the table of an index, by a name that `saved` gives."""
    return pl.scan_parquet(local_copy(f"{run.uri(ROOT, name)}.parquet", run.storage))


def known_names(table: pl.LazyFrame, *columns: str) -> list[str]:
    """Returns these columns, joined by "/", of the first rows of a table, for the nearest match of an unknown name."""
    return table.head(_COMPARED).select(pl.concat_str(columns, separator="/")).collect().to_series().to_list()


def saved(run: Run, level: str | None = None) -> list[str]:
    """Returns <extractor>/<side>/<name> of every index of a level of `LEVELS`; None: of every index of wells."""
    names = [name.removesuffix(".faiss") for name in run.storage.list(run.uri(ROOT)) if name.endswith(".faiss")]
    level_of = {files: level for level, files in LEVELS.items()}
    return [name for name in names if level_of.get(name.rpartition("/")[2]) == level]


class Indices(NamedTuple):
    """The indices of one extractor and side. names: as `saved` gives them. noun: what they are called in an error."""

    extractor: str
    side: str
    names: list[str]
    noun: str


def chosen_indices(run: Run, level: str | None, extractor: str | None, side: str | None) -> Indices:
    """Returns the indices of a level, as `saved` takes it, of the extractor and side that `chosen` chooses.

    Raises DataError where the run has no index of the level, and as `chosen` does.
    """
    names = saved(run, level)
    if not names:
        raise DataError(f"{run.output} has no {_NOUNS[level]}: {_REMEDIES[level]}")
    one, other = chosen(run, names, extractor, side, _NOUNS[level])
    return Indices(one, other, [name for name in names if name.startswith(f"{one}/{other}/")], _NOUNS[level])


def chosen(run: Run, names: Sequence[str], extractor: str | None, side: str | None, noun: str) -> tuple[str, str]:
    """Returns the extractor and side asked for, or the run's first extractor and the originals, or the first side without
    originals.

    names: <extractor>/<side>/... of everything there is. Raises DataError, with the nearest match, for an extractor or a side that
    no name has.
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
