"""Which wells are each other's positives and negatives: columns to integer codes, codes to blocks; no pair is listed.

Wells are renumbered by place, so that the candidates of a block of queries are one or two ranges of places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.sparse import csr_array

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.ranking.average_precision import Floats, Ints, grouped

Bools = NDArray[np.bool_]

# A class of wells equal in a neg_diffby column is cut out of its group's range where it is this share of the group;
# smaller ones are masked.
_CUT = 1 / 8


@dataclass(frozen=True)
class Rules:
    """Copairs' four lists of columns, and the column of lists of labels where there is one."""

    pos_sameby: Sequence[str]
    pos_diffby: Sequence[str]
    neg_sameby: Sequence[str]
    neg_diffby: Sequence[str]
    multilabel_col: str | None = None

    def check(self, wells: pl.DataFrame) -> None:
        """Raise DataError for columns that are absent, hold nulls, or are asked to be equal and different at once."""
        label = self.multilabel_col
        for same, diff, what in (
            (self.pos_sameby, self.pos_diffby, "pos"),
            (self.neg_sameby, self.neg_diffby, "neg"),
        ):
            if both := set(same) & set(diff):
                raise DataError(f"{what}_sameby and {what}_diffby both have {sorted(both)[0]!r}")
            if not same and not diff:
                raise DataError(f"{what}_sameby and {what}_diffby are both empty: every pair would do")
            for column in (*same, *diff):
                if column not in wells.columns:
                    raise DataError(f"the table of wells has no column {column!r}{did_you_mean(column, wells.columns)}")
                values = wells[column]
                empty = values.is_null() | values.is_nan() if values.dtype.is_float() else values.is_null()
                if empty.any():
                    raise DataError(
                        f"{column}: {int(empty.sum())} wells have no value; drop them or name what they are"
                    )
                if values.dtype.is_nested() != (column == label):
                    raise DataError(f"{column}: lists of labels are for multilabel_col, and one value a well elsewhere")
        if label is not None and not (label in self.pos_sameby and label in self.neg_diffby):
            raise DataError(f"multilabel_col {label!r} must be in pos_sameby and in neg_diffby")

    def single(self, columns: Sequence[str]) -> list[str]:
        """Those that hold one value a well."""
        return [column for column in columns if column != self.multilabel_col]


def column_codes(wells: pl.DataFrame, columns: Sequence[str]) -> list[Ints]:
    """One (W,) int64 array a column, equal where the values are."""
    found = []
    for column in columns:
        values = wells[column]
        if values.dtype == pl.Boolean or not (values.dtype.is_numeric() or values.dtype.is_temporal()):
            values = values.cast(pl.String)
        found.append(values.rank("dense").to_numpy().astype(np.int64))
    return found


def combined(codes: Sequence[Ints], wells: int) -> Ints:
    """(W,) int64 from 0, equal where all the codes are; all 0 without codes."""
    out = np.zeros(wells, dtype=np.int64)
    for code in codes:
        out = np.unique(out * (code.max(initial=0) + 1) + code, return_inverse=True)[1]
    return out


def labels_of(wells: pl.DataFrame, column: str) -> tuple[Ints, Ints, pl.Series]:
    """Return the well and the label's code of every (well, label), and the sorted labels; nulls in a list are none."""
    rows = (
        wells.select(pl.col(column), well=pl.int_range(pl.len(), dtype=pl.Int64)).explode(column).drop_nulls().unique()
    )
    names = rows[column].unique().sort()
    rows = rows.join(pl.DataFrame({column: names, "code": np.arange(len(names))}), on=column)
    return rows["well"].to_numpy(), rows["code"].to_numpy(), names


def negative_counts(group: Ints, different: Sequence[Ints]) -> Ints:
    """(W,) how many wells share a well's group and differ from it in every code, by inclusion and exclusion."""
    if not different:
        return np.bincount(group)[group] - 1
    out = np.zeros(len(group), dtype=np.int64)
    for size in range(len(different) + 1):
        for chosen in combinations(different, size):
            same = combined([group, *chosen], len(group))
            out += (-1) ** size * np.bincount(same)[same]
    return out


