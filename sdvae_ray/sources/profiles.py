"""Reads tables of profiles from other programs (CellProfiler, DeepProfiler, pycytominer): CSV, CSV.gz or Parquet."""

import fnmatch
import gzip
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError, did_you_mean, one_line
from sdvae_ray.schema import METADATA
from sdvae_ray.storage import Storage


@dataclass(frozen=True)
class ProfileTable:
    """Profiles of W wells.

    wells     every Metadata_* column as text, "" for a missing value
    features  (W, D) float64, finite
    names     of the D features
    notes     sentences that a person should read
    """

    wells: pl.DataFrame
    features: np.ndarray
    names: list[str]
    notes: list[str]


Source = str | Path | pl.DataFrame


def read_profiles(
    profiles: Source | Sequence[Source], storage: Storage, prefixes: Sequence[str] = (), drop: Sequence[str] = ()
) -> ProfileTable:
    """Return the profiles of files, URIs or frames, stacked on the columns that all of them have.

    A feature is a column of numbers that is not Metadata_*. prefixes: keep the features that start with one of them; empty: all.
    drop: globs of features to leave out. Numbers that are not finite become 0, with a note. Raises DataError for a file that is
    not a table, for files without a common feature, for a prefix or glob that matches nothing.
    """
    sources: Sequence[Source] = [profiles] if isinstance(profiles, str | Path | pl.DataFrame) else profiles
    tables = [source if isinstance(source, pl.DataFrame) else _read(str(source), storage) for source in sources]
    where = ", ".join("a frame" if isinstance(source, pl.DataFrame) else str(source) for source in sources)
    common = [name for name in tables[0].columns if all(name in table.columns for table in tables[1:])]
    notes = []
    if lost := sorted({name for table in tables for name in table.columns} - set(common)):
        notes.append(f"{len(lost)} columns are not in every file and are left out, such as {lost[0]}")
    table = pl.concat([table.select(common) for table in tables], how="vertical_relaxed")
    metadata = [name for name in common if name.startswith(METADATA)]
    names = _chosen([name for name in common if not name.startswith(METADATA)], prefixes, drop)
    numbers = table.select(pl.col(names).cast(pl.Float64, strict=False))
    text = [name for name in names if numbers[name].null_count() == table.height and table.height]
    if text:
        notes.append(f"{len(text)} columns hold no numbers and are no features, such as {text[0]}")
        names = [name for name in names if name not in set(text)]
    if not names:
        raise DataError(f"{where}: there is no column of features (a number, and not {METADATA}*)")
    features = numbers.select(names).to_numpy().astype(np.float64)
    bad = ~np.isfinite(features)
    if bad.any():
        columns = int(bad.any(axis=0).sum())
        notes.append(f"{int(bad.sum())} values of {columns} features are not finite and count as 0")
        features = np.where(bad, 0.0, features)
    wells = table.select(pl.col(metadata).cast(pl.String).fill_null(""))
    return ProfileTable(wells, np.ascontiguousarray(features), names, notes)


def _read(uri: str, storage: Storage) -> pl.DataFrame:
    """Return the columns of a CSV as text, or those of a Parquet file with their own types."""
    try:
        data = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise DataError(f"there are no profiles at {uri}") from error
    try:
        if uri.endswith((".parquet", ".pq")):
            return pl.read_parquet(io.BytesIO(data))
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        return pl.read_csv(io.BytesIO(data), infer_schema=False)
    except (pl.exceptions.PolarsError, OSError, EOFError) as error:
        raise DataError(f"{uri} is no table (allowed: .csv, .csv.gz, .parquet): {one_line(error)}") from error


def _chosen(names: list[str], prefixes: Sequence[str], drop: Sequence[str]) -> list[str]:
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise DataError(
                f"no feature starts with {prefix!r}{did_you_mean(prefix, {n.split('_')[0] for n in names})}"
            )
    for glob in drop:
        if not fnmatch.filter(names, glob):
            raise DataError(f"no feature matches {glob!r}: there are {len(names)}, such as {names[:1]}")
    kept = [name for name in names if not prefixes or name.startswith(tuple(prefixes))]
    return [name for name in kept if not any(fnmatch.fnmatchcase(name, glob) for glob in drop)]
