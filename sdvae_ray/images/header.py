"""The size and the type of an image by its header: no pixel is read."""

from typing import IO, NamedTuple

import tifffile
from PIL import Image

from sdvae_ray.images.guard import DecodeError
from sdvae_ray.images.tiff_pages import THUMBNAIL

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class Header(NamedTuple):
    """Pixels, and the name of numpy's type of a plane, such as `uint16`."""

    height: int
    width: int
    dtype: str

    def __str__(self) -> str:
        return f"{self.height} x {self.width} {self.dtype}"


def read_header(file: IO[bytes], where: str) -> Header:
    """Return the header of a TIFF (of its first page that is no thumbnail), or of another image that Pillow knows.

    Raises DecodeError, naming `where`, for any other file.
    """
    try:
        start = file.read(4)
        file.seek(0)
        if start in _TIFF:
            with tifffile.TiffFile(file) as tiff:
                page = next((page for page in tiff.pages if not page.subfiletype & THUMBNAIL), tiff.pages.first)
                return Header(page.imagelength, page.imagewidth, str(page.dtype))
        with Image.open(file) as image:
            deep = image.mode.startswith("I")
            return Header(image.height, image.width, "uint16" if deep else "uint8")
    except FileNotFoundError:
        raise
    except Exception as error:
        raise DecodeError(f"no image by its header: {where}: {type(error).__name__}") from error
