"""Retrieval tasks beside phenotypic activity, each a Ray task of one extractor, side and group.

distinctiveness  a compound's replicates against all other compounds' wells of the group
consistency      compounds that share a target against those that share none, on mean profiles of compounds (score.target)
cross_side       a reconstruction's well queries the originals: the compound's other wells against its plate's controls

Beside each stands its floor, profiles permuted within each plate (consistency: among all compounds).
p-values are of copairs' null: the null by exchange needs negatives that a compound's wells could be exchanged with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import polars as pl
import ray

from sdvae_ray.cluster.ordered_tasks import weighing
from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.floors.permuted import NUMBERS, permuted_floor
from sdvae_ray.retrieval.ranking.by_rules import MatchedPrecision, matched_average_precision
from sdvae_ray.retrieval.tasks.groups import group_means, score_groups, split_labels
from sdvae_ray.run.run import Run
from sdvae_ray.schema import WELL_KEY

_TASK_CPUS = 0.5
_COPIES = 3  # of the profiles: as they come, the treated ones, and made ready to be ranked
_WHERE = ("extractor", "side", "group", "random_weights")
_OWN, _OF = "_well", "_side"
FLOOR = {  # a number of permuted_floor: its column
    "mean_map": "floor_map",
    "mean_normalised_map": "floor_normalised_map",
    "fraction_retrieved": "floor_fraction_retrieved",
    "status": "floor_status",
}


def start_tasks(
    run: Run,
    label: dict[str, object],
    features: np.ndarray,
    wells: pl.DataFrame,
    both: tuple[np.ndarray, np.ndarray] | None,
) -> Any:
    """features: (W, D) normalised; wells with roles; both: (originals, reconstructions), each (W, D), in the originals' space."""
    held = features.nbytes + sum(each.nbytes for each in both or ())
    options = {"num_cpus": _TASK_CPUS, **weighing(_COPIES * held)}
    return _tasks.options(**options).remote(run, label, features, wells, both)


def tasks_of(started: list[Any], transfers: Sequence[pl.DataFrame] = ()) -> pl.DataFrame:
    """extractor, side, group, random_weights, task, queries, groups, mean_map, mean_normalised_map, fraction_retrieved, status,
    and the numbers and status of the floor (FLOOR).

    transfers: pipeline.transfer's rows, with columns of their own beside these; their group is the one that is queried.
    """
    rows = [row for found in ray.get(started) for row in found]
    text = (*_WHERE[:3], "task", "status", FLOOR["status"])
    numbers = (*NUMBERS, *(FLOOR[name] for name in NUMBERS))
    schema: dict[str, Any] = {**dict.fromkeys(text, pl.String), "random_weights": pl.Boolean}
    schema |= {**dict.fromkeys(("queries", "groups"), pl.Int64), **dict.fromkeys(numbers, pl.Float64)}
    return pl.concat([pl.DataFrame(rows, schema=schema), *transfers], how="diagonal")


@ray.remote
def _tasks(
    run: Run,
    label: dict[str, object],
    features: np.ndarray,
    wells: pl.DataFrame,
    both: tuple[np.ndarray, np.ndarray] | None,
) -> list[dict[str, Any]]:
    treated = wells["is_treated"].to_numpy()
    mine, space = wells.filter(pl.col("is_treated")), features[treated]
    made: dict[str, Callable[[], dict[str, Any]]] = {"distinctiveness": lambda: distinctiveness(run, space, mine)}
    if run.config.score.target is not None:
        made["consistency"] = lambda: consistency(run, space, mine)
    if both is not None:
        made["cross_side"] = lambda: cross_side(run, both, wells)
    made = {name: score for name, score in made.items() if name in run.config.score.tasks}
    rows = []
    for name, score in made.items():
        row: dict[str, Any] = {**{key: label[key] for key in _WHERE}, "task": name}
        try:
            row |= {**score(), "status": "ok"}
        except DataError as error:
            row["status"] = f"not scored: {error}"
        rows.append(row)
    return rows


