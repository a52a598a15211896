"""MorphoHELM's ladder of stringency on any profiles: replicates found without restriction, then from other batches, sources, wells.

Lu, Hayir & Crawford 2026, arXiv 2605.15383; the protocol is that of the released code (github.com/microsoft/MorphoHELM,
benchmarks/replicate_analysis/run_replicate_analysis_sweep.py, read at commit 098e624). On every rung a query is compared with the
treated wells that differ from it in all columns of the rung: these are its positives if they have its compound, else its negatives.

mAP        one query per compound with two wells or more, drawn by numpy's RandomState(42) as the authors draw it; queries without
           a positive are not counted
recall@1   every well with a positive on the rung: does the nearest well have its compound?

The authors' profiles are normalised before this (all wells per plate, PCA of 64, MAD of the controls per plate), wells with few
cells are left out by a table of counts, and their set cpg-compound is thinned to two wells per compound and source. These steps
are upstream.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.retrieval.arrays import Bools, Ints, blocks, unit_rows
from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.permutations import permuted_rows
from sdvae_ray.schema import BATCH_COLUMN, PLATE_COLUMN, SOURCE_COLUMN, WELL_COLUMN
from sdvae_ray.selection import select
from sdvae_ray.sources.profiles import ProfileTable

# rung -> columns in which a candidate differs from the query; the names are the authors', but for the plate, which is ours
RUNGS: dict[str, tuple[str, ...]] = {
    "no restriction": (),
    "not same plate": (PLATE_COLUMN,),
    "not same batch": (BATCH_COLUMN,),
    "not same source": (SOURCE_COLUMN,),
    "not same layout": (WELL_COLUMN,),
    "not same source, layout": (SOURCE_COLUMN, WELL_COLUMN),
}
QUERY_SEED = 42
_PERMUTED_REPEATS = 3
_ROWS = 512  # queries of one matrix of similarities


@dataclass(frozen=True)
class Ladder:
    """rungs: one row per rung: rung, map and queries (one per compound), map_all_wells (the mean over compounds of the mean over
    their wells), recall_at_1 and recall_queries, permuted_map and permuted_recall_at_1 (profiles permuted within each plate), and
    the status: ok, or why there is no score. facts: wells, compounds, features, notes.
    """

    rungs: pl.DataFrame
    facts: dict[str, Any]


def stringency(table: ProfileTable, perturbation: str, control: str | None, exclude: str | None = None) -> Ladder:
    """Return the scores of every rung.

    perturbation: the column of the compound. control: an expression for the wells that are no candidates, DMSO in the protocol.
    exclude: one for other wells to leave out. Raises ConfigError for a column that does not exist, DataError if no compound has two
    wells.
    """
    columns = table.wells.columns
    if perturbation not in columns:
        raise ConfigError(f"there is no column {perturbation!r}{did_you_mean(perturbation, columns)}")
    kept = (table.wells[perturbation] != "").to_numpy().copy()
    for expression, what in ((control, "control"), (exclude, "exclude")):
        if expression:
            kept &= ~table.wells.select(select(expression, columns, what)).to_series().to_numpy()
    wells, features = table.wells.filter(pl.Series(kept)), table.features[kept]
    query = one_query_per_compound(wells[perturbation].to_list())
    if not query.any():
        raise DataError(f"no {perturbation} has two wells")
    plates = wells[PLATE_COLUMN].to_numpy() if PLATE_COLUMN in columns else np.full(wells.height, "all")
    everyone = np.ones(wells.height, dtype=bool)
    permuted = [
        features[permuted_rows(plates.astype(str), everyone, "stringency", QUERY_SEED, "", repeat)]
        for repeat in range(_PERMUTED_REPEATS)
    ]
    rows = []
    for rung, differing in RUNGS.items():
        if lacking := [name for name in differing if name not in columns]:
            rows.append({"rung": rung, "status": f"no column {lacking[0]}"})
            continue
        scores = _rung(features, wells, perturbation, differing, query)
        if scores is None:
            rows.append({"rung": rung, "status": "no compound has a well to be found here"})
            continue
        floors = [_rung(profiles, wells, perturbation, differing, query) for profiles in permuted]
        floor = pl.DataFrame([numbers for numbers in floors if numbers is not None]).mean().row(0, named=True)
        named = {f"permuted_{name}": floor[name] for name in ("map", "recall_at_1")}
        rows.append({"rung": rung, **scores, **named, "status": "ok"})
    facts = {
        "wells": wells.height,
        "compounds": wells[perturbation].n_unique(),
        "compounds_of_one_well": int((wells[perturbation].value_counts()["count"] == 1).sum()),
        "features": len(table.names),
        "notes": table.notes,
    }
    return Ladder(pl.DataFrame(rows, schema=_SCHEMA), facts)


_SCHEMA = {
    "rung": pl.String,
    "map": pl.Float64,
    "queries": pl.Int64,
    "map_all_wells": pl.Float64,
    "recall_at_1": pl.Float64,
    "recall_queries": pl.Int64,
    "permuted_map": pl.Float64,
    "permuted_recall_at_1": pl.Float64,
    "status": pl.String,
}


def one_query_per_compound(compounds: Sequence[str]) -> Bools:
    """Return a mask (W,): one well of every compound with two or more, as numpy's RandomState(42) chooses it from the wells in
    their order, compound by compound in the order of the names: the authors' draw.
    """
    rows: dict[str, list[int]] = {}
    for row, compound in enumerate(compounds):
        rows.setdefault(compound, []).append(row)
    random = np.random.RandomState(QUERY_SEED)
    query = np.zeros(len(compounds), dtype=bool)
    for compound in sorted(name for name, members in rows.items() if len(members) >= 2):
        query[random.choice(rows[compound])] = True
    return query


def _rung(
    features: np.ndarray, wells: pl.DataFrame, perturbation: str, differing: Sequence[str], query: Bools
) -> dict[str, Any] | None:
    """Return the scores of one rung, or None if no well has a positive."""
    rules = PairRules((perturbation,), differing, (), (perturbation, *differing))
    lists = average_precision(features, wells, rules, ties="copairs")
    scored = ~np.isnan(lists.ap)
    if not scored.any():
        return None
    by_compound = pl.DataFrame({"compound": wells[perturbation], "ap": lists.ap}).filter(pl.Series(scored))
    codes = rules.codes(wells, differing)
    compound = rules.codes(wells, (perturbation,))[0]
    eligible = np.flatnonzero(lists.positives > 0)
    hits = _nearest_has_the_compound(unit_rows(features), compound, codes, eligible)
    return {
        "map": float(lists.ap[scored & query].mean()) if (scored & query).any() else None,
        "queries": int((scored & query).sum()),
        "map_all_wells": by_compound.group_by("compound").agg(pl.col("ap").mean())["ap"].mean(),
        "recall_at_1": float(hits.mean()),
        "recall_queries": len(eligible),
    }


def _nearest_has_the_compound(unit: np.ndarray, compound: Ints, differing: Sequence[Ints], queries: Ints) -> Bools:
    """Return (Q,): whether the nearest candidate, by cosine, has the query's compound. differing: (W,) codes each; a candidate
    differs from the query in all of them, and is another well.
    """
    hits = np.empty(len(queries), dtype=bool)
    for part in blocks(0, len(queries), _ROWS):
        rows = queries[part]
        similarity = unit[rows] @ unit.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        for codes in differing:
            similarity[codes[rows, None] == codes] = -np.inf
        hits[part] = compound[similarity.argmax(axis=1)] == compound[rows]
    return hits
