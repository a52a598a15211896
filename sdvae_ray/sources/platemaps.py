"""Joins load_data rows with their platemaps."""

from collections.abc import Callable, Sequence

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import BATCH_COLUMN, METADATA, PLATE_COLUMN, WELL_COLUMN
from sdvae_ray.sources.joining import OTHER_FILE, OTHER_ROW, TableReader, attach, one_row_each
from sdvae_ray.sources.keys import PLATE_MAP
from sdvae_ray.sources.tables import FILE, ROW, first_row, is_empty, listed, place
from sdvae_ray.storage import join

_BARCODES = "_barcodes"  # column of a join, dropped after it


def join_platemaps(
    table: pl.DataFrame,
    platemaps: Sequence[str],
    drop_unmapped_wells: bool,
    tables: TableReader,
) -> tuple[pl.DataFrame, list[str]]:
    """Return the table with the columns of its platemaps and with Metadata_Plate_Map_Name, and notes.

    platemaps: paths of barcode_platemap.csv, or of the folders that hold it. It names the plate map of every plate;
    platemap/<name>.txt in its folder has one row per well. If several barcode maps list a plate, the one counts whose folder has
    the name of the plate's batch. A value of load_data that is not missing stays.
    drop_unmapped_wells: leave out the wells that are not on their platemap, which are an error otherwise. Raises DataError
    for a plate without a plate map, for such a well, and for values that contradict each other.
    """
    notes: dict[str, list[str]] = {}

    def read(uri: str) -> pl.DataFrame:
        other, more = tables.read(uri)
        for note in more:
            notes.setdefault(note, []).append(uri)
        return other

    chosen = _maps_of_plates(table, pl.concat([_barcode_map(path, read) for path in platemaps]))
    files = chosen.select(_BARCODES, PLATE_MAP, PLATE_COLUMN).unique([_BARCODES, PLATE_MAP]).sort(_BARCODES, PLATE_MAP)
    wells = pl.concat(
        [_platemap(barcodes, name, plate, read, tables) for barcodes, name, plate in files.iter_rows()], how="diagonal"
    )
    chosen = chosen.with_columns(pl.col(_BARCODES).alias(FILE))
    table = attach(table, chosen, [BATCH_COLUMN, PLATE_COLUMN]).drop(OTHER_FILE, OTHER_ROW)
    table = attach(table, wells, [_BARCODES, PLATE_MAP, WELL_COLUMN])
    unmapped = pl.col(OTHER_ROW).is_null()
    row, told = first_row(table, unmapped), [f"{listed(uris)}: {note}" for note, uris in notes.items()]
    if row and not drop_unmapped_wells:
        raise DataError(
            f"{place(row)}: the well {row[WELL_COLUMN]!r} of plate {row[PLATE_COLUMN]!r} is not on its platemap {row[PLATE_MAP]!r} "
            f"(of {row[_BARCODES]}); --drop-unmapped-wells leaves such wells out"
        )
    if row:
        gone = table.filter(unmapped)
        names = gone.select(pl.concat_str(PLATE_COLUMN, WELL_COLUMN, separator="/").unique().sort()).to_series()
        told.append(f"{gone.height} FOVs of wells that are on no platemap are dropped: {listed(names)}")
    return table.filter(~unmapped).drop(_BARCODES, OTHER_FILE, OTHER_ROW), told


def _barcode_map(path: str, read: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    uri = path if path.endswith((".csv", ".csv.gz", ".tsv", ".txt")) else join(path, "barcode_platemap.csv")
    table = read(uri)
    if missing := [key for key in (PLATE_COLUMN, PLATE_MAP) if key not in table.columns]:
        raise DataError(f"{uri} is not a barcode map: no column {missing[0].removeprefix(METADATA)}")
    return one_row_each(table.select(PLATE_COLUMN, PLATE_MAP, FILE, ROW), [PLATE_COLUMN])


def _maps_of_plates(table: pl.DataFrame, barcodes: pl.DataFrame) -> pl.DataFrame:
    """Return one row per (batch, plate) of the table: the plate map's name, and the barcode map that names it."""
    folder = pl.col(_BARCODES).str.extract(r"([^/]+)/[^/]+$")
    plates = table.group_by(BATCH_COLUMN, PLATE_COLUMN).agg(pl.col(FILE).min())
    barcodes = barcodes.rename({FILE: _BARCODES}).unique([_BARCODES, PLATE_COLUMN])
    chosen = plates.join(barcodes, on=PLATE_COLUMN, how="left", maintain_order="left").sort(
        BATCH_COLUMN, PLATE_COLUMN, _BARCODES
    )
    own = (folder == pl.col(BATCH_COLUMN)).fill_null(False)
    chosen = chosen.filter(own | ~own.any().over(BATCH_COLUMN, PLATE_COLUMN))
    for row in chosen.filter(is_empty(PLATE_MAP)).head(1).iter_rows(named=True):
        maps = listed(barcodes[_BARCODES].unique().sort())
        problem = "has no plate map" if row[_BARCODES] else "is not listed"
        raise DataError(f"{row[_BARCODES] or maps}: the plate {row[PLATE_COLUMN]!r} of {row[FILE]} {problem}")
    for row in chosen.filter(pl.struct(BATCH_COLUMN, PLATE_COLUMN).is_duplicated()).head(1).iter_rows(named=True):
        maps = listed(chosen.filter(**{key: row[key] for key in (BATCH_COLUMN, PLATE_COLUMN)})[_BARCODES])
        raise DataError(
            f"{maps}: the plate {row[PLATE_COLUMN]!r} stands in each, and no folder is named for its batch {row[BATCH_COLUMN]!r}"
        )
    return chosen


def _platemap(
    barcodes: str, name: str, plate: str, read: Callable[[str], pl.DataFrame], tables: TableReader
) -> pl.DataFrame:
    folder = join(barcodes.rpartition("/")[0] or ".", "platemap")
    names = [join(folder, f"{name}{suffix}") for suffix in (".txt", ".tsv", ".csv")]
    uri = tables.first_of(names)
    if uri is None:
        raise DataError(f"{names[0]} does not exist (nor as .tsv or .csv): {barcodes} names it for the plate {plate!r}")
    table = read(uri)
    if WELL_COLUMN not in table.columns:
        raise DataError(f"{uri} is not a platemap: no column well_position")
    table = one_row_each(table, [WELL_COLUMN])
    return table.with_columns(pl.lit(barcodes).alias(_BARCODES), pl.lit(name).alias(PLATE_MAP))
