"""Values of fields of view as arrays, where fields may have different numbers of patches.

Values (n, P, ...) of fields with one number of patches are one array. Fields with different numbers are an array of n objects, of
which each is the array (P, ...) of one field.
"""

from collections.abc import Callable, Sequence

import numpy as np


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the values of several files in one array: (n, P, ...), or n objects where the shapes differ."""
    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    values = np.empty(sum(len(part) for part in parts), object)
    for place, field in enumerate(field for part in parts for field in part):
        values[place] = field
    return values


def of_patches(values: np.ndarray) -> np.ndarray:
    """Return the values of all patches, (patches, ...), field after field. values: at least one field."""
    return np.concatenate(list(values)) if values.dtype == object else values.reshape(-1, *values.shape[2:])


def per_field(values: np.ndarray, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return function(values), where the function takes (n, P, ...) and gives (n, ...) of a shape that does not depend on P.

    Fields with different numbers of patches are given to it in a call for every number.
    """
    if values.dtype != object:
        return function(values)
    counts = np.array([len(field) for field in values])
    results = {count: function(np.stack(values[counts == count])) for count in np.unique(counts).tolist()}
    first = next(iter(results.values()))
    out = np.empty((len(values), *first.shape[1:]), first.dtype)
    for count, result in results.items():
        out[counts == count] = result
    return out
