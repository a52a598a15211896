"""Similarities of profiles as numbers to rank by: blocks of matrix products, and exact numbers for the pairs in doubt.

A score grows with the similarity and has its order: the cosine, the absolute cosine, Pearson's r, or minus the squared
Euclidean distance. Wells are indices 0..W-1 in the order given to `prepare`.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.ranking.average_precision import SIMILARITY_STEP, Floats, Ints, Ties, unit_rows

Distance = Literal["cosine", "abs_cosine", "correlation", "euclidean"]
DType = Literal["float64", "float32"]
DISTANCES: tuple[Distance, ...] = ("cosine", "abs_cosine", "correlation", "euclidean")
Index = Ints | slice

# copairs ranks 1 - s with s and the difference in float32, which round by at most 2^-25 and 2^-24: two similarities
# further apart than this keep their order.
_COPAIRS_STEP = 2.0**-22
_ROWS = 4096  # made ready at a time
_FARTHEST = -np.finfo(np.float64).max


class Similarity(Protocol):
    """What the counting needs of a distance.

    exact      the error of `product` is far below what the tie rules call level, so that nothing is left in doubt
    features   D
    size       (W,) float64, what the error of `product` grows with; wells are blocked by it
    zero_norm  (W,) bool, profiles without a direction: all zeros, or constant for r; their similarity to all is 0
    """

    exact: bool
    features: int
    size: Floats
    zero_norm: NDArray[np.bool_]

    def arrange(self, order: Ints, dtype: DType) -> None:
        """Make ready for products in dtype, and renumber: well i is from now on the order[i]-th profile. Once."""
        ...

    def product(self, a: Index, b: Index) -> NDArray[np.floating]:
        """(A, B) scores in the working precision, of every well of a with every well of b."""
        ...

    def error(self, a: Index, b: Index) -> Floats:
        """(A, 1) bounds on the error of `product`, of its rounding to the working precision too."""
        ...

    def scores(self, a: Ints, b: Ints) -> Floats:
        """(..., A), (..., B) wells -> (..., A, B) float64 scores, as good as the profiles are."""
        ...

    def pairs(self, a: Ints, b: Ints) -> Floats:
        """(n,), (n,) wells -> (n,) float64 scores, as `scores`."""
        ...

    def similarity(self, scores: Floats) -> Floats:
        """Scores -> similarities as copairs has them."""
        ...

    def levels(self, scores: Floats, ties: Ties) -> tuple[Floats, Floats]:
        """Return (low, high): what scores above `high` ranks above, what scores below `low` ranks below.

        Between them: level with it (ties="average"), or to be asked of `rank_keys` (ties="copairs").
        """
        ...


def rank_keys(similarity: Similarity, scores: Floats, ties: Ties) -> NDArray[np.floating]:
    """Return numbers that copairs' rule orders by (float32), or the scores themselves."""
    if ties == "average":
        return scores
    return similarity.similarity(scores).astype(np.float32) - np.float32(1)


def prepare(features: ArrayLike, distance: Distance) -> Similarity:
    """Return the similarity of (W, D) finite profiles, to be arranged; float32 profiles are not copied.

    Raises DataError for profiles that are not finite, and for an unknown distance.
    """
    if distance not in DISTANCES:
        raise DataError(f"there is no distance {distance!r}{did_you_mean(str(distance), DISTANCES)}")
    x = np.asarray(features)
    x = x if x.dtype == np.float32 else np.asarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"profiles must be a matrix of wells x features, not of shape {x.shape}")
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise DataError(f"{int((~finite).sum())} profiles have features that are not finite")
    if distance == "euclidean":
        return _Euclidean(x)
    return _Cosine(x, absolute=distance == "abs_cosine", centred=distance == "correlation")


