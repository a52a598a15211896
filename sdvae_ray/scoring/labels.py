"""What a row of scores speaks of: an extractor, a side, and a group or another slice of the wells."""

from dataclasses import dataclass, replace

import polars as pl

from sdvae_ray.run.run import Run

GROUP = "group"  # column: values of score.group joined by " / "; "all" where the run names no columns
SLICE = "slice"  # column: values of score.distributions.by, joined in the same way


@dataclass(frozen=True)
class Label:
    """The first columns of a table of scores. group: None where a table has groups of its own."""

    extractor: str
    side: str
    group: str | None = None

    def of_group(self, group: str) -> "Label":
        """Returns the label of one group of the same extractor and side."""
        return replace(self, group=group)

    def before(self, table: pl.DataFrame) -> pl.DataFrame:
        """Returns the table with the label's columns in front; columns of these names in the table give way."""
        columns = {"extractor": self.extractor, "side": self.side}
        if self.group is not None:
            columns[GROUP] = self.group
        values = [pl.lit(value).alias(name) for name, value in columns.items()]
        return table.select(*values, pl.exclude(*columns))


def with_slices(fovs: pl.DataFrame, run: Run) -> pl.DataFrame:
    """Adds GROUP, and SLICE where score.distributions.by names columns."""

    def joined(columns: tuple[str, ...]) -> pl.Expr:
        if not columns:
            return pl.lit("all")
        return pl.concat_str([pl.col(name).fill_null("-") for name in columns], separator=" / ")

    by = run.config.score.distributions.by
    with_group = fovs.with_columns(joined(run.config.score.group).alias(GROUP))
    return with_group.with_columns(joined(by).alias(SLICE)) if by else with_group


def slice_columns(run: Run) -> list[str]:
    """Returns the columns that `with_slices` adds."""
    return [GROUP, SLICE] if run.config.score.distributions.by else [GROUP]
