"""AVIF, a monochrome AV1 still of 8, 10 or 12 bits: the video codecs' rival.

AV1 has no 16 bits: pixels of 16 bits are rounded to the codec's depth and back, and that loss is the codec's. The bytes are the
whole file; some 280 of them are boxes, most of the file for a dark patch.
"""

from functools import partial
from typing import Any

import numpy as np

from sdvae_ray.codecs._planes import PlaneCodec, depth, require, rescale, run, whole
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError

CHECKPOINTS = (
    Checkpoint(
        None, "BSD-2-Clause (libavif, libaom)", "one stain, 8, 10 or 12 bits; 16 bits are rounded to 12", "an AVIF file"
    ),
)
BITS = (8, 10, 12)
LOSSLESS = 100


def load(*, quality: int = 80, speed: int = 6, bits: int | None = None) -> PlaneCodec:
    """Return the codec. quality: 1 to 100, libavif's scale, 100 is lossless at the codec's depth. speed: 0 (slow, small files) to
    10. bits: 8, 10 or 12; None: 8 for 8-bit and 12 for 16-bit images. Raises ConfigError for an option that is not allowed."""
    require("avif", "AVIF")
    if bits is not None and (isinstance(bits, bool) or bits not in BITS):
        raise ConfigError(f"avif: bits is {bits!r} (allowed: 8, 10, 12)")
    checked = whole("avif", "quality", quality, 1, LOSSLESS), whole("avif", "speed", speed, 0, 10)
    return PlaneCodec(partial(_encode, *checked, bits), partial(_decode, bits))


def _encode(quality: int, speed: int, bits: int | None, plane: np.ndarray) -> bytes:
    stored = _stored_bits(bits, plane.dtype)
    pixels = rescale(plane, depth(plane.dtype), stored)
    # without the codec's name, the choice of a codec depends on how the wheel was built
    options: dict[str, Any] = {"speed": speed, "bitspersample": stored, "codec": "aom", "numthreads": 1}
    if quality < LOSSLESS:
        # imagecodecs codes a grey array without loss at any level; for grey as RGB, stored as luma alone, the level counts
        pixels, options["pixelformat"] = np.repeat(pixels[..., None], 3, axis=2), "yuv400"
    return bytes(run("avif_encode", pixels, level=quality, **options))


def _decode(bits: int | None, data: bytes, dtype: np.dtype) -> np.ndarray:
    return rescale(run("avif_decode", data, numthreads=1), _stored_bits(bits, dtype), depth(dtype))


def _stored_bits(bits: int | None, dtype: np.dtype) -> int:
    return bits or min(depth(dtype), BITS[-1])
