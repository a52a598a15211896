"""Exact average precision of any retrieval task, in copairs' words: columns that pairs share and columns that differ.

    activity          pos_sameby [compound, reference], neg_sameby [plate], neg_diffby [compound, reference]
    distinctiveness   pos_sameby [compound], neg_diffby [compound]
    consistency       pos_sameby [target], neg_diffby [target], multilabel_col target

where `reference` is -1 for treated wells and a number of its own for every control, as in JUMP's recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.ranking.average_precision import AveragePrecision, Ints, Ties, precision_of_counts
from sdvae_ray.retrieval.ranking.counting import FEW, WIDE, Block, Classes, Positives
from sdvae_ray.retrieval.ranking.pairs import (
    Bools,
    Job,
    Rules,
    blocks,
    column_codes,
    combined,
    excluded,
    label_table,
    labels_of,
    lay_out,
    negative_counts,
    spans,
)
from sdvae_ray.retrieval.ranking.similarity import Distance, DType, Similarity, prepare

_ENTRIES = 1 << 21  # positives held at a time


@dataclass(frozen=True)
class MatchedPrecision(AveragePrecision):
    """One value per well, in the order given; with a multilabel column one per (label, well), sorted by both.

    well: (R,) int64, its row in the table of wells. label: (R,) the label; None without a multilabel column. The other
    arrays have R entries too; positives and negatives count them whether or not both are there.
    """

    well: Ints
    label: pl.Series | None


def matched_average_precision(
    features: ArrayLike,
    wells: pl.DataFrame,
    pos_sameby: Sequence[str],
    pos_diffby: Sequence[str],
    neg_sameby: Sequence[str],
    neg_diffby: Sequence[str],
    *,
    queries: ArrayLike | None = None,
    distance: Distance = "cosine",
    ties: Ties = "average",
    multilabel_col: str | None = None,
    dtype: DType = "float64",
    block: int = 1024,
) -> MatchedPrecision:
    """Return the average precision of every query over its positives and negatives, ranked by similarity.

    features: (W, D) finite. wells: W rows. Two wells are a positive pair if they are equal in all of pos_sameby and
    differ in all of pos_diffby, a negative pair if they are equal in all of neg_sameby and differ in all of neg_diffby
    (a pair that is both is in the list twice). multilabel_col, in pos_sameby and in neg_diffby, holds lists: every
    label of a well is a query of its own, whose positives share the label; negatives share none. queries: (W,) bool,
    the wells to score, all by default; the others are positives and negatives still.

    distance: "cosine", "abs_cosine", "correlation" or "euclidean" (similarity 1/(1 + d)). ties="average": AP is its
    mean over the orders of level wells; level are scores within 2^-40 (cosines and r; squared distances relative to
    themselves). ties="copairs": that package's rule, similarities rounded to float32, ordered by 1 - similarity,
    positives first. dtype="float32": products in float32, up to 16 positives a query on average; what lies within
    their error bound of a positive is computed again in float64, so that the ranks are those of float64. block: wells
    per side of a product (of queries with many positives there are fewer, and more candidates); memory is O(block^2)
    beside the profiles, unless a query has more positives than that.

    AP is NaN without a positive or without a negative, where copairs has NaN and 1. A profile without direction
    (zero_norm) has similarity 0 to all, where copairs has NaN. Raises DataError for columns that are absent or hold
    nulls (as copairs does), for rules that contradict or are empty, for features that are not finite.
    """
    rules = Rules(pos_sameby, pos_diffby, neg_sameby, neg_diffby, multilabel_col)
    rules.check(wells)
    x = np.asarray(features)
    asked = np.ones(len(wells), dtype=bool) if queries is None else np.asarray(queries, dtype=bool)
    if x.ndim != 2 or len(x) != len(wells) or asked.shape != (len(wells),):
        raise DataError(f"profiles of shape {x.shape}, {len(asked)} queries and {len(wells)} wells; one each is needed")
    for value, allowed in ((ties, ("average", "copairs")), (dtype, ("float64", "float32"))):
        if value not in allowed:
            raise ValueError(f"there is no {value!r}, only {allowed[0]!r} and {allowed[1]!r}")
    return _Task(prepare(x, distance), wells, rules, asked, dtype).run(ties, block)


class _Task:
    """One call. A list is a well, or a well with one of its labels; lists are sorted by their class of positives."""

    def __init__(self, similarity: Similarity, wells: pl.DataFrame, rules: Rules, asked: Bools, dtype: DType) -> None:
        count, self.asked, self.names = len(wells), asked, None
        self.well, code = np.arange(count), np.zeros(count, dtype=np.int64)
        if rules.multilabel_col is not None:
            self.well, code, self.names = labels_of(wells, rules.multilabel_col)
        same = combined(column_codes(wells, rules.single(rules.pos_sameby)), count)
        positive = combined([same[self.well], code], len(self.well))
        by_class = np.lexsort((self.well, positive))
        self.well, self.code, positive = self.well[by_class], code[by_class], positive[by_class]
        start, stop = (np.searchsorted(positive, positive, side=side) for side in ("left", "right"))
        most = np.zeros(count, dtype=np.int64)
        np.add.at(most, self.well, stop - start - 1)

        group = combined(column_codes(wells, rules.neg_sameby), count)
        different = column_codes(wells, rules.single(rules.neg_diffby))
        # sharing no label cannot be counted without looking, so wells that cannot have a positive are looked at too
        wanted = asked & ((most > 0) | (self.names is not None))
        self.negatives = np.zeros(count, dtype=np.int64)
        if self.names is None:
            self.negatives[asked] = negative_counts(group, different)[asked]
        self.layout = lay_out(group, different, wanted, similarity.size)
        order = self.layout.order
        few = most[wanted].sum() <= FEW * max(1, wanted.sum())  # of many positives, one is always in doubt
        similarity.arrange(order, dtype if few else "float64")
        self.similarity, self.most = similarity, most[order]
        place = np.empty(count, dtype=np.int64)
        place[order] = np.arange(count)
        member = place[self.well]
        self.classes = Classes(member, start, stop, [c[order] for c in column_codes(wells, rules.pos_diffby)])
        self.lists_of = np.argsort(member, kind="stable")
        self.first = np.searchsorted(member[self.lists_of], np.arange(count + 1))
        self.labels = None if self.names is None else label_table(member, self.code, (count, len(self.names)))
        self.ap, self.positives = np.full(len(member), np.nan), np.zeros(len(member), dtype=np.int64)

    def run(self, ties: Ties, block: int) -> MatchedPrecision:
        for batch in self._batches():
            queries = np.concatenate([job.queries for job in batch])
            lists = self.lists_of[spans(self.first[queries], self.first[queries + 1])]
            found = self.classes.positives(self.similarity, np.sort(lists), ties, block)
            well = self.classes.member[found.owner]
            by_well = np.argsort(well, kind="stable")
            well = well[by_well]
            above, level = np.zeros((2, len(well)), dtype=np.int64)
            for job in batch:
                first, last = (np.searchsorted(well, job.queries, side=side) for side in ("left", "right"))
                for rows, entries in _rows(job.queries, first, last, block):
                    self._count(job, rows, entries, by_well, found, above, level, ties, block)
            self._average(found, above, level, ties)
        order = np.lexsort((self.well, self.code))
        well = self.well[order]
        negatives = self.negatives[well]
        ap = np.where(negatives > 0, self.ap[order], np.nan)
        zero_norm = np.empty(len(self.most), dtype=bool)
        zero_norm[self.layout.order] = self.similarity.zero_norm
        label = None if self.names is None else self.names.gather(self.code[order])
        return MatchedPrecision(ap, self.positives[order], negatives, zero_norm[well], well, label)

    def _batches(self) -> Iterator[list[Job]]:
        """Jobs whose queries have not too many positives together, in parts where one alone has."""
        batch: list[Job] = []
        held = 0
        for job in self.layout.jobs:
            for queries in np.split(job.queries, _cuts(self.most[job.queries], _ENTRIES)):
                entries = int(self.most[queries].sum())
                if batch and held + entries > _ENTRIES:
                    yield batch
                    batch, held = [], 0
                batch.append(Job(queries, job.ranges, job.excluded))
                held += entries
        if batch:
            yield batch

    def _count(
        self,
        job: Job,
        rows: Ints,
        entries: Ints,
        by_well: Ints,
        found: Positives,
        above: Ints,
        level: Ints,
        ties: Ties,
        block: int,
    ) -> None:
        """Add to `above` and `level` what the job's candidates hold. entries: (R, K) into by_well, -1 where fewer."""
        real = entries >= 0
        chosen = by_well[entries[real]]
        low, high, key = (np.full(entries.shape, np.inf, dtype=a.dtype) for a in (found.low, found.high, found.key))
        low[real], high[real], key[real] = found.low[chosen], found.high[chosen], found.key[chosen]
        queries = Block(rows, low, high, key)
        sharing = None if self.labels is None else self.labels.sharing(rows)
        for columns in blocks(job.ranges, block * WIDE if entries.shape[1] > FEW else block):
            no = excluded(job, rows, columns, sharing)
            if no is not None and sharing is not None:
                self.negatives[self.layout.order[rows]] += no.shape[1] - np.count_nonzero(no, axis=1)
            if entries.shape[1]:
                more, at_least = queries.count(self.similarity, columns, no, ties)
                above[chosen] += more[real]
                level[chosen] += (at_least - more)[real]

    def _average(self, found: Positives, above: Ints, level: Ints, ties: Ties) -> None:
        lists, first, count = np.unique(found.owner, return_index=True, return_counts=True)
        self.positives[lists] = count
        for size in np.unique(count).tolist():
            alike = count == size
            entries = first[alike, None] + np.arange(size)
            self.ap[lists[alike]] = precision_of_counts(found.key[entries], above[entries], level[entries], ties)


def _rows(queries: Ints, first: Ints, last: Ints, block: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield blocks of queries with like numbers of positives, and where these are, (R, K), -1 where there are fewer."""
    order = np.argsort(last - first, kind="stable")
    queries, first, last = queries[order], first[order], last[order]
    for whole in blocks([(0, len(queries))], block):
        width = int((last - first)[whole].max())
        size = min(_ENTRIES // max(1, width), block // WIDE if width > FEW else block)
        for rows in blocks([(whole.start, whole.stop)], max(1, size)):
            entries = first[rows, None] + np.arange(int((last - first)[rows].max()))
            yield queries[rows], np.where(entries < last[rows, None], entries, -1)


def _cuts(sizes: Ints, limit: int) -> Ints:
    """Where to split so that a part sums to `limit` at most, or is one item."""
    before = np.cumsum(sizes) - sizes
    cuts, start = [], 0
    while start < len(sizes):
        stop = max(start + 1, int(np.searchsorted(before + sizes, before[start] + limit, side="right")))
        cuts.append(stop)
        start = stop
    return np.array(cuts[:-1], dtype=np.int64)
