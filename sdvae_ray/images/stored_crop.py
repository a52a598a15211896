"""Planes of which shards hold the central square alone.

A stored square is put back in its place in a plane of the original size, so that everything after it, the illumination functions
included, is as it is for whole files.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sdvae_ray.images.prepare import CropError, centre_crop
from sdvae_ray.schema import SHARD_CROP, height_column, width_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.settings.policies import Policy


def whole_planes(planes: list[np.ndarray], row: Mapping[str, Any], stain: str, image: ImageConfig) -> list[np.ndarray]:
    """Return the planes of a file as they are; squares of a cropped shard in planes of zeros of the old size.

    row: of the manifest. stain: whose file this is. Raises CropError if the run would see pixels that the shard does not hold.
    """
    stored = row.get(SHARD_CROP)
    if stored is None:
        return planes
    check_stored_crop(int(stored), image, image.policy_of(row))
    whole = [np.zeros((row[height_column(stain)], row[width_column(stain)]), plane.dtype) for plane in planes]
    for full, plane in zip(whole, planes, strict=True):
        centre_crop(full, int(stored), stain)[:] = plane
    return whole


def check_stored_crop(stored: int, image: ImageConfig, policy: Policy) -> None:
    """Raise CropError unless shards with the central `stored` x `stored` pixels hold all that a run of `image` sees of the fields
    of a policy.
    """
    if image.resize is not None or policy.zoom is not None:
        key = "image.resize" if policy.zoom is None else "image.pixel_um"
        raise CropError(
            f"the shards hold the central {stored} x {stored} pixels, and {key} needs whole images: pack without --crop"
        )
    if policy.crop > stored:
        raise CropError(
            f"{policy.crop} is more than the shards hold, the central {stored} x {stored} pixels: pack with --crop {policy.crop}"
        )
