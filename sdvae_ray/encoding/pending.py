"""The work that is left: for every FOV of the manifest, the columns of the run that no committed file has."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from sdvae_ray.engine.columns import run_columns
from sdvae_ray.run.run import Run
from sdvae_ray.schema import CROP, ERROR, FOV_ID

READ = "read"  # column of the keys of a manifest of shards: rows of one number lie in one row group of a shard


@dataclass(frozen=True)
class Work:
    """FOVs that lack the same columns and have one crop, so that the blocks of a stream, and the tensors of a file, have one shape.

    wanted  the missing columns, `<table>:<column>`
    keys    one row per FOV: fov_id, row_group, row, and `files`, the names of the files that commit it (null: no file commits it);
            `read`, where the manifest is of shards; `crop`, where the run has policies
    """

    wanted: frozenset[str]
    keys: pl.DataFrame


def trial(keys: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """Return `limit` rows of `keys`, spread evenly over the manifest, so over its plates and wells; None: all rows."""
    if limit is None or limit >= keys.height:
        return keys
    return keys[np.linspace(0, keys.height - 1, limit).astype(int).tolist()]


def pending(run: Run, keys: pl.DataFrame, failed: str | None = None) -> list[Work]:
    """Return the work left in a run; empty if the run is complete. keys: fov_id, row_group, row of every FOV of the manifest.

    failed: only FOVs whose row has an error that contains this text. The FOVs that lack the most columns come first, then
    the FOVs of the largest crop.
    """
    fovs, commits = run.present_commits()
    if failed is not None:
        again = fovs.filter(pl.col(ERROR).str.contains(failed, literal=True))
        keys = keys.filter(pl.col(FOV_ID).is_in(again[FOV_ID].implode()))
    return lacking(run, keys, fovs, commits)


def lacking(run: Run, keys: pl.DataFrame, fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]]) -> list[Work]:
    """Return what `pending` returns, from tables that are read already. fovs, commits: the two results of `read_commits`."""
    everything = run_columns(run.config)
    usable = fovs.filter(pl.col(ERROR).is_null()).select(FOV_ID, "files")
    joined = keys.join(usable, on=FOV_ID, how="left", maintain_order="left")
    by_missing: dict[tuple[frozenset[str], int], list[pl.DataFrame]] = {}
    crop = CROP if CROP in joined.columns else pl.lit(0).alias(CROP)
    for (files, pixels), rows in joined.group_by("files", crop, maintain_order=True):
        missing = everything.difference(*(commits[name] for name in files or ()))
        if missing:
            by_missing.setdefault((missing, int(str(pixels))), []).append(rows)
    order = sorted(by_missing, key=lambda kind: (-len(kind[0]), sorted(kind[0]), -kind[1]))
    return [Work(kind[0], pl.concat(by_missing[kind]).sort("row_group", "row")) for kind in order]