def distinctiveness(run: Run, features: np.ndarray, treated: pl.DataFrame) -> dict[str, Any]:
    compound = treated.select("compound")

    def score(rows: np.ndarray) -> dict[str, Any]:
        found = matched_average_precision(features[rows], compound, ["compound"], [], [], ["compound"], **_ranking(run))
        return _summary(run, found, compound["compound"].gather(found.well))

    return _with_floor(run, score, "distinctiveness", treated["plate"])


def consistency(run: Run, features: np.ndarray, treated: pl.DataFrame) -> dict[str, Any]:
    """Targets of a compound are joined by |; one without a target is left out."""
    target = str(run.config.score.target)
    if target not in treated.columns:
        raise DataError(f"{target} differs within a well")
    rows = treated.select("compound", pl.col(target).fill_null("").alias("target")).with_row_index("row")
    rows = rows.filter(pl.col("target") != "").sort("compound", "row")
    if rows.height == 0:
        raise DataError(f"no compound has a {target}")
    members = rows.group_by("compound", "target", maintain_order=True).agg("row")
    profiles = np.asarray([features[each.to_numpy()].mean(0) for each in members["row"]])
    table = members.select("compound", split_labels("target"))

    def score(rows: np.ndarray) -> dict[str, Any]:
        found = matched_average_precision(
            profiles[rows], table, ["target"], [], [], ["target"], multilabel_col="target", **_ranking(run)
        )
        assert found.label is not None
        return _summary(run, found, found.label.cast(pl.String))

    return _with_floor(run, score, "consistency", pl.Series(["all"] * members.height))


def cross_side(run: Run, both: tuple[np.ndarray, np.ndarray], wells: pl.DataFrame) -> dict[str, Any]:
    """Every treated reconstruction among the originals: its compound's other wells against its plate's controls."""
    treated, control = wells["is_treated"].to_numpy(), wells["is_control"].to_numpy()
    original, recon = both
    own = wells.select(pl.concat_str(WELL_KEY, separator="/").alias(_OWN), "compound", "plate")
    asked = own.filter(pl.Series(treated)).with_columns(pl.lit("recon").alias(_OF), role=pl.lit("treated"))
    there = own.with_columns(pl.lit("image").alias(_OF))
    there = there.with_columns(role=pl.when(pl.Series(control)).then(pl.lit("control")).otherwise(pl.lit("treated")))
    there, kept = there.filter(pl.Series(treated | control)), original[treated | control]
    # a control is nobody's positive: its compound is its own
    there = there.with_columns(
        compound=pl.when(pl.col("role") == "control").then("control " + pl.col(_OWN)).otherwise("compound")
    )
    table = pl.concat([asked.select(sorted(asked.columns)), there.select(sorted(asked.columns))])
    queries, of_recon = recon[treated], (table[_OF] == "recon").to_numpy()

    def score(rows: np.ndarray) -> dict[str, Any]:
        lists = (["compound"], [_OF, _OWN], ["plate"], [_OF, "role"])
        profiles = np.concatenate([queries[rows], kept])
        found = matched_average_precision(profiles, table, *lists, queries=of_recon, **_ranking(run))
        return _summary(run, found, table["compound"].gather(found.well))

    return _with_floor(run, score, "cross_side", asked["plate"])


def _with_floor(run: Run, score: Callable[[np.ndarray], dict[str, Any]], task: str, plate: pl.Series) -> dict[str, Any]:
    """The score, and as floor_* the same with profiles permuted within each plate."""
    found = score(np.arange(len(plate)))
    everyone, repeats = np.ones(len(plate), bool), run.config.score.floor_repeats
    floor = permuted_floor(score, plate.to_numpy(), everyone, what=task, seed=run.config.seed, repeats=repeats)
    return {**found, **{FLOOR[name]: floor.get(name) for name in FLOOR}}


def _ranking(run: Run) -> dict[str, Any]:
    return {"distance": run.config.score.task_distance, "ties": run.config.score.ties}


def _summary(run: Run, found: MatchedPrecision, names: pl.Series) -> dict[str, Any]:
    """Means over groups of positives."""
    settings = run.config.score
    groups = score_groups(
        found,
        names,
        null_size=settings.null_size,
        seed=run.config.seed,
        strict=settings.strict,
        threshold=settings.threshold,
        exact=settings.null == "copairs_exact",
    )
    return {"queries": int(groups["replicates"].sum()), "groups": groups.height, **group_means(groups)}
