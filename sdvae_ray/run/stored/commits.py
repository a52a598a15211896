"""The commits of a run: the rows of fovs/, which file commits which columns of a field of view, and which files are gone."""

import functools
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.run.stored.table_files import REPAIR, committed_files, data_files, file_uri, read_table
from sdvae_ray.schema import ERROR, FOV_ID, FOVS, SEPARATOR
from sdvae_ray.storage import Storage, join

COMMITS = "commits"  # key of the schema's metadata in a file of fovs/: the columns that the file commits
FILE = "_file"  # column beside the rows of fovs/: the name of their file
_READERS = 16  # threads: there are many small files, and object storage is slow to answer a request


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
    if rows[ERROR].null_count() < rows.height:
        rows = rows.sort(pl.col(ERROR).is_not_null(), maintain_order=True)
    # as a rule every FOV stands once: no copies of a table of millions of rows, and hashes in place of their texts
    if rows[FOV_ID].hash().n_unique() == rows.height:
        return rows.with_columns(files=pl.concat_list(FILE)).drop(FILE)
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
    names = committed_files(output, storage)
    if not names:
        return pl.DataFrame(schema={FOV_ID: pl.String, ERROR: pl.String, FILE: pl.String}), {}
    frames, commits = read_files(output, storage, names, None if columns is None else {*columns}.__contains__)
    whole = pl.concat(frames, how="diagonal_relaxed")
    return whole.with_columns(pl.col(ERROR).cast(pl.String)), dict(zip(names, commits, strict=True))


def read_files(
    output: str, storage: Storage, names: Sequence[str], wanted: Callable[[str], bool] | None
) -> tuple[list[pl.DataFrame], list[frozenset[str]]]:
    """Return the rows of some files of fovs/, with the column `_file`, and the columns that each file commits.

    wanted: whether a column is read; None: all columns except the tensors. fov_id and error are always read.
    """

    def read(name: str) -> tuple[pl.DataFrame, frozenset[str]]:
        with opened(file_uri(output, FOVS, name), storage, REPAIR) as reader:
            plain = [f.name for f in reader.schema_arrow if not isinstance(f.type, pa.BaseExtensionType)]
            asked = [c for c in reader.schema_arrow.names if c in (FOV_ID, ERROR) or (wanted and wanted(c))]
            table = reader.read(columns=plain if wanted is None else asked)
            frame = pl.DataFrame(_without_tensors(table)).with_columns(pl.lit(name).alias(FILE))
            return frame, committed_columns(reader)

    with ThreadPoolExecutor(_READERS) as readers:
        files_read = list(readers.map(read, names))
    return [frame for frame, _ in files_read], [columns for _, columns in files_read]


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
    return _columns_of((file.schema_arrow.metadata or {}).get(COMMITS.encode(), b"[]"))


@functools.lru_cache(256)  # all files of a session commit the same columns: one set for them
def _columns_of(text: bytes) -> frozenset[str]:
    return frozenset(json.loads(text))


def present_commits(output: str, storage: Storage, commits: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    """Return the commits without the columns of tables that have lost their file. commits: from `read_commits`."""
    return with_files(commits, set(data_files(output, storage)))


def with_files(commits: Mapping[str, frozenset[str]], there: Collection[tuple[str, str]]) -> dict[str, frozenset[str]]:
    """Return file name -> the columns that it commits, of tables that have their file. there: (table, file name) of all files."""
    present, tables = dict[str, frozenset[str]](), dict[frozenset[str], set[str]]()
    for name, columns in commits.items():
        if columns not in tables:
            tables[columns] = {column.rpartition(SEPARATOR)[0] for column in columns}
        gone = {table for table in tables[columns] if (table, name) not in there}
        left = (column for column in columns if column.rpartition(SEPARATOR)[0] not in gone)
        present[name] = frozenset(left) if gone else columns
    return present


def gone_files(
    fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]], present: Mapping[str, frozenset[str]]
) -> list[tuple[str, str]]:
    """Return (table, file name) of every file that is gone with columns that no other file has for the same FOV.

    fovs: usable FOVs, with the column `files`. commits: file name -> columns that it commits; present: those that are there.
    """
    return gone_of(fovs["files"].unique().to_list(), commits, present)


def gone_of(
    kinds: Iterable[Sequence[str]], commits: Mapping[str, frozenset[str]], present: Mapping[str, frozenset[str]]
) -> list[tuple[str, str]]:
    """Return the result of `gone_files`. kinds: lists of files that some usable FOV has."""
    gone: set[tuple[str, str]] = set()
    for files in kinds:
        if all(present[name] is commits[name] for name in files):
            continue  # nothing is gone
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
    refuse_gone(output, gone_files(fovs.filter(pl.col(ERROR).is_null()), commits, present))
    return present


def refuse_gone(output: str, gone: Sequence[tuple[str, str]]) -> None:
    """Raise DataError if a file is gone. gone: from `gone_files`."""
    if gone:
        raise DataError(
            gone_line(output, *gone[0]) + (f" ({len(gone)} files are gone in all)" if len(gone) > 1 else "")
        )


def gone_line(output: str, table: str, file: str) -> str:
    gone = file_uri(output, table, file)
    commit = f"{FOVS}/{file}" if gone == join(output, table, file) else file_uri(output, FOVS, file)
    return f"{gone} is gone, though {commit} commits its rows; `sdvae-ray encode` computes them again"
