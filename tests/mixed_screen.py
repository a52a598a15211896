"""A synthetic screen of several sources with four geometries, as JUMP has them, at an eighth of the size; and its run file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from field_files import write_illumination, write_tiff
from run_files import ONE_EACH, merged

from sdvae_ray.config import RunConfig
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import FOV_ID, KEYS, channel_column, fov_id, illum_column, uri_column

STAINS = ("DNA", "ER")
WELLS = ("A01", "A02", "A03", "A04", "B01", "B02", "B03", "B04")
CONTROLS = ("A01", "A02", "B03", "B04")
PIXEL_UM = 1.2


@dataclass(frozen=True)
class Geometry:
    """Fields of height x width pixels of `pixel_um` micrometres, and the policy of their source."""

    height: int
    width: int
    pixel_um: float
    crop: int
    gain: float = 1.0


GEOMETRIES = (
    Geometry(135, 135, 1.2, 128),
    Geometry(121, 121, 0.9, 64, gain=2.0),  # resampled to 90 x 90: one patch
    Geometry(135, 160, 1.2, 128),
    Geometry(128, 128, 1.3, 128, gain=0.5),  # resampled to 138 x 138
)


def geometry_of(source: int) -> Geometry:
    """The geometry of the source of a number, from 0."""
    return GEOMETRIES[source % len(GEOMETRIES)]


def name_of(source: int) -> str:
    """The Metadata_Source of a number, from 0."""
    return f"source_{source + 1}"


def write_screen(folder: Path, sources: int, plates: int = 2, bad: int | None = None) -> Path:
    """Writes TIFFs, illumination functions and the manifest; returns its path. bad: the number of a source whose last plate has
    fields of 40 x 40 pixels, and one truncated file."""
    rows = []
    for source in range(sources):
        geometry, name = geometry_of(source), name_of(source)
        for plate in range(plates):
            is_bad = source == bad and plate == plates - 1
            size = (40, 40) if is_bad else (geometry.height, geometry.width)
            function = write_illumination(folder / name / f"illum-{plate}.npy", 0.8 + 0.4 * np.ones(size) * _ramp(size))
            for well in WELLS:
                keys = dict(zip(KEYS, (name, f"batch_{plate + 1}", f"{name}-P{plate + 1}", well, "1"), strict=True))
                compound = None if well in CONTROLS else f"compound {well in ('A03', 'B01')}"
                row: dict[str, Any] = {FOV_ID: fov_id(keys), **keys, "Metadata_broad_sample": compound}
                row["Metadata_control_type"] = "negcon" if compound is None else None
                row["Metadata_Microscope"] = f"{geometry.height} x {geometry.width}"
                for number, stain in enumerate(STAINS):
                    pixels = _cells(size, geometry.gain, compound, [source, plate, WELLS.index(well), number])
                    path = folder / name / f"P{plate + 1}" / f"{well}-{stain}.tiff"
                    row[uri_column(stain)] = write_tiff(path, pixels)
                    row[channel_column(stain)], row[illum_column(stain)] = 0, function
                rows.append(row)
            if is_bad:
                path = Path(rows[-1][uri_column(STAINS[0])])
                path.write_bytes(path.read_bytes()[:60])
    table = pl.DataFrame(rows, schema_overrides={channel_column(stain): pl.Int32 for stain in STAINS})
    table.write_parquet(folder / "manifest.parquet", row_group_size=16)
    return folder / "manifest.parquet"


def _ramp(size: tuple[int, int]) -> np.ndarray:
    return np.linspace(0, 1, size[0])[:, None] * np.linspace(0, 1, size[1])[None]


def _cells(size: tuple[int, int], gain: float, compound: str | None, seed: list[int]) -> np.ndarray:
    """(height, width) uint16: discs over a dim background; a compound changes their number and their size."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.full(size, 1500.0)
    count, radius = {None: (10, 6), "compound True": (4, 12), "compound False": (16, 3)}[compound]
    for _ in range(count):
        centre = random.uniform(0, size[0]), random.uniform(0, size[1])
        image += 12_000 * (np.hypot(y - centre[0], x - centre[1]) < radius * random.uniform(0.8, 1.2))
    return np.clip(random.poisson(gain * image), 0, 65535).astype(np.uint16)


def policies(sources: int) -> dict[str, Any]:
    """`image.policies` of the screen."""
    values = {}
    for source in range(sources):
        geometry = geometry_of(source)
        values[name_of(source)] = {"crop": geometry.crop, "pixel_um": geometry.pixel_um}
    return {"column": "Metadata_Source", "values": values}


def mixed_run(folder: Path, sources: int, **changes: Any) -> RunConfig:
    """A run of the screen: patches of 64 pixels, one autoencoder, three extractors and a few metrics."""
    raw: dict[str, Any] = {
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "run"),
        "image": {
            "stains": list(STAINS),
            "packing": "grey",
            "crop": 128,
            "patch": 64,
            "pixel_um": PIXEL_UM,
            "policies": policies(sources),
        },
        "autoencoders": {"pca": {"name": "patch_pca"}},
        "codecs": {"jpeg": {"name": "jpeg"}},
        "extractors": {"latent": {"name": "latent"}, "intensity": {"name": "intensity", "keep_patches": 4}},
        "metrics": ["ssim", "mae", "radial_power"],
        "encode": {"micro_batch": 8},
        "write": {"rows_per_file": 8},
        "max_error_fraction": 0.2,
        "score": {"group": ["Metadata_Source"], "floor_repeats": 0, "null_size": 100, "splits": 1, "tasks": []},
    }
    return parse_run(merged(merged(raw, ONE_EACH), changes))
