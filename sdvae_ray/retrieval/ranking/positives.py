"""Rank lists and their positives: who shares a class with a query, how similar, and what is level with what."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sdvae_ray.retrieval.arrays import Floats, Ints, Profiles
from sdvae_ray.retrieval.ranking.formula import Ties, runs_of_equals
from sdvae_ray.retrieval.ranking.similarity import Similarity, copairs_keys

_ELEMENTS = 1 << 22  # numbers of the profiles of classes that are gathered at a time


@dataclass(frozen=True)
class Positives:
    """The E positives of some rank lists, flat: list after list, and within a list the most similar first.

    rank_list  (E,) the list
    key        (E,) equal if two positives of a list are level; with ties="copairs" ordered as copairs orders them
    low, high  (E,) float64; a negative between them is level with the positive (with ties="copairs": in doubt)
    """

    rank_list: Ints
    key: Profiles
    low: Floats
    high: Floats


@dataclass(frozen=True)
class RankLists:
    """The rank lists of all wells, in order of the query. Wells are known by their place (candidates.py).

    A class is the set of wells that are equal in all of pos_sameby and have one label.
    query        (L,) the well
    label        (L,) the code of its label, 0 without labels
    members      (L,) wells, class after class
    start, stop  (L,) the bounds of the query's class in `members`
    itself       (L,) the index of the query in `members`
    different    a code (W,) for each column of pos_diffby
    """

    query: Ints
    label: Ints
    members: Ints
    start: Ints
    stop: Ints
    itself: Ints
    different: Sequence[Ints]

    @classmethod
    def of(cls, query: Ints, label: Ints, classes: Ints, different: Sequence[Ints]) -> "RankLists":
        """Return the lists of queries (L,) with their labels (L,) and classes (L,), which may come in any order."""
        order = np.lexsort((label, query))
        query, label, classes = query[order], label[order], classes[order]
        by_class = np.lexsort((query, classes))
        ends = [np.searchsorted(classes[by_class], classes, side=side) for side in ("left", "right")]
        return cls(query, label, query[by_class], ends[0], ends[1], np.argsort(by_class), different)

    def positives(self, lists: Ints, similarity: Similarity, ties: Ties, block: int) -> Positives:
        """Return the positives of the given lists."""
        parts = [self._of_one_size(part, similarity, ties) for part in self._parts(lists, similarity, block)]
        none = Positives(lists[:0], np.empty(0), np.empty(0), np.empty(0))
        names = ("rank_list", "key", "low", "high")
        columns = [np.concatenate([getattr(part, name) for part in (none, *parts)]) for name in names]
        order = np.argsort(columns[0], kind="stable")
        return Positives(*(column[order] for column in columns))

    def _parts(self, lists: Ints, similarity: Similarity, block: int) -> Iterator[Ints]:
        """Yield lists whose classes have one size, as many as may be gathered at a time; a small class is never split."""
        lists = lists[np.argsort(self.itself[lists])]
        sizes = self.stop[lists] - self.start[lists]
        for size in np.unique(sizes[sizes > 1]).tolist():
            alike = lists[sizes == size]
            starts = np.flatnonzero(np.diff(self.start[alike], prepend=-1))
            if size > block:
                cuts = np.union1d(np.arange(0, len(alike), max(1, block // 4)), starts)  # one class at a time
            else:
                cuts = starts[:: max(1, _ELEMENTS // (size * max(size, similarity.features)))]
            yield from np.split(alike, cuts[1:])

    def _of_one_size(self, lists: Ints, similarity: Similarity, ties: Ties) -> Positives:
        size = int(self.stop[lists[0]] - self.start[lists[0]])
        starts, number = np.unique(self.start[lists], return_inverse=True)
        classes = self.members[starts[:, None] + np.arange(size)]
        query, itself = self.query[lists], self.itself[lists] - self.start[lists]
        alone = len(starts) == 1  # of a large class, some of the queries
        scores = similarity.scores(query, classes[0]) if alone else similarity.scores(classes, classes)[number, itself]
        others = classes[number]
        no_positive = np.arange(size) == itself[:, None]
        for code in self.different:
            no_positive |= code[others] == code[query][:, None]
        scores[no_positive] = -np.inf
        scores = -np.sort(-scores, axis=1)[:, : size - 1]
        real = np.arange(size - 1) < (size - no_positive.sum(axis=1))[:, None]
        rank_list = np.broadcast_to(lists[:, None], real.shape)[real]
        if ties == "copairs":
            low, high = similarity.level_bounds(scores[real], ties)
            return Positives(rank_list, copairs_keys(similarity, scores[real]), low, high)
        # positives each level with the next are one level, and a negative is level with all of the level or with none
        low, high = similarity.level_bounds(np.where(real, scores, 0), ties)
        key = np.zeros(scores.shape)
        key[:, 1:] = np.cumsum(np.where(real[:, 1:], scores[:, 1:] < low[:, :-1], True), axis=1)
        start, stop = runs_of_equals(key)
        low, high = np.take_along_axis(low, stop - 1, axis=1), np.take_along_axis(high, start, axis=1)
        return Positives(rank_list, key[real], low[real], high[real])
