"""One row of a manifest, as a mapping of its columns: which stains share a file, and where a stain's planes and functions are."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sdvae_ray.schema import channel_column, illum_column, uri_column

Row = Mapping[str, Any]  # column -> value; null is None


def as_batch(table: pa.Table) -> dict[str, np.ndarray]:
    """Return the rows of a manifest as columns of Python objects, (n,) arrays of dtype object; null becomes None."""
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}


def rows_of(batch: Mapping[str, np.ndarray]) -> list[Row]:
    """Return the rows of a batch: columns (n,) of dtype object -> n rows."""
    return [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]


def located_stains(columns: Iterable[str]) -> list[str]:
    """Return the stains whose images the columns of a manifest locate, in the order of the columns."""
    prefix = uri_column("")
    return [name.removeprefix(prefix) for name in columns if name.startswith(prefix)]


def stains_by_file(row: Row, stains: Sequence[str]) -> dict[str, list[str]]:
    """Return URI of a file -> the stains whose planes the file holds, in the order of `stains`."""
    sharing: dict[str, list[str]] = {}
    for stain in stains:
        sharing.setdefault(str(row[uri_column(stain)]), []).append(stain)
    return sharing


def channel_of(row: Row, stain: str) -> int:
    """Return the index of the stain's plane in its file."""
    channel = row.get(channel_column(stain))
    return 0 if channel is None else int(channel)


def function_of(row: Row, stain: str) -> str | None:
    """Return the URI of a stain's illumination function; None for a function of ones: null, NaN or empty."""
    uri = row.get(illum_column(stain))
    return uri if isinstance(uri, str) and uri else None
