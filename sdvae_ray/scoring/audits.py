"""What stands behind the scores of one extractor, side and group, as one Ray task: retrieval/audits says what each table is.

stringency  activity, distinctiveness, consistency and cross_side with positives from another plate, batch, source and position
neighbours  what the nearest neighbours share: replicates, and plate, row, column, batch, source
enrichment  targets or mechanisms (score.sets) among the nearest neighbours of mean profiles of compounds
probes      the same labels by a linear classifier, compounds held out
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, collected, weighing
from sdvae_ray.controls import CONTROL, TREATED
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.audits import stringency
from sdvae_ray.retrieval.audits.enrichment import SCHEMA as ENRICHMENT
from sdvae_ray.retrieval.audits.enrichment import enrichment
from sdvae_ray.retrieval.audits.neighbours import neighbour_shares
from sdvae_ray.retrieval.audits.probe import linear_probe
from sdvae_ray.retrieval.audits.stringency import ANY, RankedTask, ladder
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.tasks.activity import RULES
from sdvae_ray.run.run import Run
from sdvae_ray.schema import BATCH_COLUMN, SOURCE_COLUMN, WELL_COLUMN
from sdvae_ray.scoring.inputs.labels import Label
from sdvae_ray.scoring.inputs.roles import chance_of, task_chance
from sdvae_ray.scoring.tasks import CROSS_SIDE, DISTINCTIVENESS, cross_side_table, target_profiles

TABLES = ("stringency", "neighbours", "enrichment", "probes")
_COPIES = 3  # of the profiles: as they come, those of a task, and made ready to be ranked
_TARGETS = PairRules(["target"], ["compound"], neg_diffby=["target"], multilabel_col="target")
_NUMBERS = ("balanced_accuracy", "chance", "floor_balanced_accuracy")
_COUNTS = ("wells", "compounds", "labels", "folds")
_EMPTY = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Searched:
    """The normalised profiles of a group and the result of its search.

    crossed     (W, D) of the first split: no negative had a part in its fit
    features    (W, D) of the fit on all controls
    both        (originals, reconstructions) in the originals' space; None: cross_side is not scored
    neighbours  (Q, K) rows of wells nearest to the queries
    queries     (Q,) rows of treated wells
    """

    crossed: np.ndarray
    features: np.ndarray
    both: tuple[np.ndarray, np.ndarray] | None
    neighbours: np.ndarray
    queries: np.ndarray


def start_audits(run: Run, label: Label, searched: Searched, wells: pl.DataFrame) -> Any:
    """Return the Ray task that computes the tables of a group; `audits_of` collects it.

    wells: W rows with roles; is_control: the negatives of the first split.
    """
    arrays = (searched.crossed, searched.features, *(searched.both or ()))
    held = sum(array.nbytes for array in arrays)
    return _audits.options(**weighing(_COPIES * held)).remote(run, label, searched, wells)


def audits_of(started: list[Any]) -> dict[str, pl.DataFrame]:
    """Return TABLES, each of all groups."""
    parts: list[dict[str, pl.DataFrame]] = collected(started)
    return {name: pl.concat([_EMPTY, *(part[name] for part in parts)], how="diagonal_relaxed") for name in TABLES}


@ray.remote(num_cpus=TASK_CPUS)
def _audits(run: Run, label: Label, searched: Searched, wells: pl.DataFrame) -> dict[str, pl.DataFrame]:
    settings = run.config.score
    source = pl.col(SOURCE_COLUMN)
    wells = wells.with_columns(
        label=pl.col("compound"),
        batch=pl.concat_str(source, BATCH_COLUMN, separator="/"),
        source=source,
        position=pl.col(WELL_COLUMN),
    )
    repeats = max(1, settings.floor_repeats)
    tables = {}
    if "stringency" in settings.tasks:
        tables["stringency"] = _ladders(run, searched, wells, repeats)
    if "neighbours" in settings.tasks and len(searched.queries):
        found = (searched.neighbours, searched.queries, wells)
        tables["neighbours"] = neighbour_shares(*found, tuple(sorted(settings.recall_at)), run.config.seed, repeats)
    if "enrichment" in settings.tasks:
        tables["enrichment"] = _enrichments(run, searched, wells, repeats)
    if "probe" in settings.tasks:
        tables["probes"] = _probes(run, searched, wells, repeats)
    return {name: label.before(tables[name]) if name in tables else _EMPTY for name in TABLES}


def _ladders(run: Run, searched: Searched, wells: pl.DataFrame, repeats: int) -> pl.DataFrame:
    """Return the rungs of every task that the run scores."""
    settings = run.config.score
    recall_at = tuple(sorted(settings.recall_at))
    treated = wells.filter(pl.col(TREATED))
    profiles = searched.features[wells[TREATED].to_numpy()]
    every = np.ones(len(profiles), dtype=bool)
    tasks: dict[str, Callable[[str], RankedTask]] = {"activity": lambda _: _activity(run, searched.crossed, wells)}
    if "distinctiveness" in settings.tasks:
        tasks["distinctiveness"] = lambda _: RankedTask(
            "distinctiveness", profiles, treated, DISTINCTIVENESS, every, every, treated["plate"]
        )
    if "consistency" in settings.tasks and settings.target is not None:
        tasks["consistency"] = lambda rung: _consistency(str(settings.target), profiles, treated, rung)
    if "cross_side" in settings.tasks and searched.both is not None:
        both = searched.both
        tasks["cross_side"] = lambda _: _cross_side(both, wells)
    rows: Rows = []
    for name, task_at in tasks.items():
        chance = chance_of(run) if name == "activity" else task_chance(run)
        rows += [{"task": name, **row} for row in ladder(task_at, chance, recall_at, repeats)]
    numbers = stringency.numbers_of(recall_at)
    schema: dict[str, Any] = {
        **dict.fromkeys(("task", "rung"), pl.String),
        **dict.fromkeys(("queries", "groups"), pl.Int64),
        **dict.fromkeys((*numbers, *(stringency.floor_name(name) for name in numbers)), pl.Float64),
        **dict.fromkeys(("status", "floor_status"), pl.String),
    }
    return pl.DataFrame(rows, schema=schema)


def _activity(run: Run, features: np.ndarray, wells: pl.DataFrame) -> RankedTask:
    """Return the task of activity in one split: the controls in `wells` are its negatives. Profiles without a direction are out."""
    playing = (wells[TREATED] | wells[CONTROL]).to_numpy() & features.any(axis=1)
    wells, features = wells.filter(pl.Series(playing)), features[playing]
    treated = wells[TREATED].to_numpy()
    # a control is nobody's positive: its compound is its own
    own = pl.concat_str(pl.lit("\x1f"), pl.int_range(pl.len()).cast(pl.String))
    scope = pl.col("plate") if run.config.score.negatives == "plate" else pl.lit("all")
    table = wells.with_columns(compound=pl.when(TREATED).then("compound").otherwise(own), scope=scope)
    every = np.ones(len(features), dtype=bool)
    return RankedTask("activity", features, table, RULES, treated, every, table["plate"])


def _consistency(target: str, profiles: np.ndarray, treated: pl.DataFrame, rung: str) -> RankedTask:
    """Return the task of consistency: one profile per compound, and on a rung per compound and plate, batch, source or position.

    Positives are of another compound. The floor permutes profiles within a plate, batch or source; else among all.
    """
    means, table = target_profiles(profiles, treated, target, () if rung == ANY else (rung,))
    within = table[rung] if rung in ("plate", "batch", "source") else pl.Series(["all"] * table.height)
    every = np.ones(len(means), dtype=bool)
    return RankedTask(
        f"consistency {rung}", means, table.with_columns(label="compound"), _TARGETS, every, every, within
    )


def _cross_side(both: tuple[np.ndarray, np.ndarray], wells: pl.DataFrame) -> RankedTask:
    """Return the task of cross_side: only the reconstructions change places in its floor."""
    treated, playing = wells[TREATED].to_numpy(), (wells[TREATED] | wells[CONTROL]).to_numpy()
    table = cross_side_table(wells, ("label", "batch", "source", "position"))
    queries = np.arange(table.height) < treated.sum()
    originals, reconstructions = both
    features = np.concatenate([reconstructions[treated], originals[playing]])
    return RankedTask("cross_side", features, table, CROSS_SIDE, queries, queries, table["plate"])


def _enrichments(run: Run, searched: Searched, wells: pl.DataFrame, repeats: int) -> pl.DataFrame:
    settings = run.config.score
    treated, profiles = wells.filter(pl.col(TREATED)), searched.features[wells[TREATED].to_numpy()]
    recall_at = tuple(sorted(settings.recall_at))
    tables = []
    for column in settings.set_columns:
        try:
            means, table = target_profiles(profiles, treated, column)
            labels = table["target"].to_list()
            rows = enrichment(means, labels, recall_at, settings.threshold, run.config.seed, repeats)
        except DataError as error:
            rows = pl.DataFrame([{"status": f"not scored: {error}"}], schema=ENRICHMENT)
        tables.append(rows.select(pl.lit(column).alias("column"), pl.all()))
    return pl.concat(tables) if tables else pl.DataFrame(schema={"column": pl.String, **ENRICHMENT})


def _probes(run: Run, searched: Searched, wells: pl.DataFrame, repeats: int) -> pl.DataFrame:
    """Return the probe of every column of sets; wells whose compound has several labels are left out."""
    treated, profiles = wells.filter(pl.col(TREATED)), searched.features[wells[TREATED].to_numpy()]
    rows: Rows = []
    for column in run.config.score.set_columns:
        row: dict[str, Any] = {"column": column}
        try:
            if column not in treated.columns:
                raise DataError(f"{column} differs within a well")
            label = treated[column].fill_null("").str.strip_chars()
            one = ((label != "") & ~label.str.contains("|", literal=True)).to_numpy()
            labels, compounds = (values.to_numpy().astype(str)[one] for values in (label, treated["compound"]))
            row |= linear_probe(profiles[one], labels, compounds, run.config.seed, repeats)
        except DataError as error:
            row["status"] = f"not scored: {error}"
        rows.append(row)
    numbers = {**dict.fromkeys(_NUMBERS, pl.Float64), **dict.fromkeys(_COUNTS, pl.Int64)}
    return pl.DataFrame(rows, schema={"column": pl.String, **numbers, "status": pl.String})
