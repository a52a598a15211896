"""Joins load_data rows with their platemaps and with the tables of experiments and compounds.

A row that has no match in a joined table gets nulls. Two files that contradict each other are a DataError that names both.
"""

from collections.abc import Callable, Sequence

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import BATCH_COLUMN, METADATA, PLATE_COLUMN, PLATE_KEY, WELL_COLUMN
from sdvae_ray.settings.values import MISSING_WORDS
from sdvae_ray.sources.gallery import read_table
from sdvae_ray.sources.keys import PLATE_MAP, WHAT, WHERE, identifier
from sdvae_ray.sources.tables import FILE, ROW, first_row, is_empty, listed, named_columns, place
from sdvae_ray.storage import Storage, join

_BARCODES, _SAMPLE, _THEIRS = "_barcodes", "_sample", "_theirs"  # columns of a join, dropped after it
_OTHER_FILE, _OTHER_ROW = "_other_file", "_other_row"


def join_platemaps(
    table: pl.DataFrame,
    platemaps: Sequence[str],
    drop_unmapped_wells: bool,
    storage: Storage,
    words: Sequence[str] = MISSING_WORDS,
) -> tuple[pl.DataFrame, list[str]]:
    """Return the table with the columns of its platemaps and with Metadata_Plate_Map_Name, and notes.

    platemaps: paths of barcode_platemap.csv, or of the folders that hold it. It names the plate map of every plate;
    platemap/<name>.txt in its folder has one row per well. If several barcode maps list a plate, the one counts whose folder has
    the name of the plate's batch. A value of load_data that is not missing stays.
    drop_unmapped_wells: leave out the wells that are not on their platemap, which are an error otherwise. words: the words that
    mean "missing". Raises DataError for a plate without a plate map, for such a well, and for values that contradict each other.
    """
    notes: dict[str, list[str]] = {}

    def read(uri: str) -> pl.DataFrame:
        other, more = read_table(uri, storage, words)
        for note in more:
            notes.setdefault(note, []).append(uri)
        return _named(other)

    chosen = _maps_of_plates(table, pl.concat([_barcode_map(path, read) for path in platemaps]))
    files = chosen.select(_BARCODES, PLATE_MAP, PLATE_COLUMN).unique([_BARCODES, PLATE_MAP]).sort(_BARCODES, PLATE_MAP)
    wells = pl.concat(
        [_platemap(barcodes, name, plate, read, storage) for barcodes, name, plate in files.iter_rows()], how="diagonal"
    )
    chosen = chosen.with_columns(pl.col(_BARCODES).alias(FILE))
    table = _attach(table, chosen, [BATCH_COLUMN, PLATE_COLUMN]).drop(_OTHER_FILE, _OTHER_ROW)
    table = _attach(table, wells, [_BARCODES, PLATE_MAP, WELL_COLUMN])
    unmapped = pl.col(_OTHER_ROW).is_null()
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
    return table.filter(~unmapped).drop(_BARCODES, _OTHER_FILE, _OTHER_ROW), told


def _barcode_map(path: str, read: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    uri = path if path.endswith((".csv", ".csv.gz", ".tsv", ".txt")) else join(path, "barcode_platemap.csv")
    table = read(uri)
    if missing := [key for key in (PLATE_COLUMN, PLATE_MAP) if key not in table.columns]:
        raise DataError(f"{uri} is not a barcode map: no column {missing[0].removeprefix(METADATA)}")
    return _one_row_each(table.select(PLATE_COLUMN, PLATE_MAP, FILE, ROW), [PLATE_COLUMN])


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
    barcodes: str, name: str, plate: str, read: Callable[[str], pl.DataFrame], storage: Storage
) -> pl.DataFrame:
    folder = join(barcodes.rpartition("/")[0] or ".", "platemap")
    names = [join(folder, f"{name}{suffix}") for suffix in (".txt", ".tsv", ".csv")]
    uri = next((uri for uri in names if storage.exists(uri)), None)
    if uri is None:
        raise DataError(f"{names[0]} does not exist (nor as .tsv or .csv): {barcodes} names it for the plate {plate!r}")
    table = read(uri)
    if WELL_COLUMN not in table.columns:
        raise DataError(f"{uri} is not a platemap: no column well_position")
    table = _one_row_each(table, [WELL_COLUMN])
    return table.with_columns(pl.lit(barcodes).alias(_BARCODES), pl.lit(name).alias(PLATE_MAP))


