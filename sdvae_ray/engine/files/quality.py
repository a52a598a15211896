"""Quality numbers of a field of view, one per stain: columns of fovs/. `run.quality` says what they mean for a plate."""

from collections.abc import Callable

import numpy as np

from sdvae_ray.run.quality import CHECKSUM, MEAN, RAW_MAX, SATURATED, ZERO
from sdvae_ray.sources.shards import checksum

_STRIDE = 8  # rows: equal pictures are equal in every eighth row, and other pictures are not


def _mean(field: np.ndarray) -> np.ndarray:
    rows = field.sum(2, np.uint32)  # half the time of uint64; a row of uint16 fits
    return rows.sum(1, np.uint64) / field[0].size / np.iinfo(field.dtype).max


def _saturated(field: np.ndarray) -> np.ndarray:
    top = np.iinfo(field.dtype).max
    return np.array([np.count_nonzero(plane == top) for plane in field]) / field[0].size


def _zero(field: np.ndarray) -> np.ndarray:
    return np.array([plane.size - np.count_nonzero(plane) for plane in field]) / field[0].size


def _raw_crc32(plane: np.ndarray) -> int:
    return checksum(np.ascontiguousarray(plane[::_STRIDE], plane.dtype.newbyteorder("=")))  # type: ignore[arg-type]


QC: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # column of fovs/ -> (C, crop, crop) scaled integers to (C,)
    MEAN: _mean,
    SATURATED: _saturated,
    ZERO: _zero,
}
RAW_QC: dict[str, Callable[[np.ndarray], float]] = {  # column of fovs/ -> (crop, crop) pixels of the file to a number
    RAW_MAX: lambda plane: float(plane.max()),
    CHECKSUM: _raw_crc32,
}


def empty_qc(count: int, stains: int) -> dict[str, np.ndarray]:
    """Return every QC column for `count` FOVs, (count, stains): NaN in float32, and 0 for checksums in uint32."""
    columns = {name: np.full((count, stains), np.nan, np.float32) for name in (*QC, *RAW_QC)}
    return columns | {CHECKSUM: np.zeros((count, stains), np.uint32)}
