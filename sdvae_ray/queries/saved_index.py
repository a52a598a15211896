"""An index as `score` saved it: which there are, opened in place, and the table that says what an id stands for.

index/<extractor>/<side>/<group>.*     exact, of the normalised profiles of one group's wells; `.fit.npz`: of another well too
index/<extractor>/<side>/fovs.*        of FOVs, on request (score.fov_index)
index/<extractor>/<side>/patches.*     of patches, on request

Each is a `.faiss` and a `.parquet` with one row per well or FOV, ascending by `id`; those on request have a `.json` that says how
good they are. A local index is mapped into memory: a search reads the parts that it touches, and of the table the row groups that
hold what it names. One that is elsewhere is copied to this machine once per content (`local_copy`) and read from there.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.run.run import Run
from sdvae_ray.schema import PATCHES
from sdvae_ray.storage import local_copy

ID, SIMILARITY, PATCH = "id", "similarity", "patch"
ROOT = "index"
FIT = ".fit.npz"  # ends the name of what retrieval.saved_fit wrote, beside the index of a group
PATCHES_PER_FOV = "patches_per_fov"  # in the .json of an index of patches
LEVELS = {"fov": "fovs", "patch": PATCHES}  # what an index on request is of, and the name of its files
_COMPARED = 50_000  # names compared letter by letter with an unknown one


class Names:
    """The rows of an index's table: those that are asked for are read, found by the statistics of its row groups."""

    def __init__(self, path: Path) -> None:
        self._reader = pq.ParquetFile(path, memory_map=True)
        schema = self._reader.metadata.schema
        self._leaves = {schema.column(leaf).path: leaf for leaf in range(len(schema))}

    def of(self, ids: Sequence[int]) -> pl.DataFrame:
        """The rows of these ids."""
        asked = np.unique(np.asarray(ids, np.int64))

        def holds(low: int, high: int) -> bool:
            return bool(np.searchsorted(asked, high, "right") > np.searchsorted(asked, low, "left"))

        return self._read({ID: holds}).filter(pl.col(ID).is_in(asked.tolist()))

    def where(self, wanted: Mapping[str, str]) -> pl.DataFrame:
        """The rows with these texts, by column."""
        tests = {column: functools.partial(_between, text) for column, text in wanted.items()}
        return self._read(tests).filter(*(pl.col(column) == text for column, text in wanted.items()))

    def some(self, columns: Sequence[str], most: int = _COMPARED) -> list[str]:
        """The first `most` rows or somewhat more: these columns joined by "/"."""
        known: list[str] = []
        for group in range(self._reader.num_row_groups):
            frame = pl.DataFrame(self._reader.read_row_group(group, list(columns)))
            known += frame.select(pl.concat_str(columns, separator="/")).to_series().to_list()
            if len(known) >= most:
                break
        return known

    def _read(self, tests: Mapping[str, Callable[[Any, Any], bool]]) -> pl.DataFrame:
        """The row groups whose least and largest value of every column of `tests` pass its test, or are not known."""
        chosen = []
        for group in range(self._reader.num_row_groups):
            parts = self._reader.metadata.row_group(group)
            ranges = {column: parts.column(self._leaves[column]).statistics for column in tests}
            if all(not r or not r.has_min_max or tests[column](r.min, r.max) for column, r in ranges.items()):
                chosen.append(group)
        return pl.DataFrame(self._reader.read_row_groups(chosen)).with_columns(pl.col(ID).cast(pl.Int64))


def _between(text: str, low: str, high: str) -> bool:
    return low <= text <= high


@dataclass(frozen=True)
class SavedIndex:
    """patches: of each row of `names`: 0, and its id is the row's; or k, and that of place j is the row's + j."""

    index: faiss_index.Index
    names: Names
    patches: int

    def nearest(self, vector: np.ndarray, count: int, without: int | None = None) -> pl.DataFrame:
        """The rows of the `count` nearest to a vector (D,), nearest first, with their cosine, and `patch` in one of patches.

        without: an id to leave out, such as the vector's own.
        """
        wanted = min(count + (without is not None), self.index.ntotal)
        similarity, ids = faiss_index.search(self.index, vector.reshape(1, -1), wanted)
        found = pl.DataFrame({"_vector": ids[0], SIMILARITY: similarity[0]})
        found = found.filter(pl.col("_vector") >= 0, pl.col("_vector") != (-1 if without is None else without))
        each = max(1, self.patches)
        found = found.head(count).with_columns((pl.col("_vector") // each * each).alias(ID))
        rows = found.join(self.names.of(found[ID].to_list()), on=ID, how="left", maintain_order="left")
        if self.patches:
            place = pl.col("_vector") - pl.col(ID)
            rows = rows.with_columns(pl.col(PATCHES).list.get(place).alias(PATCH))
        return rows.drop("_vector", ID, "files", PATCHES, strict=False)


def open_index(run: Run, name: str) -> SavedIndex:
    """The index of a name that `saved` gives."""
    stem = run.uri(ROOT, name)
    patches = 0
    if name.endswith(f"/{PATCHES}"):
        patches = int(json.loads(run.storage.read_bytes(f"{stem}.json"))[PATCHES_PER_FOV])
    index = faiss_index.open_mapped(local_copy(f"{stem}.faiss", run.storage))
    return SavedIndex(index, Names(local_copy(f"{stem}.parquet", run.storage)), patches)


def saved(run: Run, level: str | None = None) -> list[str]:
    """<extractor>/<side>/<name> of every index of a level of `LEVELS`; None: those of wells."""
    root = run.uri(ROOT)
    every = [name.removesuffix(".faiss") for name in run.storage.list(root) if name.endswith(".faiss")]
    return [name for name in every if _level(name) == level]


def chosen(
    run: Run, names: Sequence[str], extractor: str | None, side: str | None, what: str = "index"
) -> tuple[str, str]:
    """Extractor and side: those asked for, else the run's first and the originals, of `names` (<extractor>/<side>...).

    Raises DataError for one that is not there, with the nearest match.
    """
    there = {name.split("/")[0] for name in names}
    extractors = [
        *(name for name in run.config.extractors if name in there),
        *sorted(there - run.config.extractors.keys()),
    ]
    one = _one(f"{what} of extractor", extractor, extractors, extractors[0])
    sides = sorted({name.split("/")[1] for name in names if name.split("/")[0] == one})
    return one, _one(f"{what} of side", side, sides, IMAGE_SIDE if IMAGE_SIDE in sides else sides[0])


def _level(name: str) -> str | None:
    return next((level for level, files in LEVELS.items() if name.endswith(f"/{files}")), None)


def _one(what: str, asked: str | None, names: list[str], default: str) -> str:
    if asked is not None and asked not in names:
        raise DataError(f"no {what} {asked!r}{did_you_mean(asked, names)}")
    return asked or default
