"""CHAMMI-75's CPJUMP1 benchmark on any profiles of its plates: which compounds are active, and which targets are consistent.

The protocol is that of the released code (github.com/CaicedoLab/CHAMMI-75, benchmarks/JUMPCP/run_evaluation.py and
utils.py, read in a copy at commit 45d7cdc), with its settings: seven compound plates of U2OS, both times in one pool; copairs' null
of 100,000 draws for compounds and 20,000 for targets; corrected p below 0.05.

1. Activity: a well's positives are the other wells of its compound, on any plate; its negatives are the DMSO wells of its plate.
2. Consistency: the active compounds alone, one median profile each. A target's compounds are positives of each other; the negatives
   are compounds that share no target with the query.

The authors normalise networks' profiles before this (pycytominer's spherize with epsilon 1e-3, fitted on the DMSO wells of all
seven plates). That is upstream of this file, and it fits on the negatives.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.queries.copairs_lists import Settings
from sdvae_ray.queries.retrieve import Retrieved, retrieve
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.groups import score_groups, split_labels
from sdvae_ray.schema import PLATE_COLUMN
from sdvae_ray.sources.profiles import ProfileTable

PLATES = ("BR00117010", "BR00117011", "BR00117012", "BR00117013", "BR00117024", "BR00117025", "BR00117026")
COMPOUND, CONTROL = "Metadata_broad_sample", "Metadata_control_type == 'negcon'"
_BRIGHTFIELD = ("ZBF", "Brightfield")  # in the names of CellProfiler's features that the authors leave out
ACTIVITY_DRAWS, TARGET_DRAWS, THRESHOLD, SEED = 100_000, 20_000, 0.05, 0
_TARGET = "target"
_RULES = PairRules((_TARGET,), neg_diffby=(_TARGET,), multilabel_col=_TARGET)


@dataclass(frozen=True)
class Benchmark:
    """The result on the given plates.

    activity     as `retrieve` gives it, by the protocol's null
    exchange     the same wells by the null by exchange, which is valid for replicates; with floors
    consistency  one row per target with two active compounds: compound (the target), replicates, map, p, p_corrected, retrieved
    summary      JSON-ready: the authors' numbers, features, plates, departures
    """

    activity: Retrieved
    exchange: Retrieved
    consistency: pl.DataFrame
    summary: dict[str, Any]


def cpjump1(table: ProfileTable, targets: pl.DataFrame, null_sizes: tuple[int, int] | None = None) -> Benchmark:
    """Return the benchmark of profiles of wells.

    targets: broad_sample and target_list (labels joined by |), as in JUMP-Target-1_compound_metadata_additional_annotations.tsv.
    null_sizes: draws for compounds and for targets; None: the authors'. Raises DataError without a plate of the benchmark, or if
    the table of targets has no such columns or none of the compounds.
    """
    if missing := [name for name in ("broad_sample", "target_list") if name not in targets.columns]:
        raise DataError(f"the table of targets has no column {missing[0]}; it has {', '.join(targets.columns)}")
    plates = sorted(set(table.wells[PLATE_COLUMN]) if PLATE_COLUMN in table.wells.columns else set())
    of_benchmark = [plate for plate in plates if plate in PLATES]
    if not of_benchmark:
        raise DataError(f"no well is on a plate of the benchmark: {', '.join(PLATES)}")
    here = table.wells[PLATE_COLUMN].is_in(of_benchmark)
    seen = [not any(word in name for word in _BRIGHTFIELD) for name in table.names]
    names = [name for name, kept in zip(table.names, seen, strict=True) if kept]
    table = ProfileTable(table.wells.filter(here), table.features[here.to_numpy()][:, seen], names, table.notes)
    draws, target_draws = null_sizes or (ACTIVITY_DRAWS, TARGET_DRAWS)
    rules = PairRules((COMPOUND,), neg_sameby=(PLATE_COLUMN,))
    as_published = Settings("copairs", draws, "copairs", strict=True, threshold=THRESHOLD, seed=SEED)
    activity = retrieve(table, rules, CONTROL, None, as_published)
    exchange = retrieve(table, rules, CONTROL, None, Settings(threshold=THRESHOLD, seed=SEED))
    known = dict(targets.select("broad_sample", "target_list").drop_nulls().iter_rows())
    labels = {name for compound in activity.groups["compound"] for name in _labels(known.get(compound, ""))}
    if not labels:
        raise DataError("the table of targets names a target for none of the compounds")
    active = activity.groups.filter("retrieved")["compound"].to_list()
    consistency = _consistency(table, [name for name in active if name in known], known, target_draws)
    summary = {
        **_activity_numbers(activity.groups),
        **_consistency_numbers(consistency, len(labels)),
        "active_fraction_by_exchange": exchange.summary["fraction_retrieved"],
        "compounds": activity.groups.height,
        "targets": len(labels),
        "features": len(table.names),
        "plates": of_benchmark,
        "brightfield_features_left_out": len(seen) - len(names),
        "departures": _departures(of_benchmark, plates, (draws, target_draws)),
        "notes": activity.summary["notes"],
    }
    return Benchmark(activity, exchange, consistency, summary)


def _labels(text: str) -> list[str]:
    return [name for name in text.split("|") if name]


def _consistency(table: ProfileTable, active: list[str], known: dict[str, str], draws: int) -> pl.DataFrame:
    """Return the scores of targets; no row if no target has two active compounds and something to compare them with."""
    compounds = table.wells[COMPOUND].to_numpy()
    empty = pl.DataFrame(
        schema={
            "compound": pl.String,
            "replicates": pl.UInt32,
            **dict.fromkeys(("map", "normalised_map", "p", "p_corrected"), pl.Float64),
            "retrieved": pl.Boolean,
        }
    )
    if len(active) < 2:
        return empty
    medians = np.array([np.median(table.features[compounds == name], axis=0) for name in active])
    labelled = pl.DataFrame({COMPOUND: active, _TARGET: [known[name] for name in active]})
    labelled = labelled.with_columns(split_labels(_TARGET))
    chance = Chance("copairs", draws, SEED, strict=True, threshold=THRESHOLD, ties="copairs")
    try:
        return score_groups(medians, labelled, _RULES, labelled[COMPOUND], chance).groups
    except DataError:  # no target has both
        return empty


def _activity_numbers(groups: pl.DataFrame) -> dict[str, Any]:
    active = groups.filter("retrieved")["map"]
    return {
        "active_fraction": groups["retrieved"].mean(),
        "active_map_all_inactive_0": active.sum() / groups.height,
        "active_map_all": groups["map"].mean(),
        "active_map_active": active.mean(),
    }


def _consistency_numbers(groups: pl.DataFrame, targets: int) -> dict[str, Any]:
    consistent = groups.filter("retrieved")["map"]
    return {
        "consistent_fraction": groups["retrieved"].mean(),
        "consistent_fraction_of_all_targets": len(consistent) / targets,
        "consistent_map_consistent": consistent.mean(),
        "consistent_map_scored": groups["map"].mean(),
        "consistent_map_all_others_0": consistent.sum() / targets,
    }


def _departures(of_benchmark: list[str], plates: list[str], draws: tuple[int, int]) -> list[str]:
    lines = []
    if lacking := [plate for plate in PLATES if plate not in of_benchmark]:
        lines.append(f"{len(of_benchmark)} of {len(PLATES)} plates: without {', '.join(lacking)}")
    if other := [plate for plate in plates if plate not in of_benchmark]:
        lines.append(f"plates that are not of the benchmark were left out: {', '.join(other)}")
    if draws != (ACTIVITY_DRAWS, TARGET_DRAWS):
        lines.append(
            f"nulls of {draws[0]:,} and {draws[1]:,} draws (published: {ACTIVITY_DRAWS:,} and {TARGET_DRAWS:,})"
        )
    return lines
