"""The table of floors: its columns, and the numbers of one row from the scores of all its repeats."""

from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.retrieval.tasks.activity_tables import NO_TREATED, OK, Activity
from sdvae_ray.retrieval.tasks.well_table import NAME

_NUMBERS = ("fraction_retrieved", "mean_map", "mean_normalised_map", "compounds_scored", "retrieved")
SCHEMA: dict[str, Any] = {
    **dict.fromkeys(("group", "quantity"), pl.String),
    **dict.fromkeys((*_NUMBERS, "queries", "negatives"), pl.Float64),
    "repeats": pl.Int64,
    **dict.fromkeys(("lowest", "highest"), pl.Float64),
    "status": pl.String,
}
POSES: dict[str, Any] = {
    **dict.fromkeys(("group", "pose"), pl.String),
    **dict.fromkeys(("retrieved", "normalised_map"), pl.Float64),
}
Ways = list[Activity | str]  # the scores of one repeat, one for each half in turn; a text says why there is no score


def summary(repeats: list[Ways]) -> dict[str, Any]:
    """Return the numbers of one row of the table, over the repeats in which every way could be scored. A way is one scoring within
    a repeat, such as one half of the controls as the fit. Without a complete repeat: repeats 0 and the status."""
    complete: list[list[Activity]] = []
    for ways in repeats:
        scored = [way for way in ways if not isinstance(way, str)]
        if len(scored) == len(ways):
            complete.append(scored)
    if not complete:
        return {"repeats": 0, "status": next(way for ways in repeats for way in ways if isinstance(way, str))}
    compounds = [pl.concat([way.compounds for way in ways]) for ways in complete]
    wells = [pl.concat([way.wells for way in ways]).filter(pl.col("ap").is_not_null()) for ways in complete]
    means = pl.concat([_means_over_compounds(table) for table in compounds])
    reasons = pl.concat(compounds).filter(pl.col("status") != OK)["status"].to_list()
    fractions = means["fraction_retrieved"].drop_nulls()
    return {
        **{name: means[name].mean() for name in _NUMBERS},
        "queries": float(np.mean([table[NAME].n_unique() for table in wells])),
        "negatives": pl.concat(wells)["n_negatives"].median(),
        "repeats": len(fractions),
        "lowest": fractions.min(),
        "highest": fractions.max(),
        "status": OK if len(fractions) else max(sorted(set(reasons)), key=reasons.count, default=NO_TREATED),
    }


def poses_table(group: str, repeats: list[Ways]) -> pl.DataFrame:
    """Return one row of POSES per pose: its means over the repeats that could score it."""
    scored = [way.compounds for ways in repeats for way in ways if not isinstance(way, str)]
    if not scored:
        return pl.DataFrame(schema=POSES)
    means = pl.concat(scored).group_by("compound").agg(pl.col("retrieved", "normalised_map").mean())
    return means.sort("compound").select(
        group=pl.lit(group), pose="compound", retrieved="retrieved", normalised_map="normalised_map"
    )


def _means_over_compounds(table: pl.DataFrame) -> pl.DataFrame:
    """Return one row of means over compounds; a compound counts with the mean of its own rows in `table`."""
    means = table.group_by("compound", maintain_order=True).agg(pl.col("retrieved", "map", "normalised_map").mean())
    return means.select(
        fraction_retrieved=pl.col("retrieved").mean(),
        mean_map=pl.col("map").mean(),
        mean_normalised_map=pl.col("normalised_map").mean(),
        compounds_scored=pl.col("retrieved").count().cast(pl.Float64),
        retrieved=pl.col("retrieved").sum(),
    )
