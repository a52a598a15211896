"""The tables of a run on storage: how one write becomes one file per table, and which rows of them count.

Layout under the run's output: `fovs/`, `latents/<autoencoder>/`, `metrics/<autoencoder>/`, `embeddings/<extractor>/<side>/`. One
write puts files of one name into every table, `fovs/` last: a file elsewhere counts only if its namesake stands in `fovs/`.
"""

import io
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sdvae_ray.schema import (
    EMBEDDINGS,
    ERROR,
    FOV_ID,
    FOVS,
    LATENTS,
    METRICS,
    ROW,
    SEPARATOR,
    column_to_numpy,
    table_from_columns,
)
from sdvae_ray.storage import Storage, join

_ROWS_PER_GROUP = 64
_DATA_TABLES = (LATENTS, METRICS, EMBEDDINGS)


@dataclass(frozen=True)
class Written:
    """What one write committed."""

    rows: int
    errors: int


def write_rows(
    output: str, name: str, columns: Mapping[str, np.ndarray], storage: Storage, random_models: Collection[str] = ()
) -> Written:
    """Commits rows of every table under `<table>/<name>.parquet`.

    `columns`: `<table>:<column>` (n, ...) of the data tables, `row_json` the Metadata_* columns of fovs, the rest
    as it is in fovs. Rows whose `error` is not "" go to fovs only. A table of one of `random_models` (names of autoencoders and
    extractors without weights) says so in its file: key `random_weights` of the schema's metadata.
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
            arrow = table_from_columns(data)
            if set(table.split("/")[1:]) & set(random_models):
                arrow = arrow.replace_schema_metadata({"random_weights": "true"})
            write_table(join(output, table, f"{name}.parquet"), arrow, storage)
    rows = [json.loads(text) for text in columns[ROW]]
    metadata = {name: np.array([row[name] for row in rows], object) for name in rows[0]}
    plain = {key: values for key, values in columns.items() if SEPARATOR not in key and key not in (FOV_ID, ROW)}
    fovs = table_from_columns({FOV_ID: ids, **metadata, **plain, ERROR: [error or None for error in errors]})
    write_table(join(output, FOVS, f"{name}.parquet"), fovs, storage)
    return Written(rows=len(ids), errors=int((~good).sum()))


def write_table(uri: str, table: pa.Table, storage: Storage) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=_ROWS_PER_GROUP)
    storage.write_bytes(uri, buffer.getvalue())


def read_table(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> pa.Table:
    with storage.open(uri) as file:
        return pq.read_table(file, columns=None if columns is None else list(columns))


def committed_files(output: str, storage: Storage) -> list[str]:
    """Names of the files in fovs/: the commits."""
    return [name for name in storage.list(join(output, FOVS)) if name.endswith(".parquet") and not _is_temporary(name)]


def read_fovs(output: str, storage: Storage, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """One row per FOV that was tried: the row without error, and the error's where there is none. Adds `file`.

    Tensor columns (QC) are left out; `columns` None is every other one. Empty where nothing is committed.
    """
    frames = []
    for name in committed_files(output, storage):
        with storage.open(join(output, FOVS, name)) as file:
            reader = pq.ParquetFile(file)
            plain = [f.name for f in reader.schema_arrow if not isinstance(f.type, pa.BaseExtensionType)]
            wanted = plain if columns is None else [c for c in plain if c in {FOV_ID, ERROR, *columns}]
            frames.append(pl.DataFrame(reader.read(columns=wanted)).with_columns(file=pl.lit(name)))
    if not frames:
        return pl.DataFrame(schema={FOV_ID: pl.String, ERROR: pl.String, "file": pl.String})
    whole = pl.concat(frames, how="diagonal_relaxed").with_columns(pl.col(ERROR).cast(pl.String))
    return whole.sort(pl.col(ERROR).is_not_null(), maintain_order=True).unique(
        FOV_ID, keep="first", maintain_order=True
    )


def read_column(
    output: str, table: str, column: str, wanted: pl.DataFrame, storage: Storage
) -> tuple[list[str], np.ndarray]:
    """(fov_ids, (n, ...) values) of one data table's column, for the FOVs of `wanted` (fov_id, file) that have it.

    Only the file that fovs names for a FOV is read, so a row written twice counts once.
    """
    ids: list[str] = []
    parts: list[np.ndarray] = []
    for (file,), group in wanted.group_by("file", maintain_order=True):
        try:
            data = read_table(join(output, table, str(file)), storage, [FOV_ID, column])
        except FileNotFoundError:
            continue
        data = data.filter(pc.is_in(data[FOV_ID], pa.array(group[FOV_ID].to_list(), pa.string())))
        ids += data[FOV_ID].to_pylist()
        parts.append(column_to_numpy(data[column]))
    return ids, np.concatenate(parts) if parts else np.empty((0,))


def data_tables(output: str, storage: Storage) -> list[str]:
    """Names of the data tables that have files, such as `embeddings/latent/demo`."""
    return sorted({table for table, _ in _data_files(output, storage)})


def sweep(output: str, storage: Storage) -> int:
    """Deletes what a killed write left: temporaries, and data files whose namesake is not in fovs/. Returns how many files."""
    commits = set(committed_files(output, storage))
    stale = [(table, name) for table, name in _data_files(output, storage) if name not in commits]
    for table, name in stale:
        storage.delete(join(output, table, name))
    for root in (FOVS, *_DATA_TABLES):
        storage.delete_temporaries(join(output, root))
    return len(stale)


def _data_files(output: str, storage: Storage) -> Iterable[tuple[str, str]]:
    for root in _DATA_TABLES:
        for path in storage.list(join(output, root)):
            table, _, name = f"{root}/{path}".rpartition("/")
            if not _is_temporary(name):
                yield table, name


def _is_temporary(name: str) -> bool:
    return not name.endswith(".parquet") or name.startswith(".")
