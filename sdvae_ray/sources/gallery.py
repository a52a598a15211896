"""Reads the Cell Painting Gallery's files: its tables as text, and load_data files in both header forms.

A cell keeps its text ('01', '4.0E-06'); a word for nothing (NA, None) is "", and a plate, a well and a site have one form.
"""

import re
from collections.abc import Mapping, Sequence

import polars as pl

from sdvae_ray.errors import DataError, did_you_mean, nearest
from sdvae_ray.schema import (
    BATCH_COLUMN,
    FOV_ID,
    KEYS,
    METADATA,
    PLATE_COLUMN,
    SOURCE_COLUMN,
    illum_column,
    uri_column,
)
from sdvae_ray.settings.values import MISSING_WORDS
from sdvae_ray.sources.keys import PLATE_MAP, identifier, with_canonical_keys, without_words
from sdvae_ray.sources.planes import plane_columns
from sdvae_ray.sources.tables import (
    FILE,
    ROW,
    as_text,
    first_row,
    is_empty,
    listed,
    named_columns,
    place,
    read_columns,
)
from sdvae_ray.storage import Storage, absolute, is_remote

# <project>/<source>/images/<batch>/ where the project is a cpgNNNN, or the batch holds the gallery's own folders.
_LAYOUTS = (r"(?:^|/)cpg\d{4}[^/]*/([^/]+)/images/([^/]+)/", r"(?:^|/)[^/]+/([^/]+)/images/([^/]+)/(?:images|illum)/")
_LOCATED = r"(URL|FileName|PathName)_(Orig|Illum)"
_OPTIONS = {SOURCE_COLUMN: "--source", BATCH_COLUMN: "--batch"}


def read_table(uri: str, storage: Storage, words: Sequence[str] = MISSING_WORDS) -> tuple[pl.DataFrame, list[str]]:
    """Return (a table as columns of text, `_file` and `_row`; notes). "" is a missing value.

    words: the words that mean "missing"; images' locations keep their spaces. Plates, wells and sites come in the one form. Raises
    DataError as `read_columns`.
    """
    return _cleaned(read_columns(uri, storage), words)


def _cleaned(raw: pl.DataFrame, words: Sequence[str]) -> tuple[pl.DataFrame, list[str]]:
    table = as_text(raw, [name for name in raw.columns if identifier(name)])
    names = named_columns(table)
    located = [name for name in names if re.match(_LOCATED, name)]
    table = table.with_columns(
        pl.when(pl.col(name).str.strip_chars().is_in(list(words))).then(pl.lit("")).otherwise(pl.col(name)).alias(name)
        for name in located
    )
    table, notes = without_words(table, [name for name in names if name not in located], words)
    table, forms = with_canonical_keys(table)
    return table, notes + forms


def read_load_data(
    uri: str,
    stains: Sequence[str],
    defaults: Mapping[str, str],
    storage: Storage,
    words: Sequence[str] = MISSING_WORDS,
    keep: Sequence[str] | None = None,
) -> tuple[pl.DataFrame, list[str]]:
    """Return (rows of a manifest with `_file` and `_row`, in the order of the load_data file, nothing rewritten; notes).

    Locations are URL_<Orig|Illum><Stain>, or PathName_ and FileName_ joined by one slash. defaults: keys (Metadata_Source,
    Metadata_Batch) that the file has no column for; without a default they are read from the image paths. keep: Metadata_* columns
    that are taken beside the keys; None: all. Raises DataError for a file that is not load_data, and for a stain or key that is
    missing.
    """
    raw = read_columns(uri, storage)
    here = {match[1] for name in raw.columns if (match := re.fullmatch(r"(?:URL|FileName)_Orig(.+)", name))}
    if not here:
        raise DataError(_not_load_data(uri, raw.columns, stains))
    header = uri if raw[ROW].min() == 1 else f"{uri}, row 1 (the header)"
    if missing := [stain for stain in stains if stain not in here]:
        wanted = "URL_Orig{0}, or FileName_Orig{0} with PathName_Orig{0}".format(missing[0])
        raise DataError(
            f"{header}: no images of the stain {missing[0]!r} ({wanted}); its stains are {listed(sorted(here), 12)}"
        )
    raw, notes = _cleaned(raw.select(_wanted(raw.columns, stains, keep)), words)
    if others := sorted(stain for stain in here - set(stains) if not stain.lower().startswith("brightfield")):
        notes.append(f"stains that were not asked for are left out: {', '.join(others)}")
    planes, more = plane_columns(raw, stains, uri)
    notes += more
    table = raw.select(
        pl.col(f"^{METADATA}.*$"),
        *(_location(raw.columns, "Orig", stain, header).alias(uri_column(stain)) for stain in stains),
        *(_location(raw.columns, "Illum", stain, header).alias(illum_column(stain)) for stain in stains),
        *planes,
        FILE,
        ROW,
    )
    for key in KEYS:
        if key in raw.columns:
            if key in defaults and (raw[key] != defaults[key]).any():
                notes.append(f"{key} is in the file and stays; {defaults[key]!r} is not used")
        elif key in defaults:
            table = table.with_columns(pl.lit(defaults[key]).alias(key))
        elif key in _OPTIONS:
            table = _key_from_path(table, key, uri_column(stains[0]))
            values = listed(table[key].unique().drop_nulls().sort())
            notes.append(f"{key} is not in the file; read from the image paths: {values}")
        else:
            raise DataError(f"{header}: no column {key}{did_you_mean(key, raw.select(f'^{METADATA}.*$').columns)}")
    return table.with_columns(pl.concat_str(KEYS, separator="/").alias(FOV_ID)), notes


