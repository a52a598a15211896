"""JPEG XL at a given Butteraugli distance, 8 or 16 bits: the strongest of the classical rivals.

VarDCT in a raw codestream. Values of 8 and of 16 bits are both taken as sRGB, as `cjxl` takes a PNG without a profile, so that a
distance means one thing. imagecodecs takes 16-bit integers for linear light; values of 16 bits are therefore linearised here
(IEC 61966-2-1), given as float32, and brought back.
"""

import numpy as np

from sdvae_ray.codecs import _planes
from sdvae_ray.contracts import Checkpoint

CHECKPOINTS = (
    Checkpoint(
        source=None, licence="BSD-3-Clause (libjxl)", input="one stain, 8 or 16 bits", output="a JPEG XL codestream"
    ),
)


class JpegXL:
    """distance over 0, up to 25 (Butteraugli); effort 1 to 10."""

    def __init__(self, distance: float, effort: int) -> None:
        self.distance, self.effort = distance, effort

    def encode(self, plane: np.ndarray) -> bytes:
        from imagecodecs import jpegxl_encode

        pixels = plane if plane.dtype == np.uint8 else linear(plane.astype(np.float32) / 65535)
        return bytes(
            jpegxl_encode(
                pixels, distance=self.distance, effort=self.effort, lossless=False, usecontainer=False, numthreads=1
            )
        )

    def decode(self, data: bytes, dtype: np.dtype) -> np.ndarray:
        from imagecodecs import jpegxl_decode

        pixels = jpegxl_decode(data, numthreads=1)
        if dtype == np.uint8:
            return pixels
        return np.rint(srgb(pixels) * 65535).astype(np.uint16)

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _planes.roundtrip(self, stains)


def linear(values: np.ndarray) -> np.ndarray:
    """sRGB values in [0, 1] -> linear light in [0, 1], float32 (IEC 61966-2-1)."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def srgb(light: np.ndarray) -> np.ndarray:
    """The inverse of `linear`, float64; values of a decoder outside of [0, 1] are clipped."""
    light = light.astype(np.float64).clip(0, 1)
    return np.where(light <= 0.04045 / 12.92, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).clip(0, 1)


def load(*, distance: float = 1.0, effort: int = 7) -> JpegXL:
    """`distance` is over 0, up to 25 (1 is called visually lossless); `effort` is 1 to 10, a higher one slower with smaller files.

    Raises ConfigError for an option that is not allowed.
    """
    _planes.require("jpegxl", "JPEGXL")
    return JpegXL(
        _planes.number("jpegxl", "distance", distance, 0, 25), _planes.whole("jpegxl", "effort", effort, 1, 10)
    )
