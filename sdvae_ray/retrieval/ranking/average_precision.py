"""Exact average precision of every query, whatever the rules of its positives and negatives.

Columns become codes (pair_rules), codes become blocks of candidates (candidates), the positives' scores are found
(positives), negatives are counted against them (counting), and counts become average precision (formula).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints, blocks
from sdvae_ray.retrieval.ranking.candidates import Job, SharedLabels, lay_out, no_negatives
from sdvae_ray.retrieval.ranking.counting import FEW, QueryBlock
from sdvae_ray.retrieval.ranking.formula import TIES, Ties, average_precision_of_counts
from sdvae_ray.retrieval.ranking.pair_rules import PairRules, combined, negative_counts, wells_and_labels
from sdvae_ray.retrieval.ranking.positives import Positives, RankLists
from sdvae_ray.retrieval.ranking.ranges import cuts_by_sum, numbers_of_ranges
from sdvae_ray.retrieval.ranking.similarity import Distance, Similarity, prepare

# Where a block is sorted it has so many times more candidates, and fewer queries: each rank list is searched less often.
_WIDE = 8
_ENTRIES = 1 << 21  # positives held at a time


@dataclass(frozen=True)
class AveragePrecision:
    """The average precision of R rank lists. Without a multilabel column each well has one list, in the order of the wells.

    With a multilabel column each (label, well) has one list, sorted by label and then well. ap: (R,) float64 in (0, 1], NaN if
    the list has no positive or no negative, or was not asked for. positives, negatives: (R,) int64, how many of each the list
    has. zero_norm: (R,) bool, True if the query's profile has no direction: it is all zeros (or constant, for r), and its
    similarity to every well is 0. well: (R,) int64, the query's row in the table of wells. label: (R,) the label of each list;
    None without a multilabel column. recall: (R, K) in [0, 1], recall@k for every k that was asked for; NaN where ap is.
    """

    ap: Floats
    positives: Ints
    negatives: Ints
    zero_norm: Bools
    well: Ints
    label: pl.Series | None
    recall: Floats

    @property
    def total(self) -> Ints:
        """Return the length of each list, (R,) int64."""
        return self.positives + self.negatives


def average_precision(
    features: ArrayLike,
    wells: pl.DataFrame,
    rules: PairRules,
    *,
    queries: ArrayLike | None = None,
    distance: Distance = "cosine",
    ties: Ties = "average",
    block: int = 1024,
    recall_at: Sequence[int] = (),
) -> AveragePrecision:
    """Return the average precision of every query over its positives and negatives, ranked by similarity.

    features: (W, D) finite, copied once as float64. wells: W rows with the columns of the rules. queries: (W,) bool, the wells
    to score, None: all; a well that is not a query can still be a positive or a negative. distance: "cosine", "abs_cosine",
    "correlation" or "euclidean" (similarity 1 / (1 + d)). ties: see formula.Ties; "average" takes scores as level if they
    differ by at most 2^-40 (cosines and r), or by at most 2^-40 of their value (squared distances). block: number of wells
    along one side of a matrix product; it changes no result. recall_at: values of k: recall@k is the share of a query's positives
    among the first k of its list, where a negative that is level with a positive counts as half above it (ties="average").
    Memory is O(block^2) and the copy of the features, unless a query has more than block^2 positives.

    AP is NaN without a positive or without a negative, where copairs has NaN and 1. A profile without a direction has
    similarity 0 to all wells, where copairs has NaN.
    Raises ConfigError for rules that cannot be kept, DataError for nulls and for profiles that are not finite, ValueError for
    unknown ties or distance and for counts of profiles, queries and wells that differ.
    """
    rules.check(wells)
    is_query = np.ones(len(wells), dtype=bool) if queries is None else np.asarray(queries, dtype=bool)
    if np.shape(features)[:1] != (len(wells),) or is_query.shape != (len(wells),):
        raise ValueError(
            f"profiles of shape {np.shape(features)} and {is_query.size} queries came with {len(wells)} wells"
        )
    if ties not in TIES:
        raise ValueError(f"there are no ties {ties!r}, only {' and '.join(TIES)}")
    return _Ranking(prepare(features, distance), wells, rules, is_query, ties, block, recall_at).result()


class _Ranking:
    """One call of average_precision. Wells are known by their place (see candidates.py) until `result` turns places into wells."""

    def __init__(
        self,
        similarity: Similarity,
        wells: pl.DataFrame,
        rules: PairRules,
        is_query: Bools,
        ties: Ties,
        block: int,
        recall_at: Sequence[int],
    ) -> None:
        count = len(wells)
        self.similarity, self.ties, self.block = similarity, ties, block
        query, label, self.label_names = np.arange(count), np.zeros(count, dtype=np.int64), None
        if rules.multilabel_col is not None:
            query, label, self.label_names = wells_and_labels(wells, rules.multilabel_col)
        same = combined(rules.codes(wells, rules.pos_sameby), count)
        classes = combined([same[query], label], len(query))
        possible = np.zeros(count, dtype=np.int64)  # positives of all the lists of a well, if nothing had to differ
        np.add.at(possible, query, np.bincount(classes)[classes] - 1)

        group = combined(rules.codes(wells, rules.neg_sameby), count)
        different = rules.codes(wells, rules.neg_diffby)
        # wells that share no label cannot be counted without looking: wells without a positive are looked at as well
        labelled = self.label_names is not None
        looked_at = is_query & ((possible > 0) | labelled)
        self.order, self.jobs = lay_out(group, different, looked_at, similarity.size)
        similarity.arrange(self.order)
        self.negatives = np.zeros(count, dtype=np.int64)
        if not labelled:
            self.negatives = np.where(is_query, negative_counts(group, different), 0)[self.order]
        self.possible = possible[self.order]
        place = np.argsort(self.order)
        differing = [code[self.order] for code in rules.codes(wells, rules.pos_diffby)]
        self.lists = RankLists.of(place[query], label, classes, differing)
        self.first_list = np.searchsorted(self.lists.query, np.arange(count + 1))
        self.shared = None
        if self.label_names is not None:
            self.shared = SharedLabels.of(place[query], label, (count, len(self.label_names)))
        self.ap = np.full(len(query), np.nan)
        self.recall_at = np.asarray(recall_at, dtype=np.int64)
        self.recall = np.full((len(query), len(self.recall_at)), np.nan)
        self.positives = np.zeros(len(query), dtype=np.int64)

    def result(self) -> AveragePrecision:
        for jobs in self._batches():
            self._rank(jobs)
        well = self.order[self.lists.query]
        order = np.lexsort((well, self.lists.label))
        place, well = self.lists.query[order], well[order]
        negatives = self.negatives[place]
        ap = np.where(negatives > 0, self.ap[order], np.nan)
        label = None if self.label_names is None else self.label_names.gather(self.lists.label[order])
        zero_norm = self.similarity.zero_norm[place]
        recall = np.where(negatives[:, None] > 0, self.recall[order], np.nan)
        return AveragePrecision(ap, self.positives[order], negatives, zero_norm, well, label, recall)

    def _batches(self) -> Iterator[list[Job]]:
        """Yield jobs whose queries together have at most _ENTRIES positives. A job with more is split into several."""
        batch: list[Job] = []
        held = 0
        for job in self.jobs:
            for queries in np.split(job.queries, cuts_by_sum(self.possible[job.queries], _ENTRIES)):
                entries = int(self.possible[queries].sum())
                if batch and held + entries > _ENTRIES:
                    yield batch
                    batch, held = [], 0
                batch.append(Job(queries, job.ranges, job.excluded))
                held += entries
        if batch:
            yield batch

    def _rank(self, jobs: list[Job]) -> None:
        """Set the AP of the rank lists of the jobs' queries."""
        queries = np.sort(np.concatenate([job.queries for job in jobs]))
        lists = numbers_of_ranges(self.first_list[queries], self.first_list[queries + 1])
        positives = self.lists.positives(lists, self.similarity, self.ties, self.block)
        above, level = np.zeros((2, len(positives.rank_list)), dtype=np.int64)
        query_of_positive = self.lists.query[positives.rank_list]
        for job in jobs:
            for rows, entries in _row_blocks(job.queries, query_of_positive, self.block):
                self._count(job, rows, entries, positives, above, level)
        lists, first, count = np.unique(positives.rank_list, return_index=True, return_counts=True)
        self.positives[lists] = count
        for size in np.unique(count).tolist():
            alike = count == size
            entries = first[alike, None] + np.arange(size)
            counts = positives.key[entries], above[entries], level[entries]
            self.ap[lists[alike]] = average_precision_of_counts(*counts, self.ties)
            if len(self.recall_at):
                rank = 1 + np.arange(size) + above[entries] + (level[entries] / 2 if self.ties == "average" else 0)
                self.recall[lists[alike]] = (rank[:, None, :] <= self.recall_at[:, None]).mean(axis=2)

    def _count(self, job: Job, rows: Ints, entries: Ints, positives: Positives, above: Ints, level: Ints) -> None:
        """Add to `above` and `level` how many negatives a block of queries has above and level with each positive. rows, entries:
        see _row_blocks."""
        real = entries >= 0
        chosen = entries[real]
        low, high = np.full((2, *entries.shape), np.inf)
        key = np.full(entries.shape, np.inf, dtype=positives.key.dtype)
        low[real], high[real], key[real] = positives.low[chosen], positives.high[chosen], positives.key[chosen]
        queries = QueryBlock(rows, low, high, key)
        sharing = None if self.shared is None else self.shared.pairs(rows)
        for columns in job.columns(self.block * _WIDE if entries.shape[1] > FEW else self.block):
            excluded = no_negatives(job, rows, columns, sharing)
            if excluded is not None and sharing is not None:
                self.negatives[rows] += excluded.shape[1] - np.count_nonzero(excluded, axis=1)
            if entries.shape[1]:
                more_above, more_level = queries.count(self.similarity, columns, excluded, self.ties)
                above[chosen] += more_above[real]
                level[chosen] += more_level[real]


def _row_blocks(queries: Ints, query_of_positive: Ints, block: int) -> Iterator[tuple[Ints, Ints]]:
    """Yield blocks of queries (R,) that have similar numbers of positives, and the indices (R, K) of these positives.

    query_of_positive: (E,) ascending. An index is -1 if a query has fewer than K positives.
    """
    first, last = (np.searchsorted(query_of_positive, queries, side=side) for side in ("left", "right"))
    order = np.argsort(last - first, kind="stable")
    queries, first, last = queries[order], first[order], last[order]
    for whole in blocks(0, len(queries), block):
        widest = int((last - first)[whole].max())
        size = min(_ENTRIES // max(1, widest), block // _WIDE if widest > FEW else block)
        for rows in blocks(whole.start, whole.stop, max(1, size)):
            entries = first[rows, None] + np.arange(int((last - first)[rows].max()))
            yield queries[rows], np.where(entries < last[rows, None], entries, -1)
