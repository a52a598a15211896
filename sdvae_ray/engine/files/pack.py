"""Packs one field of view: the bytes of its files as they are, or their central squares, stored losslessly.

The crop comes before the illumination correction, as in `load`; `images.stored_crop` puts a stored square back in its place.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import tifffile

from sdvae_ray.errors import StorageError, one_line
from sdvae_ray.images.decode import decode_planes
from sdvae_ray.images.prepare import centre_crop
from sdvae_ray.schema import PIXELS
from sdvae_ray.sources.manifest.row import Row, channel_of, stains_by_file
from sdvae_ray.sources.shards import checksum
from sdvae_ray.storage import Storage

Compression = Literal["zstd", "none"]
# of cropped planes. On a real FOV zstd with a predictor takes 17 % fewer bytes than LZW with one, and tifffile decodes it faster
_TIFF: dict[Compression, dict[str, Any]] = {"zstd": {"compression": "zstd", "predictor": True}, "none": {}}


@dataclass(frozen=True)
class PackedFov:
    """The files of one FOV.

    files         stain -> bytes: for every file, the first of the stains that share it
    error         why the FOV has no files; None if it has
    is_transient  the error is one of the storage, and may pass
    source_bytes  bytes of the files as they were read
    stored_bytes  bytes of `files`
    sizes         stain -> (height, width) in pixels of its plane before the crop; empty without a crop
    """

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    checksums: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    is_transient: bool = False
    source_bytes: int = 0
    stored_bytes: int = 0
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def without_files(self) -> Self:
        """Return the same facts without the bytes of the files."""
        return replace(self, files={})


@dataclass(frozen=True)
class Packer:
    """A packer of rows of a manifest.

    stains       of the manifest
    crop         pixels of the central square that is kept; None: files as they are
    compression  of the cropped planes; None is "none"
    """

    stains: Sequence[str]
    storage: Storage
    crop: int | None = None
    compression: Compression | None = None

    def pack(self, row: Row) -> PackedFov:
        """Return the files of a row. An error of the files is the `error` of the result, in the words that `load` would use."""
        try:
            return self.read(row)
        except StorageError as error:
            return PackedFov(error=one_line(error, None), is_transient=True)
        except (OSError, ValueError) as error:
            return PackedFov(error=one_line(error, None))

    def read(self, row: Row) -> PackedFov:
        """Return the files of a row. Raises CropError, StorageError, OSError or ValueError if they cannot be read."""
        carried = row.get(PIXELS)
        files: dict[str, bytes] = {}
        sizes: dict[str, tuple[int, int]] = {}
        source_bytes = 0
        for uri, sharing in stains_by_file(row, self.stains).items():
            data = carried if isinstance(carried, bytes) else self.storage.read_bytes(uri)
            source_bytes += len(data)
            if self.crop is not None:
                channels = [channel_of(row, stain) for stain in sharing]
                data, size = _cropped(data, channels, self.crop, self.compression or "none", uri)
                sizes |= dict.fromkeys(sharing, size)
            files[sharing[0]] = data
        checksums = {stain: checksum(data) for stain, data in files.items()}
        stored_bytes = sum(map(len, files.values()))
        return PackedFov(files, checksums, source_bytes=source_bytes, stored_bytes=stored_bytes, sizes=sizes)


def _cropped(
    data: bytes, channels: Sequence[int], crop: int, compression: Compression, uri: str
) -> tuple[bytes, tuple[int, int]]:
    """Return a TIFF of the central squares, and the size of a plane before. A channel keeps its number;
    unused channels are zeros.
    """
    used = sorted(set(channels))
    planes = dict(zip(used, decode_planes(data, used, uri), strict=True))
    squares = {channel: centre_crop(plane, crop, uri) for channel, plane in planes.items()}
    empty = np.zeros_like(squares[used[0]])
    stack = np.stack([squares.get(channel, empty) for channel in range(used[-1] + 1)])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, photometric="minisblack", metadata=None, **_TIFF[compression])
    height, width = planes[used[0]].shape
    return buffer.getvalue(), (height, width)
