"""The tables of a run on storage: one write makes one file per table, and the files in `fovs/` say which rows count.

Layout under the output of the run: `fovs/`, `latents/<autoencoder>/`, `metrics/<side>/`, `embeddings/<extractor>/<side>/`. One
write puts a file of the same name into every table, into `fovs/` last. A file in another table counts only if `fovs/` has a file
of that name, whose schema lists the columns that it commits (key `commits`). An extended run commits a FOV again, in a file of
another name, with the added columns.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.run.stored.commits import COMMITS, committed_columns, gone_line
from sdvae_ray.run.stored.field_values import joined
from sdvae_ray.run.stored.table_files import REPAIR, file_uri, read_table, write_table
from sdvae_ray.schema import ERROR, ERROR_CLASS, FOV_ID, FOVS, ROW, SEPARATOR, column_to_numpy, table_from_columns
from sdvae_ray.storage import Storage, join

_MANY = 4  # a file with so many times the rows that are asked for is read by row groups: compaction sorts the rows by fov_id


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
    marked = fovs.replace_schema_metadata({COMMITS: json.dumps(sorted(columns))})
    write_table(join(output, FOVS, f"{name}.parquet"), marked, storage)


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

    Fields with different numbers of patches come as n objects, see `field_values`. Only the files that fovs names for a FOV are
    read. Of a row that was written twice, the first file with the column counts. Raises KeyError if the
    table exists and no file has the column, DataError if a file is gone that fovs/ commits.
    """
    columns = read_columns(output, table, [column], wanted, storage)
    if column not in columns:
        raise KeyError(f"{table} has no column {column}")
    return columns[column]


def read_columns(
    output: str, table: str, columns: Sequence[str], wanted: pl.DataFrame, storage: Storage
) -> dict[str, tuple[list[str], np.ndarray]]:
    """Return column -> the result of `read_column`, of the columns that some file has; every file is opened once."""
    parts: dict[str, list[np.ndarray]] = {column: [] for column in columns}
    ids: dict[str, list[str]] = {column: [] for column in columns}
    seen: dict[str, set[str]] = {column: set() for column in columns}
    absent: list[tuple[str, list[str]]] = []
    lacking: set[str] = set()
    for (file,), group in wanted.select(FOV_ID, "files").explode("files").group_by("files", maintain_order=True):
        of_file = group[FOV_ID].to_list()
        asked = {column: [fov for fov in of_file if fov not in seen[column]] for column in columns}
        asked = {column: fovs for column, fovs in asked.items() if fovs}
        if not asked:
            continue
        try:
            data = _rows_of(file_uri(output, table, str(file)), list(asked), of_file, storage)
        except FileNotFoundError:
            absent.append((str(file), of_file))
            continue
        present = data[FOV_ID].to_pylist()
        for column, fovs in asked.items():
            if column not in data.column_names:
                lacking.add(column)
                continue
            rows = np.flatnonzero(np.isin(present, fovs))
            new = [present[row] for row in rows]
            ids[column] += new
            seen[column].update(new)
            parts[column].append(column_to_numpy(data[column])[rows])
    for file, of_file in absent:
        for column in columns:
            lost = [fov for fov in of_file if fov not in seen[column]]  # the others were computed again
            if lost and _is_committed(output, table, column, file, lost, storage):
                raise DataError(gone_line(output, table, file))
    return {
        column: (ids[column], joined(parts[column]) if parts[column] else np.empty((0,)))
        for column in columns
        if parts[column] or column not in lacking
    }


def _rows_of(uri: str, columns: Sequence[str], fovs: Sequence[str], storage: Storage) -> pa.Table:
    """Return the row groups of a file that hold some of `fovs`: fov_id and those of `columns` that the file has."""
    with opened(uri, storage, REPAIR) as file:
        groups = file.metadata.num_row_groups
        if file.metadata.num_rows < _MANY * len(fovs):
            return file.read(columns=[FOV_ID, *columns])
        asked = pa.array(fovs, pa.string())
        held = [
            number
            for number in range(groups)
            if pc.any(pc.is_in(file.read_row_group(number, columns=[FOV_ID])[FOV_ID], value_set=asked)).as_py()
        ]
        return file.read_row_groups(held, columns=[FOV_ID, *columns])


def _is_committed(output: str, table: str, column: str, file: str, asked: Sequence[str], storage: Storage) -> bool:
    """Return whether a file of fovs/ commits a usable row of one of the FOVs `asked` with this column."""
    with opened(file_uri(output, FOVS, file), storage, REPAIR) as reader:
        if f"{table}{SEPARATOR}{column}" not in committed_columns(reader):
            return False
        rows = pl.DataFrame(reader.read(columns=[FOV_ID, ERROR]))
    return rows.filter(pl.col(ERROR).is_null() & pl.col(FOV_ID).is_in(list(asked))).height > 0