def _wanted(columns: Sequence[str], stains: Sequence[str], keep: Sequence[str] | None) -> list[str]:
    """Return the columns of a load_data file that a manifest of the stains takes."""
    located = tuple(f"{kind}{stain}" for stain in stains for kind in ("Orig", "Illum"))
    metadata = {*columns} if keep is None else {*KEYS, *keep}
    return [
        name
        for name in columns
        if name in (FILE, ROW) or name.endswith(located) or (name.startswith(METADATA) and name in metadata)
    ]


def _location(columns: Sequence[str], kind: str, stain: str, header: str) -> pl.Expr:
    """Return the location of a stain's image or illumination function; null if the file has none."""
    url, name, path = (f"{part}_{kind}{stain}" for part in ("URL", "FileName", "PathName"))
    locations = [pl.when(~is_empty(url)).then(url)] if url in columns else []
    if name in columns:
        if path not in columns:
            raise DataError(f"{header}: {name} without {path}")
        joined = pl.col(path).str.strip_chars_end("/") + "/" + pl.col(name).str.strip_chars_start("/")
        locations.append(pl.when(~is_empty(name) & ~is_empty(path)).then(joined))
    return pl.coalesce(locations) if locations else pl.lit(None, pl.String)


def _key_from_path(table: pl.DataFrame, key: str, location: str) -> pl.DataFrame:
    group = 1 if key == SOURCE_COLUMN else 2
    values = pl.coalesce(pl.col(location).str.extract(layout, group) for layout in _LAYOUTS)
    table = table.with_columns(values.alias(key))
    if row := first_row(table, pl.col(key).is_null() & pl.col(location).is_not_null()):
        raise DataError(
            f"{place(row)}: no column {key}, and {row[location]} has no <project>/<source>/images/<batch>/ to read it "
            f"from; give it with {_OPTIONS[key]}"
        )
    return table


def _not_load_data(uri: str, columns: Sequence[str], stains: Sequence[str]) -> str:
    known = {identifier(column) for column in columns}
    if FOV_ID in columns:
        return f"{uri} is not a load_data file: it looks like a manifest"
    if {PLATE_COLUMN, PLATE_MAP} <= known or "well_position" in columns:
        return f"{uri} is not a load_data file: it looks like a barcode map, a platemap or a metadata table"
    wanted = [f"{part}_Orig{stain}" for stain in stains for part in ("URL", "FileName")]
    matches = [(column, match) for column in columns if (match := nearest(column, wanted, 0.7))]
    hint = f"; {matches[0][0]!r} is nearest to {matches[0][1]!r}" if matches else ""
    seen = listed(column for column in columns if column not in (FILE, ROW))
    return f"{uri} is not a load_data file: no column such as {wanted[0]} or {wanted[1]}{hint}; its columns are {seen}"


def rewrite(
    table: pl.DataFrame, stains: Sequence[str], rewrites: Sequence[tuple[str, str]]
) -> tuple[pl.DataFrame, set[tuple[str, str]]]:
    """Return the table with a prefix FROM replaced by TO in all locations, by the first rule that matches; and the rules that
    matched.

    If FROM or TO ends in a slash, one slash joins TO and the rest. A local TO is made absolute, since workers run elsewhere.
    """
    columns = [column(stain) for stain in stains for column in (uri_column, illum_column)]
    values: dict[str, pl.Expr] = {column: pl.col(column) for column in columns}
    done: dict[str, pl.Expr] = dict.fromkeys(columns, pl.lit(False))
    used = set()
    for start, to in rewrites:
        slash = bool(to) and (to.endswith("/") or start.endswith("/"))
        new = to if is_remote(to) or not to else absolute(to)
        new = new.rstrip("/") + "/" if slash and not new.endswith("://") else new
        hits = {column: pl.col(column).str.starts_with(start) & ~done[column] for column in columns}
        if table.select(pl.any_horizontal(hit.any() for hit in hits.values())).item():
            used.add((start, to))
        for column, hit in hits.items():
            rest = pl.col(column).str.strip_prefix(start)
            rest = rest.str.strip_chars_start("/") if slash else rest
            values[column] = pl.when(hit).then(pl.lit(new) + rest).otherwise(values[column])
            done[column] = done[column] | hit
    return table.with_columns(value.alias(column) for column, value in values.items()), used
