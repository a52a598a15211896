"""The tables of a run on storage: one write makes one file per table, and the files in `fovs/` say which rows count.

Layout under the output of the run: `fovs/`, `latents/<autoencoder>/`, `metrics/<side>/`, `embeddings/<extractor>/<side>/`. One
write puts a file of the same name into every table, into `fovs/` last. A file in another table counts only if `fovs/` has a file
of that name, whose schema lists the columns that it commits (key `commits`). An extended run commits a FOV again, in a file of
another name, with the added columns.
"""

import io
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.schema import (
    EMBEDDINGS,
    ERROR,
    ERROR_CLASS,
    FOV_ID,
    FOVS,
    LATENTS,
    METRICS,
    ROW,
    SEPARATOR,
    column_to_numpy,
    table_from_columns,
)
from sdvae_ray.storage import TEMPORARY, Storage, join

_TENSORS_PER_GROUP, _ROWS_PER_GROUP = 64, 4096  # rows: small row groups, so that a reader of a few rows reads little
_DATA_TABLES = (LATENTS, METRICS, EMBEDDINGS)
_COMMITS = "commits"
FILE = "_file"  # column beside the rows of fovs/: the name of their file
REPAIR = "`sdvae-ray verify RUN --repair` makes its fields of view pending"
_READERS = 16  # threads: there are many small files, and object storage is slow to answer a request


@dataclass(frozen=True)
class Written:
    """The number of rows that one write committed, and how many of them have an error."""

    rows: int
    errors: int


def write_rows(
    output: str, name: str, columns: Mapping[str, np.ndarray], storage: Storage, random_models: Collection[str] = ()
) -> Written:
    """Commit rows of every table under `<table>/<name>.parquet`.

    columns: arrays of n rows. `<table>:<column>` (n, ...) goes to a data table, `row_json` becomes the Metadata_* columns of fovs,
    and every other column goes to fovs. A row whose `error` is not "" goes to fovs only. random_models: names of autoencoders and
    extractors with random weights; the files of their tables have `random_weights` in the metadata of the schema.
    """
    ids, errors = columns[FOV_ID], columns[ERROR]
    good = errors == ""
    by_table: dict[str, dict[str, np.ndarray]] = {}
    for key, values in columns.items():
        table, separator, column = key.rpartition(SEPARATOR)
        if separator:
            by_table.setdefault(table, {FOV_ID: ids[good]})[column] = values[good]
    if good.any():
        for table, data in by_table.items():
            write_data(output, table, name, data, storage, random_models)
    rows = [json.loads(text) for text in columns[ROW]]
    metadata = {name: np.array([row[name] for row in rows], object) for name in rows[0]}
    plain = {key: values for key, values in columns.items() if SEPARATOR not in key and key not in (FOV_ID, ROW)}
    texts = {name: [text or None for text in columns[name]] for name in (ERROR_CLASS, ERROR) if name in columns}
    fovs = table_from_columns({FOV_ID: ids, **metadata, **plain, **texts})
    commit(output, name, fovs, [key for key in columns if SEPARATOR in key], storage)
    return Written(rows=len(ids), errors=int((~good).sum()))


def write_data(
    output: str,
    table: str,
    name: str,
    columns: Mapping[str, np.ndarray | Sequence[Any]],
    storage: Storage,
    random_models: Collection[str] = (),
) -> None:
    """Write a file of a data table, which counts once `commit` has named it. columns: fov_id and arrays (n, ...)."""
    arrow = table_from_columns(columns)
    if set(table.split("/")[1:]) & set(random_models):
        arrow = arrow.replace_schema_metadata({"random_weights": "true"})
    write_table(join(output, table, f"{name}.parquet"), arrow, storage)


def commit(output: str, name: str, fovs: pa.Table, columns: Collection[str], storage: Storage) -> None:
    """Write the rows of a write to fovs/: from then on the data files of its name count. columns: those that it commits."""
    marked = fovs.replace_schema_metadata({_COMMITS: json.dumps(sorted(columns))})
    write_table(join(output, FOVS, f"{name}.parquet"), marked, storage)


def write_table(uri: str, table: pa.Table, storage: Storage) -> None:
    """Write a Parquet file, with small row groups if the table has tensors."""
    tensors = any(isinstance(field.type, pa.BaseExtensionType) for field in table.schema)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_TENSORS_PER_GROUP if tensors else _ROWS_PER_GROUP)
    storage.write_bytes(uri, buffer.getvalue())


def write_wide_table(uri: str, table: pa.Table, storage: Storage) -> None:
    """Write a Parquet file of thousands of columns, for readers of all columns: one row group, no dictionaries, no statistics."""
    buffer = io.BytesIO()
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, buffer, row_group_size=max(1, table.num_rows), **options)
    storage.write_bytes(uri, buffer.getvalue())


