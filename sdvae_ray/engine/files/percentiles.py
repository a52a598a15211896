"""Percentiles of the corrected pixels of fields of view: the whole field, as its files have it, divided by its function."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.errors import one_line
from sdvae_ray.images.prepare import centre_crop, check_same_size, correct
from sdvae_ray.schema import FOV_ID, SHARD_CROP
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.row import Row, channel_of, function_of, rows_of, stains_by_file

LOW, HIGH, STAIN, PROBLEM = "low", "high", "stain", "problem"


def field_percentiles(
    batch: Mapping[str, np.ndarray], stains: Sequence[str], percentiles: tuple[float, float], storage: StorageConfig
) -> list[dict[str, Any]]:
    """Return a row per field and stain: fov_id, stain, and the two percentiles of the pixels, `low` and `high`, in counts.

    batch: rows of a manifest. A field that cannot be read has one row, with the reason in `problem`. Raises StorageError.
    """
    loader = Loader(ImageConfig(stains=tuple(stains), packing="grey", crop=64, patch=64), storage)
    rows: list[dict[str, Any]] = []
    for row in rows_of(batch):
        try:
            fields = [
                {FOV_ID: row[FOV_ID], STAIN: stain, **_percentiles(plane, percentiles)}
                for stain, plane in _corrected(loader, row)
            ]
        except (OSError, ValueError) as error:
            fields = [{FOV_ID: row[FOV_ID], PROBLEM: one_line(error)}]
        rows += fields
    return rows


def _percentiles(plane: np.ndarray, percentiles: tuple[float, float]) -> dict[str, float]:
    low, high = np.percentile(plane, percentiles)
    return {LOW: float(low), HIGH: float(high)}


def _corrected(loader: Loader, row: Row) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (stain, plane / illumination function, (height, width) float64); of a cropped shard the square that it holds."""
    fetched, stored = loader.fetch(row), row.get(SHARD_CROP)
    for uri, sharing in stains_by_file(row, loader.image.stains).items():
        planes = loader.decoded(row, uri, sharing, fetched.files[uri].result())
        for stain in sharing:
            plane, function = planes[channel_of(row, stain)], None
            if (where := function_of(row, stain)) is not None:
                function = fetched.functions[where].result()
                check_same_size(plane, function, uri, where)
            corrected = correct(plane, function)
            yield stain, corrected if stored is None else centre_crop(corrected, int(stored), uri)
