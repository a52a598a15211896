"""The roles of wells by the expressions of the section `score`, and how many controls every plate and group has.

`check` counts the wells of a manifest before the launch, `score` the wells that are encoded, by the same code.
"""

from collections.abc import Sequence

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import PLATE_COLUMN, PLATE_KEY, WELL_KEY
from sdvae_ray.selection import select
from sdvae_ray.settings.score import ScoreConfig

CONTROL, TREATED = "is_control", "is_treated"
GROUP = "group"  # column: values of score.group joined by " / "; "all" if the run names no columns
_LISTED = 5  # plates that a line names


def joined(columns: Sequence[str]) -> pl.Expr:
    """Return an expression: the values of `columns` joined by " / ", "-" for a missing one; "all" without columns."""
    if not columns:
        return pl.lit("all")
    return pl.concat_str([pl.col(name).replace("", None).fill_null("-") for name in columns], separator=" / ")


def with_groups(settings: ScoreConfig, table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with the column GROUP."""
    return table.with_columns(joined(settings.group).alias(GROUP))


def with_roles(settings: ScoreConfig, table: pl.DataFrame) -> pl.DataFrame:
    """Return the table with the columns is_control and is_treated, by the expressions of the score section.

    Both are False for an excluded well, and for a well that is not a control and has no perturbation. Raises ConfigError for an
    expression that cannot be read, or names a column that is not there.
    """
    if settings.perturbation is None:
        return table.with_columns(pl.lit(False).alias(CONTROL), pl.lit(False).alias(TREATED))
    control = select(settings.control, table.columns, "score.control")
    excluded = select(settings.exclude, table.columns, "score.exclude") if settings.exclude else pl.lit(False)
    named = pl.col(settings.perturbation).is_not_null() & (pl.col(settings.perturbation) != "")
    return table.with_columns((control & ~excluded).alias(CONTROL)).with_columns(
        (~pl.col(CONTROL) & named & ~excluded).alias(TREATED)
    )


def control_counts(table: pl.DataFrame) -> pl.DataFrame:
    """Return one row per group and plate: its controls, treated wells and other wells. table: rows of fields or of wells, with
    WELL_KEY, GROUP and the roles.
    """
    wells = table.select(*WELL_KEY, GROUP, CONTROL, TREATED).unique(WELL_KEY, keep="first")
    other = ~pl.col(CONTROL) & ~pl.col(TREATED)
    counts = wells.group_by(GROUP, *PLATE_KEY).agg(
        controls=pl.col(CONTROL).sum(), treated=pl.col(TREATED).sum(), other=other.sum()
    )
    return counts.sort(GROUP, *PLATE_KEY)


def lines_on_controls(settings: ScoreConfig, counts: pl.DataFrame) -> list[str]:
    """Return one line on the controls of all plates, and one on queries that have none to be compared with, if there are such.

    counts: from `control_counts`. Raises DataError if score.control holds for no well at all.
    """
    controls, treated = int(counts["controls"].sum()), int(counts["treated"].sum())
    if controls == 0:
        raise DataError(
            f"score.control: {settings.control} holds for none of the {treated + int(counts['other'].sum())} wells, so nothing "
            "could be scored"
        )
    per_plate = counts["controls"].to_list()
    least, most = min(per_plate), max(per_plate)
    each = f"{least}" if least == most else f"{least} to {most}"
    groups = counts[GROUP].n_unique()
    plates = counts.select(PLATE_KEY).n_unique()
    where = f"{plates} plates, {groups} groups" if groups > 1 else f"{plates} plates"
    per = "plate and group" if groups > 1 else "plate"
    lines = [f"{controls} negative controls and {treated} treated wells on {where}: {each} controls per {per}"]
    scope = [GROUP] if settings.negatives == "group" else [GROUP, *PLATE_KEY]
    lacking = counts.filter((pl.col("controls").sum().over(scope) == 0) & (pl.col("treated") > 0))
    if lacking.height:
        names = lacking.select(pl.col(GROUP) if settings.negatives == "group" else pl.col(PLATE_COLUMN)).to_series()
        bare = names.unique(maintain_order=True).to_list()
        said = ", ".join(bare[:_LISTED]) + (f", ... ({len(bare)} in all)" if len(bare) > _LISTED else "")
        what = "group" if settings.negatives == "group" else "plate"
        lines.append(
            f"note: {lacking['treated'].sum()} of {treated} queries have no negatives: no control on {what} {said}"
        )
    return lines
