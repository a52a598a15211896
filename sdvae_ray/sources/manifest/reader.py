"""Reads a manifest by its row groups: the driver counts them, a worker reads one, and neither holds the whole manifest."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError
from sdvae_ray.parquet import opened
from sdvae_ray.schema import SHARD
from sdvae_ray.sources.shards import shard_uri
from sdvae_ray.storage import Storage


def row_groups(uri: str, storage: Storage) -> tuple[list[int], list[str]]:
    """Return (the number of rows of every row group, the names of the columns) of a manifest, from its footer alone.

    Raises DataError if there is no manifest at the URI.
    """
    with manifest_file(uri, storage) as reader:
        sizes = [reader.metadata.row_group(group).num_rows for group in range(reader.num_row_groups)]
        return sizes, reader.schema_arrow.names


def read_row_group(uri: str, group: int, storage: Storage) -> pa.Table:
    """Read one row group of a manifest, with the places of its shards as URIs. Raises DataError if there is no manifest."""
    with manifest_file(uri, storage) as reader:
        return with_located_shards(reader.read_row_group(group), uri)


def read_rows(uri: str, keys: pl.DataFrame, storage: Storage) -> pa.Table:
    """Return the rows of a manifest that `keys` (row_group, row) names, row group after row group; each is read once.

    Raises DataError as `read_row_group`.
    """
    with manifest_file(uri, storage) as reader:  # once: the footer of a large manifest is large
        parts = [
            reader.read_row_group(group).take(pa.array(rows["row"].to_numpy()))
            for (group,), rows in keys.group_by("row_group", maintain_order=True)
        ]
    return with_located_shards(pa.concat_tables(parts), uri)


def iterate_row_groups(uri: str, storage: Storage, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the row groups of a manifest one after another; columns: None: all. Raises DataError if there is no manifest."""
    with manifest_file(uri, storage) as reader:
        for group in range(reader.num_row_groups):
            yield reader.read_row_group(group, columns=None if columns is None else list(columns))


def with_located_shards(table: pa.Table, uri: str) -> pa.Table:
    """Return rows of the manifest at `uri` with the places of its shards, if it has any, as URIs."""
    if SHARD not in table.column_names:
        return table
    located = pa.array([shard_uri(name, uri) for name in table[SHARD].to_pylist()], pa.string())
    return table.set_column(table.column_names.index(SHARD), SHARD, located)


@contextmanager
def manifest_file(uri: str, storage: Storage) -> Iterator[pq.ParquetFile]:
    """A manifest as a Parquet file, open for reading in the block. Raises DataError if there is no manifest at the URI."""
    try:
        with opened(uri, storage, "a Parquet file from `sdvae-ray manifest` is wanted") as file:
            yield file
    except FileNotFoundError as error:
        raise DataError(f"no manifest at {uri}; `sdvae-ray manifest` writes one") from error


def read_manifest_column(uri: str, name: str, storage: Storage) -> pa.ChunkedArray:
    """Read one column of all rows as it is stored, in the manifest's order. Raises DataError if there is no manifest."""
    with manifest_file(uri, storage) as reader:
        return reader.read(columns=[name])[name]


def read_metadata(uri: str, names: Sequence[str], storage: Storage) -> pl.DataFrame:
    """Read some columns of all rows as text. Raises DataError if there is no manifest."""
    with manifest_file(uri, storage) as reader:
        return pl.DataFrame(reader.read(columns=list(names))).select(pl.all().cast(pl.String))
