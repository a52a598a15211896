"""Index arithmetic of the ranking: rows by code, and the whole numbers of many ranges."""

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.arrays import Ints


def rows_by_code(codes: NDArray[np.integer], rows: Ints) -> list[tuple[int, Ints]]:
    """Return pairs (code, the rows with this code), in order of the code; `rows` are indices into `codes`."""
    if not len(rows):
        return []
    order = rows[np.argsort(codes[rows], kind="stable")]
    cuts = np.flatnonzero(codes[order][1:] != codes[order][:-1]) + 1
    return [(int(codes[part[0]]), part) for part in np.split(order, cuts)]


def numbers_of_ranges(start: Ints, stop: Ints) -> Ints:
    """Return the numbers start[i], ..., stop[i] - 1 of all ranges, one range after the other."""
    length = stop - start
    return np.repeat(start - (np.cumsum(length) - length), length) + np.arange(length.sum())


def cuts_by_sum(sizes: Ints, limit: int) -> Ints:
    """Return the indices, int64, at which to split a sequence so that the sizes of every part sum to at most `limit`. An item
    larger than `limit` is a part of its own. The indices are inside the sequence: 0 and len(sizes) are not among them."""
    total = np.cumsum(sizes)
    before = total - sizes
    cuts, start = [], 0
    while start < len(sizes):
        start = max(start + 1, int(np.searchsorted(total, before[start] + limit, side="right")))
        cuts.append(start)
    return np.array(cuts[:-1], dtype=np.int64)
