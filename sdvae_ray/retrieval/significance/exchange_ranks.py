"""The ranks behind the null by exchange: the rank of every well that can be drawn in the list of every other such well.

The ranks of controls in each other's lists are counted once for all compounds on the same plates; a compound adds its
own wells to the counts. A query is ranked against the controls of its scope. Nothing is drawn here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints
from sdvae_ray.retrieval.ranking.formula import SIMILARITY_STEP, Ties

Keys = NDArray[np.floating]  # NaN for a well and itself, and for an empty place: it is neither above nor level
Counts = NDArray[np.signedinteger]
_CELLS = 1 << 20  # comparisons held at a time


@dataclass(frozen=True)
class Ranks:
    """The ranks of the P wells that can be drawn, in each other's rank lists.

    above: (P, P) int16 or int32: in a row, how many wells of the row's scope are more similar to the row's well than the
    column's well is; the row's well itself is not counted. level: (P, P) of the same type: how many wells of that scope are as
    similar as the column's well, which is counted too if it is of that scope; None if no two wells are level. scope: (P,) int
    codes.
    """

    above: Counts
    level: Counts | None
    scope: NDArray[np.integer]

    def local(self) -> Bools:
        """Return a mask (P, P): True if the column is another well of the row's scope."""
        return _others_of_scope(self.scope)


class Controls:
    """The N controls that the compounds of one set of plates are ranked against; the C controls on these plates can be drawn.

    unit: (N, D) unit rows. scope: (N,) int codes. drawable: (C,) indices into the N controls. Memory: N D + C (N + C) numbers.
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
        """Return the number of each scope's list of controls, 0..S-1; S for a scope without controls."""
        place = np.searchsorted(self._codes, scope)
        return np.where(np.append(self._codes, -1)[place] == scope, place, len(self._codes))

    @property
    def no_list(self) -> int:
        """Return S, the number of lists of controls, which also stands for "no list"."""
        return len(self._codes)

    def keys_of_lists(self, keys: Keys, lists: Ints) -> Keys:
        """Return the keys (N_s, Q) of Q queries to the controls of each query's list, from the keys (Q, N + 1) to all controls."""
        return np.take_along_axis(keys, self._members[lists], axis=1).T.copy()

    @cached_property
    def above(self) -> NDArray[np.int32]:
        """Return Ranks.above of the drawable controls, (C, C), before a compound's wells are among the negatives."""
        return _count(np.greater, self.of_list[:, :, None], self.among)

    @cached_property
    def level(self) -> NDArray[np.int32]:
        """Return Ranks.level of the drawable controls, (C, C), before a compound's wells are among the negatives."""
        return _count(np.equal, self.of_list[:, :, None], self.among)

    @cached_property
    def tied(self) -> bool:
        """Return whether a drawable control is level with another well of the row's scope."""
        return bool((self.level > _others_of_scope(self.scope)).any())

    def keys(self, unit: Floats) -> Keys:
        """Return keys (Q, N + 1) of unit rows (Q, D) to the controls, for `with_wells`: one product serves many compounds."""
        return _with_empty(_rank_keys(unit @ self.unit.T, self.ties))

    def with_wells(self, own: Floats, keys: Keys, scope: NDArray[np.integer]) -> Ranks:
        """Return the ranks of the drawable controls followed by a compound's R wells: P = C + R.

        own: (R, D) unit rows. keys: (R, N + 1), as `keys` returns them. scope: (R,) codes.
        """
        joined = _Joined(self, own, keys, self.lists(scope))
        level = joined.counts(np.equal, self.level) if self.tied or joined.tied() else None
        return Ranks(joined.counts(np.greater, self.above), level, np.concatenate([self.scope, scope]))


class _Joined:
    """The drawable controls and the R wells of one compound. own: (R, D) unit rows. against: (R, N + 1) keys. lists: (R,)."""

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
        """Return counts (P, P) of the wells that `compare` is True for; among: (C, C), the counts of controls among themselves."""
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
        """Return whether the compound's wells, as queries, negatives or columns, add a tie to the ties of the controls."""
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
        """Yield keys (P, 1) of every pool well to one of the compound's wells of its scope: the first well, the second, and so
        on.
        """
        lists = np.concatenate([self.controls.list, self.lists])
        left = np.flatnonzero(self.lists < self.controls.no_list)
        while len(left):
            well_of = np.full(self.controls.no_list + 1, len(self.keys))
            _, first = np.unique(self.lists[left], return_index=True)
            well_of[self.lists[left[first]]] = left[first]
            yield self.padded[well_of[lists], np.arange(len(lists))][:, None]
            left = np.delete(left, first)


def _others_of_scope(scope: NDArray[np.integer]) -> Bools:
    """Return a mask (P, P): True if the column is another well of the row's scope; scope: (P,) codes."""
    others = scope[:, None] == scope
    np.fill_diagonal(others, False)
    return others


def _rank_keys(similarity: Floats, ties: Ties) -> NDArray[np.floating]:
    """Return numbers in the order of the similarity; two are equal if the tie rule calls the similarities level."""
    if ties == "copairs":
        return similarity.astype(np.float32) - np.float32(1)  # the negative of its float32 `1 - similarity`
    return np.rint(similarity / SIMILARITY_STEP)


def _with_empty(keys: Keys) -> Keys:
    """Return the keys (Q, N) to N wells with one more column, NaN, for an empty place."""
    return np.concatenate([keys, np.full((len(keys), 1), np.nan, dtype=keys.dtype)], axis=1)


def _count(compare: np.ufunc, keys: Keys, values: Keys) -> NDArray[np.int32]:
    """Return how many of keys (N, ...) are True in compare(key, values), values (...) broadcast."""
    out = np.zeros(np.broadcast_shapes(keys.shape[1:], values.shape), dtype=np.int32)
    step = max(1, min(255, _CELLS // max(1, out.size)))  # a byte holds so many
    for start in range(0, len(keys), step):
        hits = compare(keys[start : start + step], values)
        out += np.add.reduce(hits.view(np.uint8), axis=0, dtype=np.uint8)
    return out
