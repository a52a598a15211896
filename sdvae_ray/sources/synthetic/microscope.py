"""Turns a synthetic specimen into camera counts: blur and haze, uneven light, the plate's gains, photon and read noise.

Numbers imitate a 20x screen at 0.6 micrometres per pixel: a point-spread sigma of about 1 px, corners that get a fifth
less light than the centre, and hundreds of photons per pixel where there is a cell.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.float32]

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
FULL_SCALE = 65535.0
COUNTS_PER_PHOTON = 18.0  # camera counts; sets the shot noise (20,000 counts = 1,111 photons, 3 % noise)
PIXEL_MICROMETRES = 0.6  # width of a pixel
READ_NOISE = 45.0  # camera counts, sd
BRIGHTNESS = np.array([70e3, 78e3, 84e3, 82e3, 78e3], dtype=np.float32)  # counts of a value of 1, per stain


@dataclass(frozen=True)
class BatchEffect:
    """The effect of plate and microscope on all fields of a plate; gains multiply, offsets are camera counts."""

    gain: tuple[float, ...] = (1.0,) * 5
    offset: tuple[float, ...] = (900.0, 700.0, 500.0, 600.0, 500.0)
    vignette: tuple[float, ...] = (0.22,) * 5  # loss of light at the corners, share of the centre's
    centre: tuple[float, float] = (0.0, 0.0)  # of the light, in units of half the field, (y, x)
    blur: float = 0.95  # pixels, sigma of the point-spread function
    density: float = 1.0


def batch_effect(rng: np.random.Generator, spread: float = 1.0) -> BatchEffect:
    """Return the effect of a random plate. spread: 0: the default BatchEffect, the same for every plate; 1: gains vary by about 12
    %.
    """
    plain = BatchEffect()
    return BatchEffect(
        gain=tuple(float(g) for g in np.exp(spread * rng.normal(0, 0.12, 5))),
        offset=tuple(float(o) for o in np.array(plain.offset) * np.exp(spread * rng.normal(0, 0.2, 5))),
        vignette=tuple(float(v) for v in np.clip(0.22 + spread * rng.normal(0, 0.05, 5), 0.05, 0.4)),
        centre=(float(spread * rng.normal(0, 0.12)), float(spread * rng.normal(0, 0.12))),
        blur=float(plain.blur * np.exp(spread * rng.normal(0, 0.05))),
        density=float(np.exp(spread * rng.normal(0, 0.08))),
    )


def illumination(size: int, batch: BatchEffect) -> Array:
    """Return the share of the light that reaches each pixel and stain, (5, size, size), 1 at its brightest."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / (size / 2) - 1
    away = (axis[:, None] - batch.centre[0]) ** 2 + (axis[None] - batch.centre[1]) ** 2
    light = 1 - np.array(batch.vignette, np.float32)[:, None, None] * away / 2
    return np.asarray(light / light.max((1, 2), keepdims=True), np.float32)


def correction(size: int, batch: BatchEffect) -> Array:
    """Return the illumination function to divide by, (5, size, size): as CellProfiler scales it, 1 at its darkest."""
    light = illumination(size, batch)
    return np.asarray(light / light.min((1, 2), keepdims=True), np.float32)


def expose(rng: np.random.Generator, stack: Array, batch: BatchEffect) -> NDArray[np.uint16]:
    """Return the camera counts (5, s, s) uint16 of a specimen `stack` (5, s, s) in 0..1. The microscope adds blur and haze, uneven
    light, gains, photon and read noise."""
    sharp = ndimage.gaussian_filter(stack, (0, batch.blur, batch.blur), truncate=3)
    haze = ndimage.gaussian_filter(stack[:, ::4, ::4], (0, 2.5, 2.5), truncate=3).repeat(4, 1).repeat(4, 2)
    haze = ndimage.uniform_filter(haze, (0, 7, 7))[:, : stack.shape[1], : stack.shape[2]]
    gain = (BRIGHTNESS * np.array(batch.gain, np.float32))[:, None, None]
    light = (0.93 * sharp + 0.07 * haze) * gain + np.array(batch.offset, np.float32)[:, None, None]
    photons = light * illumination(stack.shape[-1], batch) / COUNTS_PER_PHOTON
    noisy = photons + np.sqrt(photons) * rng.standard_normal(photons.shape, dtype=np.float32)  # Poisson, many photons
    noisy = noisy * COUNTS_PER_PHOTON + READ_NOISE * rng.standard_normal(photons.shape, dtype=np.float32)
    return np.clip(np.rint(noisy), 0, FULL_SCALE).astype(np.uint16)
