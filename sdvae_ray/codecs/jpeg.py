"""JPEG, 8 bits: the format of the gallery's previews, and the oldest rival.

Baseline, grey, Huffman tables fitted to the image. Pixels of 16 bits are rounded to 8 and back: that loss is the codec's. The bytes
are the whole file, some 180 of them header and tables.
"""

from functools import partial

import numpy as np

from sdvae_ray.codecs._planes import PlaneCodec, depth, require, rescale, run, whole
from sdvae_ray.contracts import Checkpoint

CHECKPOINTS = (
    Checkpoint(None, "IJG and BSD-3-Clause (libjpeg-turbo)", "one stain, 8 bits; 16 are rounded to 8", "a JPEG file"),
)


def load(*, quality: int = 90) -> PlaneCodec:
    """Return the codec. quality: 1 to 100, libjpeg's scale of its quantisation tables. Raises ConfigError for any other value."""
    require("jpeg", "JPEG8")
    return PlaneCodec(partial(_encode, whole("jpeg", "quality", quality, 1, 100)), _decode)


def _encode(quality: int, plane: np.ndarray) -> bytes:
    return bytes(run("jpeg8_encode", rescale(plane, depth(plane.dtype), 8), level=quality, optimize=True))


def _decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    return rescale(run("jpeg8_decode", data), 8, depth(dtype))
