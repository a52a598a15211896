"""The choice of the fields of view that the report shows: a control and the most active compounds, deterministically."""

from dataclasses import dataclass

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts.scored import PHENOTYPE, STRENGTH, ScoredRun
from sdvae_ray.report.facts.table import number
from sdvae_ray.schema import FOV_ID
from sdvae_ray.selection import select

EXAMPLES = 4


@dataclass(frozen=True)
class Choice:
    """A FOV that is shown. what: its treatment in words. why: why it was chosen."""

    fov_id: str
    what: str
    why: str


def choose(scored: ScoredRun, count: int = EXAMPLES) -> list[Choice]:
    """Return the FOVs to show: a control, then one FOV of each of the compounds with the highest normalised mAP on the originals.

    The compounds have distinct phenotypes, if these are known. The FOV of a compound is chosen by the seed; if nothing was scored,
    the compound is too.
    """
    config, fovs = scored.config, scored.usable
    if fovs.height == 0:
        return []
    compound = config.score.perturbation or ""
    control = fovs.filter(select(config.score.control, fovs.columns, "score.control")) if compound else fovs.head(0)
    chosen = [Choice(_by_hash(config, control), "control", "a control well")] if control.height else []
    known = pl.col(compound).is_not_null() & (pl.col(compound) != "")
    treated = fovs.filter(known) if compound in fovs.columns else fovs
    treated = treated.filter(~pl.col(FOV_ID).is_in(control[FOV_ID].implode()))
    phenotypes: set[str] = set()
    for name, why in _most_active(scored):
        if len(chosen) == count:
            return chosen
        rows = treated.filter(pl.col(compound) == name)
        phenotype = str(rows[PHENOTYPE][0]) if rows.height and PHENOTYPE in rows.columns else name
        if rows.height and phenotype not in phenotypes:
            phenotypes.add(phenotype)
            chosen.append(Choice(_by_hash(config, rows), _what(rows, name), why))
    while len(chosen) < count:
        rest = (treated if treated.height else fovs).filter(~pl.col(FOV_ID).is_in([choice.fov_id for choice in chosen]))
        if rest.height == 0:
            break
        fov = _by_hash(config, rest)
        row = rest.filter(pl.col(FOV_ID) == fov)
        what = _what(row, str(row[compound][0] or "")) if compound in row.columns else ""
        chosen.append(Choice(fov, what, "chosen by hash"))
    return chosen


def _most_active(scored: ScoredRun) -> list[tuple[str, str]]:
    """Return (compound, why), highest first, by normalised mAP on the originals, averaged over extractors and groups. If the
    originals were not scored, the mAP is that on the reconstructions."""
    if scored.scores.compounds.height == 0:
        return []
    known = scored.scores.compounds.filter(pl.col("normalised_map").is_not_null())
    originals = known.filter(pl.col("side") == IMAGE_SIDE)
    used, where = (originals, "the originals") if originals.height else (known, "the reconstructions")
    means = used.group_by("compound").agg(pl.col("normalised_map").mean())
    ranked = means.sort("normalised_map", "compound", descending=[True, False])
    by = ", ".join(scored.extractors(used["extractor"]))
    return [(str(name), f"normalised mAP {number(value, 2)} on {where} by {by}") for name, value in ranked.rows()]


def _what(rows: pl.DataFrame, name: str) -> str:
    """Return the compound's name, with its phenotype if that is known."""
    if PHENOTYPE not in rows.columns or rows[PHENOTYPE][0] is None:
        return name
    strength = f", strength {rows[STRENGTH][0]}" if STRENGTH in rows.columns and rows[STRENGTH][0] is not None else ""
    return f"{name} ({rows[PHENOTYPE][0]}{strength})"


def _by_hash(config: RunConfig, rows: pl.DataFrame) -> str:
    names = sorted(rows[FOV_ID].to_list())
    return names[int(generator(config.seed, "example", *names[:1], str(len(names))).integers(len(names)))]
