"""The work that is left: for every FOV of the manifest, the columns of the run that no committed file has."""

from collections.abc import Mapping, Sequence
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
    kinds, left = [everything], keys.with_columns(files=pl.lit(None, pl.List(pl.String)), kind=pl.lit(0, pl.UInt32))
    if usable.height:
        usable, kinds = _with_kinds(usable, everything, commits)
        done = pl.col("kind") == kinds.index(frozenset())
        left = keys.join(usable.filter(done).select(FOV_ID), on=FOV_ID, how="anti", maintain_order="left")
        left = left.join(usable.filter(~done), on=FOV_ID, how="left", maintain_order="left")
        left = left.with_columns(pl.col("kind").fill_null(kinds.index(everything)))
    crop = CROP if CROP in left.columns else pl.lit(0).alias(CROP)
    by_missing = {
        (kinds[int(str(kind))], int(str(pixels))): rows.drop("kind").sort("row_group", "row")
        for (kind, pixels), rows in left.group_by("kind", crop, maintain_order=True)
    }
    order = sorted(by_missing, key=lambda kind: (-len(kind[0]), sorted(kind[0]), -kind[1]))
    return [Work(kind[0], by_missing[kind]) for kind in order]


def _with_kinds(
    usable: pl.DataFrame, everything: frozenset[str], commits: Mapping[str, frozenset[str]]
) -> tuple[pl.DataFrame, list[frozenset[str]]]:
    """Return the usable FOVs with the column `kind`, and the sets of missing columns that a kind is a place in.

    As a rule a FOV has one file, so that of millions of FOVs only the names of thousands of files are looked at.
    """
    kinds = {everything: 0, frozenset[str](): 1}

    def kind_of(files: Sequence[str]) -> int:
        return kinds.setdefault(everything.difference(*(commits[name] for name in files)), len(kinds))

    several = usable["files"].list.len() > 1
    first = usable["files"].list.first()
    of_file = {name: kind_of([name]) for name in first.unique(maintain_order=True).to_list()}
    kind = first.replace_strict(list(of_file), list(of_file.values()), return_dtype=pl.UInt32)
    if several.any():
        lists = usable.filter(several)["files"].to_list()
        kind = kind.scatter(several.arg_true(), [kind_of(files) for files in lists])
    return usable.with_columns(kind=kind), list(kinds)
