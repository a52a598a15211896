"""Retrieval tasks other than phenotypic activity, each a Ray task of one extractor, side and group.

distinctiveness  a compound's replicates against all other compounds' wells of the group
consistency      compounds that share a target against compounds that share none, on mean profiles of compounds (score.target)
cross_side       a reconstruction's well queries the originals: the compound's other wells against its plate's controls

The floor of a task is its score with profiles permuted within each plate (consistency: among all compounds).
p-values are of copairs' null: the null by exchange needs negatives that a compound's wells could change places with.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import TASK_CPUS, collected, weighing
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.floors.permuted import NUMBERS, permuted_floor
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.tasks.groups import group_means, score_groups, split_labels
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_KEY
from sdvae_ray.scoring.inputs.labels import Label
from sdvae_ray.scoring.inputs.roles import task_chance

_COPIES = 3  # of the profiles: as they come, the treated ones, and made ready to be ranked
_OWN, _SIDE = "_well", "_side"
DISTINCTIVENESS = PairRules(["compound"], neg_diffby=["compound"])
CONSISTENCY = PairRules(["target"], neg_diffby=["target"], multilabel_col="target")
CROSS_SIDE = PairRules(["compound"], [_SIDE, _OWN], ["plate"], [_SIDE, "role"])
FLOOR = {name: f"floor_{name.removeprefix('mean_')}" for name in (*NUMBERS, "status")}  # of permuted_floor: its column
Row = dict[str, Any]


def start_tasks(
    run: Run, label: Label, features: np.ndarray, wells: pl.DataFrame, both: tuple[np.ndarray, np.ndarray] | None
) -> Any:
    """Return the Ray task that computes the rows of one extractor, side and group; `tasks_of` collects it.

    features: (W, D) normalised. wells: W rows with roles. both: (originals, reconstructions), each (W, D), in the originals'
    space; None: cross_side is not scored.
    """
    held = features.nbytes + sum(profiles.nbytes for profiles in both or ())
    return _tasks.options(**weighing(_COPIES * held)).remote(run, label, features, wells, both)


def tasks_of(started: list[Any], transfers: list[Any]) -> pl.DataFrame:
    """Return the table of tasks: extractor, side, group, task, queries, groups, mean_map, mean_normalised_map,
    fraction_retrieved, status, and the numbers and status of the floor (FLOOR).

    transfers: the tasks of scoring.transfer, whose rows have more columns; their group is the group that is queried.
    """
    rows = [row for rows_of_group in collected(started) for row in rows_of_group]
    text = ("extractor", "side", "group", "task", "status", FLOOR["status"])
    numbers = (*NUMBERS, *(FLOOR[name] for name in NUMBERS))
    schema: dict[str, Any] = dict.fromkeys(text, pl.String)
    schema |= {**dict.fromkeys(("queries", "groups"), pl.Int64), **dict.fromkeys(numbers, pl.Float64)}
    return pl.concat([pl.DataFrame(rows, schema=schema), *collected(transfers)], how="diagonal")


@ray.remote(num_cpus=TASK_CPUS)
def _tasks(
    run: Run, label: Label, features: np.ndarray, wells: pl.DataFrame, both: tuple[np.ndarray, np.ndarray] | None
) -> list[Row]:
    treated = wells.filter(pl.col("is_treated"))
    profiles = features[wells["is_treated"].to_numpy()]
    scores: dict[str, Callable[[], Row]] = {"distinctiveness": lambda: distinctiveness(run, profiles, treated)}
    if run.config.score.target is not None:
        scores["consistency"] = lambda: consistency(run, profiles, treated)
    if both is not None:
        scores["cross_side"] = lambda: cross_side(run, both, wells)
    rows = []
    for name, score in scores.items():
        if name not in run.config.score.tasks:
            continue
        row: Row = {**asdict(label), "task": name}
        try:
            row |= {**score(), "status": "ok"}
        except DataError as error:
            row["status"] = f"not scored: {error}"
        rows.append(row)
    return rows


def distinctiveness(run: Run, features: np.ndarray, treated: pl.DataFrame) -> Row:
    """Return the score of compounds against all other compounds. features: (W, D) of the treated wells."""
    return _scored(run, "distinctiveness", features, treated.select("compound"), DISTINCTIVENESS, treated["plate"])


def consistency(run: Run, features: np.ndarray, treated: pl.DataFrame) -> Row:
    """Return the score of targets. The targets of a compound are joined by |; a compound without a target is left out. Raises
    DataError if no compound has a target, or if the column of targets differs within a well."""
    profiles, compounds = target_profiles(features, treated, str(run.config.score.target))
    return _scored(run, "consistency", profiles, compounds, CONSISTENCY, pl.Series(["all"] * compounds.height))


def target_profiles(
    features: np.ndarray, treated: pl.DataFrame, target: str, by: Sequence[str] = ()
) -> tuple[np.ndarray, pl.DataFrame]:
    """Return the mean profiles (C, D) of compounds, in the order of their names, and their table: compound, `by`, target (list).

    features: (W, D) of the wells `treated`. target: a column of targets joined by |; a compound without one is left out. by:
    columns of `treated`: one profile for every compound and value. Raises as `consistency`.
    """
    if target not in treated.columns:
        raise DataError(f"{target} differs within a well")
    rows = treated.select("compound", *by, pl.col(target).fill_null("").alias("target")).with_row_index("row")
    rows = rows.filter(pl.col("target") != "").sort("compound", "row")
    if rows.height == 0:
        raise DataError(f"no compound has a {target}")
    members = rows.group_by("compound", *by, "target", maintain_order=True).agg("row")
    profiles = np.asarray([features[wells.to_numpy()].mean(0) for wells in members["row"]])
    return profiles, members.select("compound", *by, split_labels("target"))


def cross_side(run: Run, both: tuple[np.ndarray, np.ndarray], wells: pl.DataFrame) -> Row:
    """Return the score of the treated reconstructions as queries among the originals. both: see start_tasks."""
    treated, playing = wells["is_treated"].to_numpy(), (wells["is_treated"] | wells["is_control"]).to_numpy()
    originals, reconstructions = both
    table = cross_side_table(wells)
    plate = table["plate"].head(int(treated.sum()))
    return _scored(run, "cross_side", reconstructions[treated], table, CROSS_SIDE, plate, originals[playing])


def cross_side_table(wells: pl.DataFrame, keep: Sequence[str] = ()) -> pl.DataFrame:
    """Return the treated wells as queries of the reconstructions, then the treated and control wells of the originals, with the
    columns of CROSS_SIDE and `keep`.
    """
    named = wells.select(
        pl.concat_str(WELL_KEY, separator="/").alias(_OWN),
        "compound",
        "plate",
        *keep,
        role=pl.when("is_control").then(pl.lit("control")).otherwise(pl.lit("treated")),
    )
    asking = named.filter(wells["is_treated"]).with_columns(pl.lit("recon").alias(_SIDE), role=pl.lit("treated"))
    # a control is nobody's positive: its compound is its own
    own_compound = pl.when(pl.col("role") == "control").then("control " + pl.col(_OWN)).otherwise("compound")
    answering = named.filter(wells["is_treated"] | wells["is_control"]).with_columns(
        pl.lit("image").alias(_SIDE), compound=own_compound
    )
    return pl.concat([asking, answering.select(asking.columns)])


def _scored(
    run: Run,
    task: str,
    features: np.ndarray,
    wells: pl.DataFrame,
    rules: PairRules,
    plate: pl.Series,
    answering: np.ndarray | None = None,
) -> Row:
    """Return the means over groups of positives, and as floor_* the means with profiles permuted within each plate.

    features: (Q, D) the queries' profiles. plate: (Q,). answering: (V, D) profiles that are not queries and are not permuted.
    wells: Q + V rows.
    """
    chance = task_chance(run)
    queries = np.arange(wells.height) < len(features)

    def score(rows: np.ndarray) -> Row:
        profiles = features[rows] if answering is None else np.concatenate([features[rows], answering])
        groups = score_groups(profiles, wells, rules, wells["compound"], chance, queries).groups
        return {"queries": int(groups["replicates"].sum()), "groups": groups.height, **group_means(groups)}

    row = score(np.arange(len(features)))
    everyone, repeats = np.ones(len(features), bool), max(1, run.config.score.floor_repeats)
    floor = permuted_floor(score, plate.to_numpy(), everyone, what=task, seed=chance.seed, repeats=repeats)
    return {**row, **{column: floor.get(name) for name, column in FLOOR.items()}}
