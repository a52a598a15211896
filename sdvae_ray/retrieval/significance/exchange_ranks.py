"""Where every well that could be drawn stands in the lists of the others: the ranks behind the null by exchange.

How controls stand in each other's lists is counted once for all compounds of the same plates; a compound adds its own
wells to the counts. A scope says whose controls a query is ranked against. Nothing is drawn here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints
from sdvae_ray.retrieval.ranking.formula import SIMILARITY_STEP, Ties

Keys = NDArray[np.floating]  # NaN, neither above nor level: a well to itself, and places that are empty
Counts = NDArray[np.signedinteger]
_CELLS = 1 << 20  # comparisons held at a time


@dataclass(frozen=True)
class Ranks:
    """How the wells that can be drawn, (P,), stand in each other's rows.

    above: (P, P) int16 or int32, how many wells of the row's scope are more similar to the row's well than the column's
    well is; the row's well is not counted. level: (P, P) of the same type, how many wells of that scope are as similar, the
    column's well included where it is of that scope; None where no other well is. scope: (P,) int codes.
    """

    above: Counts
    level: Counts | None
    scope: NDArray[np.integer]

    def local(self) -> Bools:
        """Return (P, P), whether the column is another well of the row's scope."""
        return _others_of_scope(self.scope)


class Controls:
    """The controls that the compounds of one set of plates are ranked against; those of the plates can be drawn.

    unit: (N, D) unit rows. scope: (N,) int codes. drawable: (C,) places in them. Holds N D + C (N + C) numbers.
    """

    def __init__(self, unit: Floats, scope: NDArray[np.integer], drawable: Ints, ties: Ties) -> None:
        self.unit, self.ties, self.drawable, self.scope = unit, ties, drawable, scope[drawable]
        self._codes = np.unique(scope)
        members = [np.flatnonzero(scope == code) for code in self._codes]
        # places of each scope's controls; N, one past the last, is an empty one, and the last row has no other
        self._members = np.full((len(members) + 1, max((len(m) for m in members), default=0)), len(unit))
        for row, places in zip(self._members, members, strict=False):
            row[: len(places)] = places
        self.list = self.lists(self.scope)
        keys = self.keys(unit[drawable])
        keys[np.arange(len(drawable)), drawable] = np.nan
        self.among = keys[:, drawable]  # (C, C)
        self.of_list = self.keys_of_lists(keys, self.list)

    def lists(self, scope: NDArray[np.integer]) -> Ints:
        """Return which list of controls each scope has, 0..S-1, and S where it has none."""
        place = np.searchsorted(self._codes, scope)
        return np.where(np.append(self._codes, -1)[place] == scope, place, len(self._codes))

    @property
    def no_list(self) -> int:
        """S, the number of lists."""
        return len(self._codes)

    def keys_of_lists(self, keys: Keys, lists: Ints) -> Keys:
        """Return the keys (N_s, Q) of queries to the controls of their own lists, from keys (Q, N + 1) to all controls."""
        return np.take_along_axis(keys, self._members[lists], axis=1).T.copy()

    @cached_property
    def above(self) -> NDArray[np.int32]:
        """(C, C), as Ranks.above, before a compound's own wells are among the negatives."""
        return _count(np.greater, self.of_list[:, :, None], self.among)

    @cached_property
    def level(self) -> NDArray[np.int32]:
        """(C, C), as Ranks.level, before a compound's own wells are among the negatives."""
        return _count(np.equal, self.of_list[:, :, None], self.among)

    @cached_property
    def tied(self) -> bool:
        """Whether any drawable control is level with another of the row's scope."""
        return bool((self.level > _others_of_scope(self.scope)).any())

    def keys(self, unit: Floats) -> Keys:
        """Return keys (Q, N + 1) of unit rows (Q, D), for `with_wells`: one product serves many compounds."""
        return _with_empty(_rank_keys(unit @ self.unit.T, self.ties))

    def with_wells(self, own: Floats, keys: Keys, scope: NDArray[np.integer]) -> Ranks:
        """Return the ranks of the drawable controls and, after them, of a compound's wells: P = C + R.

        own: (R, D) unit rows. keys: (R, N + 1) of `keys`. scope: (R,) their codes.
        """
        joined = _Joined(self, own, keys, self.lists(scope))
        level = joined.counts(np.equal, self.level) if self.tied or joined.tied() else None
        return Ranks(joined.counts(np.greater, self.above), level, np.concatenate([self.scope, scope]))


