"""Compaction: the rows of a run in few large files, one row per field of view with all of its columns.

New files are committed before old ones go, so a compaction that is killed at any moment loses nothing, and the next one ends it.
"""

import itertools
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored import table_files, tables
from sdvae_ray.run.stored.commits import FILE, check_whole, one_per_fov, read_rows
from sdvae_ray.schema import CROP, ERROR, FOV_ID, FOVS, SEPARATOR
from sdvae_ray.storage import join

FILE_BYTES = 192 << 20  # of the largest table: files of 128 to 256 MB
_MOST_ROWS = 1 << 17  # of a file, where all tables are small
_COLUMNS, _HOME = "columns", "home"
_DELETERS = 16  # threads


@dataclass(frozen=True)
class Chunk:
    """The rows of one new file. columns: `<table>:<column>`, which every usable FOV of it has. fovs: fov_id, error, files."""

    columns: frozenset[str]
    fovs: pl.DataFrame


@dataclass(frozen=True)
class Plan:
    """A compaction.

    chunks  the new files
    old     names of the files that go when the chunks are committed: all of their rows stand elsewhere then
    kept    number of files that stay as they are
    fovs    number of FOVs of the run
    row_bytes  bytes of a row of all tables
    """

    chunks: list[Chunk]
    old: list[str]
    kept: int
    fovs: int
    row_bytes: int


def plan(run: Run, file_bytes: int = FILE_BYTES) -> Plan:
    """Return what is to be rewritten in a run so that every FOV has one row, in files whose largest table has about `file_bytes`.

    A file stays if it is large enough, or alone, and all of its rows are the only ones that are needed. Raises DataError if a
    committed file is gone.
    """
    rows, commits = read_rows(run.output, run.storage, run.config.image.policy_columns)
    fovs = _with_crops(run, one_per_fov(rows))
    present = check_whole(run.output, run.storage, fovs, commits)
    sizes = _row_sizes(run, present)
    rows_per_file = max(1, min(_MOST_ROWS, file_bytes // max(sizes.values(), default=1)))
    heights = dict(rows.group_by(FILE).len().iter_rows())
    fovs = _with_homes(fovs, present, heights)
    kept = _kept(fovs, present, heights, rows_per_file)
    moving = fovs.filter(pl.col(_HOME).is_null() | ~pl.col(_HOME).is_in(list(kept)))
    chunks = [
        Chunk(frozenset(str(names).split("\n")) if names else frozenset(), part.select(FOV_ID, ERROR, "files"))
        for (names, _), group in moving.sort(FOV_ID).group_by(_COLUMNS, CROP, maintain_order=True)
        for part in group.iter_slices(_even(group.height, rows_per_file))
    ]
    return Plan(chunks, sorted(commits.keys() - kept), len(kept), fovs.height, sum(sizes.values()))


def _even(rows: int, most: int) -> int:
    """Return the rows of a file so that `rows` rows go into the fewest files of equal size."""
    files = -(-rows // most)
    return -(-rows // files)


def _with_crops(run: Run, fovs: pl.DataFrame) -> pl.DataFrame:
    """Return the FOVs with their crops: the tensors of a file have one shape. A failed FOV, without tensors, joins most others."""
    image = run.config.image
    crops = {value: policy.crop for value, policy in image.every_policy.items()}
    if image.policies is None or fovs.is_empty():
        return fovs.with_columns(pl.lit(0).alias(CROP))
    crop = pl.col(image.policies.column).replace_strict(crops, default=None, return_dtype=pl.Int64)
    fovs = fovs.with_columns(pl.when(pl.col(ERROR).is_null()).then(crop).alias(CROP)).drop(image.policies.column)
    usual = fovs[CROP].drop_nulls().mode().max()
    return fovs.with_columns(pl.col(CROP).fill_null(usual if usual is not None else 0))


def _with_homes(fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]], heights: Mapping[str, int]) -> pl.DataFrame:
    """Return the FOVs with the names of all their columns, one a line, and their home: the largest file that has these columns.

    The home is null where no file has all of the columns.
    A failed FOV, which has no columns, joins the columns that most FOVs have. heights: file name -> its rows.
    """
    kinds = fovs.group_by("files", failed=pl.col(ERROR).is_not_null(), maintain_order=True).agg(fovs=pl.len())
    unions = [
        frozenset[str]() if failed else frozenset[str]().union(*(commits[name] for name in files))
        for files, failed, _ in kinds.iter_rows()
    ]
    count: dict[frozenset[str], int] = {}
    for columns, (_, failed, number) in zip(unions, kinds.iter_rows(), strict=True):
        if not failed:
            count[columns] = count.get(columns, 0) + number
    usual = max(count, key=lambda columns: (count[columns], sorted(columns)), default=frozenset[str]())
    homes = []
    for columns, (files, failed, _) in zip(unions, kinds.iter_rows(), strict=True):
        whole = [name for name in files if failed or commits[name] == columns]
        homes.append(max(whole, key=lambda name: (heights[name], name), default=None))
    failures = kinds["failed"].to_list()
    names = [usual if failed else columns for columns, failed in zip(unions, failures, strict=True)]
    described = [
        pl.Series(_COLUMNS, ["\n".join(sorted(columns)) for columns in names]),
        pl.Series(_HOME, homes, pl.String),
    ]
    numbered = kinds.with_columns(described)
    keyed = fovs.with_columns(_kind(pl.col(ERROR).is_not_null()))
    of_kind = numbered.select(_COLUMNS, _HOME, _kind(pl.col("failed")))
    return keyed.join(of_kind, on="kind", how="left", maintain_order="left").drop("kind")


def _kind(failed: pl.Expr) -> pl.Expr:
    """Return a text for the files of a FOV and whether it failed."""
    return pl.concat_str(pl.col("files").list.join("\n"), failed.cast(pl.String), separator="\n").alias("kind")


def _kept(
    fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]], heights: Mapping[str, int], rows_per_file: int
) -> set[str]:
    """Return the names of the files that stay: all of their rows are at home there, and a merge would make no larger file."""
    at_home = dict(fovs.drop_nulls(_HOME).group_by(_HOME).len().iter_rows())
    whole = {name for name, height in heights.items() if at_home.get(name) == height}
    small: dict[tuple[object, object], set[str]] = {}
    for (columns, crop, home), _ in fovs.filter(pl.col(_HOME).is_in(list(whole))).group_by(_COLUMNS, CROP, _HOME):
        if heights[str(home)] < rows_per_file / 2:
            small.setdefault((columns, crop), set()).add(str(home))
    moving = set(fovs.filter(pl.col(_HOME).is_null() | ~pl.col(_HOME).is_in(list(whole))).select(_COLUMNS, CROP).rows())
    merged = {name for kind, names in small.items() if len(names) > 1 or kind in moving for name in names}
    return whole - merged


