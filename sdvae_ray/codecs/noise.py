"""Gaussian noise of a known strength: a degradation for a ladder of sides, which writes no file and has no rate.

The noise of a plane is a function of the plane's pixels and of `seed` alone: it is the same in any batch, on any worker and in any
order, and equal planes get equal noise.
"""

import hashlib
from functools import partial

import numpy as np

from sdvae_ray.codecs._degradation import Degradation
from sdvae_ray.codecs._planes import depth, number, whole
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.randomness import generator

WRITES_FILES = False
CHECKPOINTS = (Checkpoint(None, "none needed", "one stain, 8 or 16 bits", "no file: the stain with noise"),)


def load(*, sd: float = 0.01, seed: int = 0) -> Degradation:
    """Return the degradation. sd: standard deviation as a fraction of full scale, over 0, up to 1. seed: 0 or more. Raises
    ConfigError for any other value."""
    return Degradation(partial(_noisy, number("noise", "sd", sd, 0, 1), whole("noise", "seed", seed, 0, 2**63 - 1)))


def _noisy(sd: float, seed: int, values: np.ndarray, plane: np.ndarray) -> np.ndarray:
    pixels = hashlib.sha256(np.ascontiguousarray(plane).tobytes()).hexdigest()
    noise = generator(seed, "noise", str(plane.shape), pixels).standard_normal(plane.shape)
    return values + sd * (2 ** depth(plane.dtype) - 1) * noise
