"""Shared by the degradations: planes that are changed by a known strength and written nowhere, so that they have no bytes."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdvae_ray.codecs._planes import depth


@dataclass(frozen=True)
class Degradation:
    """A change of every plane by itself. change: (S, S) float64 in levels of the plane's integers, and the plane -> (S, S) float64;
    the result is rounded and clipped to the plane's integers."""

    change: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (changed planes, sizes of 0 bytes as (N, C) int64) of stains (N, C, S, S), uint8 or uint16; changed planes alike.

        Raises TypeError for another dtype, ValueError for another shape.
        """
        top = 2 ** depth(stains.dtype) - 1
        if stains.ndim != 4:
            raise ValueError(f"a codec takes (N, C, S, S), not {stains.shape}")
        changed = np.empty_like(stains)
        for index in np.ndindex(*stains.shape[:2]):
            plane = stains[index]
            changed[index] = np.rint(self.change(plane.astype(np.float64), plane)).clip(0, top).astype(stains.dtype)
        return changed, np.zeros(stains.shape[:2], np.int64)
