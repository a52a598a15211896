"""The table of wells that every score takes: names as text, roles as booleans, and what must hold of both."""

from collections.abc import Sequence

import polars as pl

ROW, NAME, POSITION = "_row", "_name", "_position"  # added: the row in the table given, the whole key, the position
SEPARATOR = "\x1f"  # between the parts of a key: it stands in no name and sorts before every character of one


def checked_wells(wells: pl.DataFrame, key: Sequence[str], position: str | None = None) -> pl.DataFrame:
    """Return the table of wells with its names as text, its roles as booleans, and the column NAME (and POSITION) added.

    wells: one row per well with the `key` columns (together distinct), compound, plate, group, is_control, and optionally
    is_treated (if absent: every well that is not a control). A well in neither role, such as a positive control, is out of
    play. position: the column with a well's position on its plate ("A01").

    Raises ValueError for a well without a name or in two roles, for a treated well without a compound, and for a key that
    repeats; polars' own error for a missing column.
    """
    names = list(dict.fromkeys([*key, "compound", "plate", "group", *([position] if position else [])]))
    treated = pl.col("is_treated") if "is_treated" in wells.columns else ~pl.col("is_control")
    table = wells.with_columns(is_treated=treated).with_columns(
        pl.col(names).cast(pl.String), pl.col("is_control", "is_treated").cast(pl.Boolean).fill_null(False)
    )
    table = table.with_columns(pl.concat_str(pl.col(*key), separator=SEPARATOR).alias(NAME))
    named = [NAME, "plate", "group"]
    if position:
        table = table.with_columns(pl.col(position).alias(POSITION))
        named.append(POSITION)
    for wrong, what in (
        (pl.any_horizontal(pl.col(named).is_null()), "has no key, plate, group or position"),
        (pl.col("is_control") & pl.col("is_treated"), "is both a control and treated; it can be one of the two"),
        (pl.col("is_treated") & pl.col("compound").is_null(), "is treated but has no compound"),
        (pl.col(NAME).is_duplicated(), "appears more than once; profiles are one row per well"),
    ):
        rows = table.filter(wrong)
        if len(rows):
            raise ValueError(f"well {well_name(rows)} {what} ({len(rows)} such rows)")
    return table


def in_play(table: pl.DataFrame) -> pl.DataFrame:
    """Return the treated and control wells of a checked table, sorted by group and name, with their row numbers in ROW.

    Because of the sorting no draw depends on the order of rows.
    """
    playing = table.with_row_index(ROW).filter(pl.col("is_control") | pl.col("is_treated"))
    return playing.sort("group", NAME, maintain_order=True)


def well_name(rows: pl.DataFrame) -> str:
    """Return the name of the well in the first row, for an error message."""
    return str(rows[NAME][0]).replace(SEPARATOR, "/")
