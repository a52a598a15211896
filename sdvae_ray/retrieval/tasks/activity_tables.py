"""The tables of phenotypic activity (wells, compounds, groups), and the words that say why a number is null.

activity.py scores the wells; here their scores become rows of compounds and groups, with the correction within a group.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from sdvae_ray.retrieval.arrays import Bools, Floats
from sdvae_ray.retrieval.significance.p_values import PValues, benjamini_hochberg

# Why a well or a compound has no score; "ok" where it has one.
OK = "ok"
ZERO_NORM = "zero_norm"  # the profile is all zeros (or so are all but one of the compound's): it has no direction
SINGLE = "single_replicate"  # no other replicate in the group
NO_CONTROLS = "no_controls"  # no control in the group, or on the plate where negatives are of the plate
NO_TREATED = "no_treated"  # the group has controls only
CANNOT_REJECT = "cannot_reject"  # mAP and p, but so few arrangements that no corrected p can reach the threshold
NO_EXCHANGE = "no_exchange"  # mAP but no p: the compound's plates hold no control to exchange its wells with


@dataclass(frozen=True)
class Activity:
    """The three tables of phenotypic activity. A null number always has its reason in the column `status`.

    wells: one row per treated well: the key columns, compound, plate, group, ap in (0, 1], normalised_ap (0 at random, 1 if
    perfect), n_positives, n_negatives (in several spaces the fewest), status. compounds: one row per (group, compound):
    replicates (treated wells), scored (wells with an AP), plates (number of plates of the treated wells), map, normalised_map, p,
    p_corrected (Benjamini-Hochberg within the group), draws, least_p (the least p that the null can give), retrieved
    (p_corrected <= threshold), status. groups: one row per group: wells (treated), controls, excluded (wells in neither role),
    zero_norm (treated and control wells left out because their profile is all zeros), plates, compounds, compounds_scored
    (compounds with a p), retrieved, fraction_retrieved (of compounds_scored), mean_map, mean_normalised_map (over the compounds
    with an mAP), least_p_corrected (the least corrected p that any compound can get), status (ok, or why fraction_retrieved is
    null).
    """

    wells: pl.DataFrame
    compounds: pl.DataFrame
    groups: pl.DataFrame

    def cut(self, threshold: float) -> float:
        """Return the p up to which the correction retrieves a compound: threshold * R / n (Benjamini & Hochberg 1995), for the R
        compounds retrieved of n tested, R at least 1."""
        retrieved = int(self.compounds["retrieved"].sum() or 0)
        return threshold * max(1, retrieved) / max(1, self.compounds["p"].count())


def nulls(values: Floats) -> pl.Series:
    """Return the values as a series in which NaN is null."""
    return pl.Series(values, nan_to_null=True)


def compound_table(wells: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of compounds without p. wells: the rows of wells, with _compound (codes) and _is_query."""
    usable = pl.col("_is_query")
    return wells.group_by("group", "compound").agg(
        pl.col("_compound").first(),
        replicates=pl.len(),
        scored=pl.col("ap").is_not_null().sum(),
        plates=pl.col("plate").n_unique(),
        map=pl.col("ap").mean(),
        normalised_map=pl.col("normalised_ap").mean(),
        status=pl.when(pl.col("ap").is_not_null().any())
        .then(pl.lit(OK))
        .when(usable.sum() >= 2)
        .then(pl.lit(NO_CONTROLS))
        .when((~usable).any())
        .then(pl.lit(ZERO_NORM))
        .otherwise(pl.lit(SINGLE)),
    )


def with_p(compounds: pl.DataFrame, p_values: PValues, least: Floats, threshold: float) -> pl.DataFrame:
    """Return the rows of compounds with p, corrected within each group, and what follows from p. least: (C,) the least p."""
    p, groups = p_values.p, compounds["group"].to_numpy().astype(str)
    least = np.where(np.isnan(p), np.nan, least)
    corrected, attainable = np.full((2, len(p)), np.nan)
    for name in np.unique(groups):
        rows = groups == name
        corrected[rows] = benjamini_hochberg(p[rows])
        attainable[rows] = np.nanmin(benjamini_hochberg(least[rows]), initial=1)
    possible = pl.col("least_p_corrected") <= threshold
    return compounds.with_columns(
        p=nulls(p),
        p_corrected=nulls(corrected),
        draws=p_values.draws,
        least_p=nulls(least),
        least_p_corrected=nulls(np.where(np.isnan(p), np.nan, attainable)),
    ).select(
        "group", "compound", "replicates", "scored", "plates", "map", "normalised_map", "p", "p_corrected", "draws", "least_p",
        pl.when(possible).then(pl.col("p_corrected") <= threshold).alias("retrieved"),
        pl.when((pl.col("status") == OK) & pl.col("p").is_null())
        .then(pl.lit(NO_EXCHANGE))
        .when((pl.col("status") == OK) & ~possible)
        .then(pl.lit(CANNOT_REJECT))
        .otherwise("status")
        .alias("status"),
        "least_p_corrected",
        "_compound",
    )  # fmt: skip


def group_table(frame: pl.DataFrame, usable: Bools, compounds: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of groups. frame: all wells; usable: (W,) their profile has a direction; compounds: from `with_p`."""
    roles = frame.select("group", "plate", "is_treated", "is_control").with_columns(_zero=~usable)
    in_play = pl.col("is_treated") | pl.col("is_control")
    wells = roles.group_by("group").agg(
        wells=pl.col("is_treated").sum(),
        controls=pl.col("is_control").sum(),
        excluded=(~in_play).sum(),
        zero_norm=(pl.col("_zero") & in_play).sum(),
        plates=pl.col("plate").n_unique(),
    )
    reasons = pl.col("status").filter(pl.col("status") != OK)
    scores = compounds.group_by("group").agg(
        compounds=pl.len(),
        compounds_scored=pl.col("p").is_not_null().sum(),
        retrieved=pl.col("retrieved").sum(),
        fraction_retrieved=pl.col("retrieved").mean(),
        mean_map=pl.col("map").mean(),
        mean_normalised_map=pl.col("normalised_map").mean(),
        least_p_corrected=pl.col("least_p_corrected").min(),
        status=pl.when(pl.col("retrieved").is_not_null().any()).then(pl.lit(OK)).otherwise(reasons.mode().min()),
    )
    counts = ["compounds", "compounds_scored", "retrieved"]
    joined = wells.join(scores, on="group", how="left", maintain_order="left").with_columns(pl.col(counts).fill_null(0))
    return joined.with_columns(pl.col("status").fill_null(NO_TREATED)).sort("group")
