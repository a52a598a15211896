"""Runs that differ in their seed alone are one study: their wells, compounds and floors are means over the runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import ConfigError
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.schema import WELL_KEY
from sdvae_ray.settings.score import ConcludeConfig

_PLACE = ("extractor", "side", "group")
_NOT_OF_A_STUDY = {"output", "seed", "storage", "load", "compress", "encode", "write", "cluster"}


@dataclass(frozen=True)
class Rule:
    """What a verdict means. margin: the share of the way from the floor to the originals that may be lost. level: of a one-sided
    test. declared: the run file says so, and said so before the scores. changed: the run was scored before, with another rule."""

    margin: float
    level: float
    declared: bool
    changed: bool = False

    @property
    def words(self) -> str:
        """Return the rule in words."""
        how = "declared in the run file" if self.declared else "not declared in the run file"
        late = ", changed after an earlier score" if self.changed else ""
        return f"{100 * self.margin:g} % of the way from the floor to the originals, {how}{late}"


def _in_place(extractor: str, group: str, side: str) -> pl.Expr:
    """Return a condition: the row of a score is of this extractor, group and side."""
    return (pl.col("extractor") == extractor) & (pl.col("group") == group) & (pl.col("side") == side)


@dataclass(frozen=True)
class Study:
    """One or more runs, of one configuration and manifest, whose seeds differ."""

    runs: tuple[ScoredRun, ...]

    @property
    def first(self) -> ScoredRun:
        """Return the first run, whose names and order are those of all."""
        return self.runs[0]

    @cached_property
    def wells(self) -> pl.DataFrame:
        """Return extractor, side, group, the keys of the well, compound, plate, normalised_ap: the mean over the runs."""
        tables = [run.scores.wells for run in self.runs if run.scores.wells.height]
        if not tables:
            return pl.DataFrame(
                schema=dict.fromkeys((*_PLACE, *WELL_KEY, "compound", "plate"), pl.String)
                | {"normalised_ap": pl.Float64}
            )
        key = [*dict.fromkeys((*_PLACE, *WELL_KEY, "compound", "plate"))]
        stacked = pl.concat([table.select(*key, "normalised_ap") for table in tables])
        return stacked.group_by(key, maintain_order=True).agg(pl.col("normalised_ap").mean())

    @cached_property
    def retrieved(self) -> pl.DataFrame:
        """Return extractor, side, group, compound, retrieved: in more than half of the runs; null if none could say."""
        tables = [run.scores.compounds for run in self.runs if run.scores.compounds.height]
        if not tables:
            return pl.DataFrame(schema=dict.fromkeys((*_PLACE, "compound"), pl.String) | {"retrieved": pl.Boolean})
        key = [*_PLACE, "compound"]
        stacked = pl.concat([table.select(*key, pl.col("retrieved").cast(pl.Boolean)) for table in tables])
        return stacked.group_by(key, maintain_order=True).agg(pl.col("retrieved").cast(pl.Float64).mean() > 0.5)

    def of_originals(self, extractor: str, group: str) -> list[str]:
        """Return the compounds that the originals retrieve."""
        is_retrieved = _in_place(extractor, group, IMAGE_SIDE) & pl.col("retrieved")
        return self.retrieved.filter(is_retrieved)["compound"].to_list()

    def pairs(self, extractor: str, group: str, side: str) -> pl.DataFrame:
        """Return compound, plate, image, side: the normalised AP of every well that both sides have."""
        return paired(self.of(extractor, group, IMAGE_SIDE), self.of(extractor, group, side), "side")

    def of(self, extractor: str, group: str, side: str) -> pl.DataFrame:
        """Return the rows of `wells` of one extractor, group and side."""
        return self.wells.filter(_in_place(extractor, group, side))

    def floor(self, extractor: str, group: str) -> tuple[float | None, str]:
        """Return the floor of the originals' normalised mAP, the mean over the runs, or None and the reason why there is none."""
        rows = []
        for run in self.runs:
            table = run.scores.over_floor
            if "floor_normalised_map" in table.columns:
                rows += table.filter(_in_place(extractor, group, IMAGE_SIDE)).to_dicts()
        known = [row["floor_normalised_map"] for row in rows if row["floor_normalised_map"] is not None]
        if known:
            return sum(known) / len(known), ""
        reasons = [row["status"] for row in rows if row.get("status")]
        return None, str(reasons[0]).replace("_", " ") if reasons else "no controls were posed (score.floor_repeats: 0)"


def paired(first: pl.DataFrame, second: pl.DataFrame, name: str, first_name: str = "image") -> pl.DataFrame:
    """Return compound, plate and the two normalised APs of every well that both tables have, under the two names."""
    key = ["compound", *dict.fromkeys(("plate", *WELL_KEY))]
    joined = first.select(*key, pl.col("normalised_ap").alias(first_name)).join(
        second.select(*key, pl.col("normalised_ap").alias(name)), on=key, maintain_order="left"
    )
    return joined.select("compound", "plate", first_name, name).drop_nulls()


def studies(runs: Sequence[ScoredRun]) -> list[Study]:
    """Return the runs as studies, in the order of their first runs. A run with the seed of another is a study of its own.

    Raises ConfigError for a run that is named twice.
    """
    outputs = [run.run.output for run in runs]
    if twice := [output for number, output in enumerate(outputs) if output in outputs[:number]]:
        raise ConfigError(f"{twice[0]} is named twice")
    by_settings: dict[str, list[ScoredRun]] = {}
    for run in runs:
        settings = run.config.model_dump(mode="json", exclude=_NOT_OF_A_STUDY)
        manifest = (run.record or {}).get("manifest", {}).get("sha256")
        key = json.dumps([settings, manifest], sort_keys=True)
        if run.config.seed in [other.config.seed for other in by_settings.get(key, [])]:
            key += run.run.output
        by_settings.setdefault(key, []).append(run)
    return [Study(tuple(same)) for same in by_settings.values()]


def rule_of(run: ScoredRun, margin: float | None = None) -> Rule:
    """Return the rule that the run was scored under. margin: asked for now.

    Raises ConfigError if the run file declares another margin than `margin`, or than the run was scored with: a margin is declared
    before the scores are seen.
    """
    declared = run.config.score.conclude
    if run.record is not None and run.scores.summary.height:
        scored = run.record["config"].get("score", {}).get("conclude")
        before = None if scored is None else ConcludeConfig.model_validate(scored)
        if declared is not None and declared != before:
            known = "nothing" if before is None else f"a margin of {before.margin:g} at level {before.level:g}"
            raise ConfigError(
                f"score.conclude: {run.config.output} was scored with {known} declared, and the run file now has "
                f"{declared.margin:g} at level {declared.level:g}; a margin is declared before the scores are seen"
            )
        declared = before
    changed = bool((run.record or {}).get("margins_before"))
    if declared is None:
        usual = ConcludeConfig()
        return Rule(usual.margin if margin is None else margin, usual.level, False, changed)
    if margin is not None and margin != declared.margin:
        raise ConfigError(
            f"--margin {margin:g}: the run file declares {declared.margin:g} (score.conclude.margin), and did before the scores"
        )
    return Rule(declared.margin, declared.level, True, changed)
