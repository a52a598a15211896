"""Kernel distances (maximum mean discrepancy, MMD^2) between two sets of feature vectors: KID and CMMD.

MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)   (Gretton et al. 2012, JMLR 13).

KID (Binkowski et al. 2018) takes k(a, b) = (a.b / D + 1)^3 and the unbiased estimator: no vector is paired with itself.
CMMD (Jayasumana et al. 2024) takes k(a, b) = exp(-|a - b|^2 / (2 sigma^2)) on vectors of unit length, as their embeddings
are, and the estimator over all pairs ("V-statistic"), which is biased upwards and never negative; it is multiplied by 1000.
The number equals the paper's CMMD only with CLIP ViT-L/14 at 336 pixels as the extractor.

All sums are float64 and memory is O(block x n).
"""

import numpy as np
from numpy.typing import ArrayLike

from sdvae_ray.distributions._matrices import BLOCK, Floats, blocks, check_count, two_matrices
from sdvae_ray.errors import DataError


def kid(x: ArrayLike, y: ArrayLike, paired: bool = False, block: int = BLOCK) -> float:
    """Return the unbiased MMD^2 of the cubic kernel between x, (n, D), and y, (m, D); n, m >= 2; it may be negative.

    The estimate is unbiased for independent sets. If row i of x and row i of y come from the same patch, the kernels of these
    pairs pull the estimate down by about 2 (mean k(x_i, y_i) - mean k(x_i, y_j)) / n: x against itself gives -2 (mean k(x_i, x_i)
    - mean k(x_i, x_j) over all i, j) / (n - 1), not 0. `paired` leaves the n pairs (i, i) out of the third term (Gretton et al.
    2012, equation 4): the estimate is then unbiased for paired sets, and 0 for x against itself. Raises DataError for too few
    vectors, for vectors of different lengths, and for n != m if `paired`.
    """
    first, second = two_matrices(x, y)
    check_count(min(len(first), len(second)), 2, "KID")
    if paired and len(first) != len(second):
        raise DataError(f"a paired KID needs as many vectors on both sides, not {len(first)} and {len(second)}")
    n, m = len(first), len(second)
    within = 2 * _cubic_above(first, block) / (n * (n - 1)) + 2 * _cubic_above(second, block) / (m * (m - 1))
    between, pairs = 0.0, n * m
    for rows in blocks(n, block):
        kernel = _cubic(first[rows], second)
        between += float(kernel.sum())
        if paired:
            between -= float(np.diagonal(kernel, rows.start).sum())
    if paired:
        pairs -= n
    return within - 2 * between / pairs


def cmmd(x: ArrayLike, y: ArrayLike, sigma: float = 10.0, scale: float = 1000.0, block: int = BLOCK) -> float:
    """Return scale * MMD^2 >= 0 of the Gaussian kernel between x, (n, D), and y, (m, D), every vector scaled to unit length.

    The sums are of k - 1: this keeps all digits if sigma is far above the distances (k is above 0.98 at the default), and the ones
    cancel. Raises DataError for a vector of zeros, which has no direction, and ValueError for sigma <= 0.
    """
    if sigma <= 0:
        raise ValueError(f"CMMD needs a sigma above 0, not {sigma}")
    first, second = (_unit(side) for side in two_matrices(x, y))
    check_count(min(len(first), len(second)), 1, "CMMD")
    means = [_gaussian_mean(a, b, sigma, block) for a, b in ((first, first), (second, second), (first, second))]
    return max(scale * (means[0] + means[1] - 2 * means[2]), 0.0)


def _cubic(a: Floats, b: Floats) -> Floats:
    kernel: Floats = a @ b.T
    kernel /= a.shape[1]
    kernel += 1
    square = kernel * kernel
    return np.multiply(square, kernel, out=square)


def _cubic_above(x: Floats, block: int) -> float:
    """Return the sum of the kernels of all pairs i < j."""
    total = 0.0
    for rows in blocks(len(x), block):
        kernel = _cubic(x[rows], x[rows.start :])
        size = len(kernel)
        total += float(np.triu(kernel[:, :size], 1).sum()) + float(kernel[:, size:].sum())
    return total


def _unit(x: Floats) -> Floats:
    largest = np.abs(x).max(axis=1, keepdims=True)
    if (largest == 0).any():
        raise DataError(f"{int((largest == 0).sum())} vectors are zero and have no direction, which CMMD needs")
    scaled = x / largest  # squares neither overflow nor vanish
    return np.asarray(scaled / np.linalg.norm(scaled, axis=1, keepdims=True))


def _gaussian_mean(a: Floats, b: Floats, sigma: float, block: int) -> float:
    """Return the mean of k - 1 over all pairs."""
    lengths_a, lengths_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    total = 0.0
    for rows in blocks(len(a), block):
        squared = a[rows] @ b.T
        squared *= -2
        squared += lengths_a[rows, None]
        squared += lengths_b
        np.maximum(squared, 0, out=squared)
        squared *= -1 / (2 * sigma**2)
        total += float(np.expm1(squared, out=squared).sum())
    return total / (len(a) * len(b))
