"""Prepares images in the published order of steps: a stain's raw plane to scaled integers, and the stains' planes to patches."""

import numpy as np
from PIL import Image


class CropError(ValueError):
    """The crop is larger than the image: no FOV of its size can be read with this run's settings."""


def resize(plane: np.ndarray, size: int) -> np.ndarray:
    """(height, width) -> (size, size), both axes stretched or shrunk to fit: `PIL.Image.resize`, bilinear with antialias.

    uint8 and uint16 keep their dtype, rounded to the nearest as Pillow does after each axis; other types become float32.
    """
    native = plane.dtype.newbyteorder("=")
    pixels = np.ascontiguousarray(plane, native if native in (np.uint8, np.uint16) else np.float32)
    return np.array(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))


def check_same_size(plane: np.ndarray, illumination: np.ndarray, where: str, function: str) -> None:
    """Raises ValueError, naming `where` and `function`, unless a plane and its illumination function have the same shape."""
    if illumination.shape != plane.shape:
        raise ValueError(f"{where} is {_shape(plane)}, its illumination function {function} is {_shape(illumination)}")


def correct(plane: np.ndarray, illumination: np.ndarray | None) -> np.ndarray:
    """plane / illumination, float64; None is a function of ones."""
    return plane.astype(np.float64) if illumination is None else plane / illumination


def scale(corrected: np.ndarray, offset: float, divisor: float, bits: int) -> np.ndarray:
    """clip((corrected - offset) / divisor, 0, 2^bits - 1), truncated, as uint8 or uint16."""
    top = 2**bits - 1
    return np.clip((corrected - offset) / divisor, 0, top).astype(np.uint8 if bits == 8 else np.uint16)


def centre_crop(plane: np.ndarray, crop: int, where: str) -> np.ndarray:
    """The central (crop, crop) pixels; an odd margin leaves the extra pixel at the end. CropError where it does not fit."""
    height, width = plane.shape
    if crop > min(height, width):
        raise CropError(f"crop {crop} does not fit {where}, which is {_shape(plane)}")
    top, left = (height - crop) // 2, (width - crop) // 2
    return plane[top : top + crop, left : left + crop]


def tile(stains: np.ndarray, patch: int, out: np.ndarray | None = None) -> np.ndarray:
    """(C, crop, crop) -> (P, C, patch, patch), row by row; written to `out` of that shape where it is given."""
    count, crop, _ = stains.shape
    grid = crop // patch
    if out is None:
        out = np.empty((grid * grid, count, patch, patch), stains.dtype)
    tiles = stains.reshape(count, grid, patch, grid, patch).transpose(1, 3, 0, 2, 4)
    out.reshape(grid, grid, count, patch, patch)[...] = tiles  # a view: one axis becomes two
    return out


def untile(patches: np.ndarray) -> np.ndarray:
    """The inverse of tile: (P, C, S, S) -> (C, crop, crop)."""
    total, count, patch, _ = patches.shape
    grid = round(total**0.5)
    return (
        patches.reshape(grid, grid, count, patch, patch)
        .transpose(2, 0, 3, 1, 4)
        .reshape(count, grid * patch, grid * patch)
    )


def _shape(plane: np.ndarray) -> str:
    return " x ".join(str(n) for n in plane.shape)
