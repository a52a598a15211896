"""JPEG XL at a given Butteraugli distance, 8 or 16 bits: the strongest of the classical rivals.

VarDCT in a raw codestream. Values of 8 and of 16 bits are both taken as sRGB, as `cjxl` takes a PNG without a profile, so that a
distance means one thing. imagecodecs takes 16-bit integers for linear light; values of 16 bits are therefore linearised here
(IEC 61966-2-1), given as float32, and brought back.
"""

from functools import partial

import numpy as np

from sdvae_ray.codecs._planes import PlaneCodec, number, require, run, whole
from sdvae_ray.contracts import Checkpoint

CHECKPOINTS = (Checkpoint(None, "BSD-3-Clause (libjxl)", "one stain, 8 or 16 bits", "a JPEG XL codestream"),)


def linear(values: np.ndarray) -> np.ndarray:
    """Return the linear light in [0, 1], float32, of sRGB values in [0, 1] (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb(light: np.ndarray) -> np.ndarray:
    """Return the sRGB values in [0, 1], float64, of linear light: the inverse of `linear`. Light outside of [0, 1] is clipped."""
    light = light.astype(np.float64).clip(0, 1)
    return np.where(light <= 0.04045 / 12.92, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).clip(0, 1)


def load(*, distance: float = 1.0, effort: int = 7) -> PlaneCodec:
    """Return the codec. distance: over 0, up to 25 (1 is called visually lossless). effort: 1 to 10, higher is slower and smaller.

    Raises ConfigError for an option that is not allowed.
    """
    require("jpegxl", "JPEGXL")
    checked = number("jpegxl", "distance", distance, 0, 25), whole("jpegxl", "effort", effort, 1, 10)
    return PlaneCodec(partial(_encode, *checked), _decode)


def _encode(distance: float, effort: int, plane: np.ndarray) -> bytes:
    pixels = plane if plane.dtype == np.uint8 else linear(plane.astype(np.float32) / 65535)
    fixed = {"lossless": False, "usecontainer": False, "numthreads": 1}
    return bytes(run("jpegxl_encode", pixels, distance=distance, effort=effort, **fixed))


def _decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    pixels = run("jpegxl_decode", data, numthreads=1)
    return pixels if dtype == np.uint8 else np.rint(srgb(pixels) * 65535).astype(np.uint16)