class _Joined:
    """Controls and one compound's wells: own (R, D) unit rows, against (R, N + 1) keys, lists (R,) of controls."""

    def __init__(self, controls: Controls, own: Floats, against: Keys, lists: Ints) -> None:
        self.controls, self.lists = controls, lists
        drawable = len(controls.drawable)
        # one row more than wells: no well
        keys = np.full((len(own) + 1, drawable + len(own)), np.nan, dtype=against.dtype)
        keys[:-1, :drawable] = against[:, controls.drawable]
        keys[:-1, drawable:] = _rank_keys(own @ own.T, controls.ties)
        np.fill_diagonal(keys[:, drawable:], np.nan)
        self.padded, self.keys, self.with_controls = keys, keys[:-1], keys[:-1, :drawable]
        self.of_list = controls.keys_of_lists(against, lists)[:, :, None]  # (N_s, R, 1)

    def counts(self, compare: np.ufunc, among: NDArray[np.int32]) -> Counts:
        """Return (P, P) counts; among: (C, C), the counts of controls among themselves."""
        drawable, size = len(among), self.keys.shape[1]
        few = len(self.controls.unit) + len(self.keys) < 1 << 14  # Scorer needs a bit for itself
        out = np.empty((size, size), dtype=np.int16 if few else np.int32)
        out[:drawable, :drawable] = among
        out[:drawable, drawable:] = _count(compare, self.controls.of_list[:, None, :], self.with_controls).T
        out[drawable:] = _count(compare, self.of_list, self.keys)
        for layer in self._layers():
            out[:drawable, :drawable] += compare(layer[:drawable], self.controls.among)
            out[:drawable, drawable:] += compare(layer[:drawable], self.with_controls.T)
            out[drawable:] += compare(layer[drawable:], self.keys)
        return out

    def tied(self) -> bool:
        """Return whether the compound's wells, as queries, negatives or columns, add a tie to the ties of controls."""
        drawable = len(self.controls.drawable)
        level = _count(np.equal, self.controls.of_list[:, None, :], self.with_controls).sum()
        level += _count(np.equal, self.of_list, self.keys).sum()
        with_itself = np.bincount(self.controls.list, minlength=self.controls.no_list + 1)[self.lists].sum()
        for layer in self._layers():
            level += np.count_nonzero(layer[:drawable] == self.controls.among)
            level += np.count_nonzero(layer[:drawable] == self.with_controls.T)
            level += np.count_nonzero(layer[drawable:] == self.keys)
            with_itself += np.count_nonzero(~np.isnan(layer))
        return bool(level != with_itself)

    def _layers(self) -> Iterator[Keys]:
        """Yield (P, 1) keys of every pool well to a compound's well of its scope: to the first, to the second, ..."""
        lists = np.concatenate([self.controls.list, self.lists])
        left = np.flatnonzero(self.lists < self.controls.no_list)
        while len(left):
            well_of = np.full(self.controls.no_list + 1, len(self.keys))
            _, first = np.unique(self.lists[left], return_index=True)
            well_of[self.lists[left[first]]] = left[first]
            yield self.padded[well_of[lists], np.arange(len(lists))][:, None]
            left = np.delete(left, first)


def _others_of_scope(scope: NDArray[np.integer]) -> Bools:
    """Return (P, P) whether the column is another well of the row's scope, (P,) codes."""
    others = scope[:, None] == scope
    np.fill_diagonal(others, False)
    return others


def _rank_keys(similarity: Floats, ties: Ties) -> NDArray[np.floating]:
    """Return numbers that order like the similarity, equal where the tie rule calls two similarities level."""
    if ties == "copairs":
        return similarity.astype(np.float32) - np.float32(1)  # the negative of its float32 `1 - similarity`
    return np.rint(similarity / SIMILARITY_STEP)


def _with_empty(keys: Keys) -> Keys:
    """Return keys (Q, N + 1) to N wells and, last, to an empty place."""
    return np.concatenate([keys, np.full((len(keys), 1), np.nan, dtype=keys.dtype)], axis=1)


def _count(compare: np.ufunc, keys: Keys, values: Keys) -> NDArray[np.int32]:
    """Return how many of keys (N, ...) compare with values (...), broadcast."""
    out = np.zeros(np.broadcast_shapes(keys.shape[1:], values.shape), dtype=np.int32)
    step = max(1, min(255, _CELLS // max(1, out.size)))  # a byte holds so many
    for start in range(0, len(keys), step):
        hits = compare(keys[start : start + step], values)
        out += np.add.reduce(hits.view(np.uint8), axis=0, dtype=np.uint8)
    return out
