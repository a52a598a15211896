"""Decodes bytes to arrays: microscope TIFFs, photographs (Pillow) and CellProfiler's illumination functions (.npy).

tifffile reads the header of a TIFF and says what its planes are. Grey planes packed by LZW are unpacked by libtiff (through
imagecodecs), which takes less than half the processor time; tifffile unpacks all other files, and what libtiff refuses.
"""

import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from sdvae_ray.errors import one_line


class DecodeError(ValueError):
    """The bytes are not a usable image: truncated, corrupt, or of another kind."""


# of what a header says, before memory is asked for. A camera has 2^24 pixels, a slide scanner 2^30; an empty plane packs so that a
# small file may be large in memory, and real noise packs to a half
_MOST_PIXELS = 2**30  # of one plane or tile, such as 32,768 x 32,768
_MOST_BYTES = 2**31  # of all planes of a file
_MOST_BYTES_OF_SMALL, _MOST_RATIO = 2**28, 4096  # of a file of n bytes: the larger of the first, and the second times n

# no other format: for some of them Pillow would run programs such as Ghostscript
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")


@contextmanager
def _decoding(data: bytes, where: str) -> Iterator[None]:
    """A block that decodes bytes. Whatever a library raises in it is damage: damaged bytes lead to errors of every class."""
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError as error:  # its message holds a memory address
        raise DecodeError(
            f"not a photograph, or truncated: {where} ({len(data)} bytes); JPEG, PNG, WebP, BMP or TIFF is wanted"
        ) from error
    except Exception as error:
        raise DecodeError(f"truncated or corrupt: {where} ({len(data)} bytes): {one_line(error)}") from error


def _check_claim(pixels: int, size: int, data: bytes) -> None:
    """Raise ValueError if a header claims what no image of these bytes holds. pixels: of a plane or tile. size: bytes in memory."""
    most = min(_MOST_BYTES, max(_MOST_BYTES_OF_SMALL, _MOST_RATIO * len(data)))
    if not 0 < pixels <= _MOST_PIXELS or not 0 < size <= most:
        raise ValueError(f"its header claims a plane of {pixels} pixels, and {size} bytes in memory")


def decode_planes(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """Return planes of a TIFF, each (height, width), in the file's own dtype; `channels` count its pages or its leading axis.

    The file is decoded once. Raises DecodeError, naming `where`, for a file or a plane that cannot be decoded whole.
    """
    with _decoding(data, where), tifffile.TiffFile(io.BytesIO(data)) as tiff:
        series = tiff.series[0]
        colour = "S" in series.axes
        page = series.keyframe
        _check_claim(page.imagelength * page.imagewidth, series.size * series.dtype.itemsize, data)
        if page.is_tiled:
            _check_claim(page.tilelength * page.tilewidth, page.tilelength * page.tilewidth * page.dtype.itemsize, data)
        image = _stored(tiff, series, data)
        if image is None:
            image = _unpacked(tiff, series, data)
        if image is None:
            image = series.asarray(maxworkers=1)
        planes = image.reshape(-1, *image.shape[-2:])
    if colour:
        shape = " x ".join(map(str, series.shape))
        raise DecodeError(f"{where} is a colour image ({shape}); one plane per stain is wanted")
    return [_checked(planes, channel, where) for channel in channels]


def _stored(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, data: bytes) -> np.ndarray | None:
    """Return the pixels of a series that lie uncompressed in one piece, as a view of the file's bytes; None for another series."""
    start = series.dataoffset
    if start is None or series.transform is not None or start + series.nbytes > len(data):
        return None
    dtype = np.dtype(tiff.byteorder + series.dtype.char)
    pixels = np.frombuffer(data, dtype, series.size, start).reshape(series.shape)
    return pixels if pixels.flags.aligned else None


def _unpacked(tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries, data: bytes) -> np.ndarray | None:
    """Return the pixels of a series that libtiff unpacks to the pixels of tifffile; None for another series, or a damaged one.

    Such a series is the whole file: pages of one grey plane of unsigned integers, packed by LZW. Deflate is left to tifffile:
    libtiff stops where a strip is full and does not see a wrong checksum.
    """
    page = series.keyframe
    if (
        len(tiff.pages) != len(series)
        or series.transform is not None
        or page.compression != tifffile.COMPRESSION.LZW
        or page.predictor not in (tifffile.PREDICTOR.NONE, tifffile.PREDICTOR.HORIZONTAL)
        or page.fillorder != 1
        or page.photometric != tifffile.PHOTOMETRIC.MINISBLACK
        or page.shape != (page.imagelength, page.imagewidth)
        or page.dtype not in (np.uint8, np.uint16)
        or page.bitspersample != 8 * page.dtype.itemsize
    ):
        return None
    for place, part in enumerate(series):  # tifffile fills what a file leaves out
        if part is None or part.index != place or 0 in part.dataoffsets or 0 in part.databytecounts:
            return None
    try:
        pixels = imagecodecs.tiff_decode(data, index=None)
    except Exception:  # noqa: BLE001 - tifffile says what is wrong, or reads it
        return None
    fits = pixels.dtype == series.dtype and pixels.size == series.size and pixels.shape[-2:] == page.shape
    return pixels.reshape(series.shape) if fits else None


def _checked(planes: np.ndarray, channel: int, where: str) -> np.ndarray:
    if channel >= len(planes):
        raise DecodeError(f"{where} has {len(planes)} planes, plane {channel} is wanted")
    plane = planes[channel]
    if plane.dtype.kind not in "uf":
        raise DecodeError(f"{where} holds {plane.dtype} pixels; unsigned integers or floats are wanted")
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise DecodeError(f"{where} holds pixels that are not finite")
    return plane


def decode_colours(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """Return red (0), green (1) or blue (2) of a photograph, each (height, width) uint8, as Pillow's convert("RGB") gives them.

    Grey gives three equal planes; alpha is dropped, not blended; palettes and CMYK are converted. The EXIF orientation and the
    colour profile are not applied, as Pillow's and torchvision's readers do not apply them unless asked. Raises DecodeError,
    naming `where`, for a file that cannot be decoded whole, that holds more than 8 bits, or that holds several frames (of a
    camera's multi-picture JPEG the first frame counts).
    """
    with _decoding(data, where), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        _check_claim(math.prod(image.size), 4 * math.prod(image.size), data)
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
    with _decoding(data, where):
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
    shape, is_fortran, dtype = _NPY_HEADERS[version](file)
    if dtype.kind not in "biuf":
        raise ValueError(f"it holds {dtype}; real numbers are wanted")
    start, count = file.tell(), math.prod(shape)
    if min(shape, default=1) < 1 or start + count * dtype.itemsize > len(data):
        raise ValueError(f"its header claims {count} numbers of {dtype}, and {len(data) - start} bytes follow")
    return np.frombuffer(data, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")


_NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
