"""Opens a Parquet file so that damage is an error of one line, with the name of the file and the way out."""

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from sdvae_ray.errors import DataError, one_line
from sdvae_ray.faults import storage_error
from sdvae_ray.storage import Storage


@contextmanager
def opened(uri: str, storage: Storage, remedy: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file, open for reading in the block. remedy: what the user can do about a damaged file.

    Raises FileNotFoundError, StorageError if storage fails on the way, and DataError if the file, or what the block reads of it, is
    damaged. Arrow's own errors of damaged bytes are ArrowExceptions, or OSErrors without a number.
    """
    with storage.open(uri) as file:
        try:
            yield pq.ParquetFile(file)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            is_arrows = not isinstance(error, OSError) or (error.errno is None and type(error) is OSError)
            if not is_arrows and (failure := storage_error(error, f"cannot read {uri}")):
                raise failure from error
            raise DataError(f"{uri} is damaged: {one_line(error)}; {remedy}") from error
