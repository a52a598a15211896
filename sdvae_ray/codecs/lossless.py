"""Lossless JPEG XL, JPEG 2000, HTJ2K, JPEG-LS, PNG, Blosc2 or zstd, 8 or 16 bits: the bytes of a stain when nothing is lost.

JPEG 2000 and HTJ2K, its fast form, are raw codestreams (reversible 5/3). JPEG XL is a raw codestream at 8 bits; at 16 bits libjxl
must declare level 10, in a container of 49 bytes. PNG and JPEG-LS are whole files. zstd compresses the pixels as they lie in
memory, without prediction, as a general compressor does; Blosc2 does it after a shuffle of the bytes, as chunks of Zarr are stored.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from sdvae_ray.codecs._planes import PlaneCodec, choice, require, run, whole
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError

CHECKPOINTS = (
    Checkpoint(
        source=None,
        licence="BSD-3-Clause (libjxl, zstd, CharLS, Blosc2), BSD-2-Clause (OpenJPEG, OpenJPH), libpng-2.0",
        input="one stain, 8 or 16 bits",
        output="a file that holds it exactly",
    ),
)


@dataclass(frozen=True)
class Format:
    """A lossless format of imagecodecs.

    library    name of its library in imagecodecs
    functions  `<functions>_encode` and `<functions>_decode` are its functions
    efforts    lowest, default and highest effort; None if the format has no efforts
    effort     name of the encoder's argument for the effort
    encoding   further arguments of the encoder
    decoding   arguments of the decoder
    has_shape  False: the format stores bytes, and knows neither their width nor their dtype
    """

    library: str
    functions: str
    efforts: tuple[int, int, int] | None
    effort: str = "level"
    encoding: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    has_shape: bool = True


_ONE_THREAD = {"numthreads": 1}
FORMATS = {
    "jpegxl": Format(
        "JPEGXL", "jpegxl", (1, 7, 10), "effort", {"lossless": True, "usecontainer": False, **_ONE_THREAD}, _ONE_THREAD
    ),
    "jpeg2000": Format(  # its level 0 is the lossless one
        "JPEG2K", "jpeg2k", None, "level", {"codecformat": "j2k", "reversible": True, **_ONE_THREAD}, _ONE_THREAD
    ),
    "htj2k": Format("HTJ2K", "htj2k", None, "level", {"reversible": True}),
    "jpegls": Format("JPEGLS", "jpegls", None),  # its level 0 is the lossless one
    "png": Format("PNG", "png", (0, 6, 9)),
    "blosc2": Format(
        "BLOSC2", "blosc2", (1, 5, 9), "level", {"compressor": "zstd", **_ONE_THREAD}, _ONE_THREAD, has_shape=False
    ),
    "zstd": Format("ZSTD", "zstd", (1, 3, 22), has_shape=False),
}


def load(*, format: str = "jpegxl", effort: int | None = None) -> PlaneCodec:
    """Return the codec. format: jpegxl, jpeg2000, htj2k, jpegls, png, blosc2 or zstd.

    effort: on the scale of the format's library: JPEG XL 1 to 10 (default 7), PNG 0 to 9 (6), Blosc2 1 to 9 (5), zstd 1 to 22 (3);
    JPEG 2000, HTJ2K and JPEG-LS have none. Raises ConfigError for an option that is not allowed.
    """
    chosen = FORMATS[choice("lossless", "format", format, FORMATS)]
    require("lossless", chosen.library)
    level = 0
    if chosen.efforts is not None:
        low, default, high = chosen.efforts
        level = default if effort is None else whole("lossless", "effort", effort, low, high)
    elif effort is not None:
        raise ConfigError(f"lossless: {format} has no effort to choose (drop `effort`)")
    return PlaneCodec(partial(_encode, chosen, level), partial(_decode, chosen))


def _encode(format: Format, effort: int, plane: np.ndarray) -> bytes:
    pixels = plane if format.has_shape else plane.tobytes()
    options = {"typesize": plane.itemsize} if format.library == "BLOSC2" else {}
    return bytes(run(f"{format.functions}_encode", pixels, **{format.effort: effort}, **format.encoding, **options))


def _decode(format: Format, data: bytes, dtype: np.dtype) -> np.ndarray:
    pixels = run(f"{format.functions}_decode", data, **format.decoding)
    if format.has_shape:
        return pixels
    values = np.frombuffer(pixels, dtype)
    size = round(len(values) ** 0.5)  # of a field, which is square
    return values.reshape(size, size)
