"""AVIF, a monochrome AV1 still of 8, 10 or 12 bits: the video codecs' rival.

AV1 has no 16 bits: pixels of 16 bits are rounded to the codec's depth and back, and that loss is the codec's. The bytes are the
whole file; some 280 of them are boxes, most of the file for a dark patch.
"""

from typing import Any

import numpy as np

from sdvae_ray.codecs import _planes
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError

CHECKPOINTS = (
    Checkpoint(
        source=None,
        licence="BSD-2-Clause (libavif, libaom)",
        input="one stain, 8, 10 or 12 bits; 16 bits are rounded to 12",
        output="an AVIF file",
    ),
)
BITS = (8, 10, 12)
LOSSLESS = 100


class Avif:
    """quality 1 to 100, speed 0 to 10, bits 8, 10 or 12, or None: as many as the image has, 12 at most."""

    def __init__(self, quality: int, speed: int, bits: int | None) -> None:
        self.quality, self.speed, self.bits = quality, speed, bits

    def encode(self, plane: np.ndarray) -> bytes:
        from imagecodecs import avif_encode

        bits = self._bits(plane.dtype)
        pixels: Any = _planes.rescale(plane, _planes.depth(plane.dtype), bits)
        options: dict[str, Any] = {}
        if self.quality < LOSSLESS:
            # imagecodecs codes a grey array without loss at any level; for grey as RGB, stored as luma alone, the level counts
            pixels, options = np.repeat(pixels[..., None], 3, axis=2), {"pixelformat": "yuv400"}
        return bytes(
            avif_encode(
                pixels,
                level=self.quality,
                speed=self.speed,
                bitspersample=bits,
                codec="aom",  # without a name, the choice depends on how the wheel was built
                numthreads=1,
                **options,
            )
        )

    def decode(self, data: bytes, dtype: np.dtype) -> np.ndarray:
        from imagecodecs import avif_decode

        return _planes.rescale(avif_decode(data, numthreads=1), self._bits(dtype), _planes.depth(dtype))

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _planes.roundtrip(self, stains)

    def _bits(self, dtype: np.dtype) -> int:
        return self.bits or min(_planes.depth(dtype), BITS[-1])


def load(*, quality: int = 80, speed: int = 6, bits: int | None = None) -> Avif:
    """`quality` is 1 to 100, libavif's scale, 100 being lossless at the codec's depth; `speed` is 0 (slow, small files) to 10.

    `bits` is 8, 10 or 12; None: 8 for 8-bit and 12 for 16-bit images. Raises ConfigError for an option that is not allowed.
    """
    _planes.require("avif", "AVIF")
    if bits is not None and (isinstance(bits, bool) or bits not in BITS):
        raise ConfigError(f"avif: bits is {bits!r} (allowed: 8, 10, 12)")
    return Avif(
        _planes.whole("avif", "quality", quality, 1, LOSSLESS), _planes.whole("avif", "speed", speed, 0, 10), bits
    )