def read_table(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a Parquet file, or those of `columns` that it has. Raises FileNotFoundError; DataError if damaged."""
    with opened(uri, storage, REPAIR) as file:
        return file.read(columns=None if columns is None else list(columns))


def committed_files(output: str, storage: Storage) -> list[str]:
    """Return the names of the files in fovs/, which are the commits."""
    return [name for name in storage.list(join(output, FOVS)) if not _is_temporary(name)]


def read_fovs(output: str, storage: Storage, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Return one row per FOV that was tried: its first row without an error, else its first row with an error.

    columns: names of columns of fovs; None: all columns except the tensors (QC). A tensor comes back as an array over the stains.
    fov_id and error always come back. The column `files` is added: the names of all files that commit the FOV. Empty if nothing is
    committed.
    """
    return read_commits(output, storage, columns)[0]


def read_commits(
    output: str, storage: Storage, columns: Sequence[str] | None = None
) -> tuple[pl.DataFrame, dict[str, frozenset[str]]]:
    """Return the result of `read_fovs`, and file name -> the columns `<table>:<column>` that the file commits."""
    rows, commits = read_rows(output, storage, columns)
    return one_per_fov(rows), commits


def one_per_fov(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row per FOV, as `read_fovs` does. rows: from `read_rows`."""
    rows = rows.sort(pl.col(ERROR).is_not_null(), maintain_order=True)
    first = rows.unique(FOV_ID, keep="first", maintain_order=True).drop(FILE)
    failed = first.filter(pl.col(ERROR).is_not_null())[FOV_ID]
    counting = rows.filter(pl.col(ERROR).is_null() | pl.col(FOV_ID).is_in(failed.implode()))
    files = counting.group_by(FOV_ID, maintain_order=True).agg(files=pl.col(FILE))
    return first.join(files, on=FOV_ID, how="left", maintain_order="left")


def read_rows(
    output: str, storage: Storage, columns: Sequence[str] | None = None
) -> tuple[pl.DataFrame, dict[str, frozenset[str]]]:
    """Return every row of fovs/, a FOV once for every file that has it, and file name -> the columns that the file commits.

    columns: as in `read_fovs`. The column `_file` is added: the name of the file of the row.
    """

    def read(name: str) -> tuple[pl.DataFrame, frozenset[str]]:
        with opened(join(output, FOVS, name), storage, REPAIR) as reader:
            plain = [f.name for f in reader.schema_arrow if not isinstance(f.type, pa.BaseExtensionType)]
            asked = [c for c in reader.schema_arrow.names if c in {FOV_ID, ERROR, *(columns or ())}]
            table = reader.read(columns=plain if columns is None else asked)
            frame = pl.DataFrame(_without_tensors(table)).with_columns(pl.lit(name).alias(FILE))
            return frame, committed_columns(reader)

    names = committed_files(output, storage)
    if not names:
        return pl.DataFrame(schema={FOV_ID: pl.String, ERROR: pl.String, FILE: pl.String}), {}
    with ThreadPoolExecutor(_READERS) as readers:
        files_read = list(readers.map(read, names))
    whole = pl.concat([frame for frame, _ in files_read], how="diagonal_relaxed")
    commits = {name: columns for name, (_, columns) in zip(names, files_read, strict=True)}
    return whole.with_columns(pl.col(ERROR).cast(pl.String)), commits


def _without_tensors(table: pa.Table) -> pa.Table:
    """Return the table with its tensors as lists of a fixed size."""
    for place, field in enumerate(table.schema):
        if isinstance(field.type, pa.BaseExtensionType):
            lists = pa.chunked_array([chunk.storage for chunk in table[place].chunks], field.type.storage_type)
            table = table.set_column(place, field.name, lists)
    return table


def session_writes(output: str, storage: Storage, session: str) -> dict[str, tuple[int, int]]:
    """Return name of a write -> (rows, rows with an error), of every write that a session has committed."""
    writes = {}
    for file in committed_files(output, storage):
        if file.startswith(f"{session}-"):
            errors = read_table(join(output, FOVS, file), storage, [ERROR])[ERROR]
            writes[file.removesuffix(".parquet")] = len(errors), len(errors) - errors.null_count
    return writes


def committed_columns(file: pq.ParquetFile) -> frozenset[str]:
    """Return the columns `<table>:<column>` that an open file of fovs/ commits."""
    return frozenset(json.loads((file.schema_arrow.metadata or {}).get(_COMMITS.encode(), b"[]")))


def present_commits(output: str, storage: Storage, commits: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the commits without the columns of tables that have lost their file. commits: from `read_commits`."""
    return with_files(commits, set(data_files(output, storage)))


def with_files(commits: Mapping[str, frozenset[str]], there: Collection[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return file name -> the columns that it commits, of tables that have their file. there: (table, file name) of all files."""
    return {
        name: frozenset(column for column in columns if (column.rpartition(SEPARATOR)[0], name) in there)
        for name, columns in commits.items()
    }


def _is_committed(output: str, table: str, column: str, file: str, asked: Sequence[str], storage: Storage) -> bool:
    """Return whether a file of fovs/ commits a usable row of one of the FOVs `asked` with this column."""
    with opened(join(output, FOVS, file), storage, REPAIR) as reader:
        if f"{table}{SEPARATOR}{column}" not in committed_columns(reader):
            return False
        rows = pl.DataFrame(reader.read(columns=[FOV_ID, ERROR]))
    return rows.filter(pl.col(ERROR).is_null() & pl.col(FOV_ID).is_in(list(asked))).height > 0


def read_file_column(output: str, table: str, column: str, file: str, storage: Storage) -> tuple[list[str], np.ndarray]:
    """Return (fov_ids, values (n, ...)) of one file of a data table. Raises FileNotFoundError if the file does not exist, KeyError
    if it has no such column."""
    data = read_table(join(output, table, file), storage, [FOV_ID, column])
    if column not in data.column_names:
        raise KeyError(f"{table} has no column {column}")
    return data[FOV_ID].to_pylist(), column_to_numpy(data[column])


def read_column(
    output: str, table: str, column: str, wanted: pl.DataFrame, storage: Storage
) -> tuple[list[str], np.ndarray]:
    """Return (fov_ids, values (n, ...)) of one column of a data table, for the FOVs in `wanted` (fov_id, files) that have it.

    Only the files that fovs names for a FOV are read. Of a row that was written twice, the first file with the column counts.
    Raises KeyError if the table exists and no file has the column, DataError if a file is gone that fovs/ commits.
    """
    ids: list[str] = []
    parts: list[np.ndarray] = []
    seen: set[str] = set()
    absent: list[tuple[str, list[str]]] = []
    lacking = False
    for (file,), group in wanted.select(FOV_ID, "files").explode("files").group_by("files", maintain_order=True):
        asked = [fov for fov in group[FOV_ID].to_list() if fov not in seen]
        if not asked:
            continue
        try:
            present, values = read_file_column(output, table, column, str(file), storage)
        except FileNotFoundError:
            absent.append((str(file), asked))
            continue
        except KeyError:
            lacking = True
            continue
        rows = np.flatnonzero(np.isin(present, asked))
        new = [present[row] for row in rows]
        ids += new
        seen.update(new)
        parts.append(values[rows])
    for file, asked in absent:
        lost = [fov for fov in asked if fov not in seen]  # the others were computed again
        if lost and _is_committed(output, table, column, file, lost, storage):
            raise DataError(_gone(output, table, file))
    if lacking and not parts:
        raise KeyError(f"{table} has no column {column}")
    return ids, np.concatenate(parts) if parts else np.empty((0,))


def gone_files(
    fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]], present: Mapping[str, frozenset[str]]
) -> list[tuple[str, str]]:
    """Return (table, file name) of every file that is gone with columns that no other file has for the same FOV.

    fovs: usable FOVs, with the column `files`. commits: file name -> columns that it commits; present: those that are there.
    """
    gone: set[tuple[str, str]] = set()
    for (files,), _ in fovs.select("files").group_by("files"):
        there = frozenset[str]().union(*(present[name] for name in files))
        gone |= {(column.rpartition(SEPARATOR)[0], name) for name in files for column in commits[name] - there}
    return sorted(gone)


def check_whole(
    output: str, storage: Storage, fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]]
) -> dict[str, frozenset[str]]:
    """Return the result of `present_commits`. Raises DataError if a usable FOV has lost a column that was committed.

    fovs, commits: the results of `read_commits`.
    """
    present = present_commits(output, storage, commits)
    if gone := gone_files(fovs.filter(pl.col(ERROR).is_null()), commits, present):
        raise DataError(_gone(output, *gone[0]) + (f" ({len(gone)} files are gone in all)" if len(gone) > 1 else ""))
    return present


def _gone(output: str, table: str, file: str) -> str:
    place = join(output, table, file)
    return f"{place} is gone, though {FOVS}/{file} commits its rows; `sdvae-ray encode` computes them again"


def data_tables(output: str, storage: Storage) -> list[str]:
    """Return the names of the data tables that have files, such as `embeddings/latent/demo`."""
    return sorted({table for table, _ in data_files(output, storage)})


def sweep(output: str, storage: Storage, sessions: Collection[str]) -> int:
    """Delete the remains of killed writes: temporary files, and data files without a commit. Return the number of data files.

    sessions: of the run; the files of all other writers stay. Call it under the lease: a write of a living driver looks the same.
    """
    if not sessions:
        return 0
    ours = re.compile(rf"(\{TEMPORARY}[0-9a-f]+-)?({'|'.join(sessions)})\d*-\d{{6}}\.parquet")
    listed = {root: storage.list(join(output, root)) for root in (FOVS, *_DATA_TABLES)}
    commits, stale = set(listed[FOVS]), 0
    for root, paths in listed.items():
        for path in paths:
            name = path.rpartition("/")[2]
            if (match := ours.fullmatch(name)) and (match[1] or (root != FOVS and name not in commits)):
                storage.delete(join(output, root, path))
                stale += not match[1]
    return stale


def data_files(output: str, storage: Storage) -> Iterable[tuple[str, str]]:
    """Yield (table, file name) of every file of the data tables, without temporary files."""
    for root in _DATA_TABLES:
        for path in storage.list(join(output, root)):
            table, _, name = f"{root}/{path}".rpartition("/")
            if not _is_temporary(name):
                yield table, name


def _is_temporary(name: str) -> bool:
    return not name.endswith(".parquet") or name.startswith(".")
