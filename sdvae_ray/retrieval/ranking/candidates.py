"""Choose the wells that a query is compared with: wells are put in an order in which a query's candidates are few ranges.

A place is a well's number in that order. A candidate is a well in a range; it is a negative unless it is excluded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints, blocks
from sdvae_ray.retrieval.ranking.pair_rules import combined
from sdvae_ray.retrieval.ranking.ranges import rows_by_code

# Wells that are equal in a neg_diffby column are cut out of their group's range where they are this share of the group;
# fewer are compared too, and then excluded.
_CUT = 1 / 8


@dataclass(frozen=True)
class Job:
    """Queries that are compared with the same candidates.

    queries   (Q,) places
    ranges    (start, stop) of the places of the candidates; stop is not included
    excluded  code arrays (W,) by place. A candidate with the query's code in any of these arrays is not a negative
    """

    queries: Ints
    ranges: list[tuple[int, int]]
    excluded: list[Ints]

    def columns(self, size: int) -> Iterator[slice]:
        """Yield the candidates in blocks of at most `size` places."""
        for start, stop in self.ranges:
            yield from blocks(start, stop, size)


def lay_out(group: Ints, different: Sequence[Ints], is_query: Bools, size: Floats) -> tuple[Ints, list[Job]]:
    """Return the wells in a new order, (W,), and the jobs of all queries.

    Wells are sorted by group. Within a group they are sorted by the one neg_diffby column that saves the most comparisons, then by
    size. group: (W,) codes of neg_sameby, from 0. different: one array of codes (W,) for each column of neg_diffby. is_query: (W,)
    bool. size: (W,), see similarity.py.
    """
    count = len(group)
    members = np.bincount(group)
    cut, most_spared, classes = -1, 0, np.zeros(count, dtype=np.int64)
    for number, code in enumerate(different):
        both = combined([group, code], count)
        alike = np.bincount(both)[both]
        spared = int(alike[is_query & (alike >= _CUT * members[group])].sum())
        if spared > most_spared:
            cut, most_spared, classes = number, spared, both
    order = np.lexsort((size, classes, group))
    by_place = [np.ascontiguousarray(code[order]) for code in different]
    rest = [code for number, code in enumerate(by_place) if number != cut]
    itself = [np.arange(count)]  # where nothing has to differ, a well would be its own negative
    jobs = []
    for _, places in rows_by_code(group[order], np.arange(count)):
        first, last = int(places[0]), int(places[-1]) + 1
        queries = places[is_query[order[places]]]
        for _, alike in rows_by_code(classes[order], places) if cut >= 0 else ():
            if len(alike) < _CUT * len(places):
                continue
            start, stop = int(alike[0]), int(alike[-1]) + 1
            inside = (queries >= start) & (queries < stop)
            if inside.any():
                ranges = [(a, b) for a, b in ((first, start), (stop, last)) if a < b]
                jobs.append(Job(queries[inside], ranges, rest))
            queries = queries[~inside]
        if len(queries):
            jobs.append(Job(queries, [(first, last)], by_place or itself))
    return order, jobs


@dataclass(frozen=True)
class SharedLabels:
    """A table of which wells share a label, W wells and L labels. by_place: (W, L) sparse, 1 if the well at the place has the
    label. by_label: (L, W), its transpose."""

    by_place: csr_array
    by_label: csr_array

    @classmethod
    def of(cls, place: Ints, label: Ints, shape: tuple[int, int]) -> "SharedLabels":
        """Return the table of N pairs of a well and a label; place: (N,) the well's place; label: (N,) the label's code. shape:
        (number of wells, number of labels)."""
        by_place = csr_array((np.ones(len(place), dtype=np.int32), (place, label)), shape=shape)
        return cls(by_place, by_place.T.tocsr())

    def pairs(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return (i, place), both (N,): all pairs of the well rows[i] and a place whose well shares a label with it, by place."""
        i, place = (self.by_place[rows] @ self.by_label).tocoo().coords
        order = np.argsort(place)
        return i[order], place[order]


def no_negatives(job: Job, rows: Ints, columns: slice, sharing: tuple[Ints, Ints] | None) -> Bools | None:
    """Return a mask (R, C): True if a candidate of `columns` is not a negative of a query of `rows`; None if all are negatives.

    sharing: the result of SharedLabels.pairs for `rows`; None without labels.
    """
    excluded: Bools | None = None
    for code in job.excluded:
        same = code[rows, None] == code[columns]
        excluded = same if excluded is None else np.logical_or(excluded, same, out=excluded)
    if sharing is not None:
        i, place = sharing
        part = slice(*np.searchsorted(place, [columns.start, columns.stop]))
        if excluded is None:
            excluded = np.zeros((len(rows), columns.stop - columns.start), dtype=bool)
        excluded[i[part], place[part] - columns.start] = True
    return excluded
