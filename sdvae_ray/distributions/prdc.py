"""Precision, recall, density and coverage of one set of feature vectors with respect to another, by nearest neighbours.

Precision and recall: Kynkaanniemi et al. 2019 (NeurIPS); density and coverage: Naeem et al. 2020 (ICML). The ball of a vector
reaches to its k-th nearest neighbour in its own set, without the vector itself. Balls are closed, as Kynkaanniemi et al. define
them (the code of Naeem et al. leaves the boundary out), so the balls of a set hold all of the set even if k + 1 of its vectors
are equal, such as empty patches. Closed and open balls differ only if distances are exactly equal.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.distributions._matrices import BLOCK, Floats, blocks, check_count, two_matrices
from sdvae_ray.errors import ConfigError

Rows = NDArray[np.intp]
_CHUNK = 2**21  # float64 numbers of differences at once: 16 MiB


@dataclass(frozen=True)
class PRDC:
    """Precision, recall, density and coverage of fakes with respect to reals.

    precision  share of fakes in the ball of any real, [0, 1]
    recall     share of reals in the ball of any fake, [0, 1]
    density    mean number of real balls that hold a fake, over k: [0, n / k], near 1 for two samples of one distribution
    coverage   share of real balls that hold any fake, [0, 1]
    A set against itself: 1, 1, 1 + 1/k (a vector's own ball and the balls of k neighbours, more with ties) and 1.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(real: ArrayLike, fake: ArrayLike, neighbours: int = 5, block: int = BLOCK) -> PRDC:
    """Return the PRDC of fake, (m, D), with respect to real, (n, D), by k = `neighbours`. Memory is O(block x (n + m)).

    Distances come from matrix products. If rounding could decide a comparison, the distance is computed from the difference of the
    vectors, so that equal vectors are at distance 0 and the block size changes nothing. Raises DataError for n or m <= neighbours,
    ConfigError for neighbours < 1.
    """
    if neighbours < 1:
        raise ConfigError(f"neighbours must be at least 1, not {neighbours}")
    first, second = two_matrices(real, fake)
    check_count(min(len(first), len(second)), neighbours + 1, f"a neighbourhood of {neighbours}")
    origin = first.mean(axis=0)  # near it the products round least
    reals, fakes = _Vectors(first, origin), _Vectors(second, origin)
    real_radii, fake_radii = _squared_radii(reals, neighbours, block), _squared_radii(fakes, neighbours, block)
    holders = np.zeros(len(second), np.int64)  # real balls that hold this fake
    covered = recalled = 0
    for rows, squared, doubt in _squared_distances(reals, fakes, block):
        in_real = _within(squared, doubt, real_radii[rows, None], reals, fakes, rows.start)
        in_fake = _within(squared, doubt, fake_radii, reals, fakes, rows.start)
        holders += in_real.sum(axis=0)
        covered += int(in_real.any(axis=1).sum())
        recalled += int(in_fake.any(axis=1).sum())
    return PRDC(
        precision=float((holders > 0).mean()),
        recall=recalled / len(first),
        density=float(holders.mean()) / neighbours,
        coverage=covered / len(first),
    )


class _Vectors:
    """A set of vectors (n, D): the vectors less an origin, and the squared lengths of these differences (n,)."""

    def __init__(self, values: Floats, origin: Floats) -> None:
        self.values = values
        self.centred = values - origin
        self.lengths = np.einsum("ij,ij->i", self.centred, self.centred)


def _squared_distances(a: _Vectors, b: _Vectors, block: int) -> Iterator[tuple[slice, Floats, Floats]]:
    """Yield rows of a, their squared distances to all of b, and bounds on the errors of these distances, both (rows, m).

    A product of D terms is off by at most D eps |a| |b|, and the differences by D eps |a - b|^2 (Higham 2002, 3.1); the bound
    takes |a| |b| <= (|a|^2 + |b|^2) / 2 and leaves room for centring.
    """
    bound = (4 * a.values.shape[1] + 32) * np.finfo(np.float64).eps
    for rows in blocks(len(a.values), block):
        squared = a.centred[rows] @ b.centred.T
        squared *= -2
        lengths = a.lengths[rows, None] + b.lengths
        squared += lengths
        lengths *= bound
        yield rows, squared, lengths


def _squared_radii(vectors: _Vectors, k: int, block: int) -> Floats:
    """Return the squared distance of every row to its k-th nearest other row, (n,)."""
    radii = np.empty(len(vectors.values))
    for rows, squared, doubt in _squared_distances(vectors, vectors, block):
        index = np.arange(len(squared))
        squared[index, index + rows.start] = np.inf  # the row itself
        furthest = np.partition(squared + doubt, k - 1, axis=1)[:, k - 1 : k]
        own, other = np.nonzero(squared - doubt <= furthest)  # the k nearest are among these
        exact = _exact(vectors, vectors, own + rows.start, other)
        order = np.lexsort((exact, own))
        radii[rows] = exact[order][np.searchsorted(own, index) + k - 1]
    return radii


def _within(squared: Floats, doubt: Floats, radii: Floats, a: _Vectors, b: _Vectors, start: int) -> NDArray[np.bool_]:
    gap = squared - radii
    inside = np.asarray(gap <= 0)
    row, column = np.nonzero(np.abs(gap) <= doubt)
    limits = np.broadcast_to(radii, squared.shape)[row, column]
    inside[row, column] = _exact(a, b, row + start, column) <= limits
    return inside


def _exact(a: _Vectors, b: _Vectors, row: Rows, column: Rows) -> Floats:
    """Return the squared distances of pairs of rows, from their differences: symmetric, and 0 for equal vectors."""
    distances = np.empty(len(row))
    for pairs in blocks(len(row), max(1, _CHUNK // a.values.shape[1])):
        difference = a.values[row[pairs]] - b.values[column[pairs]]
        distances[pairs] = np.einsum("ij,ij->i", difference, difference)
    return distances
