"""Retrieval on any table of profiles, by copairs' four lists: average precision, p-values, intervals, floors.

Where the negatives are reference wells of the query's own plate, or of all plates, this is phenotypic activity: it has the null
by exchange and all floors, as the scores of a run have. Any other lists are ranked with copairs' null (copairs_lists.py), and have
one floor, profiles permuted among the queries of each plate.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.queries.copairs_lists import Settings, by_lists, is_activity
from sdvae_ray.retrieval.floors.control_floors import floors
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.bootstrap import interval
from sdvae_ray.retrieval.tasks.activity import Negatives, phenotypic_activity
from sdvae_ray.retrieval.tasks.groups import group_means
from sdvae_ray.schema import KEYS, PLATE_COLUMN, WELL_COLUMN, WELL_KEY
from sdvae_ray.selection import select
from sdvae_ray.sources.profiles import ProfileTable
from sdvae_ray.sources.tables import listed


@dataclass(frozen=True)
class Retrieved:
    """The score of a table of profiles.

    summary: means and settings, JSON-ready. groups: one row per group of positives. wells: one row per query. floors: None if no
    column gives a well's position on its plate.
    """

    summary: dict[str, Any]
    groups: pl.DataFrame
    wells: pl.DataFrame
    floors: pl.DataFrame | None


def retrieve(
    table: ProfileTable, rules: PairRules, reference: str | None, exclude: str | None, settings: Settings
) -> Retrieved:
    """Return the scores, by the rules, of every well that has a value in a column of pos_sameby and is not a reference.

    reference: an expression on columns; the wells for which it holds are the references, the negatives of JUMP's recipe. exclude:
    an expression for wells to leave out. Raises ConfigError for a column that does not exist and for a null that does not apply,
    DataError if no well is a reference, no query has both a positive and a negative, or a well stands twice with the same features.
    `plates` of the summary counts references and queries of every plate.
    """
    places = pl.Series(
        table.places or [f"row {number}" for number in range(1, table.wells.height + 1)], dtype=pl.String
    )
    repeated = _repeated_wells(table.wells, table.features, places)
    wells, features = _with_ids(table.wells, places), table.features
    columns = table.wells.columns
    for column in (*rules.pos_sameby, *rules.pos_diffby, *rules.neg_sameby, *rules.neg_diffby):
        if column not in columns:
            raise ConfigError(f"there is no column {column!r}{did_you_mean(column, columns)}")
    if exclude:
        kept = ~wells.select(select(exclude, columns, "exclude")).to_series().to_numpy()
        wells, features = wells.filter(pl.Series(kept)), features[kept]
    is_reference = np.zeros(wells.height, dtype=bool)
    if reference:
        is_reference = wells.select(select(reference, columns, "reference")).to_series().to_numpy()
        if not is_reference.any():
            raise DataError(f"no well is a reference: {reference} holds for none of {wells.height}")
    named = wells.select(pl.any_horizontal(pl.col(name) != "" for name in rules.pos_sameby)).to_series().to_numpy()
    query = named & ~is_reference
    by_exchange = bool(reference) and is_activity(rules) and settings.distance == "cosine"
    if settings.null == "exchange" and not by_exchange:
        raise ConfigError(
            "--null exchange is for cosines and negatives that are reference wells: --reference, no --pos-diffby, and "
            "--neg-diffby as --pos-sameby or not given; --null copairs is for any lists"
        )
    chance = settings.chance(settings.null or ("exchange" if by_exchange else "copairs"))
    frame = _frame(wells, rules, is_reference, query)
    normalised = features
    if settings.normalise not in ("none", ()):
        fit = is_reference if reference else np.ones(wells.height, dtype=bool)
        at = frame[WELL_COLUMN].to_numpy() if WELL_COLUMN in frame.columns else None
        normalised = normalise(features, fit, frame["plate"].to_numpy(), settings.normalise, position=at).features
    floor_table: pl.DataFrame | None = None
    if by_exchange:
        negatives: Negatives = "plate" if rules.neg_sameby else "group"
        activity = phenotypic_activity(normalised, frame, chance, negatives=negatives)
        groups, per_well = activity.compounds.drop("group"), activity.wells.drop("group")
        if WELL_COLUMN in frame.columns:
            floor_table = floors(features, frame, settings.normalise, chance, position=WELL_COLUMN, negatives=negatives)
    else:
        groups, per_well, floor_table = by_lists(normalised, wells, frame, rules, bool(reference), chance)
    counts = _counts(frame, per_well)
    lacking = _notes_on(counts, bool(reference))
    if groups["p"].null_count() == groups.height:
        raise DataError("; ".join(["nothing could be scored", *lacking]) if lacking else _why_nothing(per_well))
    between = interval(groups["retrieved"].cast(pl.Float64).to_numpy(), seed=settings.seed)
    summary = {
        "wells": wells.height,
        "queries": int(query.sum()),
        "references": int(is_reference.sum()),
        "features": int(features.shape[1]),
        "groups": int(groups["map"].is_not_null().sum()),
        "groups_scored": int(groups["p"].is_not_null().sum()),
        "retrieved": int(groups["retrieved"].sum() or 0),
        **group_means(groups),
        "fraction_retrieved_low": None if np.isnan(between.low) else between.low,
        "fraction_retrieved_high": None if np.isnan(between.high) else between.high,
        **asdict(chance),
        "plates": counts.to_dicts(),
        "notes": [*table.notes, *repeated, *lacking, *_doubts(settings, bool(reference))],
        "floors": [] if floor_table is None else floor_table.drop("group").to_dicts(),
    }
    return Retrieved(summary, groups, per_well, floor_table)


def _repeated_wells(wells: pl.DataFrame, features: np.ndarray, places: pl.Series) -> list[str]:
    """Return a note about wells that stand in several rows. Raises DataError if two rows of a well have equal features too: such a
    well would be its own replicate.
    """
    key = [name for name in KEYS if name in wells.columns]
    if WELL_COLUMN not in key:
        return []
    numbered = wells.select(key).with_row_index("at").filter(pl.col(WELL_COLUMN) != "")
    repeated = numbered.group_by(key, maintain_order=True).agg("at").filter(pl.col("at").list.len() > 1)
    for *values, rows in repeated.iter_rows():
        seen: dict[bytes, int] = {}
        for row in rows:
            if (first := seen.setdefault(features[row].tobytes(), row)) != row:
                raise DataError(
                    f"{places[row]}: the well {'/'.join(values)} is already in {places[first]}, with the same features"
                )
    if not repeated.height:
        return []
    *values, rows = repeated.row(0)
    return [
        f"{repeated.height} wells stand in several rows, and every row is a profile of its own, such as {'/'.join(values)} in "
        f"{places[rows[0]]} and {places[rows[1]]}"
    ]


def _why_nothing(per_query: pl.DataFrame) -> str:
    reasons = per_query["status"].value_counts(sort=True)["status"].to_list() if "status" in per_query.columns else []
    return f"nothing could be scored: {listed(reasons)}" if reasons else "nothing could be scored: there are no queries"


def _with_ids(wells: pl.DataFrame, places: pl.Series) -> pl.DataFrame:
    """Return the wells with `well_id`: source/batch/plate/well as far as the table has them, and file and row where those are not
    enough to tell two rows apart.
    """
    names = [name for name in WELL_KEY if name in wells.columns]
    if WELL_COLUMN not in names:
        return wells.with_columns(well_id=places)
    key = pl.concat_str(names, separator="/")
    unclear = key.is_duplicated() | (pl.col(WELL_COLUMN) == "")
    return wells.with_columns(
        well_id=pl.when(unclear).then(pl.concat_str(key, pl.lit(" ("), places, pl.lit(")"))).otherwise(key)
    )


def _doubts(settings: Settings, has_reference: bool) -> list[str]:
    """Return what the scores cannot say of themselves: what was fitted on the reference wells, here or before."""
    if not has_reference:
        return []
    upstream = "what was fitted on the reference wells upstream of these profiles cannot be seen; p is valid without such a fit"
    fitted_here = (
        "p not valid: fitted on the negatives (--normalise); `sdvae-ray score` fits and scores on different controls"
    )
    return [upstream] if settings.normalise in ("none", ()) else [fitted_here, upstream]


def _frame(wells: pl.DataFrame, rules: PairRules, is_reference: np.ndarray, query: np.ndarray) -> pl.DataFrame:
    """Return the wells with the columns of a run's scores: well_id, compound, plate (the scope of the negatives), group, roles,
    and the position if the table has it.
    """
    scope = rules.neg_sameby or ((PLATE_COLUMN,) if PLATE_COLUMN in wells.columns else ())
    return wells.select(
        *([WELL_COLUMN] if WELL_COLUMN in wells.columns else []),
        "well_id",
        compound=pl.concat_str(rules.pos_sameby, separator=" / "),
        plate=pl.concat_str(scope, separator=" / ") if scope else pl.lit("all"),
        group=pl.lit("all"),
        is_control=pl.Series(is_reference),
        is_treated=pl.Series(query),
    )


def _counts(frame: pl.DataFrame, per_query: pl.DataFrame) -> pl.DataFrame:
    """Return one row per plate (the scope of the negatives): references, queries, and the queries that have no negatives."""
    lonely = per_query.group_by("well_id").agg(pl.col("n_negatives").max()).filter(pl.col("n_negatives") == 0)
    return (
        frame.with_columns(lonely=pl.col("is_treated") & pl.col("well_id").is_in(lonely["well_id"].implode()))
        .group_by("plate")
        .agg(
            references=pl.col("is_control").sum(),
            queries=pl.col("is_treated").sum(),
            queries_without_negatives=pl.col("lonely").sum(),
        )
        .sort("plate")
    )


def _notes_on(counts: pl.DataFrame, with_reference: bool) -> list[str]:
    """Return a note on queries without negatives, and where they are; no note if every query has some."""
    lacking = counts.filter(pl.col("queries_without_negatives") > 0)
    if not lacking.height:
        return []
    lonely, queries = lacking["queries_without_negatives"].sum(), counts["queries"].sum()
    bare = lacking.filter(pl.col("references") == 0)["plate"].to_list() if with_reference else []
    why = f"no reference among {listed(bare)}" if bare else f"among {listed(lacking['plate'].to_list())}"
    return [f"{lonely} of {queries} queries have no negatives: {why}"]
