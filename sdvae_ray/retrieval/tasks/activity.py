"""Phenotypic activity: are the replicates of a compound closer to each other than to the negative controls?

Profiles and the roles of their wells go in, three tables come out (activity_tables.py). ranking/ and significance/ hold the
statistics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.arrays import Bools, Floats, Ints, as_profiles, finite_rows, zero_rows
from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.ranking.formula import normalised_average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.exchange import exchange_p_values
from sdvae_ray.retrieval.significance.least_p import least_arrangement_p, least_exchange_p
from sdvae_ray.retrieval.significance.p_values import PValues, arrangement_p_values
from sdvae_ray.retrieval.significance.splits import Space, pool_of
from sdvae_ray.retrieval.tasks.activity_tables import (
    NO_CONTROLS,
    OK,
    SINGLE,
    ZERO_NORM,
    Activity,
    compound_table,
    group_table,
    nulls,
    with_p,
)
from sdvae_ray.retrieval.tasks.well_table import NAME, SEPARATOR, checked_wells, well_name

Negatives = Literal["plate", "group"]
RULES = PairRules(["compound"], neg_sameby=["scope"], neg_diffby=["is_control"])


def phenotypic_activity(
    features: ArrayLike,
    wells: pl.DataFrame,
    chance: Chance,
    *,
    key: Sequence[str] = ("well_id",),
    negatives: Negatives = "plate",
    stop_early: bool = True,
) -> Activity:
    """Score every compound of every group against the negative controls, and return three tables.

    features: (W, D) finite numbers; nothing may have been fitted on the controls, or p is not valid. wells: W rows, see
    `checked_wells`; a well that is neither treated nor a control is left out and counted. The positives of a well are the other
    wells of its compound in its group. negatives="plate": its negatives are the controls of its own plate (JUMP's recipe);
    "group": all controls of the group (as published). All-zero profiles are left out, as queries and as negatives, and counted.
    chance: its distance must be cosine. key: the columns that together name a well. stop_early: the null by exchange stops drawing
    for a compound whose p is clearly above twice the threshold.

    Memory beyond the features: their copy as float64, O(W), and some plates' rows at a time.

    Raises DataError for features that are not finite; ValueError for another distance, for another number of rows than wells,
    and for a table that `checked_wells` refuses.
    """
    control = checked_wells(wells, key)["is_control"].to_numpy()
    space = Space(as_profiles(features), control)
    return activity_in([space], wells, chance, key=key, negatives=negatives, stop_early=stop_early)


def activity_in(
    spaces: Sequence[Space],
    wells: pl.DataFrame,
    chance: Chance,
    *,
    key: Sequence[str] = ("well_id",),
    negatives: Negatives = "plate",
    stop_early: bool = True,
) -> Activity:
    """Return the tables of `phenotypic_activity` for scores that are means over spaces, one for each fit of the normalisation.

    spaces: the features (W, D) and the negatives of each fit, controls that had no part in it; a control of `wells` that is no
    negative of a space takes no part in its score. AP, and so mAP, is the mean over the spaces. The null by exchange draws from
    the controls that are negatives in every space, and takes the same mean, so that its p is of the mean and valid. copairs' null
    takes the rank list of the space with the fewest negatives. A profile that is all zeros in one space is left out of all.
    """
    if chance.distance != "cosine":
        raise ValueError(f"phenotypic activity is of cosines, not of {chance.distance!r}")
    frame = checked_wells(wells, key)
    usable = np.ones(len(frame), dtype=bool)
    for space in spaces:
        if len(space.features) != len(frame):
            raise ValueError(
                f"profiles of shape {space.features.shape} came with {len(frame)} wells; one row per well is needed"
            )
        unusable = np.flatnonzero(~finite_rows(space.features))
        if len(unusable):
            raise DataError(
                f"well {well_name(frame[unusable])}: its features are not finite ({len(unusable)} such wells)"
            )
        usable &= ~zero_rows(space.features)
    roles = _roles(frame, usable, negatives)
    spaces = [Space(space.features, space.is_negative & usable) for space in spaces]
    lists = _rank_lists(spaces, roles, chance)
    names = frame.select(*dict.fromkeys([*key, "compound", "plate", "group"]))
    well_scores = names.with_columns(
        ap=nulls(lists.ap),
        normalised_ap=nulls(lists.normalised_ap),
        n_positives=lists.positives,
        n_negatives=lists.negatives,
        status=pl.Series(
            np.select([~roles.usable, lists.positives == 0, lists.negatives == 0], [ZERO_NORM, SINGLE, NO_CONTROLS], OK)
        ),
        _compound=roles.compound,
        _is_query=roles.is_query,
    ).filter(frame["is_treated"])
    compounds = compound_table(well_scores).sort("_compound")
    p_values = _p_values(spaces, frame, roles, lists, compounds, chance, stop_early)
    least = _least_p(spaces, roles, lists, compounds["_compound"].to_numpy(), chance)
    compounds = with_p(compounds, p_values, least, chance.threshold)
    groups = group_table(frame, roles.usable, compounds)
    return Activity(
        well_scores.drop("_compound", "_is_query"),
        compounds.drop("_compound", "least_p_corrected").sort("group", "compound"),
        groups,
    )


@dataclass(frozen=True)
class _Roles:
    """The roles of the wells, all (W,). usable: the profile has a direction.

    compound, plate, scope: int64 codes; the compound of a well that is not treated is -1, and a query's negatives are the
    controls of its scope. is_query: usable treated wells.
    """

    usable: Bools
    compound: Ints
    plate: Ints
    scope: Ints
    is_query: Bools


@dataclass(frozen=True)
class _RankLists:
    """The rank list of every well, (W,): the means over the spaces of ap and normalised_ap, NaN without a score; the number of
    positives, and of negatives in the space with the fewest, 0 if no space has any."""

    ap: Floats
    normalised_ap: Floats
    positives: Ints
    negatives: Ints


def _roles(frame: pl.DataFrame, usable: Bools, negatives: Negatives) -> _Roles:
    treated = frame["is_treated"].to_numpy()
    plate = _codes(frame, "group", "plate")
    return _Roles(
        usable=usable,
        compound=np.where(treated, _codes(frame, "group", "compound"), -1),
        plate=plate,
        scope=plate if negatives == "plate" else _codes(frame, "group"),
        is_query=treated & usable,
    )


def _rank_lists(spaces: Sequence[Space], roles: _Roles, chance: Chance) -> _RankLists:
    # controls and wells that are left out have compounds of their own: they are nobody's positives
    compound = np.where(roles.is_query, roles.compound, -1 - np.arange(len(roles.compound)))
    total, normalised, scored = np.zeros((3, len(compound)))
    fewest = np.full(len(compound), np.iinfo(np.int64).max)
    for space in spaces:
        table = pl.DataFrame({"compound": compound, "scope": roles.scope, "is_control": space.is_negative})
        ranked = average_precision(space.features, table, RULES, queries=roles.is_query, ties=chance.ties)
        total += np.nan_to_num(ranked.ap)
        normalised += np.nan_to_num(normalised_average_precision(ranked.ap, ranked.positives, ranked.total))
        scored += ~np.isnan(ranked.ap)
        fewest = np.where(ranked.negatives > 0, np.minimum(fewest, ranked.negatives), fewest)
    without = np.where(scored > 0, scored, np.nan)
    negatives = np.where(fewest < np.iinfo(np.int64).max, fewest, 0)
    return _RankLists(total / without, normalised / without, ranked.positives, negatives)


def _codes(frame: pl.DataFrame, *columns: str) -> Ints:
    """Return int64 codes (W,): two rows have one code if they are equal in all the columns."""
    return frame.select(pl.struct(*columns).rank("dense")).to_series().to_numpy().astype(np.int64) - 1


def _p_values(
    spaces: Sequence[Space],
    frame: pl.DataFrame,
    roles: _Roles,
    lists: _RankLists,
    compounds: pl.DataFrame,
    chance: Chance,
    stop_early: bool,
) -> PValues:
    """Return the p-value and the number of draws for every row of `compounds`, which must be in the order of their codes."""
    row = _row_of_compound(compounds["_compound"].to_numpy(), roles)
    if chance.null == "exchange":
        names = (compounds["group"] + SEPARATOR + compounds["compound"]).to_list()
        order = frame[NAME].rank("ordinal").to_numpy()
        stop_above = 2 * chance.threshold if stop_early else None
        return exchange_p_values(spaces, row, roles.scope, roles.plate, names, order, chance, stop_above)
    scored = np.flatnonzero(~np.isnan(lists.ap))
    drawn = arrangement_p_values(
        row[scored], lists.ap[scored], lists.positives[scored], lists.negatives[scored], chance
    )
    p, draws = np.full(len(compounds), np.nan), np.zeros(len(compounds), dtype=np.int64)
    p[: len(drawn.p)], draws[: len(drawn.p)] = drawn.p, drawn.draws
    return PValues(p, draws)


def _least_p(spaces: Sequence[Space], roles: _Roles, lists: _RankLists, codes: Ints, chance: Chance) -> Floats:
    """Return the least p that the null can give, for every compound of `codes`."""
    row = _row_of_compound(codes, roles)
    if chance.null == "exchange":
        return least_exchange_p(row, roles.plate, pool_of(spaces), len(codes), chance)
    scored = np.where(np.isnan(lists.ap), -1, row)
    return least_arrangement_p(scored, lists.positives, lists.negatives, len(codes), chance)


def _row_of_compound(codes: Ints, roles: _Roles) -> Ints:
    """Return (W,): the row in `codes` of a query's compound; -1 for a well that is no query."""
    row_of_code = np.full(int(codes.max(initial=-1)) + 2, -1)  # one more: code -1 stays -1
    row_of_code[codes] = np.arange(len(codes))
    return np.asarray(row_of_code[np.where(roles.is_query, roles.compound, -1)])
