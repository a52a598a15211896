"""Similarities of profiles as scores to rank by: blocks of matrix products, and exact scores for pairs in doubt.

A score grows with the similarity and has its order: the cosine, the absolute cosine, Pearson's r, or minus the squared
Euclidean distance. `arrange` makes the profiles ready for products, once; from then on well i is the order[i]-th profile.
The two kinds of similarity have

features   D
size       (W,) float64, the error of `product` grows with it; wells are blocked by it
zero_norm  (W,) bool, profiles without a direction: all zeros, or constant for r; their similarity to all wells is 0
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import (
    ROWS,
    Floats,
    Ints,
    Profiles,
    as_profiles,
    blocks,
    finite_rows,
    unit_rows,
    zero_rows,
)
from sdvae_ray.retrieval.ranking.formula import SIMILARITY_STEP, Ties

Distance = Literal["cosine", "abs_cosine", "correlation", "euclidean"]
DISTANCES: tuple[Distance, ...] = ("cosine", "abs_cosine", "correlation", "euclidean")

# copairs ranks 1 - s with s and the difference in float32, which round by at most 2^-25 and 2^-24: two similarities
# further apart than this keep their order.
_COPAIRS_STEP = 2.0**-22
_EPS, _TINY = float(np.finfo(np.float64).eps) / 2, float(np.finfo(np.float64).tiny)
_FARTHEST = -np.finfo(np.float64).max


class Cosine:
    """The cosine of profiles, its absolute value, or the cosine of profiles less their own means (Pearson's r)."""

    def __init__(self, x: Profiles, absolute: bool, centred: bool) -> None:
        self._x, self._absolute, self._centred = x, absolute, centred
        self.features, self.size = x.shape[1], np.ones(len(x))

    def arrange(self, order: Ints) -> None:
        """Scale the profiles and put them in order: well i is then the order[i]-th profile."""
        self._unit = np.empty(self._x.shape)
        for part in blocks(0, len(order), ROWS):
            rows = self._x[order[part]]
            self._unit[part] = unit_rows(_centred(rows) if self._centred else rows)
        self.zero_norm = zero_rows(self._unit)

    def product(self, rows: Ints, columns: slice) -> Floats:
        """Return the scores (R, C) of the wells `rows` and `columns`, as exact as `scores` computes them."""
        return self._signed(self._unit[rows] @ self._unit[columns].T)

    def scores(self, a: Ints, b: Ints) -> Floats:
        """Return the scores (..., A, B) of wells a (..., A) and wells b (..., B)."""
        first = self._unit[a]
        return self._signed(first @ np.swapaxes(first if a is b else self._unit[b], -1, -2))

    def similarity(self, scores: Floats) -> Floats:
        """Return the similarities that copairs would compute, from scores of any shape: here the scores themselves."""
        return scores

    def level_bounds(self, scores: Floats, ties: Ties) -> tuple[Floats, Floats]:
        """Return (low, high): a score above `high` ranks above the given one, a score below `low` ranks below it. A score between
        them is level with the given one (ties="average"), or in doubt until `copairs_keys` decides (ties="copairs")."""
        step = SIMILARITY_STEP if ties == "average" else _COPAIRS_STEP
        return scores - step, scores + step

    def _signed(self, cosines: Floats) -> Floats:
        return np.abs(cosines, out=cosines) if self._absolute else cosines


def _centred(rows: Profiles) -> Floats:
    """Return rows (R, D), scaled by their largest number, less their means; all zeros for a constant row."""
    x = rows.astype(np.float64)
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0.0)
    x /= np.where(largest == 0, 1.0, largest)
    x -= x.mean(axis=1, keepdims=True)
    x[np.abs(x).max(axis=1, initial=0.0) < SIMILARITY_STEP] = 0  # constant, but for the rounding of its mean
    return x


