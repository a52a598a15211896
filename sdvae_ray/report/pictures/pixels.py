"""The pixels of a few fields of view of a run, loaded again from its manifest."""

from collections.abc import Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.images.prepare import untile
from sdvae_ray.report.pictures.draw import Pixels
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.sources.manifest.reader import read_manifest_column, read_rows, row_groups
from sdvae_ray.sources.manifest.row import as_batch


def load_pixels(run: Run, ids: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return fov_id -> (P, C, S, S) integers, from the manifest's rows of these FOVs; and notes why others have none."""
    pixels: dict[str, np.ndarray] = {}
    notes: list[str] = []
    for name, field in each_field(run, ids):
        if isinstance(field, str):
            notes.append(f"{name} is not shown: {field}")
        else:
            pixels[name] = field
    return pixels, notes


def whole_field(config: RunConfig, patches: np.ndarray) -> np.ndarray:
    """Return the patches (P, C, S, S) of a field as one image (C, H, W)."""
    return untile(patches.swapaxes(2, 3) if config.image.transpose else patches)


def on_unit(config: RunConfig, pixels: np.ndarray) -> Pixels:
    """Return integers as float32 on [0, 1] of the full scale."""
    return pixels.astype(np.float32) / np.float32(2**config.image.scaling.bits - 1)


def each_field(run: Run, ids: Sequence[str]) -> Iterator[tuple[str, np.ndarray | str]]:
    """Yield every FOV with its pixels (P, C, S, S), integers, or the reason why it has none; first those that the manifest lacks.

    Raises DataError for a manifest that is none, StorageError.
    """
    if not ids:
        return
    config, storage = run.config, run.storage
    names = read_manifest_column(config.manifest, FOV_ID, storage)
    ends = np.cumsum(row_groups(config.manifest, storage)[0])
    rows = np.flatnonzero(pc.is_in(names, pa.array(ids, pa.string())).to_numpy())
    missing = set(ids) - {str(names[int(row)]) for row in rows}
    yield from ((name, f"it is not in {config.manifest}") for name in ids if name in missing)
    if not len(rows):
        return
    groups = np.searchsorted(ends, rows, side="right")
    keys = pl.DataFrame({"row_group": groups, "row": rows - np.concatenate([[0], ends])[groups]})
    table = read_rows(config.manifest, keys, storage)
    # one field a batch: the fields of a batch have one shape
    batches = (as_batch(table.slice(row, 1)) for row in range(len(table)))
    for name, loaded in zip(
        table[FOV_ID].to_pylist(), Loader(config.image, config.storage).stream(batches), strict=True
    ):
        yield name, str(loaded[ERROR][0]) or loaded[IMAGE][0]
