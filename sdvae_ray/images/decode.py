"""Bytes -> arrays: microscope TIFFs (tifffile), photographs (Pillow) and CellProfiler's illumination functions (.npy)."""

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError


class DecodeError(ValueError):
    """The bytes are not an image that can be used: truncated, corrupt, or of another kind."""


# what tifffile and imagecodecs raise on damaged data
_DAMAGE = (tifffile.TiffFileError, struct.error, ValueError, TypeError, IndexError, KeyError, EOFError, RuntimeError)

# no others: on some, Pillow would run programs such as Ghostscript
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
# what Pillow raises on damaged data
_PHOTOGRAPH_DAMAGE = (
    OSError,
    SyntaxError,  # a PNG whose chunks do not fit
    OverflowError,
    zlib.error,
    Image.DecompressionBombError,
    *_DAMAGE,
)


def decode_plane(data: bytes, channel: int, where: str) -> np.ndarray:
    """One plane of a TIFF, (height, width), in the file's own dtype; `channel` counts its pages or leading axis.

    Raises DecodeError, naming `where`, for anything that cannot be decoded whole.
    """
    return decode_planes(data, [channel], where)[0]


def decode_planes(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """`decode_plane` of several channels, for which the file is decoded once."""
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            series = tiff.series[0]
            colour = "S" in series.axes
            planes = 1
            found: dict[int, np.ndarray] = {}
            if series.ndim == 2:
                if 0 in channels:
                    found[0] = series.asarray(maxworkers=1)
            else:
                image = series.asarray(maxworkers=1)
                image = image.reshape(-1, *image.shape[-2:])
                planes = len(image)
                found = {channel: image[channel] for channel in channels if channel < planes}
    except _DAMAGE as error:
        raise _damaged(data, where, error) from error
    if colour:
        raise DecodeError(
            f"{where} is a colour image ({' x '.join(map(str, series.shape))}); one plane per stain is wanted"
        )
    return [_checked(found, channel, planes, where) for channel in channels]


def _checked(found: dict[int, np.ndarray], channel: int, planes: int, where: str) -> np.ndarray:
    if channel not in found:
        raise DecodeError(f"{where} has {planes} planes, plane {channel} is wanted")
    plane = found[channel]
    if plane.dtype.kind not in "uf":
        raise DecodeError(f"{where} holds {plane.dtype} pixels; unsigned integers or floats are wanted")
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise DecodeError(f"{where} holds pixels that are not finite")
    return np.asarray(plane)


def decode_colours(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """Red (0), green (1) or blue (2) of a photograph, each (height, width) uint8, as `PIL.Image.open(...).convert("RGB")` has them.

    Grey gives three equal planes; alpha is dropped, not blended; palettes and CMYK are converted. The EXIF orientation and
    the colour profile are not applied, as Pillow's and torchvision's readers do not unless asked. Raises DecodeError, naming
    `where`, for what cannot be decoded whole, for more than 8 bits and for several frames (of a camera's multi-picture JPEG
    the first counts).
    """
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            refusal = _refusal(image)
            pixels = None if refusal else np.asarray(image.convert("RGB"))
    except UnidentifiedImageError as error:  # its own words hold a memory address
        raise DecodeError(
            f"not a photograph, or truncated: {where} ({len(data)} bytes); JPEG, PNG, WebP, BMP or TIFF is wanted"
        ) from error
    except _PHOTOGRAPH_DAMAGE as error:
        raise _damaged(data, where, error) from error
    if pixels is None:
        raise DecodeError(f"{where} {refusal}")
    if absent := [channel for channel in channels if channel not in range(3)]:
        raise DecodeError(f"{where} has 3 colours, channel {absent[0]} is wanted; 0, 1 and 2 are red, green and blue")
    return [np.ascontiguousarray(pixels[..., channel]) for channel in channels]


def _refusal(image: Image.Image) -> str | None:
    """What is wrong with a photograph, before its pixels are decoded."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        return f"has {frames} frames; one photograph is wanted"
    # Pillow would keep the high byte of 16-bit colours without a word, and clip 16-bit grey to 255
    deep = image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if deep or image.mode in ("I", "F") or image.mode.startswith("I;"):
        return "holds more than 8 bits per colour; photographs of 8 bits are wanted"
    return None


def decode_illumination(data: bytes, where: str) -> np.ndarray:
    """An illumination function, (height, width) float64; zeros are replaced by 1e-6, as published. Read-only."""
    try:
        function = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise _damaged(data, where, error) from error
    if function.ndim != 2 or not np.isfinite(function).all() or (function < 0).any():
        raise DecodeError(
            f"{where} is not an illumination function: {function.ndim} axes, finite values >= 0 are wanted"
        )
    function = function.astype(np.float64)
    function[function == 0] = 1e-6
    function.flags.writeable = False
    return function


def _damaged(data: bytes, where: str, error: Exception) -> DecodeError:
    return DecodeError(f"truncated or corrupt: {where} ({len(data)} bytes): {_one_line(error)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