class Euclidean:
    """Minus the squared distance: d^2 = |x|^2 + |y|^2 - 2 x.y as one product of profiles that have two more columns.

    This difference cancels if two profiles are close, and its error grows with their norms. So the profiles are centred
    (distances do not change) and scaled by a power of two, and every pair in doubt is computed from x - y.
    """

    def __init__(self, x: Profiles) -> None:
        self._x, self.features = x, x.shape[1]
        self.zero_norm = np.zeros(len(x), dtype=bool)
        self._centre = x.mean(axis=0, dtype=np.float64) if len(x) else np.zeros(x.shape[1])
        parts = blocks(0, len(x), ROWS)
        largest = max((float(np.abs(x[part] - self._centre).max(initial=0.0)) for part in parts), default=0.0)
        self._scale = 2.0 ** -float(np.frexp(largest)[1])
        self.size = np.empty(len(x))
        for part in parts:
            z = (x[part] - self._centre) * self._scale
            self.size[part] = np.einsum("nd,nd->n", z, z)

    def arrange(self, order: Ints) -> None:
        """Centre and scale the profiles and put them in order: well i is then the order[i]-th profile."""
        self._order, self.size = order, self.size[order]
        self._right = np.ones((len(order), self.features + 2))
        for part in blocks(0, len(order), ROWS):
            self._right[part, :-2] = (self._x[order[part]] - self._centre) * self._scale
            self._right[part, -1] = -self.size[part]

    def product(self, rows: Ints, columns: slice) -> Floats:
        """Return the scores (R, C) of the wells `rows` and `columns`, wrong by at most `error`."""
        right = self._right[rows]
        left = np.empty_like(right)
        np.multiply(right[:, :-2], 2, out=left[:, :-2])
        left[:, -2], left[:, -1] = right[:, -1], right[:, -2]
        return np.asarray(left @ self._right[columns].T)

    def error(self, rows: Ints, columns: slice) -> Floats:
        """Return bounds (R, 1) on the error of `product`."""
        # gamma over the D + 2 terms, whose absolute values sum to at most 2(|x|^2 + |y|^2), and the inputs' rounding
        # (Higham, Accuracy and Stability of Numerical Algorithms, chapter 3)
        terms, largest = self.features + 14, self.size[columns].max(initial=0.0)
        return np.asarray(1.01 * terms * (2 * _EPS * (self.size[rows] + largest) + _TINY))[:, None]

    def scores(self, a: Ints, b: Ints) -> Floats:
        """Return the exact scores (..., A, B) of wells a (..., A) and wells b (..., B)."""
        first, second = self._rows(a), self._rows(b)
        if a.ndim == 1:
            return -cdist(first, second, "sqeuclidean")
        scores = np.empty((*a.shape, b.shape[-1]))
        for j in range(b.shape[-1]):
            difference = first - second[..., j, None, :]
            scores[..., j] = -np.einsum("...d,...d->...", difference, difference)
        return scores

    def pairs(self, a: Ints, b: Ints) -> Floats:
        """Return the exact scores (n,) of the pairs (a[i], b[i]), a and b (n,)."""
        difference = self._rows(a) - self._rows(b)
        return -np.einsum("nd,nd->n", difference, difference)

    def similarity(self, scores: Floats) -> Floats:
        """Return the similarities 1 / (1 + d) that copairs would compute, from scores of any shape."""
        return np.asarray(1 / (1 + np.sqrt(-scores) / self._scale))

    def level_bounds(self, scores: Floats, ties: Ties) -> tuple[Floats, Floats]:
        """Return (low, high) with the meaning of Cosine.level_bounds; for ties="average" they are relative to the score."""
        if ties == "average":  # relative: a distance has no scale of its own
            return scores * (1 + SIMILARITY_STEP), scores * (1 - SIMILARITY_STEP)
        similarity = self.similarity(scores)
        low, high = similarity - _COPAIRS_STEP, similarity + _COPAIRS_STEP
        with np.errstate(divide="ignore"):
            near = np.maximum(1 / high - 1, 0) * self._scale
            far = np.where(low > 0, 1 / np.maximum(low, 0) - 1, np.inf) * self._scale
        return np.maximum(-(far**2), _FARTHEST), -(near**2)

    def _rows(self, wells: Ints) -> Floats:
        return self._x[self._order[wells]].astype(np.float64) * self._scale


Similarity = Cosine | Euclidean


def copairs_keys(similarity: Similarity, scores: Floats) -> Profiles:
    """Return float32 numbers with copairs' order and ties: the negative of its 1 - similarity."""
    return similarity.similarity(scores).astype(np.float32) - np.float32(1)


def prepare(features: ArrayLike, distance: Distance) -> Similarity:
    """Return the similarity of (W, D) profiles, for `arrange` to make ready; `arrange` copies them as float64.

    Raises DataError for profiles that are not finite, ValueError for an unknown distance.
    """
    x = as_profiles(features)
    finite = finite_rows(x)
    if not finite.all():
        raise DataError(f"{(~finite).sum()} profiles have features that are not finite")
    if distance == "euclidean":
        return Euclidean(x)
    if distance not in DISTANCES:
        raise ValueError(f"there is no distance {distance!r}, only {', '.join(DISTANCES)}")
    return Cosine(x, absolute=distance == "abs_cosine", centred=distance == "correlation")