def join_metadata(
    table: pl.DataFrame, uri: str, storage: Storage, words: Sequence[str] = MISSING_WORDS
) -> tuple[pl.DataFrame, list[str]]:
    """Return the manifest's table with the columns of a metadata table, joined on the identifiers that both have, and notes.

    The identifiers of a place (source, batch, plate, well, site, plate map) are used together. If the tables share none of them,
    or several rows have the same, the first identifier of a treatment is used too (broad_sample, JCP2022, pert_iname). An empty
    sample matches the metadata's empty sample (DMSO in CPJUMP1's compounds), but not on a plate whose other samples are all
    unknown to the metadata: an untreated well of a CRISPR plate is not a DMSO well. A row without a match gets nulls. A column
    that the manifest has already is filled where it was missing. words: the words that mean "missing". Raises DataError without a
    shared identifier, for two different rows of one key, and for values that contradict the manifest's.
    """
    other, notes = read_table(uri, storage, words)
    other, notes = _named(other), [f"{uri}: {note}" for note in notes]
    shared = [name for name in (*WHERE, *WHAT) if name in other.columns and name in table.columns]
    where, what = [name for name in shared if name in WHERE], [name for name in shared if name in WHAT][:1]
    if not shared:
        known = [name.removeprefix(METADATA) for name in (*WHERE, *WHAT) if name in table.columns]
        raise DataError(f"{uri} shares no identifier with the manifest, which has {', '.join(known)}")
    rows = other.drop(ROW).unique()
    key = where if where and rows.n_unique(where) == rows.height else where + what
    said = ", ".join(key)
    other = _one_row_each(other, key)
    if key == what:
        sample, plate = pl.col(what[0]), PLATE_KEY
        named = sample != ""
        foreign = ~named & named.any().over(plate) & ~(named & sample.is_in(other[what[0]].implode())).any().over(plate)
        table = table.with_columns(pl.when(~foreign).then(sample).alias(_SAMPLE))
        other, key = other.rename({what[0]: _SAMPLE}), [_SAMPLE]
    joined = _attach(table, other, key)
    if lost := joined[_OTHER_ROW].null_count():
        few = f"{'none' if lost == joined.height else joined.height - lost} of {joined.height} FOVs"
        notes.append(f"{uri}: {few} have a row in it (by {said}); its columns are null for the others")
    return joined.drop(_SAMPLE, _OTHER_FILE, _OTHER_ROW, strict=False), notes


def _named(table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with its columns named as in a manifest. Raises DataError if two columns get one name."""
    names = {c: identifier(c) or METADATA + c.removeprefix(METADATA) for c in named_columns(table)}
    seen: dict[str, str] = {}
    for column, name in names.items():
        if name in seen:
            raise DataError(f"{table[FILE][0]}: the columns {seen[name]!r} and {column!r} are both {name}")
        seen[name] = column
    return table.rename(names)


def _one_row_each(table: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the table without repeats of a whole row. Raises DataError if a key still has two rows."""
    table = table.unique([name for name in table.columns if name != ROW], keep="first", maintain_order=True)
    twice = table.filter(pl.struct(key).is_duplicated())
    if twice.height:
        values = twice.select(key).row(0)
        rows = twice.filter(*(pl.col(name) == value for name, value in zip(key, values, strict=True)))[ROW]
        said = ", ".join(f"{name} {value!r}" for name, value in zip(key, values, strict=True))
        raise DataError(f"{twice[FILE][0]}, rows {rows[0]} and {rows[1]}: two different rows for {said}")
    return table


def _attach(table: pl.DataFrame, other: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the left join, with `_other_file` and `_other_row`, null without a match. `key` is unique in `other`."""
    other = other.rename({FILE: _OTHER_FILE, ROW: _OTHER_ROW})
    both = [name for name in other.columns if name in table.columns and name not in key]
    joined = table.join(other, on=list(key), how="left", suffix=_THEIRS, maintain_order="left")
    for name in both:
        if row := first_row(
            joined, (pl.col(name) != pl.col(name + _THEIRS)) & ~is_empty(name) & ~is_empty(name + _THEIRS)
        ):
            theirs = f"{row[_OTHER_FILE]}, row {row[_OTHER_ROW]} says {row[name + _THEIRS]!r}"
            raise DataError(f"{place(row)}: {name} is {row[name]!r}, but {theirs}")
    filled = joined.with_columns(
        pl.coalesce(pl.when(~is_empty(one)).then(one) for one in (name, name + _THEIRS))
        .fill_null(pl.coalesce(name, name + _THEIRS))
        .alias(name)
        for name in both
    )
    return filled.drop(name + _THEIRS for name in both)
