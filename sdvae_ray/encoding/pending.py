"""What is left to compute: for every FOV of the manifest, the columns of the run that no committed file has."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.run.tables import read_commits
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.storage import Storage


@dataclass(frozen=True)
class Work:
    """FOVs that lack the same columns. keys: fov_id, row_group, row, and `files` that commit them (null where none does)."""

    wanted: frozenset[str]
    keys: pl.DataFrame


def pending(config: RunConfig, keys: pl.DataFrame, storage: Storage) -> list[Work]:
    """`keys`: fov_id, row_group, row of the manifest. The FOVs that lack most come first; none where the run is whole."""
    return lacking(config, keys, *read_commits(config.output, storage, []))


def lacking(
    config: RunConfig, keys: pl.DataFrame, fovs: pl.DataFrame, commits: Mapping[str, frozenset[str]]
) -> list[Work]:
    """The same of what `read_commits` gave."""
    everything = run_columns(config)
    usable = fovs.filter(pl.col(ERROR).is_null()).select(FOV_ID, "files")
    joined = keys.join(usable, on=FOV_ID, how="left", maintain_order="left")
    by_missing: dict[frozenset[str], list[pl.DataFrame]] = {}
    for (files,), rows in joined.group_by("files", maintain_order=True):
        missing = everything.difference(*(commits[name] for name in files or ()))
        if missing:
            by_missing.setdefault(missing, []).append(rows)
    works = [Work(missing, pl.concat(rows).sort("row_group", "row")) for missing, rows in by_missing.items()]
    return sorted(works, key=lambda work: (-len(work.wanted), sorted(work.wanted)))
