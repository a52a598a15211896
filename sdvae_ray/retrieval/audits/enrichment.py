"""Set enrichment: are compounds of one target or mechanism among each other's nearest neighbours more often than by chance?

One test for every compound and label that it has: of the N other compounds K have the label, of the k nearest x have it. p is
exact, P(X >= x) of the hypergeometric distribution; the odds ratio has the correction of Haldane (1956) and Anscombe (1956), 1/2 in
every cell. p are corrected over the tests of one k (Benjamini & Hochberg 1995).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import hypergeom

from sdvae_ray.errors import DataError
from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Floats, Ints, unit_rows
from sdvae_ray.retrieval.ranking.nearest import nearest_others
from sdvae_ray.retrieval.significance.p_values import benjamini_hochberg
from sdvae_ray.retrieval.tasks.activity_tables import CANNOT_REJECT, OK

MOST = 5_000  # compounds that query, drawn by the seed
SCHEMA: dict[str, Any] = {
    "label": pl.String,
    **dict.fromkeys(("k", "compounds", "tests"), pl.Int64),
    **dict.fromkeys(("hits", "expected", "odds_ratio", "enriched", "least_p_corrected"), pl.Float64),
    **dict.fromkeys(("floor_odds_ratio", "floor_enriched"), pl.Float64),
    "status": pl.String,
}
Row = dict[str, Any]


@dataclass(frozen=True)
class _Sets:
    """Which compound has which label. compound, label: (P,) codes of every pair; tested: (P,) bool, of a query whose label another
    compound has too. count: (L,) compounds of every label. names: (L,) labels."""

    compound: Ints
    label: Ints
    tested: np.ndarray
    count: Ints
    names: list[str]


def enrichment(
    profiles: Floats, labels: list[list[str]], recall_at: tuple[int, ...], threshold: float, seed: int, repeats: int
) -> pl.DataFrame:
    """Return rows of SCHEMA for every k below the number of other compounds: one of all tests (label null), then one per label.

    profiles: (C, D), one per compound, by cosine; the order of compounds must not depend on the order of the data's rows. labels:
    those of every compound, at least one. hits, expected: means over the tests of x and of k K / N. odds_ratio: the geometric mean.
    enriched: the share of tests whose corrected p is at most the threshold; null if no p can be that small (`least_p_corrected`),
    with the status cannot_reject. floor_*: of all tests alone, means over the repeats with profiles permuted among the
    compounds. Raises DataError if no label has two compounds, or for fewer than three compounds.
    """
    names = sorted({name for own in labels for name in own})
    code_of = {name: at for at, name in enumerate(names)}
    compound = np.array([at for at, own in enumerate(labels) for _ in own], dtype=np.int64)
    label = np.array([code_of[name] for own in labels for name in own], dtype=np.int64)
    count = np.bincount(label, minlength=len(names))
    random = block_generator(seed, "enrichment", "queries", len(labels))
    queries = np.sort(random.permutation(len(labels))[:MOST])
    tested = np.isin(compound, queries) & (count[label] > 1)
    if len(labels) < 3 or not tested.any():
        raise DataError("no label has two compounds")
    sets = _Sets(compound, label, tested, count, names)
    most = max(recall_at)
    unit = unit_rows(profiles)
    nearest = nearest_others(unit, queries, most)
    moved = [
        block_generator(seed, "enrichment", "floor", len(labels), block=at).permutation(len(labels))
        for at in range(repeats)
    ]
    floors = [nearest_others(unit[rows], queries, most) for rows in moved]
    rows: list[Row] = []
    for k in recall_at:
        if k >= len(labels) - 1:
            continue
        tests = _tests(nearest[:, :k], queries, sets, threshold)
        permuted = [_summary(_tests(near[:, :k], queries, sets, threshold)) for near in floors]
        floor = {f"floor_{name}": _mean([row[name] for row in permuted]) for name in ("odds_ratio", "enriched")}
        rows.append({"label": None, "k": k, "compounds": len(labels), **_summary(tests), **floor})
        for (code,), own in tests.sort("label").group_by("label", maintain_order=True):
            rows.append(
                {"label": names[int(str(code))], "k": k, "compounds": int(count[int(str(code))]), **_summary(own)}
            )
    return pl.DataFrame(rows, schema=SCHEMA)


def _tests(nearest: Ints, queries: Ints, sets: _Sets, threshold: float) -> pl.DataFrame:
    """Return one row per test: label (code), hits, expected, log_odds, p, enriched (null if no p can be small enough)."""
    compounds, k = int(sets.compound.max()) + 1, nearest.shape[1]
    has = np.zeros((compounds, len(sets.names)), dtype=bool)
    has[sets.compound, sets.label] = True
    compound, label = sets.compound[sets.tested], sets.label[sets.tested]
    near = nearest[np.searchsorted(queries, compound)]
    hits = has[near, label[:, None]].sum(axis=1)
    others, sharing = compounds - 1, sets.count[label] - 1
    p = hypergeom.sf(hits - 1, others, sharing, k)
    least = hypergeom.sf(np.minimum(sharing, k) - 1, others, sharing, k)
    cells = np.stack([hits, k - hits, sharing - hits, others - sharing - k + hits]) + 0.5
    possible = float(benjamini_hochberg(least).min())
    enriched = pl.Series(benjamini_hochberg(p) <= threshold)
    table = {"label": label, "hits": hits, "expected": k * sharing / others, "p": p}
    table["log_odds"] = np.log(cells[0] * cells[3] / (cells[1] * cells[2]))
    return pl.DataFrame(table).with_columns(
        enriched=enriched if possible <= threshold else pl.lit(None, dtype=pl.Boolean),
        least_p_corrected=pl.lit(possible),
    )


def _summary(tests: pl.DataFrame) -> Row:
    enriched = tests["enriched"].mean()
    return {
        "tests": tests.height,
        "hits": tests["hits"].mean(),
        "expected": tests["expected"].mean(),
        "odds_ratio": float(np.exp(tests["log_odds"].to_numpy().mean())),
        "enriched": enriched,
        "least_p_corrected": tests["least_p_corrected"][0],
        "status": CANNOT_REJECT if enriched is None else OK,
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
