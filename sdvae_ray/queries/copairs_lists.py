"""Any table of profiles ranked by copairs' four lists, with copairs' null. The floor: profiles permuted among a plate's queries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.retrieval.floors.floor_tables import SCHEMA
from sdvae_ray.retrieval.floors.permuted import NUMBERS, permuted_floor
from sdvae_ray.retrieval.normalisation.normalise import Step, resolve_steps
from sdvae_ray.retrieval.ranking.average_precision import Ties, normalised_average_precision
from sdvae_ray.retrieval.ranking.by_rules import MatchedPrecision, matched_average_precision
from sdvae_ray.retrieval.ranking.similarity import Distance
from sdvae_ray.retrieval.significance.p_values import Null
from sdvae_ray.retrieval.tasks.activity import OK
from sdvae_ray.retrieval.tasks.groups import group_means, score_groups, split_labels
from sdvae_ray.schema import PLATE_COLUMN

REFERENCE = "Metadata_reference_index"  # copairs' column: -1 for a query, a number of its own for every reference
PERMUTED = "profiles_permuted"  # the floor
_FLOOR_COLUMNS = ("group", "quantity", *NUMBERS, "compounds_scored", "repeats", "status")
_REPEATS = 3


@dataclass(frozen=True)
class Lists:
    """copairs' words: columns that pairs of wells share, and columns in which they differ; `multilabel` is one of them."""

    pos_sameby: tuple[str, ...]
    pos_diffby: tuple[str, ...] = ()
    neg_sameby: tuple[str, ...] = ()
    neg_diffby: tuple[str, ...] = ()
    multilabel: str | None = None

    def is_activity(self) -> bool:
        return not self.pos_diffby and not self.multilabel and self.neg_diffby in ((), self.pos_sameby)


@dataclass(frozen=True)
class Settings:
    null: Null | None = None  # None: by exchange where it applies, else copairs'
    null_size: int = 10_000
    ties: Ties = "average"
    distance: Distance = "cosine"
    strict: bool = False
    threshold: float = 0.05
    normalise: str | Sequence[Step] = "none"
    seed: int = 0


def checked_settings(chosen: Mapping[str, Any]) -> Settings:
    """ConfigError, with what is allowed, for a value that a field does not take."""
    allowed = {
        "null": ("exchange", "copairs", "copairs_exact"),
        "ties": ("average", "copairs"),
        "distance": ("cosine", "abs_cosine", "correlation", "euclidean"),
    }
    for key, values in allowed.items():
        if chosen.get(key) is not None and chosen[key] not in values:
            raise ConfigError(f"--{key} {chosen[key]}: there is none of that name{did_you_mean(chosen[key], values)}")
    resolve_steps(chosen.get("normalise", "none"))
    return Settings(**chosen)


def by_lists(
    features: np.ndarray,
    wells: pl.DataFrame,
    frame: pl.DataFrame,
    lists: Lists,
    with_reference: bool,
    settings: Settings,
) -> tuple[tuple[pl.DataFrame, pl.DataFrame], pl.DataFrame]:
    """Average precision by the lists, and its floor.

    With references, their index joins pos_sameby and neg_diffby, as in JUMP's recipe.
    """
    pos_sameby, neg_diffby = list(lists.pos_sameby), list(lists.neg_diffby)
    if with_reference:
        index = np.where(frame["is_control"].to_numpy(), np.arange(wells.height), -1)
        wells = wells.with_columns(pl.Series(REFERENCE, index))
        pos_sameby, neg_diffby = [*pos_sameby, REFERENCE], [*(neg_diffby or lists.pos_sameby), REFERENCE]
    if lists.multilabel:
        wells = wells.with_columns(split_labels(lists.multilabel))
    query = frame["is_treated"].to_numpy()
    chance = {name: getattr(settings, name) for name in ("null_size", "seed", "strict", "threshold")}

    def score(rows: np.ndarray) -> tuple[MatchedPrecision, pl.Series, pl.DataFrame]:
        found = matched_average_precision(
            features[rows],
            wells,
            pos_sameby,
            lists.pos_diffby,
            lists.neg_sameby,
            neg_diffby,
            queries=query,
            distance=settings.distance,
            ties=settings.ties,
            multilabel_col=lists.multilabel,
        )
        names = frame["compound"].gather(found.well) if found.label is None else found.label.cast(pl.String)
        return found, names, score_groups(found, names, exact=settings.null == "copairs_exact", **chance)

    found, names, groups = score(np.arange(wells.height))
    total = found.positives + found.negatives
    normalised = normalised_average_precision(found.ap, found.positives, total)
    per_well = pl.DataFrame(
        {
            "well_id": frame["well_id"].gather(found.well),
            "compound": names,
            "ap": pl.Series(found.ap, nan_to_null=True),
            "normalised_ap": pl.Series(normalised, nan_to_null=True),
            "n_positives": found.positives,
            "n_negatives": found.negatives,
        }
    ).filter(pl.Series(query[found.well]))
    floor = permuted_floor(
        lambda rows: group_means(score(rows)[2]),
        wells[PLATE_COLUMN] if PLATE_COLUMN in wells.columns else np.full(wells.height, "all"),
        query,
        what="retrieve",
        names=frame["well_id"],
        seed=settings.seed,
        repeats=_REPEATS,
    )
    there = floor["status"] == OK
    counts = {"repeats": _REPEATS if there else 0, "compounds_scored": groups.height if there else None}
    row = {"group": "all", "quantity": PERMUTED, **floor, **counts}
    return (groups, per_well), pl.DataFrame([row], schema={name: SCHEMA[name] for name in _FLOOR_COLUMNS})
