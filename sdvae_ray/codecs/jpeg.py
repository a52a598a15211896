"""JPEG, 8 bits: the format of the gallery's previews, and the oldest rival.

Baseline, grey, Huffman tables fitted to the image. Pixels of 16 bits are rounded to 8 and back: that loss is the codec's. The bytes
are the whole file, some 180 of them header and tables.
"""

import numpy as np

from sdvae_ray.codecs import _planes
from sdvae_ray.contracts import Checkpoint

CHECKPOINTS = (
    Checkpoint(
        source=None,
        licence="IJG and BSD-3-Clause (libjpeg-turbo)",
        input="one stain, 8 bits; 16 are rounded to 8",
        output="a JPEG file",
    ),
)


class Jpeg:
    """quality 1 to 100."""

    def __init__(self, quality: int) -> None:
        self.quality = quality

    def encode(self, plane: np.ndarray) -> bytes:
        from imagecodecs import jpeg8_encode

        pixels = _planes.rescale(plane, _planes.depth(plane.dtype), 8)
        return bytes(jpeg8_encode(pixels, level=self.quality, optimize=True))

    def decode(self, data: bytes, dtype: np.dtype) -> np.ndarray:
        from imagecodecs import jpeg8_decode

        return _planes.rescale(jpeg8_decode(data), 8, _planes.depth(dtype))

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _planes.roundtrip(self, stains)


def load(*, quality: int = 90) -> Jpeg:
    """`quality` is 1 to 100, libjpeg's scale of its quantisation tables; ConfigError for another."""
    _planes.require("jpeg", "JPEG8")
    return Jpeg(_planes.whole("jpeg", "quality", quality, 1, 100))
