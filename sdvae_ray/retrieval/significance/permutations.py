"""The draws of control positions, wells and labels for a floor: keyed by names and the seed, never by row numbers.

Wells come in the order of their names. Every draw is keyed by (seed, the kind of draw, group, repeat), so that it does
not depend on another group, on another quantity or on how many repeats were asked for.
"""

from math import comb, prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Bools, Ints
from sdvae_ray.retrieval.significance.chance import Chance

Texts = NDArray[Any]  # of text


def halves(positions: Texts, seed: int, group: str, repeat: int) -> tuple[Texts, Texts]:
    """Return two disjoint halves, (n // 2,) each, of the n distinct positions, in random order. An odd position is in neither."""
    ordered = np.unique(positions)
    order = ordered[block_generator(seed, "floors", "halves", group, block=repeat).permutation(len(ordered))]
    half = len(order) // 2
    return order[:half], order[half : 2 * half]


def quarters(half: Texts) -> tuple[Texts, Texts]:
    """Return the first and the second half of a half, each (n // 2,). An odd position is in neither."""
    size = len(half) // 2
    return half[:size], half[size : 2 * size]


def permuted_rows(plate: Texts, movable: Bools, what: str, seed: int, group: str, repeat: int) -> Ints:
    """Return rows (W,) int64: the movable wells of every plate change places among themselves; all other wells keep theirs. plate:
    (W,) text. movable: (W,) bool. what, seed, group, repeat: key the draws."""
    rows = np.arange(len(plate))
    for name in np.unique(plate):
        own = np.flatnonzero(movable & (plate == name))
        rows[own] = own[block_generator(seed, "floors", what, group, str(name), block=repeat).permutation(len(own))]
    return rows


def shuffled_positions(position: Texts, plate: Texts, posing: Bools, seed: int, group: str, repeat: int) -> Texts:
    """Return labels (W,) in which the posing wells of every plate get each other's positions; other wells keep their own.

    A label keeps its number of wells and its plates. The distinct positions are put in one random order, and plate number j
    moves its labels on by j places in this order. So no two wells with a label share a position, if the positions are the same
    on every plate and there are at most as many plates as positions.
    """
    labels = position.copy()
    distinct = np.unique(position[posing])
    order = distinct[block_generator(seed, "floors", "shuffled", group, block=repeat).permutation(len(distinct))]
    place = {name: number for number, name in enumerate(order)}
    for number, name in enumerate(np.unique(plate[posing])):
        own = np.flatnonzero(posing & (plate == name))
        own = own[np.argsort([place[p] for p in position[own]], kind="stable")]
        labels[own] = np.roll(position[own], number)
    return labels


def can_reject(labels: Texts, plate: Texts, negative_plate: Texts, chance: Chance, by_plate: bool) -> bool:
    """Return whether the null has enough arrangements for the p of at least one pseudo-compound to reach the threshold.

    A floor of 0 from a test that cannot reject says nothing. labels, plate: (Q,) of the posing wells. negative_plate: (N,) the
    plates of the negatives. by_plate: a query's negatives are on its own plate. True if no pseudo-compound has two wells (the
    score then gives that reason), False without posing wells.
    """
    names, sizes = np.unique(labels, return_counts=True)
    most = 0
    for label in names[sizes > 1]:
        plates, counts = np.unique(plate[labels == label], return_counts=True)
        negatives = [int((negative_plate == name).sum()) for name in plates]
        if chance.null == "exchange":
            arrangements = prod(comb(n + int(m), int(m)) for n, m in zip(negatives, counts, strict=True))
        else:
            size = int(counts.sum())
            total = max(negatives) if by_plate else len(negative_plate)
            arrangements = comb(total + size - 1, size - 1)
        most = max(most, arrangements)
    return bool(len(labels) and not (sizes > 1).any()) or most * chance.threshold >= 1
