"""Prepares images in the published order of steps: a stain's raw plane to scaled integers, and the stains' planes to patches."""

import numpy as np
from PIL import Image


class CropError(ValueError):
    """The crop is larger than the image: no FOV of its size can be read with this run's settings."""


def resize(plane: np.ndarray, size: int) -> np.ndarray:
    """Return a plane (height, width) as (size, size), both axes stretched or shrunk: `PIL.Image.resize`, bilinear, antialias.

    uint8 and uint16 keep their dtype, rounded to the nearest as Pillow does after each axis; other types become float32.
    """
    native = plane.dtype.newbyteorder("=")
    pixels = np.ascontiguousarray(plane, native if native in (np.uint8, np.uint16) else np.float32)
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def resampled_size(pixels: int, zoom: float) -> int:
    """Return how many whole pixels, each of 1 / zoom of the old, fit into `pixels` old ones along an axis; 0 if none does."""
    return int(pixels * zoom + 1e-6)  # of a product that rounding left just below a whole number


def resample(plane: np.ndarray, zoom: float) -> np.ndarray:
    """Return a plane (height, width), with a pixel of 1 / zoom pixels of the old, float32: Pillow's resize, bilinear, antialias.

    The new plane lies in the middle of the old one and has as many whole pixels as fit, so a pixel has exactly the size asked for.
    """
    height, width = (max(1, resampled_size(n, zoom)) for n in plane.shape)
    top, left = ((n - min(n, new / zoom)) / 2 for n, new in zip(plane.shape, (height, width), strict=True))
    box = (left, top, plane.shape[1] - left, plane.shape[0] - top)
    pixels = Image.fromarray(np.ascontiguousarray(plane, np.float32))
    return np.array(pixels.resize((width, height), Image.Resampling.BILINEAR, box))


def check_same_size(plane: np.ndarray, illumination: np.ndarray, where: str, function: str) -> None:
    """Raise ValueError, naming `where` and `function`, unless a plane and its illumination function have the same shape."""
    if illumination.shape != plane.shape:
        raise ValueError(f"{where} is {_shape(plane)}, its illumination function {function} is {_shape(illumination)}")


def check_same_kind(stain: str, plane: np.ndarray, other_stain: str, other: np.ndarray, where: str) -> None:
    """Raise ValueError unless two planes of a field have the same shape and the same type of numbers.

    where: the file of the other plane, for the error.
    """
    for what, kind in (("size", _shape), ("type", lambda values: values.dtype.name)):
        if kind(plane) != kind(other):
            raise ValueError(
                f"the planes of a field differ in {what}: {stain} is {kind(plane)}, {other_stain} is {kind(other)} ({where})"
            )


def correct(plane: np.ndarray, illumination: np.ndarray | None) -> np.ndarray:
    """Return plane / illumination, float64; None: a function of ones."""
    return plane.astype(np.float64) if illumination is None else plane / illumination


def scale(corrected: np.ndarray, offset: float, divisor: float, bits: int) -> np.ndarray:
    """Return clip((corrected - offset) / divisor, 0, 2^bits - 1), truncated, as uint8 or uint16."""
    top = 2**bits - 1
    return np.clip((corrected - offset) / divisor, 0, top).astype(np.uint8 if bits == 8 else np.uint16)


def centre_crop(plane: np.ndarray, crop: int, where: str) -> np.ndarray:
    """Return the central (crop, crop) pixels; an odd margin leaves the extra pixel at the end. Raises CropError if they do not
    fit.
    """
    height, width = plane.shape
    if crop > min(height, width):
        raise CropError(f"crop {crop} does not fit {where}, which is {_shape(plane)}")
    top, left = (height - crop) // 2, (width - crop) // 2
    return plane[top : top + crop, left : left + crop]


def tile(stains: np.ndarray, patch: int, out: np.ndarray | None = None) -> np.ndarray:
    """Return stains (C, crop, crop) as patches (P, C, patch, patch), row by row; out: the array to write them to, or None."""
    count, crop, _ = stains.shape
    grid = crop // patch
    if out is None:
        out = np.empty((grid * grid, count, patch, patch), stains.dtype)
    tiles = stains.reshape(count, grid, patch, grid, patch).transpose(1, 3, 0, 2, 4)
    out.reshape(grid, grid, count, patch, patch)[...] = tiles  # a view: one axis becomes two
    return out


def untile(patches: np.ndarray) -> np.ndarray:
    """Return patches (P, C, S, S) as stains (C, crop, crop): the inverse of tile."""
    total, count, patch, _ = patches.shape
    grid = round(total**0.5)
    return (
        patches.reshape(grid, grid, count, patch, patch)
        .transpose(2, 0, 3, 1, 4)
        .reshape(count, grid * patch, grid * patch)
    )


def _shape(plane: np.ndarray) -> str:
    return " x ".join(str(n) for n in plane.shape)
