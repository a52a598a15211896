"""The pixels of a few fields of view of a run, loaded again from its manifest."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sdvae_ray.engine.files.load import IMAGE, Batch, Loader
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.sources.manifest.reader import read_manifest_column, read_row_group, row_groups


def load_pixels(run: Run, ids: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return fov_id -> (P, C, S, S) integers, from the manifest's rows of these FOVs; and notes why others have none."""
    if not ids:
        return {}, []
    config, storage = run.config, run.storage
    keys = read_manifest_column(config.manifest, FOV_ID, storage)
    sizes, _ = row_groups(config.manifest, storage)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = np.flatnonzero(pc.is_in(keys, pa.array(ids, pa.string())).to_numpy())
    at = {str(keys[int(row)]): int(row) for row in rows}
    notes = [f"{name} is not shown: it is not in {config.manifest}" for name in ids if name not in at]
    loader = Loader(config.image, config.storage)
    pixels: dict[str, np.ndarray] = {}
    for name, row in at.items():
        group = int(np.searchsorted(starts, row, side="right")) - 1
        table = read_row_group(config.manifest, group, storage).slice(row - int(starts[group]), 1)
        loaded: Batch = loader({column: np.array(table[column].to_pylist(), object) for column in table.column_names})
        if loaded[ERROR][0]:
            notes.append(f"{name} is not shown: {loaded[ERROR][0]}")
        else:
            pixels[name] = loaded[IMAGE][0]
    return pixels, notes
