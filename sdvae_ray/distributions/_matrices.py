"""Shared by the distances between two sets of vectors: checked float64 matrices, and blocks of rows."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError

Floats = NDArray[np.float64]
BLOCK = 512  # rows at once: 20 MB of float64 against 5,000


def matrix(x: ArrayLike) -> Floats:
    """Return x as (n, D) float64. Raises DataError for another shape, and for numbers that are not finite."""
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"features must be a matrix of vectors x features, not an array of shape {values.shape}")
    if lost := int((~np.isfinite(values).all(axis=1)).sum()):
        raise DataError(f"{lost} vectors have features that are not finite")
    return values


def two_matrices(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """Return x as (n, D) and y as (m, D) float64. Raises DataError as `matrix` does, and if the vectors' lengths differ."""
    first, second = matrix(x), matrix(y)
    check_lengths(first.shape[1], second.shape[1])
    return first, second


def check_lengths(first: int, second: int) -> None:
    """Raise DataError if the vectors of two sets have different numbers of features."""
    if first != second:
        raise DataError(f"vectors of {first} and {second} features cannot be compared")


def check_count(vectors: int, least: int, what: str) -> None:
    """Raise DataError if a side has fewer vectors than `what` needs."""
    if vectors < least:
        raise DataError(f"{what} needs at least {least} vectors on each side, not {vectors}")


def blocks(rows: int, block: int) -> Iterator[slice]:
    """Yield slices of `block` rows or fewer that cover `rows` rows."""
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))
