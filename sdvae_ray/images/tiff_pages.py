"""The planes of a TIFF: which pages of the file they are, and their pixels.

A plane is a page of the file itself, in the order of the file. What the file says about other files (an OME-XML that names a set,
a stack of Micro-Manager) is not followed. Thumbnails, levels of a pyramid and masks are pages and no planes. ImageJ and MetaMorph
write one page for many planes: there the planes follow each other in the data.

tifffile reads the headers. Grey planes packed by LZW are unpacked by libtiff (through imagecodecs), which takes less than half the
processor time; tifffile unpacks all other planes, and what libtiff refuses.
"""

import io
from collections.abc import Sequence

import imagecodecs
import numpy as np
import tifffile

from sdvae_ray.images.guard import DecodeError, check_claim

_GREY = (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.LINEAR_RAW)
_PHOTOMETRIC = 262  # the tag
THUMBNAIL = 0b101  # of the tag NewSubfileType: reduced, or a mask
# kinds of series in which one page stands for several planes of this same file
_STACKS = ("imagej", "shaped", "stk")


def read_pages(data: bytes, channels: Sequence[int], where: str) -> list[np.ndarray]:
    """Return planes of a TIFF, each (height, width), as the file stores them. Raises DecodeError, naming `where`, for a file
    whose planes cannot be told, and any error of tifffile for a damaged one.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        everything = list(tiff.pages)
        pages = [page for page in everything if not page.subfiletype & THUMBNAIL]
        if not everything:
            raise ValueError("it has no page")
        if not pages:
            raise DecodeError(f"{where} has thumbnails alone, and no plane")
        if len(pages) == 1 and (stack := _stack(tiff, data, where)) is not None:
            check_number(channels, len(stack), where)
            return [stack[channel] for channel in channels]
        pages = _full_size(pages, where)
        first = pages[0]
        check_claim(first.imagelength * first.imagewidth, 1, data)
        _check_grey(first, where)
        check_number(channels, len(pages), where)
        chosen = {channel: pages[channel] for channel in channels}
        size = sum(page.size * page.dtype.itemsize for page in chosen.values() if page.dtype is not None)
        for page in chosen.values():
            check_claim(page.imagelength * page.imagewidth, size, data)
            _check_grey(page, where)
        planes = {channel: _pixels(page, tiff.byteorder, data) for channel, page in chosen.items()}
    return [planes[channel] for channel in channels]


def check_number(channels: Sequence[int], count: int, where: str) -> None:
    """Raise DecodeError, naming `where`, if a channel is not among the `count` planes of a file."""
    if absent := [channel for channel in channels if not 0 <= channel < count]:
        raise DecodeError(f"{where} has {count} planes, plane {absent[0]} is wanted")


def _full_size(pages: list[tifffile.TiffPage], where: str) -> list[tifffile.TiffPage]:
    """Return the pages of the full size. A page of at most half the size, in the same proportions, is a thumbnail that lacks its
    mark. Raises DecodeError for pages of other sizes.
    """
    sizes = [(page.imagelength, page.imagewidth) for page in pages]
    if len(set(sizes)) == 1:
        return pages
    height, width = max(sizes, key=lambda size: size[0] * size[1])

    def is_thumbnail(size: tuple[int, int]) -> bool:
        across = abs(size[0] * width - size[1] * height) <= max(height, width)  # a pixel, for rounding
        return across and 2 * size[0] <= height + 1 and 2 * size[1] <= width + 1

    if others := [size for size in sizes if size != (height, width) and not is_thumbnail(size)]:
        raise DecodeError(
            f"{where}: its pages differ in size, {height} x {width} and {others[0][0]} x {others[0][1]}; "
            f"planes of one size are wanted"
        )
    return [page for page, size in zip(pages, sizes, strict=True) if size == (height, width)]


def _check_grey(page: tifffile.TiffPage, where: str) -> None:
    """Raise DecodeError unless a page is one plane of grey whose larger numbers are brighter."""
    photometric = page.photometric if _PHOTOMETRIC in page.tags else tifffile.PHOTOMETRIC.MINISBLACK
    if page.shape != (page.imagelength, page.imagewidth):
        shape = " x ".join(map(str, page.shape))
        raise DecodeError(f"{where} is a colour image ({shape}); one plane per stain is wanted")
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        raise DecodeError(f"{where} is MinIsWhite: 0 is its brightest value; it must be written as MinIsBlack")
    if photometric == tifffile.PHOTOMETRIC.PALETTE:
        colours = page.colormap
        if colours is not None and (np.diff(colours.astype(np.int64), axis=1) >= 0).all():
            return  # a lookup table for the display: the numbers are intensities
        raise DecodeError(f"{where} holds indices of a palette of colours; intensities are wanted")
    if photometric not in _GREY:
        name = getattr(photometric, "name", photometric)
        raise DecodeError(f"{where} is a colour image ({name}); one plane per stain is wanted")


def _stack(tiff: tifffile.TiffFile, data: bytes, where: str) -> np.ndarray | None:
    """Return (n, height, width) of a file whose one page stands for n planes; None for another file."""
    page = tiff.pages.first
    if not (page.is_imagej or page.is_shaped or page.is_stk):
        return None
    series = tiff.series[0]
    if series.kind not in _STACKS or series.size <= page.size:
        return None
    check_claim(page.imagelength * page.imagewidth, series.size * series.dtype.itemsize, data)
    _check_grey(page, where)
    start = series.dataoffset
    if start is None or start + series.nbytes > len(data):
        image = series.asarray(maxworkers=1)
    else:
        image = np.frombuffer(data, np.dtype(tiff.byteorder + series.dtype.char), series.size, start)
    return image.reshape(-1, page.imagelength, page.imagewidth)


def _pixels(page: tifffile.TiffPage, byteorder: str, data: bytes) -> np.ndarray:
    if page.is_tiled:
        tile = page.tilelength * page.tilewidth
        check_claim(tile, tile * page.dtype.itemsize, data)
    for read in (_stored, _unpacked):
        pixels = read(page, byteorder, data)
        if pixels is not None:
            return pixels
    return page.asarray(maxworkers=1)


def _stored(page: tifffile.TiffPage, byteorder: str, data: bytes) -> np.ndarray | None:
    """Return the pixels of a page that lie uncompressed in one piece, as a view of the file's bytes; None for another page."""
    if not page.is_final:
        return None
    start = page.dataoffsets[0]
    if start <= 0 or start + page.nbytes > len(data):
        return None
    pixels = np.frombuffer(data, np.dtype(byteorder + page.dtype.char), page.size, start).reshape(page.shape)
    return pixels if pixels.flags.aligned else None


def _unpacked(page: tifffile.TiffPage, _: str, data: bytes) -> np.ndarray | None:
    """Return the pixels of a page that libtiff unpacks to the pixels of tifffile; None for another page, or a damaged one.

    Such a page is grey, of unsigned integers, packed by LZW. Deflate is left to tifffile: libtiff stops where a strip is full and
    does not see a wrong checksum.
    """
    if (
        page.compression != tifffile.COMPRESSION.LZW
        or page.predictor not in (tifffile.PREDICTOR.NONE, tifffile.PREDICTOR.HORIZONTAL)
        or page.fillorder != 1
        or page.photometric != tifffile.PHOTOMETRIC.MINISBLACK
        or page.dtype not in (np.uint8, np.uint16)
        or page.bitspersample != 8 * page.dtype.itemsize
        or 0 in page.dataoffsets  # tifffile fills what a file leaves out
        or 0 in page.databytecounts
    ):
        return None
    try:
        pixels = imagecodecs.tiff_decode(data, index=page.index)
    except Exception:  # noqa: BLE001 - tifffile says what is wrong, or reads it
        return None
    return pixels if pixels.dtype == page.dtype and pixels.shape == page.shape else None