def _row_sizes(run: Run, commits: Mapping[str, frozenset[str]]) -> dict[str, int]:
    """Return table -> the bytes of a row on storage, by one file of every column."""
    examples = {column: name for name, columns in commits.items() for column in columns}
    sizes: dict[str, int] = {}
    for table, name in {(column.rpartition(SEPARATOR)[0], name) for column, name in examples.items()}:
        with opened(join(run.output, table, name), run.storage, tables.REPAIR) as file:
            stored = file.metadata
            for group, number in itertools.product(range(stored.num_row_groups), range(stored.num_columns)):
                part = stored.row_group(group).column(number)
                column = part.path_in_schema.partition(".")[0]
                if examples.get(f"{table}{SEPARATOR}{column}") == name:
                    sizes[table] = sizes.get(table, 0) + part.total_compressed_size // max(1, stored.num_rows)
    return sizes


def delete_old(run: Run, names: Collection[str]) -> int:
    """Delete files whose rows all stand elsewhere, the commits first. Return the number of files."""
    commits = [join(run.output, FOVS, name) for name in names]
    known = set(names)
    data = [
        join(run.output, table, name)
        for table, name in table_files.data_files(run.output, run.storage)
        if name in known
    ]
    with ThreadPoolExecutor(_DELETERS) as deleters:
        list(deleters.map(run.storage.delete, commits))
        list(deleters.map(run.storage.delete, data))
    return len(commits) + len(data)


def rewrite(run: Run, chunk: Chunk, name: str) -> int:
    """Commit the rows of a chunk under `<table>/<name>.parquet`, one table at a time. Return the number of rows.

    The rows are sorted by fov_id, so a plate stands together. The values are the committed ones, bit for bit; of a row of fovs/
    that was written twice the first one counts, as for all readers. Raises DataError if a column lacks a row.
    """
    usable = chunk.fovs.filter(pl.col(ERROR).is_null()).sort(FOV_ID)
    by_table: dict[str, list[str]] = {}
    for key in sorted(chunk.columns):
        table, _, column = key.rpartition(SEPARATOR)
        by_table.setdefault(table, []).append(column)
    for table, names in by_table.items() if usable.height else ():
        columns = {column: _in_order(run, table, column, usable) for column in names}
        ids = np.array(usable[FOV_ID].to_list(), object)
        tables.write_data(run.output, table, name, {FOV_ID: ids, **columns}, run.storage, run.config.random_weights)
    tables.commit(run.output, name, _rows_of_fovs(run, chunk.fovs), chunk.columns, run.storage)
    return chunk.fovs.height


def _in_order(run: Run, table: str, column: str, fovs: pl.DataFrame) -> np.ndarray:
    """Return a column of a data table, (n, ...), in the order of `fovs`."""
    ids, values = tables.read_column(run.output, table, column, fovs, run.storage)
    place = {fov: number for number, fov in enumerate(ids)}
    if len(place) < fovs.height:
        raise DataError(f"{join(run.output, table)}: {fovs.height - len(place)} rows lack {column}; {tables.REPAIR}")
    return values[[place[fov] for fov in fovs[FOV_ID]]]


def _rows_of_fovs(run: Run, fovs: pl.DataFrame) -> pa.Table:
    """Return the rows of fovs/ of some FOVs, each from the first of its files, sorted by fov_id."""
    parts = []
    for (file,), part in fovs.with_columns(first=pl.col("files").list.first()).group_by("first", maintain_order=True):
        table = table_files.read_table(join(run.output, FOVS, str(file)), run.storage)
        wanted = dict(part.select(FOV_ID, pl.col(ERROR).is_not_null()).iter_rows())
        rows: dict[str, int] = {}
        for number, (fov, error) in enumerate(zip(table[FOV_ID].to_pylist(), table[ERROR].to_pylist(), strict=True)):
            if wanted.get(fov) == (error is not None):
                rows.setdefault(fov, number)
        parts.append(table.take(pa.array(rows.values(), pa.int64())).replace_schema_metadata(None))
    whole = pa.concat_tables(parts, promote_options="permissive")
    return whole.take(pc.sort_indices(whole[FOV_ID]))
