"""Decodes bytes to arrays: fields of view (TIFF, PNG), photographs (Pillow) and CellProfiler's illumination functions (.npy)."""

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sdvae_ray.images.guard import DecodeError, check_claim, decoding
from sdvae_ray.images.png import SIGNATURE, read_png
from sdvae_ray.images.tiff_pages import check_number, read_pages

# no other format: for some of them Pillow would run programs such as Ghostscript
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


def decode_planes(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """Return planes of a TIFF or of a grey PNG, each (height, width), in the file's own dtype; `channels` count its planes from 0.

    Signed integers without a negative value come back unsigned, of the same width. Raises DecodeError, naming `where`, for a file
    or a plane that cannot be decoded whole, or that does not hold intensities: colours, MinIsWhite, negative integers, numbers
    that are not finite.
    """
    with decoding(data, where):
        if data.startswith(SIGNATURE):
            check_number(channels, 1, where)
            planes = [read_png(data, where)] * len(channels)
        else:
            planes = read_pages(data, channels, where)
        return [_intensities(plane, where) for plane in planes]


def _intensities(plane: np.ndarray, where: str) -> np.ndarray:
    kind = plane.dtype.kind
    if kind not in "uif":
        raise DecodeError(f"{where} holds {plane.dtype} pixels; integers or floats are wanted")
    if kind == "f" and not np.isfinite(plane).all():
        raise DecodeError(f"{where} holds pixels that are not finite")
    if kind == "i":
        if (least := plane.min()) < 0:
            raise DecodeError(f"{where} holds {plane.dtype.name} pixels, the least is {least}; none may be negative")
        return plane.view(plane.dtype.str.replace("i", "u"))
    return plane


def decode_colours(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """Return red (0), green (1) or blue (2) of a photograph, each (height, width) uint8, as Pillow's convert("RGB") gives them.

    Grey gives three equal planes; alpha is dropped, not blended; palettes and CMYK are converted. The EXIF orientation and the
    colour profile are not applied, as Pillow's and torchvision's readers do not apply them unless asked. Raises DecodeError,
    naming `where`, for a file that cannot be decoded whole, that holds more than 8 bits, or that holds several frames (of a
    camera's multi-picture JPEG the first frame counts).
    """
    with decoding(data, where), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        check_claim(math.prod(image.size), 4 * math.prod(image.size), data)
        refusal = _refusal(image)
        pixels = None if refusal else np.asarray(image.convert("RGB"))
    if pixels is None:
        raise DecodeError(f"{where} {refusal}")
    if absent := [channel for channel in channels if channel not in range(3)]:
        raise DecodeError(f"{where} has 3 colours, channel {absent[0]} is wanted; 0, 1 and 2 are red, green and blue")
    return [np.ascontiguousarray(pixels[..., channel]) for channel in channels]


def _refusal(image: Image.Image) -> str | None:
    """Return why a photograph cannot be used, before its pixels are decoded; None if it can."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        return f"has {frames} frames; one photograph is wanted"
    # Pillow would keep the high byte of 16-bit colours without a word, and clip 16-bit grey to 255
    deep = image.format in ("PNG", "TIFF") and any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    if deep or image.mode in ("I", "F") or image.mode.startswith("I;"):
        return "holds more than 8 bits per colour; photographs of 8 bits are wanted"
    return None


def decode_illumination(data: bytes, where: str) -> np.ndarray:
    """Return an illumination function, (height, width) float64, read-only; zeros are replaced by 1e-6, as published.

    Raises DecodeError, naming `where`, for a file that does not hold such a function.
    """
    with decoding(data, where):
        function = _npy(data)
    if function.ndim != 2 or not np.isfinite(function).all() or (function < 0).any():
        raise DecodeError(
            f"{where} is not an illumination function: {function.ndim} axes, finite values >= 0 are wanted"
        )
    function = function.astype(np.float64)
    function[function == 0] = 1e-6
    function.flags.writeable = False
    return function


def _npy(data: bytes) -> np.ndarray:
    """Return the real numbers of a .npy file, as a view of its bytes. Raises ValueError for another file or a truncated one."""
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in _NPY_HEADERS:
        raise ValueError(f"version {version} of .npy; 1.0 or 2.0 is wanted")
    shape, is_fortran, dtype = _header(file, version)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}; real numbers are wanted")
    start, count = file.tell(), math.prod(shape)
    if min(shape, default=1) < 1 or start + count * dtype.itemsize > len(data):
        raise ValueError(f"its header claims {count} numbers of {dtype}, and {len(data) - start} bytes follow")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")


def _header(file: io.BytesIO, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return (shape, whether the order is Fortran's, dtype) of a .npy file from behind its version.

    NumPy parses the header as a literal, for which Python 3.11 counts one depth for all threads: a good one may
    be a SystemError.
    """
    start = file.tell()
    for _ in range(_TRIES - 1):
        try:
            return _NPY_HEADERS[version](file)
        except SystemError:
            file.seek(start)
    return _NPY_HEADERS[version](file)


_TRIES = 5
_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
