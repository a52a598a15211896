"""Groups of queries, such as the wells of a compound: their mean average precision and its p-values under copairs' null."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.ranking.average_precision import AveragePrecision, average_precision
from sdvae_ray.retrieval.ranking.formula import normalised_average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.p_values import arrangement_p_values, benjamini_hochberg

LABELS = "|"  # between the labels of a multilabel column as text


def split_labels(column: str) -> pl.Expr:
    """Return an expression that makes of a text `a|b` the list of its distinct labels, without blanks and empty labels."""
    labels = pl.col(column).str.split(LABELS).list.eval(pl.element().str.strip_chars()).list.unique(maintain_order=True)
    return labels.list.eval(pl.element().filter(pl.element() != ""))


def group_means(groups: pl.DataFrame) -> dict[str, Any]:
    """Return mean_map, mean_normalised_map and fraction_retrieved over the groups that have a value; None if no group has one."""
    columns = {"mean_map": "map", "mean_normalised_map": "normalised_map", "fraction_retrieved": "retrieved"}
    return {name: groups[column].mean() for name, column in columns.items()}


@dataclass(frozen=True)
class GroupScores:
    """The scores of rank lists, and of the groups of their queries.

    lists: the average precision of R rank lists. names: (R,) text, the group of each list. groups: one row per name that has a
    query with an AP, sorted by name: compound (the name), replicates (queries with an AP), map, normalised_map, p, p_corrected,
    retrieved.
    """

    lists: AveragePrecision
    names: pl.Series
    groups: pl.DataFrame


def score_groups(
    features: ArrayLike,
    wells: pl.DataFrame,
    rules: PairRules,
    names: pl.Series,
    chance: Chance,
    queries: ArrayLike | None = None,
) -> GroupScores:
    """Return the AP of every query by the rules, and the scores of the groups of queries that share a name.

    features, wells, rules, queries: see `average_precision`. names: (W,) the group of each well; if the rules have a multilabel
    column, a query's label is its group instead. Raises DataError if no query has an AP.
    """
    lists = average_precision(features, wells, rules, queries=queries, distance=chance.distance, ties=chance.ties)
    names = (names.gather(lists.well) if lists.label is None else lists.label).cast(pl.String)
    known = ~np.isnan(lists.ap)
    if not known.any():
        raise DataError("no query has both a positive and a negative by these lists")
    normalised = normalised_average_precision(lists.ap, lists.positives, lists.total)
    scored = pl.DataFrame({"compound": names, "ap": lists.ap, "normal": normalised}).filter(pl.Series(known))
    code = scored["compound"].rank("dense").to_numpy().astype(np.int64) - 1
    p = arrangement_p_values(code, lists.ap[known], lists.positives[known], lists.negatives[known], chance).p
    corrected = benjamini_hochberg(p)
    groups = scored.group_by("compound").agg(
        replicates=pl.len(), map=pl.col("ap").mean(), normalised_map=pl.col("normal").mean()
    )
    groups = groups.sort("compound").with_columns(
        p=pl.Series(p), p_corrected=pl.Series(corrected), retrieved=pl.Series(corrected <= chance.threshold)
    )
    return GroupScores(lists, names, groups)
