"""Lossless JPEG XL, JPEG 2000, PNG or zstd, 8 or 16 bits: how many bytes a patch takes when nothing is lost.

JPEG 2000 is a raw codestream (reversible 5/3); JPEG XL too at 8 bits, while for 16 libjxl must declare level 10, in a container of
49 bytes. PNG is the whole file. zstd is of the pixels as they lie in memory, without prediction: what a general compressor does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sdvae_ray.codecs import _planes
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError

CHECKPOINTS = (
    Checkpoint(
        source=None,
        licence="BSD-3-Clause (libjxl, zstd), BSD-2-Clause (OpenJPEG), libpng-2.0",
        input="one stain, 8 or 16 bits",
        output="a file that holds it exactly",
    ),
)


@dataclass(frozen=True)
class Format:
    """library  its name in imagecodecs
    efforts  lowest, default and highest; None where there is no choice
    encode   (plane, effort) -> bytes
    decode   (bytes, dtype) -> pixels, flat or (S, S)
    """

    library: str
    efforts: tuple[int, int, int] | None
    encode: Callable[[np.ndarray, int], bytes]
    decode: Callable[[bytes, np.dtype], np.ndarray]


def _jpegxl_encode(plane: np.ndarray, effort: int) -> bytes:
    from imagecodecs import jpegxl_encode

    return bytes(jpegxl_encode(plane, effort=effort, lossless=True, usecontainer=False, numthreads=1))


def _jpegxl_decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    from imagecodecs import jpegxl_decode

    return jpegxl_decode(data, numthreads=1)


def _jpeg2000_encode(plane: np.ndarray, effort: int) -> bytes:
    from imagecodecs import jpeg2k_encode

    return bytes(jpeg2k_encode(plane, level=0, codecformat="j2k", reversible=True, numthreads=1))


def _jpeg2000_decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    from imagecodecs import jpeg2k_decode

    return jpeg2k_decode(data, numthreads=1)


def _png_encode(plane: np.ndarray, effort: int) -> bytes:
    from imagecodecs import png_encode

    return bytes(png_encode(plane, level=effort))


def _png_decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    from imagecodecs import png_decode

    return png_decode(data)


def _zstd_encode(plane: np.ndarray, effort: int) -> bytes:
    from imagecodecs import zstd_encode

    return bytes(zstd_encode(plane.tobytes(), level=effort))


def _zstd_decode(data: bytes, dtype: np.dtype) -> np.ndarray:
    from imagecodecs import zstd_decode

    pixels = np.frombuffer(zstd_decode(data), dtype)
    side = round(len(pixels) ** 0.5)  # zstd keeps no shape; a patch is square
    return pixels.reshape(side, side)


FORMATS = {
    "jpegxl": Format("JPEGXL", (1, 7, 10), _jpegxl_encode, _jpegxl_decode),
    "jpeg2000": Format("JPEG2K", None, _jpeg2000_encode, _jpeg2000_decode),
    "png": Format("PNG", (0, 6, 9), _png_encode, _png_decode),
    "zstd": Format("ZSTD", (1, 3, 22), _zstd_encode, _zstd_decode),
}


class Lossless:
    def __init__(self, format: str, effort: int) -> None:
        self.format, self.effort = format, effort

    def encode(self, plane: np.ndarray) -> bytes:
        return FORMATS[self.format].encode(plane, self.effort)

    def decode(self, data: bytes, dtype: np.dtype) -> np.ndarray:
        return FORMATS[self.format].decode(data, dtype)

    def roundtrip(self, stains: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _planes.roundtrip(self, stains)


def load(*, format: str = "jpegxl", effort: int | None = None) -> Lossless:
    """`format` jpegxl, jpeg2000, png or zstd.

    `effort` in its library's own scale: JPEG XL 1 to 10 (default 7), PNG 0 to 9 (6), zstd 1 to 22 (3); JPEG 2000 has none.
    """
    chosen = FORMATS[_planes.choice("lossless", "format", format, FORMATS)]
    _planes.require("lossless", chosen.library)
    if chosen.efforts is None:
        if effort is not None:
            raise ConfigError(f"lossless: {format} has no effort to choose (drop `effort`)")
        return Lossless(format, 0)
    low, default, high = chosen.efforts
    return Lossless(format, default if effort is None else _planes.whole("lossless", "effort", effort, low, high))
