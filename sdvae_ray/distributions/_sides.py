"""What the distances between two sets of vectors share: checked float64 matrices, and blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError

Floats = NDArray[np.float64]
BLOCK = 512  # rows at once: 20 MB of float64 against 5,000


def two_sides(x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
    """(n, D) and (m, D) float64. Raises DataError for other shapes and for numbers that are not finite."""
    first, second = _matrix(x), _matrix(y)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"vectors of {first.shape[1]} and {second.shape[1]} features cannot be compared")
    return first, second


def need(rows: int, least: int, what: str) -> None:
    """Raises DataError for fewer rows than `what` needs."""
    if rows < least:
        raise DataError(f"{what} needs at least {least} vectors on each side, not {rows}")


def blocks(rows: int, block: int) -> Iterator[slice]:
    for start in range(0, rows, block):
        yield slice(start, min(start + block, rows))


def _matrix(x: ArrayLike) -> Floats:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] == 0:
        raise DataError(f"features must be a matrix of vectors x features, not an array of shape {values.shape}")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        raise DataError(f"{int(bad.sum())} vectors have features that are not finite")
    return values
