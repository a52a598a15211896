"""Array types of retrieval, and the rows of a matrix of profiles: finite or not, all zero or not, of length 1, on two axes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Profiles = NDArray[np.floating]

ROWS = 4096  # profiles that are looked at or scaled at a time


def blocks(start: int, stop: int, size: int) -> list[slice]:
    """Return slices of at most `size` numbers that cover start, ..., stop - 1 in order."""
    return [slice(first, min(first + size, stop)) for first in range(start, stop, size)]


def as_profiles(features: ArrayLike) -> Profiles:
    """Return the features (W, D) as floating-point numbers: unchanged if they are floating-point, else copied as float64. Raises
    ValueError if the features are not a matrix."""
    x = np.asarray(features)
    if x.ndim != 2:
        raise ValueError(f"profiles must be a matrix of wells x features, not of shape {x.shape}")
    return x if np.issubdtype(x.dtype, np.floating) else x.astype(np.float64)


def finite_rows(x: Profiles) -> Bools:
    """Return a mask (W,): True for a row of x (W, D) whose numbers are all finite."""
    finite = np.empty(len(x), dtype=bool)
    for part in blocks(0, len(x), ROWS):
        finite[part] = np.isfinite(x[part]).all(axis=1)
    return finite


def zero_rows(x: Profiles) -> Bools:
    """Return a mask (W,): True for a row of x (W, D) whose numbers are all 0. Such a profile has no direction."""
    zero = np.empty(len(x), dtype=bool)
    for part in blocks(0, len(x), ROWS):
        zero[part] = ~x[part].any(axis=1)
    return zero


def unit_rows(features: ArrayLike) -> Floats:
    """Return the rows of (W, D) finite numbers scaled to length 1, as float64; an all-zero row stays zero."""
    x = np.asarray(features, dtype=np.float64)
    largest = np.abs(x).max(axis=1, initial=0.0, keepdims=True)
    largest[largest == 0] = 1.0
    x = x / largest  # first by the largest number: squares of tiny numbers would be 0
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    norm[norm == 0] = 1.0
    x /= norm
    return x


def principal_components(vectors: Profiles) -> Floats:
    """Return (N, 2): vectors (N, D) less their mean, on the two axes of largest variance; an axis points to where its largest
    loading is positive."""
    centred = vectors.astype(np.float64) - vectors.mean(0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    two = axes[:, ::-1][:, :2]
    if two.shape[1] < 2:
        two = np.concatenate([two, np.zeros_like(two)], axis=1)
    signs = np.sign(two[np.abs(two).argmax(0), range(2)])
    return centred @ (two * np.where(signs == 0, 1, signs))
