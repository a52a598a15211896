"""A field of view in a PNG: one grey plane of 8 or 16 bits."""

import struct

import imagecodecs
import numpy as np

from sdvae_ray.images.guard import DecodeError, check_claim

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {2: "red, green and blue", 3: "a palette", 4: "grey and alpha", 6: "colours and alpha"}


def read_png(data: bytes, where: str) -> np.ndarray:
    """Return the plane of a PNG, (height, width) uint8 or uint16.

    Raises DecodeError, naming `where`, for colours, alpha, an animation, and fewer than 8 bits; ValueError for a damaged file.
    """
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    check_claim(width * height, width * height * 2, data)
    if colour in _COLOUR_TYPES:
        raise DecodeError(f"{where} is a PNG of {_COLOUR_TYPES[colour]}; one grey plane per stain is wanted")
    if b"acTL" in data[8:4096]:
        raise DecodeError(f"{where} is an animated PNG; one grey plane per stain is wanted")
    if bits not in (8, 16):
        raise DecodeError(f"{where} is a PNG of {bits} bits; 8 or 16 are wanted")
    plane = imagecodecs.png_decode(data)
    if plane.shape != (height, width):
        raise DecodeError(f"{where} is a PNG with transparent pixels; one grey plane per stain is wanted")
    return plane