class _Cosine:
    """Cosine of the profiles, of their absolute value, or of the profiles minus their own means (Pearson's r)."""

    def __init__(self, x: NDArray[np.floating], absolute: bool, centred: bool) -> None:
        self.features, self.size = x.shape[1], np.ones(len(x))
        self._x, self._absolute, self._centred = x, absolute, centred

    def arrange(self, order: Ints, dtype: DType) -> None:
        self.exact = dtype == "float64"
        # A product of D terms of unit vectors: gamma_D by Cauchy-Schwarz (Higham, Accuracy and Stability, ch. 3), both
        # vectors' own rounding, the thresholds', and what underflows.
        limits = np.finfo(dtype)
        self._error = 1.01 * (self.features + 8) * (float(limits.eps) / 2 + float(limits.tiny))
        self._order = order
        self._unit = np.empty(self._x.shape, dtype=dtype)
        self.zero_norm = np.empty(len(order), dtype=bool)
        for start in range(0, len(order), _ROWS):
            part = slice(start, start + _ROWS)
            self._unit[part], self.zero_norm[part] = self._directions(order[part])

    def product(self, a: Index, b: Index) -> NDArray[np.floating]:
        found = self._unit[a] @ self._unit[b].T
        return np.abs(found, out=found) if self._absolute else found

    def error(self, a: Index, b: Index) -> Floats:
        return np.full((len(self.size[a]), 1), self._error)

    def scores(self, a: Ints, b: Ints) -> Floats:
        first = self._rows(a)
        found = first @ np.swapaxes(first if a is b else self._rows(b), -1, -2)
        return np.abs(found, out=found) if self._absolute else found

    def pairs(self, a: Ints, b: Ints) -> Floats:
        found = np.einsum("nd,nd->n", self._rows(a), self._rows(b))
        return np.abs(found, out=found) if self._absolute else found

    def similarity(self, scores: Floats) -> Floats:
        return scores

    def levels(self, scores: Floats, ties: Ties) -> tuple[Floats, Floats]:
        step = SIMILARITY_STEP if ties == "average" else _COPAIRS_STEP
        return scores - step, scores + step

    def _rows(self, index: Ints) -> Floats:
        if self.exact:
            return self._unit[index]
        wells, back = np.unique(index, return_inverse=True)
        return self._directions(self._order[wells])[0][back.reshape(index.shape)]

    def _directions(self, index: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        x = self._x[index].astype(np.float64)
        if self._centred:
            largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
            x /= np.where(largest == 0, 1.0, largest)
            x -= x.mean(axis=1, keepdims=True)
            x[np.abs(x).max(axis=1, initial=0.0) < SIMILARITY_STEP] = 0  # constant, but for the rounding of its mean
        return unit_rows(x)


class _Euclidean:
    """Minus the squared distance: d^2 = |x|^2 + |y|^2 - 2 x.y as one product of profiles with two columns more.

    That difference cancels where the two are close: the error grows with the norms, so the profiles are centred (which
    no distance notices), scaled by a power of two, and every pair in doubt is computed from the differences.
    """

    exact = False

    def __init__(self, x: NDArray[np.floating]) -> None:
        self._x, self.features = x, x.shape[1]
        self.zero_norm = np.zeros(len(x), dtype=bool)
        self._centre = x.mean(axis=0, dtype=np.float64) if len(x) else np.zeros(x.shape[1])
        parts = [slice(start, start + _ROWS) for start in range(0, len(x), _ROWS)]
        largest = max((float(np.abs(x[part] - self._centre).max(initial=0.0)) for part in parts), default=0.0)
        self._scale = 2.0 ** -float(np.frexp(largest)[1])
        self.size = np.empty(len(x))
        for part in parts:
            z = (x[part] - self._centre) * self._scale
            self.size[part] = np.einsum("nd,nd->n", z, z)

    def arrange(self, order: Ints, dtype: DType) -> None:
        limits = np.finfo(dtype)
        self._eps, self._tiny = float(limits.eps) / 2, float(limits.tiny)
        self._order, self.size = order, self.size[order]
        self._right = np.ones((len(order), self.features + 2), dtype=dtype)
        for start in range(0, len(order), _ROWS):
            part = slice(start, start + _ROWS)
            self._right[part, :-2] = (self._x[order[part]] - self._centre) * self._scale
            self._right[part, -1] = -self.size[part]

    def product(self, a: Index, b: Index) -> NDArray[np.floating]:
        right = self._right[a]
        left = np.empty_like(right)
        np.multiply(right[:, :-2], 2, out=left[:, :-2])
        left[:, -2], left[:, -1] = right[:, -1], right[:, -2]
        return np.asarray(left @ self._right[b].T)

    def error(self, a: Index, b: Index) -> Floats:
        # gamma over the D + 2 terms, whose absolute values sum to at most 2(|x|^2 + |y|^2), and the inputs' rounding
        terms, among = self._right.shape[1] + 12, self.size[b].max(initial=0.0)
        return np.asarray(1.01 * terms * (2 * self._eps * (self.size[a] + among) + self._tiny))[:, None]

    def scores(self, a: Ints, b: Ints) -> Floats:
        first, second = self._rows(a), self._rows(b)
        if a.ndim == 1:
            return -cdist(first, second, "sqeuclidean")
        out = np.empty((*a.shape, b.shape[-1]))
        for j in range(b.shape[-1]):
            difference = first - second[..., j, None, :]
            out[..., j] = -np.einsum("...d,...d->...", difference, difference)
        return out

    def pairs(self, a: Ints, b: Ints) -> Floats:
        difference = self._rows(a) - self._rows(b)
        return -np.einsum("nd,nd->n", difference, difference)

    def similarity(self, scores: Floats) -> Floats:
        return np.asarray(1 / (1 + np.sqrt(-scores) / self._scale))

    def levels(self, scores: Floats, ties: Ties) -> tuple[Floats, Floats]:
        if ties == "average":  # relative: a distance has no scale of its own
            return scores * (1 + SIMILARITY_STEP), scores * (1 - SIMILARITY_STEP)
        found = self.similarity(scores)
        with np.errstate(divide="ignore"):
            near = np.maximum(1 / (found + _COPAIRS_STEP) - 1, 0) * self._scale
            far = np.where(found > _COPAIRS_STEP, 1 / np.maximum(found - _COPAIRS_STEP, 0) - 1, np.inf) * self._scale
        return np.maximum(-(far**2), _FARTHEST), -(near**2)

    def _rows(self, index: Ints) -> Floats:
        return self._x[self._order[index]].astype(np.float64) * self._scale
