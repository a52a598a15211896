"""From the average precision of queries to groups of positives: their means, and p-values of copairs' null."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.ranking.average_precision import normalised_average_precision
from sdvae_ray.retrieval.ranking.by_rules import MatchedPrecision
from sdvae_ray.retrieval.significance.p_values import arrangement_p_values, benjamini_hochberg

LABELS = "|"  # between the labels of a multilabel column as text


def split_labels(column: str) -> pl.Expr:
    """Text `a|b` as a list of distinct labels, without blanks."""
    found = pl.col(column).str.split(LABELS).list.eval(pl.element().str.strip_chars()).list.unique(maintain_order=True)
    return found.list.eval(pl.element().filter(pl.element() != ""))


def group_means(groups: pl.DataFrame) -> dict[str, Any]:
    """mean_map, mean_normalised_map and fraction_retrieved over the groups that have one; None where none has."""
    columns = {"mean_map": "map", "mean_normalised_map": "normalised_map", "fraction_retrieved": "retrieved"}
    return {name: groups[column].mean() for name, column in columns.items()}


def score_groups(
    found: MatchedPrecision,
    names: pl.Series,
    *,
    null_size: int,
    seed: int,
    strict: bool,
    threshold: float,
    exact: bool = False,
) -> pl.DataFrame:
    """One row per name, sorted: compound (the name), replicates (its queries with an AP), map, normalised_map, p, p_corrected,
    retrieved.

    names: (R,) text, the group of each row of `found`. exact: as `arrangement_p_values` has it. Raises DataError where
    no query has an AP.
    """
    known = ~np.isnan(found.ap)
    if not known.any():
        raise DataError("no query has both a positive and a negative by these lists")
    total = found.positives + found.negatives
    scored = pl.DataFrame(
        {
            "compound": names.cast(pl.String).filter(pl.Series(known)),
            "ap": found.ap[known],
            "normal": normalised_average_precision(found.ap, found.positives, total)[known],
        }
    )
    code = scored["compound"].rank("dense").to_numpy().astype(np.int64) - 1
    lengths = (found.ap[known], found.positives[known], found.negatives[known])
    p = arrangement_p_values(code, *lengths, null_size=null_size, seed=seed, strict=strict, exact=exact)
    corrected = benjamini_hochberg(p)
    groups = scored.group_by("compound").agg(
        replicates=pl.len(), map=pl.col("ap").mean(), normalised_map=pl.col("normal").mean()
    )
    return groups.sort("compound").with_columns(
        p=pl.Series(p), p_corrected=pl.Series(corrected), retrieved=pl.Series(corrected <= threshold)
    )
