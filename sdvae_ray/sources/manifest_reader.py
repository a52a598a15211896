"""Reads a manifest by its row groups: the driver counts them, a worker reads one, and neither holds the whole manifest."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError
from sdvae_ray.storage import Storage


def row_groups(uri: str, storage: Storage) -> tuple[list[int], list[str]]:
    """Returns (the number of rows of every row group, the names of the columns) of a manifest, from its footer alone.

    Raises DataError where there is no manifest.
    """
    with _opened(uri, storage) as reader:
        sizes = [reader.metadata.row_group(group).num_rows for group in range(reader.num_row_groups)]
        return sizes, reader.schema_arrow.names


def read_row_group(uri: str, group: int, storage: Storage) -> pa.Table:
    """Reads one row group of a manifest; raises DataError where there is no manifest."""
    with _opened(uri, storage) as reader:
        return reader.read_row_group(group)


@contextmanager
def _opened(uri: str, storage: Storage) -> Iterator[pq.ParquetFile]:
    try:
        with storage.open(uri) as file:
            yield pq.ParquetFile(file)
    except FileNotFoundError as error:
        raise DataError(f"no manifest at {uri}; `sdvae-ray manifest` writes one") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{uri} is not a manifest: a Parquet file from `sdvae-ray manifest` is wanted") from error


def read_text_column(uri: str, name: str, storage: Storage) -> pa.ChunkedArray:
    """Reads one column of all rows, in the manifest's order; raises DataError where there is no manifest."""
    with _opened(uri, storage) as reader:
        return reader.read(columns=[name])[name]
