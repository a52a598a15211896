"""What a manifest must be, whoever made it: the columns with their types, the keys, and no field or key twice."""

from collections.abc import Sequence

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import (
    COLOUR,
    FOV_ID,
    KEYS,
    METADATA,
    PACK_ERROR,
    PIXELS,
    SCALE_BITS,
    SHARD,
    channel_column,
    checksum_column,
    divisor_column,
    height_column,
    illum_column,
    offset_column,
    sampled_column,
    spread_column,
    uri_column,
    width_column,
)
from sdvae_ray.sources.keys import canonical
from sdvae_ray.sources.manifest.row import located_stains
from sdvae_ray.sources.tables import FILE, ROW, first_row, is_empty, place

_OF_A_ROW = (FOV_ID, PIXELS, COLOUR, SHARD, PACK_ERROR, SCALE_BITS)
CANONICAL = "_canonical"  # column: the fov_id with plate, well and site in their one form


def check_manifest(table: pl.DataFrame, stains: Sequence[str], where: str) -> None:
    """Raise DataError, with the row, unless the table is a sound manifest of the stains.

    In a sound manifest no image location and no key is empty, no key has a "/", no plane has a number below 0, and fov_id is made
    of the keys and unique; A1 and A01, site 1 and 01 are the same. `channel_<stain>` and `illum_<stain>` may be absent (0, ones).
    The error names a row by its columns `_file` and `_row` if the table has them (while it is built), else by `where` and the row's
    number from 1.
    """
    check_columns(table.schema, stains, where)
    if table.height == 0:
        raise DataError(f"{where} has no rows")
    if ROW not in table.columns:
        table = table.with_row_index(ROW, offset=1).with_columns(pl.lit(where).alias(FILE))
    check_rows(table, stains)
    check_unique(table.select(FOV_ID, FILE, ROW, canonical_fov_id().alias(CANONICAL)))


def check_columns(schema: pl.Schema, stains: Sequence[str], where: str) -> None:
    """Raise DataError unless the columns of a manifest are there, each of its type."""
    if FOV_ID not in schema:
        raise DataError(f"{where} is not a manifest: no column {FOV_ID}; `sdvae-ray manifest` makes one")
    here = located_stains(schema)
    if missing := [stain for stain in stains if stain not in here]:
        raise DataError(f"{where} has no images of the stain {missing[0]!r}; it has {', '.join(here) or 'none'}")
    if absent := [key for key in KEYS if key not in schema]:
        raise DataError(f"{where} has no column {absent[0]}")
    needed = {FOV_ID, *KEYS, *map(uri_column, stains)}
    texts = needed | set(map(illum_column, stains)) | {name for name in schema if name.startswith(METADATA)}
    numbers = {column(stain) for stain in stains for column in (offset_column, divisor_column)}
    for name, dtype in schema.items():
        said = "categorical" if isinstance(dtype, pl.Categorical | pl.Enum) else str(dtype)[:40]
        if name in texts and dtype != pl.String and (name in needed or dtype != pl.Null):
            raise DataError(f"{where}: the column {name} is {said}, not text")
        if name in map(channel_column, stains) and not dtype.is_integer() and dtype != pl.Null:
            raise DataError(f"{where}: the column {name} is {said}, not a whole number")
        if name in numbers and not dtype.is_numeric() and dtype != pl.Null:
            raise DataError(f"{where}: the column {name} is {said}, not a number")


def check_rows(table: pl.DataFrame, stains: Sequence[str]) -> None:
    """Raise DataError for the first row with an image, a plane or a key that cannot be. table: with `_file` and `_row`."""
    problems = [(is_empty(uri_column(stain)), f"no image of the stain {stain!r}") for stain in stains]
    for name in filter(table.columns.__contains__, map(channel_column, stains)):
        problems.append((pl.col(name) < 0, f"{name} is {{{name}}}, and planes count from 0"))
    for key in KEYS:
        slash = pl.col(key).str.contains("/", literal=True)
        problems.append((is_empty(key), f"{key} is empty"))
        problems.append((slash, f"{key} is {{{key}!r}}; a key may not contain '/'"))
    keys = "/".join(f"{{{key}}}" for key in KEYS)
    other = pl.col(FOV_ID).ne_missing(pl.concat_str(KEYS, separator="/"))
    problems.append((other, f"{FOV_ID} is {{{FOV_ID}!r}}, not '{keys}'"))
    there = table.select(condition.any().alias(str(number)) for number, (condition, _) in enumerate(problems)).row(0)
    for (condition, problem), is_there in zip(problems, there, strict=True):
        if is_there and (row := first_row(table, condition)):
            raise DataError(f"{place(row)}: {problem.format_map(row)}")


def canonical_fov_id() -> pl.Expr:
    """Return an expression: the fov_id with the plate, the well and the site in their one form."""
    return pl.concat_str((canonical(key, key).str.strip_chars() for key in KEYS), separator="/")


def check_unique(table: pl.DataFrame) -> None:
    """Raise DataError, with both rows, if a field stands twice. table: fov_id, `_canonical`, `_file` and `_row` of all rows."""
    if row := first_row(table, pl.col(CANONICAL).is_duplicated()):
        twins = table.filter(pl.col(CANONICAL) == row[CANONICAL]).sort(FILE, ROW)
        twin = twins.row(1, named=True)
        same = "" if twin[FOV_ID] == row[FOV_ID] else f", as {row[FOV_ID]}"
        raise DataError(f"{place(twin)}: the FOV {twin[FOV_ID]} is already in {place(row)}{same}")


def repeated_images(table: pl.DataFrame, stains: Sequence[str]) -> list[str]:
    """Return notes about planes that several fields have as the image of a stain, with two rows. table: with `_file` and `_row`."""
    notes = []
    for stain in stains:
        names = [uri_column(stain), *({channel_column(stain)} & set(table.columns))]
        twice = table.filter(pl.struct(names).is_duplicated()).sort(FILE, ROW)
        if twice.height:
            row = twice.row(0, named=True)
            twin = twice.filter(pl.col(uri_column(stain)) == row[uri_column(stain)]).row(1, named=True)
            notes.append(f"{shared_image(stain, twice.height, place(row), place(twin))}: {row[uri_column(stain)]}")
    return notes


def shared_image(stain: str, count: int, one: str, other: str) -> str:
    """Return a note about `count` fields that share their image of a stain, of which `one` and `other` are two."""
    return f"{count} FOVs share their image of {stain} with another, such as {one} and {other}"


def is_known(name: str, stains: Sequence[str]) -> bool:
    """Return whether some reader of a manifest of these stains, or of shards of it, knows the column."""
    per_stain = (
        uri_column,
        channel_column,
        illum_column,
        offset_column,
        sampled_column,
        spread_column,
        divisor_column,
        checksum_column,
        height_column,
        width_column,
    )
    located = {column(stain) for stain in stains for column in per_stain}
    return name in located or name in _OF_A_ROW or name.startswith((METADATA, "shard_", "uri_"))
