"""The draws of control positions, wells and labels for a floor: keyed by names and the seed, never by row numbers.

Wells come in the order of their names. Every draw is keyed by (seed, the kind of draw, group, repeat), so that it does
not depend on another group, on another quantity or on how many repeats were asked for.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Bools, Ints

Texts = NDArray[Any]  # of text


def halves(positions: Texts, seed: int, group: str, repeat: int) -> tuple[Texts, Texts]:
    """Return two disjoint halves, (n // 2,) each, of the n distinct positions, in random order. An odd position is in neither."""
    ordered = np.unique(positions)
    order = ordered[block_generator(seed, "floors", "halves", group, block=repeat).permutation(len(ordered))]
    half = len(order) // 2
    return order[:half], order[half : 2 * half]


def permuted_rows(plate: Texts, movable: Bools, what: str, seed: int, group: str, repeat: int) -> Ints:
    """Return rows (W,) int64: the movable wells of every plate change places among themselves; all other wells keep theirs. plate:
    (W,) text. movable: (W,) bool. what, seed, group, repeat: key the draws."""
    rows = np.arange(len(plate))
    for name in np.unique(plate):
        own = np.flatnonzero(movable & (plate == name))
        rows[own] = own[block_generator(seed, "floors", what, group, str(name), block=repeat).permutation(len(own))]
    return rows
