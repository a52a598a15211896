"""The nearest profiles by cosine, exactly: blocks of matrix products and a sort."""

import numpy as np

from sdvae_ray.retrieval.arrays import Floats, Ints, blocks

_BLOCK = 1024  # profiles whose similarities to all others are held at once


def nearest_others(unit: Floats, queries: Ints, most: int) -> Ints:
    """Return the `most` nearest other rows of every query, nearest first, (Q, most) or fewer; level ones by their number.

    unit: (W, D) rows of length 1. queries: (Q,) rows.
    """
    parts = []
    for part in blocks(0, len(queries), _BLOCK):
        own = queries[part]
        similarity = np.round(unit[own] @ unit.T, 12)  # level within rounding: no order by the rounding of a product
        similarity[np.arange(len(own)), own] = -np.inf
        parts.append(np.argsort(-similarity, axis=1, kind="stable")[:, : min(most, len(unit) - 1)])
    return np.concatenate(parts)
