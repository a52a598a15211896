"""The rules of positive and negative pairs, in copairs' words: columns in which a pair is equal, columns in which it differs.

activity          pos_sameby [compound], neg_sameby [plate], neg_diffby [role]; controls have compounds of their own
distinctiveness   pos_sameby [compound], neg_diffby [compound]
consistency       pos_sameby [target], neg_diffby [target], multilabel_col target

Columns become integer codes here. No pair is listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.retrieval.arrays import Ints


@dataclass(frozen=True)
class PairRules:
    """Copairs' four lists of columns, and the multilabel column if there is one.

    Two wells are a positive pair if they are equal in all of pos_sameby and differ in all of pos_diffby. They are a negative
    pair if they are equal in all of neg_sameby and differ in all of neg_diffby. A pair that is both is in the rank list twice.
    multilabel_col is in pos_sameby and in neg_diffby, and its values are lists of labels. Each label of a well makes a query:
    the positives have this label, and the negatives share no label with the well.
    """

    pos_sameby: Sequence[str]
    pos_diffby: Sequence[str] = ()
    neg_sameby: Sequence[str] = ()
    neg_diffby: Sequence[str] = ()
    multilabel_col: str | None = None

    def check(self, wells: pl.DataFrame) -> None:
        """Raise ConfigError for columns that are absent or contradict each other, DataError for a column with nulls or NaN."""
        label = self.multilabel_col
        for same, diff, what in ((self.pos_sameby, self.pos_diffby, "pos"), (self.neg_sameby, self.neg_diffby, "neg")):
            if both := set(same) & set(diff):
                raise ConfigError(f"{what}_sameby and {what}_diffby both have {sorted(both)[0]!r}")
            if not same and not diff:
                raise ConfigError(f"{what}_sameby and {what}_diffby are both empty: every pair would do")
            for column in (*same, *diff):
                if column not in wells.columns:
                    allowed = did_you_mean(column, wells.columns)
                    raise ConfigError(f"the table of wells has no column {column!r}{allowed}")
                values = wells[column]
                empty = values.is_null() | values.is_nan() if values.dtype.is_float() else values.is_null()
                if empty.any():
                    raise DataError(f"{column}: {empty.sum()} wells have no value; drop them or name what they are")
                if values.dtype.is_nested() != (column == label):
                    raise ConfigError(f"{column}: lists of labels are for multilabel_col, one value a well elsewhere")
        if label is not None and not (label in self.pos_sameby and label in self.neg_diffby):
            raise ConfigError(f"multilabel_col {label!r} must be in pos_sameby and in neg_diffby")

    def codes(self, wells: pl.DataFrame, columns: Sequence[str]) -> list[Ints]:
        """Return one (W,) int64 array of codes for each column, without multilabel_col; equal values have equal codes."""
        codes = []
        for column in columns:
            if column == self.multilabel_col:
                continue
            values = wells[column]
            if values.dtype == pl.Boolean or not (values.dtype.is_numeric() or values.dtype.is_temporal()):
                values = values.cast(pl.String)
            codes.append(values.rank("dense").to_numpy().astype(np.int64))
        return codes


def combined(codes: Sequence[Ints], size: int) -> Ints:
    """Return codes (size,) int64 from 0: two entries are equal if they are equal in all of `codes`; all 0 without codes."""
    out = np.zeros(size, dtype=np.int64)
    for code in codes:
        out = np.unique(out * (code.max(initial=0) + 1) + code, return_inverse=True)[1]
    return out


def wells_and_labels(wells: pl.DataFrame, column: str) -> tuple[Ints, Ints, pl.Series]:
    """Return (well, code of the label) of every label of every well, both (N,) int64, and the labels, sorted. A null in a list is
    not a label."""
    numbered = wells.select(pl.col(column), well=pl.int_range(pl.len(), dtype=pl.Int64))
    rows = numbered.explode(column).drop_nulls().unique(maintain_order=True)
    names = rows[column].unique().sort()
    rows = rows.join(pl.DataFrame({column: names, "code": np.arange(len(names))}), on=column, maintain_order="left")
    return rows["well"].to_numpy(), rows["code"].to_numpy(), names


def negative_counts(group: Ints, different: Sequence[Ints]) -> Ints:
    """Return (W,) how many wells share a well's group and differ from it in every code; counted by inclusion and exclusion."""
    if not different:
        return np.bincount(group)[group] - 1
    counts = np.zeros(len(group), dtype=np.int64)
    for size in range(len(different) + 1):
        for chosen in combinations(different, size):
            same = combined([group, *chosen], len(group))
            counts += (-1) ** size * np.bincount(same)[same]
    return counts
