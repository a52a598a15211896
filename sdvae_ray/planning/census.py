"""Counts of a manifest by source, read by column in batches: fields of view, plates, wells, files, illumination functions, shards.

The memory is flat: beside one batch the census keeps 8 bytes per well and one row per plate, function and shard.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from sdvae_ray.planning.pieces import fovs_per_piece
from sdvae_ray.schema import (
    FOV_ID,
    PIXELS,
    PLATE_KEY,
    SHARD,
    SHARD_ROW_GROUP,
    WELL_KEY,
    illum_column,
    uri_column,
)
from sdvae_ray.settings.plan import SourceCounts
from sdvae_ray.sources.manifest.reader import batches, opened_manifest
from sdvae_ray.storage import Storage

_BATCH = 1 << 15  # rows
SOURCE = PLATE_KEY[0]


@dataclass(frozen=True)
class Source:
    """The counts of one source.

    fovs, plates, wells      wells: None: not counted
    files                    whole files that the load pool reads, one request each; 0 where shards hold the fields
    functions                distinct illumination functions
    row_groups, shards       of packed shards; 0 where whole files are read
    bytes_in                 of the images of all its fields; None: not known
    function_bytes           of its functions, each once
    group_reads              requests for the row groups of its shards
    footer_reads, footer_bytes  requests and bytes of the footers of its shards, read once
    """

    name: str
    fovs: int
    plates: int
    wells: int | None
    files: int
    functions: int = 0
    row_groups: int = 0
    shards: int = 0
    bytes_in: float | None = None
    function_bytes: float = 0.0
    group_reads: float = 0.0
    footer_reads: float = 0.0
    footer_bytes: float = 0.0


@dataclass(frozen=True)
class Census:
    """The sources of a screen, by name, and some rows of each.

    pieces  mean number of pieces of work in which one plate lies
    sample  rows of the manifest: the same few of every source at every call
    """

    sources: tuple[Source, ...]
    pieces: float
    sample: pl.DataFrame

    def total(self, count: str) -> float | None:
        """Return the sum of a count over the sources; None if it is not known of every source."""
        counts = [getattr(source, count) for source in self.sources]
        return None if None in counts else sum(counts)

    def replaced(self, changes: Callable[[Source], dict[str, Any]]) -> "Census":
        """Return the census with the counts that `changes` gives for every source."""
        return replace(self, sources=tuple(replace(source, **changes(source)) for source in self.sources))


def assumed_census(sources: Mapping[str, SourceCounts], stains: int) -> Census:
    """Return the census that a run file assumes: every stain a file of its own, one function per plate and stain."""
    counted = tuple(
        Source(
            name,
            counts.fovs,
            counts.plates,
            counts.wells,
            files=stains * counts.fovs,
            functions=stains * counts.plates,
            bytes_in=None if counts.bytes_in is None else counts.bytes_in * counts.fovs,
            function_bytes=counts.function_bytes * stains * counts.plates,
        )
        for name, counts in sources.items()
    )
    plates, fovs = (sum(getattr(counts, name) for counts in sources.values()) for name in ("plates", "fovs"))
    pieces = fovs / plates / fovs_per_piece(fovs)
    return Census(counted, max(1.0, pieces), pl.DataFrame())


def census(uri: str, stains: Sequence[str], storage: Storage, sample: int) -> Census:
    """Return the counts of a manifest. sample: rows per source that come back whole. Raises DataError without a manifest."""
    fovs, plates, wells, functions, shards = (list[pl.DataFrame]() for _ in range(5))
    kept: pl.DataFrame | None = None
    with opened_manifest(uri, storage) as manifest:
        present = manifest.schema.names
        uris = [uri_column(stain) for stain in stains]
        illums = [illum_column(stain) for stain in stains if illum_column(stain) in present]
        packed = [name for name in (SHARD, SHARD_ROW_GROUP) if name in present]
        carried = PIXELS in present
        wanted = [
            FOV_ID,
            *WELL_KEY,
            *uris,
            *illums,
            *(name for name in present if name.startswith("shard_") or name == SHARD),
        ]
        for batch in batches(manifest, _BATCH, wanted):
            rows = pl.DataFrame(batch)
            files = pl.lit(0) if packed or carried else pl.concat_list(uris).list.n_unique()
            _keep(
                fovs, rows.group_by(SOURCE).agg(fovs=pl.len(), files=files.sum() if not (packed or carried) else files)
            )
            _keep(plates, rows.group_by(PLATE_KEY).agg(rows=pl.len()))
            _keep(wells, rows.select(SOURCE, well=pl.struct(WELL_KEY).hash()).unique())
            if illums:
                tall = rows.select(*PLATE_KEY, function=pl.concat_list(illums)).explode("function").drop_nulls()
                _keep(functions, tall.filter(pl.col("function") != "").unique())
            if packed:
                _keep(shards, rows.select(SOURCE, *packed).unique())
            kept = _compact(_smallest(rows if kept is None else pl.concat([kept, rows]), sample))
    counts = pl.concat(fovs).group_by(SOURCE).agg(pl.col("fovs", "files").sum())
    plate = pl.concat(plates).group_by(PLATE_KEY).agg(pl.col("rows").sum())
    counts = _with(counts, plate.group_by(SOURCE).agg(plates=pl.len()))
    counts = _with(counts, pl.concat(wells).unique().group_by(SOURCE).agg(wells=pl.len()))
    if functions:
        distinct = pl.concat(functions).unique("function").group_by(SOURCE).agg(functions=pl.len())
        counts = _with(counts, distinct)
    if packed:
        groups = pl.concat(shards).unique()
        numbers = groups.group_by(SOURCE).agg(row_groups=pl.len(), shards=pl.col(SHARD).n_unique())
        counts = _with(counts, numbers)
    sources = tuple(Source(row.pop(SOURCE), **row) for row in counts.sort(SOURCE).iter_rows(named=True))
    per_piece = fovs_per_piece(int(plate["rows"].sum()))
    pieces = float((plate["rows"] / per_piece).ceil().sum()) / max(1, plate.height)
    return Census(sources, pieces, kept if kept is not None else pl.DataFrame())


def _keep(frames: list[pl.DataFrame], frame: pl.DataFrame) -> None:
    frames.append(_compact(frame))


def _compact(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a copy of a few rows: texts that polars takes from a batch hold the memory of the whole batch."""
    return pl.DataFrame(frame.to_arrow(compat_level=pl.CompatLevel.oldest()))


def _with(counts: pl.DataFrame, more: pl.DataFrame) -> pl.DataFrame:
    return counts.join(more, on=SOURCE, how="left", maintain_order="left").with_columns(
        pl.col(name).fill_null(0) for name in more.columns if name != SOURCE
    )


def _smallest(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Return `count` rows of every source: those whose fov_id has the smallest hash, so spread over plates and wells."""
    ordered = rows.sort(pl.col(FOV_ID).hash(), FOV_ID)
    return ordered.filter(pl.int_range(pl.len()).over(SOURCE) < count)
