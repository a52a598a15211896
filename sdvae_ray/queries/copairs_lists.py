"""Retrieval by any of copairs' four lists, with copairs' null, and its floor: profiles permuted among a plate's queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.retrieval.floors.floor_tables import SCHEMA
from sdvae_ray.retrieval.floors.permuted import NUMBERS, permuted_floor
from sdvae_ray.retrieval.normalisation.normalise import Step, resolve_steps
from sdvae_ray.retrieval.ranking.formula import TIES, Ties, normalised_average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.ranking.similarity import DISTANCES, Distance
from sdvae_ray.retrieval.significance.chance import NULLS, Chance, Null
from sdvae_ray.retrieval.tasks.activity_tables import OK
from sdvae_ray.retrieval.tasks.groups import GroupScores, group_means, score_groups, split_labels
from sdvae_ray.schema import PLATE_COLUMN

REFERENCE = "Metadata_reference_index"  # copairs' column: -1 for a query, a number of its own for every reference
PERMUTED = "profiles_permuted"  # the floor
_FLOOR_COLUMNS = ("group", "quantity", *NUMBERS, "compounds_scored", "repeats", "status")
_REPEATS = 3


def is_activity(rules: PairRules) -> bool:
    """Return whether the rules, with reference wells as negatives, ask for phenotypic activity."""
    same = tuple(rules.pos_sameby)
    return not rules.pos_diffby and not rules.multilabel_col and tuple(rules.neg_diffby) in ((), same)


@dataclass(frozen=True)
class Settings:
    """The settings of the command `retrieve`, besides lists and expressions; see Chance, and normalise for the steps."""

    null: Null | None = None  # None: by exchange where it applies, else copairs'
    null_size: int = 10_000
    ties: Ties = "average"
    distance: Distance = "cosine"
    strict: bool = False
    threshold: float = 0.05
    normalise: str | Sequence[Step] = "none"
    seed: int = 0

    def chance(self, null: Null) -> Chance:
        """Return how scores are compared with chance by the null `null`."""
        return Chance(null, self.null_size, self.seed, self.strict, self.threshold, self.ties, self.distance)


def checked_settings(chosen: Mapping[str, Any]) -> Settings:
    """Return the settings. Raises ConfigError, with the allowed values, for an unknown name or a value that is not allowed."""
    names = [field.name for field in fields(Settings)]
    if unknown := [name for name in chosen if name not in names]:
        raise ConfigError(f"retrieve has no setting {unknown[0]!r}{did_you_mean(unknown[0], names)}")
    allowed: dict[str, tuple[str, ...]] = {"null": NULLS, "ties": TIES, "distance": DISTANCES}
    for key, values in allowed.items():
        if chosen.get(key) is not None and chosen[key] not in values:
            raise ConfigError(f"--{key} {chosen[key]}: there is none of that name{did_you_mean(chosen[key], values)}")
    resolve_steps(chosen.get("normalise", "none"))
    return Settings(**chosen)


def by_lists(
    features: np.ndarray,
    wells: pl.DataFrame,
    frame: pl.DataFrame,
    rules: PairRules,
    with_reference: bool,
    chance: Chance,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return (one row per group of positives, one row per query, the floor).

    features: (W, D). wells: W rows with the columns of the rules. frame: the same wells as `retrieve` names them. with_reference:
    the wells' reference index joins pos_sameby and neg_diffby, as in JUMP's recipe.
    """
    if with_reference:
        index = np.where(frame["is_control"].to_numpy(), np.arange(wells.height), -1)
        wells = wells.with_columns(pl.Series(REFERENCE, index))
        rules = replace(
            rules,
            pos_sameby=[*rules.pos_sameby, REFERENCE],
            neg_diffby=[*(rules.neg_diffby or rules.pos_sameby), REFERENCE],
        )
    if rules.multilabel_col:
        wells = wells.with_columns(split_labels(rules.multilabel_col))
    is_query = frame["is_treated"].to_numpy()

    def score(rows: np.ndarray) -> GroupScores:
        return score_groups(features[rows], wells, rules, frame["compound"], chance, is_query)

    scores = score(np.arange(wells.height))
    groups, lists = scores.groups, scores.lists
    normalised = normalised_average_precision(lists.ap, lists.positives, lists.total)
    per_query = pl.DataFrame(
        {
            "well_id": frame["well_id"].gather(lists.well),
            "compound": scores.names,
            "ap": pl.Series(lists.ap, nan_to_null=True),
            "normalised_ap": pl.Series(normalised, nan_to_null=True),
            "n_positives": lists.positives,
            "n_negatives": lists.negatives,
        }
    ).filter(pl.Series(is_query[lists.well]))
    floor = permuted_floor(
        lambda rows: group_means(score(rows).groups),
        wells[PLATE_COLUMN] if PLATE_COLUMN in wells.columns else np.full(wells.height, "all"),
        is_query,
        what="retrieve",
        names=frame["well_id"],
        seed=chance.seed,
        repeats=_REPEATS,
    )
    scored = floor["status"] == OK
    counts = {"repeats": _REPEATS if scored else 0, "compounds_scored": groups.height if scored else None}
    row = {"group": "all", "quantity": PERMUTED, **floor, **counts}
    return groups, per_query, pl.DataFrame([row], schema={name: SCHEMA[name] for name in _FLOOR_COLUMNS})
