"""The table of floors: the wells in the order of their names going in, one row per quantity coming out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.tasks.activity import NO_TREATED, OK, Activity

_NUMBERS = ("fraction_retrieved", "mean_map", "mean_normalised_map", "compounds_scored", "retrieved")
SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("group", "quantity"), pl.String),
    **dict.fromkeys((*_NUMBERS, "queries", "negatives"), pl.Float64),
    "repeats": pl.Int64,
    **dict.fromkeys(("lowest", "highest"), pl.Float64),
    "status": pl.String,
}
POSITION, WELL, ROW = "_position", "_well", "_row"
Ways = list[Activity | str]  # the runs of one repeat; text is the reason why one could not be made


def canonical(frame: pl.DataFrame, position: str | ArrayLike, key: Sequence[str]) -> pl.DataFrame:
    """Treated and control wells by the names of their group and their own; adds _position, _well (the whole key) and _row."""
    needed = [*key, "compound", "plate", "group", "is_control", *([position] if isinstance(position, str) else [])]
    for column in needed:
        if column not in frame.columns:
            raise DataError(f"the table of wells has no column {column!r}{did_you_mean(column, frame.columns)}")
    if isinstance(position, str):
        frame = frame.with_columns(pl.col(position).cast(pl.String).alias(POSITION))
    else:
        places = np.asarray(position).astype(str)
        if places.shape != (len(frame),):
            raise DataError(f"{places.size} positions came with {len(frame)} wells; one per well is needed")
        frame = frame.with_columns(pl.Series(POSITION, places))
    if "is_treated" not in frame.columns:
        frame = frame.with_columns(is_treated=~pl.col("is_control"))
    names = list(dict.fromkeys([*key, "compound", "plate", "group"]))
    frame = frame.with_columns(
        pl.col(names).cast(pl.String), pl.col("is_control", "is_treated").cast(pl.Boolean).fill_null(False)
    )
    in_play = frame.with_row_index(ROW).filter(pl.col("is_control") | pl.col("is_treated"))
    if in_play[POSITION].null_count():
        raise DataError(f"{in_play[POSITION].null_count()} treated or control wells have no position")
    in_play = in_play.with_columns(pl.concat_str(pl.col(*key), separator="\x1f").alias(WELL))
    return in_play.sort("group", WELL, maintain_order=True)


def summary(repeats: list[Ways]) -> dict[str, Any]:
    """The numbers of one row of the table."""
    good = [[way for way in ways if not isinstance(way, str)] for ways in repeats]
    complete = [found for found, ways in zip(good, repeats, strict=True) if len(found) == len(ways)]
    if not complete:
        return {"repeats": 0, "status": next(way for ways in repeats for way in ways if isinstance(way, str))}
    compounds = [pl.concat([way.compounds for way in ways]) for ways in complete]
    wells = [pl.concat([way.wells for way in ways]).filter(pl.col("ap").is_not_null()) for ways in complete]
    each = pl.concat([_over_compounds(table) for table in compounds])
    reasons = pl.concat(compounds).filter(pl.col("status") != OK)["status"].to_list()
    known = each["fraction_retrieved"].drop_nulls()
    return {
        **{name: each[name].mean() for name in _NUMBERS},
        "queries": float(np.mean([table[WELL].n_unique() for table in wells])),
        "negatives": pl.concat(wells)["n_negatives"].median(),
        "repeats": len(known),
        "lowest": known.min(),
        "highest": known.max(),
        "status": OK if len(known) else max(sorted(set(reasons)), key=reasons.count, default=NO_TREATED),
    }


def _over_compounds(table: pl.DataFrame) -> pl.DataFrame:
    means = table.group_by("compound", maintain_order=True).agg(pl.col("retrieved", "map", "normalised_map").mean())
    return means.select(
        fraction_retrieved=pl.col("retrieved").mean(),
        mean_map=pl.col("map").mean(),
        mean_normalised_map=pl.col("normalised_map").mean(),
        compounds_scored=pl.col("retrieved").count().cast(pl.Float64),
        retrieved=pl.col("retrieved").sum(),
    )
