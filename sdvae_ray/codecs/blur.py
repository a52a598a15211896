"""Gaussian blur of a known width: a degradation for a ladder of sides, which writes no file and has no rate."""

from functools import partial

import numpy as np

from sdvae_ray.codecs._degradation import Degradation
from sdvae_ray.codecs._planes import number
from sdvae_ray.contracts import Checkpoint

WRITES_FILES = False
CHECKPOINTS = (Checkpoint(None, "none needed", "one stain, 8 or 16 bits", "no file: the stain, blurred"),)


def load(*, sigma: float = 1.0) -> Degradation:
    """Return the degradation. sigma: standard deviation of the Gaussian in pixels, over 0, up to 100; the plane is mirrored at its
    edges. Raises ConfigError for any other value."""
    return Degradation(partial(_blurred, number("blur", "sigma", sigma, 0, 100)))


def _blurred(sigma: float, values: np.ndarray, plane: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, sigma, mode="reflect")