@dataclass(frozen=True)
class Job:
    """Queries that share their candidates.

    queries   (Q,) places
    ranges    of places, which hold the candidates
    excluded  codes by place: a candidate is no negative where any of its codes is the query's
    """

    queries: Ints
    ranges: list[tuple[int, int]]
    excluded: list[Ints]


@dataclass(frozen=True)
class Layout:
    """order: (W,) the well at each place. jobs: of all wells wanted, group by group."""

    order: Ints
    jobs: list[Job]


def lay_out(group: Ints, different: Sequence[Ints], wanted: Bools, size: Floats) -> Layout:
    """Order the wells by group and, within it, by the neg_diffby code whose large classes spare the most products.

    group: (W,) from 0. different: codes (W,). wanted: (W,) the queries. size: (W,), the last key of the order.
    """
    count = len(group)
    members = np.bincount(group)
    cut, saved, classes = -1, 0, np.zeros(count, dtype=np.int64)
    for i, code in enumerate(different):
        both = combined([group, code], count)
        alike = np.bincount(both)[both]
        spared = int(alike[wanted & (alike >= _CUT * members[group])].sum())
        if spared > saved:
            cut, saved, classes = i, spared, both
    order = np.lexsort((size, classes, group))
    by_place = [np.ascontiguousarray(code[order]) for code in different]
    rest = [code for i, code in enumerate(by_place) if i != cut]
    itself = [np.arange(count)]  # where nothing has to differ, a well would be its own negative
    jobs = []
    for _, places in grouped(group[order], np.arange(count)):
        first, last = int(places[0]), int(places[-1]) + 1
        queries = places[wanted[order[places]]]
        if cut >= 0:
            for _, alike in grouped(classes[order], places):
                if len(alike) < _CUT * len(places):
                    continue
                start, stop = int(alike[0]), int(alike[-1]) + 1
                ranges = [(a, b) for a, b in ((first, start), (stop, last)) if a < b]
                mine = (queries >= start) & (queries < stop)
                if mine.any():
                    jobs.append(Job(queries[mine], ranges, rest))
                queries = queries[~mine]
        if len(queries):
            jobs.append(Job(queries, [(first, last)], by_place or itself))
    return Layout(order, jobs)


@dataclass(frozen=True)
class Labels:
    """Which wells share a label.

    of_well: (W, L) by place, 1 where the well has the label. of_label: its transpose.
    """

    of_well: csr_array
    of_label: csr_array

    def sharing(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return (i, place) of all pairs of rows[i] and a well that shares a label with it, in order of place."""
        shared = (self.of_well[rows] @ self.of_label).tocoo()
        i, place = shared.coords
        order = np.argsort(place)
        return i[order], place[order]


def label_table(well: Ints, code: Ints, shape: tuple[int, int]) -> Labels:
    """From the places and the codes of all (well, label)."""
    of_well = csr_array((np.ones(len(well), dtype=np.int32), (well, code)), shape=shape)
    return Labels(of_well, of_well.T.tocsr())


def excluded(job: Job, rows: Ints, columns: slice, sharing: tuple[Ints, Ints] | None) -> Bools | None:
    """(R, C) where a candidate is no negative of the query; None where all are. sharing: of the rows, in order of place."""
    out: Bools | None = None
    for code in job.excluded:
        same = code[rows, None] == code[columns]
        out = same if out is None else np.logical_or(out, same, out=out)
    if sharing is not None:
        i, place = sharing
        part = slice(*np.searchsorted(place, [columns.start, columns.stop]))
        if out is None:
            out = np.zeros((len(rows), columns.stop - columns.start), dtype=bool)
        out[i[part], place[part] - columns.start] = True
    return out


def spans(start: Ints, stop: Ints) -> Ints:
    """The whole numbers of every range, one range after the other."""
    length = stop - start
    return np.repeat(start - (np.cumsum(length) - length), length) + np.arange(length.sum())


def blocks(ranges: Sequence[tuple[int, int]], size: int) -> Iterator[slice]:
    for start, stop in ranges:
        for first in range(start, stop, size):
            yield slice(first, min(stop, first + size))
