"""The least p-value that a null can give: where few arrangements exist, no effect however strong can reach a small p.

A fraction retrieved of 0 from a test that cannot reject says nothing.
"""

import numpy as np
from scipy.special import gammaln

from sdvae_ray.retrieval.arrays import Bools, Floats, Ints
from sdvae_ray.retrieval.significance.chance import Chance


def least_exchange_p(compound: Ints, plate: Ints, pool: Bools, compounds: int, chance: Chance) -> Floats:
    """Return the least p (C,) by exchange for compounds 0..C-1: one arrangement of all, or 1 / (null_size + 1) if that is more.

    compound: (W,) code, -1 for a well of no compound. plate: (W,) codes >= 0. pool: (W,) bool, the controls that change places. A
    compound with m wells on a plate with n such controls has C(n + m, m) arrangements there, and their product over its plates.
    """
    controls = np.bincount(plate[pool], minlength=int(plate.max(initial=0)) + 1)
    queries = np.flatnonzero(compound >= 0)
    wide = len(controls)
    pairs, wells = np.unique(compound[queries] * wide + plate[queries], return_counts=True)
    arrangements = np.zeros(compounds)
    np.add.at(arrangements, pairs // wide, _log_choices(controls[pairs % wide] + wells, wells))
    return np.maximum(np.exp(-arrangements), 1 / (chance.null_size + 1))


def least_arrangement_p(compound: Ints, positives: Ints, negatives: Ints, compounds: int, chance: Chance) -> Floats:
    """Return the least p (C,) under copairs' null: 1 / C(N, M) of the longest rank list, or 1 / (null_size + 1) if that is more.

    compound: (W,) code of a query with an AP, else -1. The strict rule counts no draw that equals the observed value, so that its
    least p is 1 / (null_size + 1) for any list.
    """
    queries = compound >= 0
    arrangements = np.full(compounds, np.inf if chance.strict else 0.0)
    logs = _log_choices((positives + negatives)[queries], positives[queries])
    np.maximum.at(arrangements, compound[queries], logs)
    return np.maximum(np.exp(-arrangements), 1 / (chance.null_size + 1))


def _log_choices(of: Ints, chosen: Ints) -> Floats:
    """Return the logarithm of C(of, chosen)."""
    return np.asarray(gammaln(of + 1.0) - gammaln(chosen + 1.0) - gammaln(of - chosen + 1.0))
