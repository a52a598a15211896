"""Packs one field of view: the bytes of its files as they are, or their central squares, stored losslessly.

The crop comes before the illumination correction, as in `load`. `whole_planes` puts a stored square back in its place in a plane
of the original size, so that everything after it, the illumination functions included, is as it is for whole files.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import tifffile

from sdvae_ray.errors import StorageError, one_line
from sdvae_ray.images.decode import decode_planes
from sdvae_ray.images.prepare import CropError, centre_crop
from sdvae_ray.schema import PIXELS, SHARD_CROP, channel_column, height_column, uri_column, width_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage

Compression = Literal["zstd", "none"]
# of cropped planes. On a real FOV zstd with a predictor takes 17 % fewer bytes than LZW with one, and tifffile decodes it faster
_TIFF: dict[Compression, dict[str, Any]] = {"zstd": {"compression": "zstd", "predictor": True}, "none": {}}


@dataclass(frozen=True)
class PackedFov:
    """The files of one FOV.

    files         stain -> bytes: for every file, the first of the stains that share it
    error         why the FOV has no files; None where it has them
    is_transient  the error is of the storage, and may pass
    source_bytes  bytes of the files as they were read
    stored_bytes  bytes of `files`
    sizes         stain -> (height, width) in pixels of its plane before the crop; empty where nothing is cropped
    """

    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    error: str | None = None
    is_transient: bool = False
    source_bytes: int = 0
    stored_bytes: int = 0
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def without_files(self) -> Self:
        """The same facts without the bytes."""
        return replace(self, files={})


def pack_fov(
    row: Mapping[str, Any],
    stains: Sequence[str],
    storage: Storage,
    crop: int | None = None,
    compression: Compression | None = None,
) -> PackedFov:
    """Reads the files of a manifest's row, and crops them to the central `crop` x `crop` pixels; None: files as they are.

    compression: of the cropped planes; None is "none".

    An error of the FOV's files becomes the `error` of the result, in the words that `load` would use.
    """
    try:
        return read_fov(row, stains, storage, crop, compression)
    except StorageError as error:
        return PackedFov(error=one_line(error, None), is_transient=True)
    except (OSError, ValueError) as error:
        return PackedFov(error=one_line(error, None))


def read_fov(
    row: Mapping[str, Any],
    stains: Sequence[str],
    storage: Storage,
    crop: int | None = None,
    compression: Compression | None = None,
) -> PackedFov:
    """`pack_fov` that raises CropError, StorageError, OSError or ValueError where the files cannot be read."""
    sharing: dict[str, list[str]] = {}
    for stain in stains:
        sharing.setdefault(str(row[uri_column(stain)]), []).append(stain)
    carried = row.get(PIXELS)
    files: dict[str, bytes] = {}
    sizes: dict[str, tuple[int, int]] = {}
    source_bytes = 0
    for uri, sharers in sharing.items():
        data = carried if isinstance(carried, bytes) else storage.read_bytes(uri)
        source_bytes += len(data)
        if crop is not None:
            channels = [int(row.get(channel_column(stain)) or 0) for stain in sharers]
            data, size = _cropped(data, channels, crop, compression or "none", uri)
            sizes |= dict.fromkeys(sharers, size)
        files[sharers[0]] = data
    stored_bytes = sum(map(len, files.values()))
    return PackedFov(files, source_bytes=source_bytes, stored_bytes=stored_bytes, sizes=sizes)


def _cropped(
    data: bytes, channels: Sequence[int], crop: int, compression: Compression, uri: str
) -> tuple[bytes, tuple[int, int]]:
    """A TIFF of the central squares, and the size of a plane before. A channel keeps its number; unused channels are zeros."""
    used = sorted(set(channels))
    planes = dict(zip(used, decode_planes(data, used, uri), strict=True))
    squares = {channel: centre_crop(plane, crop, uri) for channel, plane in planes.items()}
    empty = np.zeros_like(squares[used[0]])
    stack = np.stack([squares.get(channel, empty) for channel in range(used[-1] + 1)])
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, stack, photometric="minisblack", metadata=None, **_TIFF[compression])
    height, width = planes[used[0]].shape
    return buffer.getvalue(), (height, width)


def whole_planes(
    planes: list[np.ndarray], batch: Mapping[str, np.ndarray], row: int, stain: str, image: ImageConfig
) -> list[np.ndarray]:
    """The planes of a row's file as they are; planes from a cropped shard at their place in planes of zeros of the old size.

    Raises CropError where the run would see pixels that the shard does not hold.
    """
    stored = batch[SHARD_CROP][row] if SHARD_CROP in batch else None
    if stored is None:
        return planes
    check_stored_crop(int(stored), image)
    height, width = int(batch[height_column(stain)][row]), int(batch[width_column(stain)][row])
    whole = [np.zeros((height, width), plane.dtype) for plane in planes]
    for full, plane in zip(whole, planes, strict=True):
        centre_crop(full, int(stored), stain)[:] = plane
    return whole


def check_stored_crop(stored: int, image: ImageConfig) -> None:
    """Raises CropError unless shards with the central `stored` x `stored` pixels hold all that a run of `image` sees."""
    if image.resize is not None:
        raise CropError(
            f"the shards hold the central {stored} x {stored} pixels, and image.resize needs whole images: pack without --crop"
        )
    if image.crop > stored:
        raise CropError(
            f"{image.crop} is more than the shards hold, the central {stored} x {stored} pixels: pack with --crop {image.crop}"
        )
