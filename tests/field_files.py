"""Small images of fields of view, and their rows of a manifest."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sdvae_ray.schema import FOV_ID, KEYS, fov_id, illum_column, uri_column

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")

Batch = dict[str, np.ndarray]


def write_tiff(path: Path, pixels: np.ndarray, compression: str | None = "lzw", **options: Any) -> str:
    """Writes a TIFF, its folder too; returns the path as text."""
    import tifffile

    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, pixels, compression=compression, **options)
    return str(path)


def write_illumination(path: Path, function: np.ndarray) -> str:
    """Writes an illumination function as CellProfiler's .npy, its folder too; returns the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, function)
    return str(path)


def write_fields(
    folder: Path,
    count: int = 3,
    size: int = 136,
    stains: tuple[str, ...] = STAINS,
    seed: int = 0,
    illumination: bool = False,
) -> Batch:
    """Writes FOVs as LZW TIFFs; returns their rows of a manifest as columns of objects.

    Wells A01, A02, ...; smooth blobs over a dim background, so that no stain is noise only; all from `seed`. The
    illumination functions are null unless `illumination`.
    """
    rows = []
    for number in range(1, count + 1):
        keys = dict(zip(KEYS, ("source_1", "batch 1", "P1", f"A{number:02d}", "1"), strict=True))
        row: dict[str, Any] = {FOV_ID: fov_id(keys), **keys, "Metadata_broad_sample": f"BRD-{number}"}
        for stain in stains:
            pixels = blobs(seed, number, stains.index(stain), size)
            name = f"{keys['Metadata_Well']}-{stain}.tiff"
            row[uri_column(stain)] = write_tiff(folder / "P1__2021-05-02-Measurement 1" / name, pixels)
            function = 0.5 + np.hypot(*np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]) / 2
            path = folder / "illum" / "P1" / f"P1_Illum{stain}.npy"
            row[illum_column(stain)] = write_illumination(path, function) if illumination else None
        rows.append(row)
    return {name: np.array([row[name] for row in rows], object) for name in rows[0]}


@lru_cache(1024)  # most tests write the same few fields
def blobs(seed: int, field: int, stain: int, size: int) -> np.ndarray:
    """(size, size) uint16: a dozen bright discs with soft edges over a dim background with shot noise."""
    random = np.random.default_rng([seed, field, stain])
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size), 2000.0)
    for _ in range(12):
        cy, cx, radius = *random.uniform(0, size, 2), random.uniform(size / 16, size / 6)
        image += random.uniform(5e3, 2e4) / (1 + np.exp((np.hypot(y - cy, x - cx) - radius) / 2))
    return np.clip(random.poisson(image), 0, 65535).astype(np.uint16)
