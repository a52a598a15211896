"""Joins tables of experiments, wells and compounds to the rows of a manifest, by the identifiers that both have."""

import threading
from collections.abc import Mapping

import polars as pl

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.schema import METADATA, PLATE_COLUMN, PLATE_KEY
from sdvae_ray.sources.joining import OTHER_FILE, OTHER_ROW, TableReader, attach, one_row_each
from sdvae_ray.sources.keys import WHAT, WHERE, identifier
from sdvae_ray.sources.tables import FILE, ROW, named_columns

_SAMPLE = "_sample"  # column of a join, dropped after it


class MetadataTable:
    """A table of metadata, read once and joined to the rows of many plates.

    The identifiers of a place (source, batch, plate, well, site, plate map) are used together. If the tables share none of them,
    or several rows have the same, the first identifier of a treatment is used too (broad_sample, JCP2022, pert_iname). An empty
    sample matches the metadata's empty sample (DMSO in CPJUMP1's compounds), but not on a plate whose other samples are all
    unknown to the metadata: an untreated well of a CRISPR plate is not a DMSO well.

    columns: column of the table -> its name in the manifest, of those that are taken beside the identifiers; None: all of them.
    Raises DataError for a column that is not there.
    """

    def __init__(self, uri: str, tables: TableReader, columns: Mapping[str, str] | None = None) -> None:
        rows, notes = tables.read(uri)
        self.uri, self.notes = uri, [f"{uri}: {note}" for note in notes]
        self.rows = rows if columns is None else self._taken(rows, columns)
        self._of_key: dict[tuple[str, ...], dict[str, pl.DataFrame] | pl.DataFrame] = {}
        self._keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._lock = threading.RLock()  # of these two: several threads join plates

    def _taken(self, rows: pl.DataFrame, columns: Mapping[str, str]) -> pl.DataFrame:
        names = {identifier(column) or METADATA + column.removeprefix(METADATA): to for column, to in columns.items()}
        if absent := [name for name in names if name not in rows.columns]:
            raise DataError(f"{self.uri} has no column {absent[0]}{did_you_mean(absent[0], named_columns(rows))}")
        identifiers = [name for name in rows.columns if name in (*WHERE, *WHAT) and name not in names]
        return rows.select(*identifiers, *(pl.col(name).alias(to) for name, to in names.items()), FILE, ROW)

    def key(self, table: pl.DataFrame) -> tuple[str, ...]:
        """Return the identifiers by which a manifest's table is joined. Raises DataError if they share none."""
        shared = tuple(name for name in (*WHERE, *WHAT) if name in self.rows.columns and name in table.columns)
        with self._lock:
            return self._key(shared, table)

    def _key(self, shared: tuple[str, ...], table: pl.DataFrame) -> tuple[str, ...]:
        if shared not in self._keys:
            where = [name for name in shared if name in WHERE]
            what = [name for name in shared if name in WHAT][:1]
            if not shared:
                known = [name.removeprefix(METADATA) for name in (*WHERE, *WHAT) if name in table.columns]
                raise DataError(f"{self.uri} shares no identifier with the manifest, which has {', '.join(known)}")
            rows = self.rows.drop(ROW).unique()
            is_place = bool(where) and rows.n_unique(where) == rows.height
            self._keys[shared] = tuple(where if is_place else where + what)
        return self._keys[shared]

    def join(self, table: pl.DataFrame) -> tuple[pl.DataFrame, int]:
        """Return (the manifest's table with the columns of this one, the number of rows without a match, which get nulls).

        A column that the manifest has already is filled where it was missing. Raises DataError without a shared identifier, for
        two different rows of one key, and for values that contradict the manifest's.
        """
        key = self.key(table)
        other = self._rows_of(key, table)
        if len(key) == 1 and key[0] in WHAT:
            sample, plate = pl.col(key[0]), PLATE_KEY
            named = sample != ""
            unknown = ~(named & sample.is_in(other[key[0]].implode())).any().over(plate)
            foreign = ~named & named.any().over(plate) & unknown
            table = table.with_columns(pl.when(~foreign).then(sample).alias(_SAMPLE))
            other, key = other.rename({key[0]: _SAMPLE}), (_SAMPLE,)
        joined = attach(table, other, key)
        lost = joined[OTHER_ROW].null_count()
        return joined.drop(_SAMPLE, OTHER_FILE, OTHER_ROW, strict=False), lost

    def _rows_of(self, key: tuple[str, ...], table: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that may match, one per key: of a table of wells those of the plates at hand."""
        with self._lock:
            if key not in self._of_key:
                unique = one_row_each(self.rows, key)
                by_plate = unique.partition_by(PLATE_COLUMN, as_dict=True) if PLATE_COLUMN in key else {}
                self._of_key[key] = {str(plate): rows for (plate,), rows in by_plate.items()} or unique
            kept = self._of_key[key]
        if isinstance(kept, pl.DataFrame):
            return kept
        plates = [kept[plate] for plate in table[PLATE_COLUMN].unique().sort().to_list() if plate in kept]
        return pl.concat(plates) if plates else self.rows.clear()

    def told(self, key: tuple[str, ...], lost: int, rows: int) -> list[str]:
        """Return a note on the rows without a match, if there are any. key: of the join."""
        if not lost:
            return []
        few = f"{'none' if lost == rows else rows - lost} of {rows} FOVs"
        return [f"{self.uri}: {few} have a row in it (by {', '.join(key)}); its columns are null for the others"]


def join_metadata(table: pl.DataFrame, uri: str, tables: TableReader) -> tuple[pl.DataFrame, list[str]]:
    """Return the manifest's table with the columns of a metadata table, and notes, as `MetadataTable` joins it."""
    metadata = MetadataTable(uri, tables)
    key = metadata.key(table)
    joined, lost = metadata.join(table)
    return joined, [*metadata.notes, *metadata.told(key, lost, joined.height)]
