"""The guard of every decoder: damage is one DecodeError, and a header's claim is checked before memory is asked for."""

from collections.abc import Iterator
from contextlib import contextmanager

from PIL import UnidentifiedImageError

from sdvae_ray.errors import one_line

# of what a header says, before memory is asked for. A camera has 2^24 pixels, a slide scanner 2^30; an empty plane packs so that a
# small file may be large in memory, and real noise packs to a half
_MOST_PIXELS = 2**30  # of one plane or tile, such as 32,768 x 32,768
_MOST_BYTES = 2**31  # of all planes of a file that are decoded
_MOST_BYTES_OF_SMALL, _MOST_RATIO = 2**28, 4096  # of a file of n bytes: the larger of the first, and the second times n


class DecodeError(ValueError):
    """The bytes are not a usable image: truncated, corrupt, or of another kind."""


@contextmanager
def decoding(data: bytes, where: str) -> Iterator[None]:
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


def check_claim(pixels: int, size: int, data: bytes) -> None:
    """Raise ValueError if a header claims what no image of these bytes holds. pixels: of a plane or tile. size: bytes in memory."""
    most = min(_MOST_BYTES, max(_MOST_BYTES_OF_SMALL, _MOST_RATIO * len(data)))
    if not 0 < pixels <= _MOST_PIXELS or not 0 < size <= most:
        raise ValueError(f"its header claims a plane of {pixels} pixels, and {size} bytes in memory")
