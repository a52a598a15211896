"""The first columns of a row of scores: an extractor, a side, and a group or another slice of the wells."""

from dataclasses import dataclass, replace

import polars as pl

from sdvae_ray.controls import GROUP, joined, with_groups
from sdvae_ray.run.run import Run

SLICE = "slice"  # column: values of score.distributions.by, joined in the same way


@dataclass(frozen=True)
class Label:
    """The columns that a table of scores begins with: extractor, side and group. group: None if the table has groups of its own."""

    extractor: str
    side: str
    group: str | None = None

    def of_group(self, group: str) -> "Label":
        """Return the label of one group of the same extractor and side."""
        return replace(self, group=group)

    def before(self, table: pl.DataFrame) -> pl.DataFrame:
        """Return the table with the label's columns in front; they replace columns of the same names."""
        columns = {"extractor": self.extractor, "side": self.side}
        if self.group is not None:
            columns[GROUP] = self.group
        values = [pl.lit(value).alias(name) for name, value in columns.items()]
        return table.select(*values, pl.exclude(*columns))


def with_slices(fovs: pl.DataFrame, run: Run) -> pl.DataFrame:
    """Return the FOVs with the column GROUP, and with SLICE if score.distributions.by names columns."""

    by = run.config.score.distributions.by
    with_group = with_groups(run.config.score, fovs)
    return with_group.with_columns(joined(by).alias(SLICE)) if by else with_group


def slice_columns(run: Run) -> list[str]:
    """Return the names of the columns that `with_slices` adds: [GROUP] or [GROUP, SLICE]."""
    return [GROUP, SLICE] if run.config.score.distributions.by else [GROUP]
