"""Phenotypic activity: are the replicates of a compound closer to each other than to the negative controls?

Profiles and the roles of their wells in, three tables out (wells, compounds, groups). The statistics are precision.py's
and inference.py's; here are the words, the reasons why something has no score, and the correction within a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from sdvae_ray.errors import DataError, did_you_mean
from sdvae_ray.retrieval.ranking.average_precision import (
    Ties,
    as_floating,
    average_precision,
    normalised_average_precision,
    row_states,
)
from sdvae_ray.retrieval.significance.exchange import exchange_p_values
from sdvae_ray.retrieval.significance.p_values import Null, arrangement_p_values, benjamini_hochberg, counted

Negatives = Literal["plate", "group"]

# Why a well or a compound has no score; "ok" where it has one.
OK = "ok"
ZERO_NORM = "zero_norm"  # the profile is all zeros (or so are all but one of the compound's): it has no direction
SINGLE = "single_replicate"  # no other replicate in the group
NO_CONTROLS = "no_controls"  # no control in the group, or on the plate where negatives are of the plate
NO_TREATED = "no_treated"  # the group has controls only
NO_EXCHANGE = "no_exchange"  # mAP but no p: the compound's plates hold no control to exchange its wells with


@dataclass(frozen=True)
class Activity:
    """Three tables; a null number always has its reason in `status`.

    wells: one row per treated well: the key columns, compound, plate, group, ap in (0, 1], normalised_ap (0 at random),
    n_positives, n_negatives, status. compounds: one row per (group, compound): replicates (treated wells), scored
    (wells with an AP), plates (of the treated wells), map, normalised_map, p, p_corrected (Benjamini-Hochberg within
    the group), draws, retrieved (p_corrected <= threshold), status. groups: one row per group: wells, controls,
    excluded, zero_norm (treated or control wells left out for it), plates, compounds, compounds_scored (those with a
    p), retrieved, fraction_retrieved (of compounds_scored), mean_map, mean_normalised_map (over compounds with an mAP).
    """

    wells: pl.DataFrame
    compounds: pl.DataFrame
    groups: pl.DataFrame


def phenotypic_activity(
    features: ArrayLike,
    wells: pl.DataFrame | Mapping[str, ArrayLike],
    *,
    key: Sequence[str] = ("well_id",),
    negatives: Negatives = "plate",
    ties: Ties = "average",
    null: Null = "exchange",
    null_size: int = 10_000,
    seed: int = 0,
    strict: bool = False,
    threshold: float = 0.05,
    stop_early: bool = True,
    workers: int = 1,
) -> Activity:
    """Score every compound of every group against the negative controls.

    features: (W, D) finite numbers, not copied where they are floating-point. wells: W rows with the `key` columns
    (together distinct), `compound`, `plate`, `group` (text), `is_control` (bool) and optionally `is_treated` (bool; the
    wells that are not controls if absent); a well that is neither, such as a positive control, is left out and counted.
    Positives of a well: the other wells of its compound in its group. negatives="plate": the controls of its own plate
    (JUMP's recipe); "group": all controls of the group (as published). All-zero profiles are left out on both sides and
    counted.
    null="exchange" is valid for replicates; "copairs" draws random orders; "copairs_exact" counts them, with draws 0, where
    all queries of a compound have one list that can be (inference.counted). strict counts null > observed rather than
    >=. threshold: of the corrected p, with <=, as the authors do (copairs uses <). stop_early: the null by exchange
    stops drawing for a compound whose p is clearly above twice the threshold. workers: processes of the null by
    exchange (see exchange_p_values); they change no result.

    Memory beyond the features: O(W), and some plates' rows at a time.

    Raises DataError for missing columns, row counts that differ, repeated keys, a well in two roles, a treated well
    without a compound, features that are not finite.
    """
    frame = _checked(pl.DataFrame(dict(wells)) if isinstance(wells, Mapping) else wells, key)
    x = as_floating(features)
    if x.ndim != 2 or len(x) != len(frame):
        raise DataError(f"profiles of shape {x.shape} came with {len(frame)} wells; one row per well is needed")
    unusable, zero = row_states(x)
    bad = np.flatnonzero(unusable)
    if len(bad):
        raise DataError(f"well {_name(frame[bad], key)}: its features are not finite ({len(bad)} such wells)")
    usable = ~zero
    treated, control = frame["is_treated"].to_numpy(), frame["is_control"].to_numpy()
    group = _codes(frame, ["group"])
    plate = _codes(frame, ["group", "plate"])
    compound = np.where(treated, _codes(frame, ["group", "compound"]), -1)
    scored = np.where(usable, compound, -1)
    scope = plate if negatives == "plate" else group

    precision = average_precision(x, scored, control & usable, scope, ties=ties)
    total = precision.positives + precision.negatives
    well_table = frame.select(*dict.fromkeys([*key, "compound", "plate", "group"])).with_columns(
        ap=_nulls(precision.ap),
        normalised_ap=_nulls(normalised_average_precision(precision.ap, precision.positives, total)),
        n_positives=precision.positives,
        n_negatives=precision.negatives,
        status=_well_status(usable, precision.positives, precision.negatives),
    )
    well_table = well_table.with_columns(_compound=compound, _scored=scored).filter(pl.Series(treated))

    compounds = _compound_table(well_table).sort("_compound")
    code = compounds["_compound"].to_numpy()
    position = np.full(int(code.max(initial=-1)) + 2, -1)  # one more: code -1 stays -1
    position[code] = np.arange(len(code))
    if null == "exchange":
        stop_above = 2 * threshold if stop_early else None
        labels = (compounds["group"] + "\x1f" + compounds["compound"]).to_list()
        place = frame.select(pl.concat_str(pl.col(*key), separator="\x1f").rank("ordinal")).to_series().to_numpy()
        result = exchange_p_values(
            x, position[scored], control & usable, scope, plate, labels, place,
            null_size=null_size, seed=seed, strict=strict, stop_above=stop_above, ties=ties, workers=workers,
        )  # fmt: skip
        p, draws = result.p, result.draws
    elif null in ("copairs", "copairs_exact"):
        q = np.flatnonzero(~np.isnan(precision.ap))
        p, exact = np.full(len(compounds), np.nan), null == "copairs_exact"
        lists = (position[scored[q]], precision.positives[q], precision.negatives[q])
        found = arrangement_p_values(
            lists[0], precision.ap[q], *lists[1:], null_size=null_size, seed=seed, strict=strict, exact=exact
        )
        p[: len(found)] = found
        draws = np.where(np.isnan(p), 0, null_size)
        if exact:
            draws[: len(found)][counted(*lists)] = 0
    else:
        raise ValueError(f"null must be 'exchange', 'copairs' or 'copairs_exact', not {null!r}")
    compounds = _with_p(compounds, p, draws, threshold)
    groups = _group_table(frame, treated, control, usable, compounds)
    order = ["group", "compound"]
    return Activity(well_table.drop("_compound", "_scored"), compounds.drop("_compound").sort(order), groups)


def _checked(frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    for column in (*key, "compound", "plate", "group", "is_control"):
        if column not in frame.columns:
            raise DataError(f"the table of wells has no column {column!r}{did_you_mean(column, frame.columns)}")
    if "is_treated" not in frame.columns:
        frame = frame.with_columns(is_treated=~pl.col("is_control"))
    frame = frame.with_columns(pl.col(*dict.fromkeys([*key, "compound", "plate", "group"])).cast(pl.String))
    frame = frame.with_columns(pl.col("is_control", "is_treated").cast(pl.Boolean).fill_null(False))
    for wrong, what in (
        (pl.any_horizontal(pl.col(*key, "plate", "group").is_null()), "has no key, plate or group"),
        (pl.col("is_control") & pl.col("is_treated"), "is both a control and treated; it can be one of the two"),
        (pl.col("is_treated") & pl.col("compound").is_null(), "is treated but has no compound"),
        (pl.struct(*key).is_duplicated(), "appears more than once; profiles are one row per well"),
    ):
        rows = frame.filter(wrong)
        if len(rows):
            raise DataError(f"well {_name(rows, key)} {what} ({len(rows)} such rows)")
    return frame


def _name(rows: pl.DataFrame, key: Sequence[str]) -> str:
    return "/".join(str(value) for value in rows.select(*key).row(0))


def _codes(frame: pl.DataFrame, columns: list[str]) -> NDArray[np.int64]:
    """Return (W,) int64 codes of the distinct combinations; equal combinations get equal codes."""
    return frame.select(pl.struct(*columns).rank("dense")).to_series().to_numpy().astype(np.int64) - 1


def _nulls(values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(values, nan_to_null=True)


def _well_status(usable: NDArray[np.bool_], positives: NDArray[np.int64], negatives: NDArray[np.int64]) -> pl.Series:
    roles = pl.DataFrame({"usable": usable, "positives": positives, "negatives": negatives})
    return roles.select(
        pl.when(~pl.col("usable"))
        .then(pl.lit(ZERO_NORM))
        .when(pl.col("positives") == 0)
        .then(pl.lit(SINGLE))
        .when(pl.col("negatives") == 0)
        .then(pl.lit(NO_CONTROLS))
        .otherwise(pl.lit(OK))
    ).to_series()


def _compound_table(wells: pl.DataFrame) -> pl.DataFrame:
    usable = pl.col("_scored") >= 0
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


def _with_p(
    compounds: pl.DataFrame, p: NDArray[np.float64], draws: NDArray[np.int64], threshold: float
) -> pl.DataFrame:
    groups = compounds["group"].to_numpy()
    corrected = np.full(len(p), np.nan)
    for name in np.unique(groups.astype(str)):
        corrected[groups == name] = benjamini_hochberg(p[groups == name])
    return compounds.with_columns(p=_nulls(p), p_corrected=_nulls(corrected), draws=draws).select(
        "group", "compound", "replicates", "scored", "plates", "map", "normalised_map", "p", "p_corrected", "draws",
        (pl.col("p_corrected") <= threshold).alias("retrieved"),
        pl.when((pl.col("status") == OK) & pl.col("p").is_null())
        .then(pl.lit(NO_EXCHANGE))
        .otherwise("status")
        .alias("status"),
        "_compound",
    )  # fmt: skip


def _group_table(
    frame: pl.DataFrame,
    treated: NDArray[np.bool_],
    control: NDArray[np.bool_],
    usable: NDArray[np.bool_],
    compounds: pl.DataFrame,
) -> pl.DataFrame:
    roles = frame.select("group", "plate").with_columns(_treated=treated, _control=control, _zero=~usable)
    in_play = pl.col("_treated") | pl.col("_control")
    wells = roles.group_by("group").agg(
        wells=pl.col("_treated").sum(),
        controls=pl.col("_control").sum(),
        excluded=(~in_play).sum(),
        zero_norm=(pl.col("_zero") & in_play).sum(),
        plates=pl.col("plate").n_unique(),
    )
    scores = compounds.group_by("group").agg(
        compounds=pl.len(),
        compounds_scored=pl.col("p").is_not_null().sum(),
        retrieved=pl.col("retrieved").sum(),
        fraction_retrieved=pl.col("retrieved").mean(),
        mean_map=pl.col("map").mean(),
        mean_normalised_map=pl.col("normalised_map").mean(),
    )
    counts = ["compounds", "compounds_scored", "retrieved"]
    return wells.join(scores, on="group", how="left").with_columns(pl.col(counts).fill_null(0)).sort("group")
