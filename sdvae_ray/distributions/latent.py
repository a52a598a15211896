"""Statistics of an autoencoder's latents, from moments that merge: channels' shapes, active units, effective rank.

A unit is one channel at one position. Moments are kept about their own means and merged by the formulas of Chan, Golub &
LeVeque (1983) and Pebay (2008), so that no variance drowns in the square of a mean; merging in any order agrees within rounding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError

Floats = NDArray[np.float64]
_CHUNK = 2**20  # numbers at once: 8 MiB of float64
ACTIVE = 0.01  # variance; Burda, Grosse & Salakhutdinov 2016


@dataclass(frozen=True)
class LatentMoments:
    """The moments of n latents (Z, s, s), float64; sums of a channel run over images and positions, n * s * s numbers.

    `unit_squares`, `comoment`, `cubes` and `fourths` are sums of powers (or products) of deviations from the means: `unit_mean`
    for the first, `mean` for the others.
    """

    n: int
    unit_mean: Floats  # (Z, s, s)
    unit_squares: Floats  # (Z, s, s)
    mean: Floats  # (Z,)
    comoment: Floats  # (Z, Z)
    cubes: Floats  # (Z,)
    fourths: Floats  # (Z,)
    low: Floats  # (Z,)
    high: Floats  # (Z,)

    @property
    def count(self) -> int:
        """Return how many numbers a channel has: images times positions."""
        return self.n * self.unit_mean[0].size


@dataclass(frozen=True)
class ActiveUnits:
    """The active units of a set of latents.

    units      Z * s * s
    active     units whose variance over images, after the scale, is above the threshold
    share      active / units, [0, 1]
    relative   share of units whose variance is above the threshold times the variance of their own channel, [0, 1]
    channels   (Z,) share of active units in each channel
    scale      the factor that the latents were multiplied with
    """

    units: int
    active: int
    share: float
    relative: float
    channels: Floats
    scale: float


def latent_moments(latents: ArrayLike) -> LatentMoments:
    """Return the moments of latents, (n, Z, s, s) numbers of any dtype, n >= 1, taken a few images at a time.

    Raises DataError for another shape, for no images, and for numbers that are not finite.
    """
    values = np.asarray(latents)
    if values.ndim != 4 or values.size == 0:
        raise DataError(f"latents must be images x channels x rows x columns, not an array of shape {values.shape}")
    step = max(1, _CHUNK // values[0].size)
    merged = _moments_of_chunk(values[:step])
    for start in range(step, len(values), step):
        merged = merge(merged, _moments_of_chunk(values[start : start + step]))
    return merged


def merge(a: LatentMoments, b: LatentMoments) -> LatentMoments:
    """Return the moments of both sets together. Raises ValueError if the latents have different shapes."""
    if a.unit_mean.shape != b.unit_mean.shape:
        raise ValueError(f"latents of shapes {a.unit_mean.shape} and {b.unit_mean.shape} cannot be merged")
    share_a, share_b = a.n / (a.n + b.n), b.n / (a.n + b.n)
    unit_step = b.unit_mean - a.unit_mean
    step = b.mean - a.mean
    square_a, square_b = np.diagonal(a.comoment), np.diagonal(b.comoment)
    both = a.count * share_b  # n_a n_b / n, in numbers per channel
    return LatentMoments(
        n=a.n + b.n,
        unit_mean=a.unit_mean + share_b * unit_step,
        unit_squares=a.unit_squares + b.unit_squares + a.n * share_b * unit_step**2,
        mean=a.mean + share_b * step,
        comoment=a.comoment + b.comoment + both * np.outer(step, step),
        cubes=a.cubes
        + b.cubes
        + both * (share_a - share_b) * step**3
        + 3 * step * (share_a * square_b - share_b * square_a),
        fourths=a.fourths
        + b.fourths
        + both * (share_a**2 - share_a * share_b + share_b**2) * step**4
        + 6 * step**2 * (share_a**2 * square_b + share_b**2 * square_a)
        + 4 * step * (share_a * b.cubes - share_b * a.cubes),
        low=np.minimum(a.low, b.low),
        high=np.maximum(a.high, b.high),
    )


def describe(moments: LatentMoments) -> dict[str, Floats]:
    """Return mean, sd, skewness, kurtosis, min and max of the channels over images and positions, all (Z,) float64.

    They are population moments, as scipy.stats has them by default: sd divides by the count; skewness is m3 / m2^1.5; kurtosis is
    the excess over the normal's 3, m4 / m2^2 - 3. A constant channel has sd 0, and NaN for skewness and kurtosis.
    """
    constant = moments.low == moments.high
    variance = _channel_variance(moments)
    spread = np.where(constant, np.nan, variance)
    return {
        "mean": moments.mean,
        "sd": np.sqrt(variance),
        "skewness": moments.cubes / moments.count / spread**1.5,
        "kurtosis": moments.fourths / moments.count / spread**2 - 3,
        "min": moments.low,
        "max": moments.high,
    }


def active_units(moments: LatentMoments, scale: float | None = None, threshold: float = ACTIVE) -> ActiveUnits:
    """Return the active units: their posterior mean varies over images, variance (divided by n - 1) > threshold; n >= 2.

    Burda, Grosse & Salakhutdinov (2016) set 0.01 for a prior of variance 1. Stable Diffusion's latents are stored unscaled with an
    sd near 5, so every unit would pass 0.01. The latents are therefore first multiplied with `scale`, the model's scaling factor
    (0.18215 there), which brings them near variance 1. None: the factor that brings the whole set to variance 1, as Rombach et al.
    (2022) computed 0.18215: 1 / sd of all numbers about their common mean. `relative` needs no scale, but calls a channel of faint
    noise active. Raises DataError for n < 2.
    """
    if moments.n < 2:
        raise DataError(f"active units need at least 2 latents, not {moments.n}")
    if scale is None:
        total = float(_channel_variance(moments).mean() + moments.mean.var())
        scale = 1 / np.sqrt(total) if total > 0 else 1.0
    variance = moments.unit_squares / (moments.n - 1)
    channel_variance = _channel_variance(moments)[:, None, None]
    active = variance * scale**2 > threshold
    relative = (variance > threshold * channel_variance) & (channel_variance > 0)
    return ActiveUnits(
        units=active.size,
        active=int(active.sum()),
        share=float(active.mean()),
        relative=float(relative.mean()),
        channels=active.mean(axis=(1, 2)),
        scale=float(scale),
    )


def effective_rank(moments: LatentMoments) -> float:
    """Return exp of the entropy of the normalised eigenvalues of the channels' covariance (Roy & Vetterli 2007).

    It lies between 1 (all channels move as one) and Z (uncorrelated channels of equal variance); NaN if no channel varies.
    Channels of larger variance count for more; a common scale cancels.
    """
    if (moments.low == moments.high).all():
        return float("nan")
    values = np.maximum(np.linalg.eigvalsh(moments.comoment), 0)
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def _channel_variance(moments: LatentMoments) -> Floats:
    return np.where(moments.low == moments.high, 0.0, np.diagonal(moments.comoment) / moments.count)


def _moments_of_chunk(latents: NDArray[np.generic]) -> LatentMoments:
    values = latents.astype(np.float64)
    bad = ~np.isfinite(values).all(axis=(1, 2, 3))
    if bad.any():
        raise DataError(f"{int(bad.sum())} latents have numbers that are not finite")
    unit_mean = values.mean(axis=0)
    low, high = values.min(axis=(0, 2, 3)), values.max(axis=(0, 2, 3))
    mean = unit_mean.mean(axis=(1, 2))
    channels = (values - mean[:, None, None]).transpose(1, 0, 2, 3).reshape(len(mean), -1)
    squares = channels**2
    return LatentMoments(
        n=len(values),
        unit_mean=unit_mean,
        unit_squares=((values - unit_mean) ** 2).sum(axis=0),
        mean=mean,
        comoment=channels @ channels.T,
        cubes=(squares * channels).sum(axis=1),
        fourths=(squares**2).sum(axis=1),
        low=low,
        high=high,
    )
