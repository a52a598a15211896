"""Which control positions, wells and labels a floor takes: draws keyed by names and the seed, never by row numbers.

Wells come in the order of their names. Every stream is keyed by (seed, what is drawn, group, repeat), so that no draw
depends on another group, on another quantity or on how many repeats were asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import comb, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.significance.p_values import Ints, stream

Mask = NDArray[np.bool_]
Texts = NDArray[Any]  # of text


def halves(positions: Texts, seed: int, group: str, repeat: int) -> tuple[Texts, Texts]:
    """Return two disjoint halves of the distinct positions (n,), n // 2 each, in random order; an odd one is in neither."""
    ordered = np.unique(positions)
    order = ordered[stream(seed, "floors", "halves", group, block=repeat).permutation(len(ordered))]
    half = len(order) // 2
    return order[:half], order[half : 2 * half]


def quarters(half: Texts) -> tuple[Texts, Texts]:
    """Return the two halves of a half; an odd position is in neither."""
    size = len(half) // 2
    return half[:size], half[size : 2 * size]


def permuted_rows(plate: Texts, movable: Mask, what: str, seed: int, group: str, repeat: int) -> Ints:
    """Return (W,) rows: the movable wells of every plate permuted among themselves, all others in their place."""
    rows = np.arange(len(plate))
    for name in np.unique(plate):
        own = np.flatnonzero(movable & (plate == name))
        rows[own] = own[stream(seed, "floors", what, group, str(name), block=repeat).permutation(len(own))]
    return rows


def shuffled_positions(position: Texts, plate: Texts, posing: Mask, seed: int, group: str, repeat: int) -> Texts:
    """Return (W,) labels: the posing wells' positions dealt anew on every plate, so sizes and plate patterns stay.

    The positions stand in one random order, and plate number j deals its labels moved on by j places: with the same
    positions on every plate, and no more plates than positions, no two wells of a label share a position.
    """
    labels = position.copy()
    distinct = np.unique(position[posing])
    order = distinct[stream(seed, "floors", "shuffled", group, block=repeat).permutation(len(distinct))]
    place = {name: number for number, name in enumerate(order)}
    for number, name in enumerate(np.unique(plate[posing])):
        own = np.flatnonzero(posing & (plate == name))
        own = own[np.argsort([place[p] for p in position[own]], kind="stable")]
        labels[own] = np.roll(position[own], number)
    return labels


def can_reject(labels: Texts, plate: Texts, negative_plate: Texts, options: Mapping[str, Any]) -> bool:
    """Return whether the null has enough arrangements for the p of any pseudo-compound to reach the threshold.

    labels, plate: (Q,) of the posing wells. negative_plate: (N,). A floor of 0 from a test that cannot reject says nothing.
    True where no pseudo-compound has two wells (that is the reason to give), False where there is none at all.
    """
    best = 0
    several = [label for label, size in zip(*np.unique(labels, return_counts=True), strict=True) if size > 1]
    for label in several:
        names, counts = np.unique(plate[labels == label], return_counts=True)
        there = [int((negative_plate == name).sum()) for name in names]
        if options["null"] == "exchange":
            found = prod(comb(n + int(m), int(m)) for n, m in zip(there, counts, strict=True))
        else:
            size = int(counts.sum())
            total = max(there) if options["negatives"] == "plate" else len(negative_plate)
            found = comb(total + size - 1, size - 1)
        best = max(best, found)
    return bool(len(labels) and not several) or best * options["threshold"] >= 1
