"""Retrieval: every row of scores/summary, a table per extractor."""

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import Beside, Column, Section, number

COLUMNS = (  # key: a column of scores/summary
    Column("wells", "treated wells", 0),
    Column("controls", "control wells", 0),
    Column("compounds", "compounds", 0),
    Column("mean_map", "mAP", 3, "higher"),
    Column("fraction_retrieved", "FR", 3, "higher"),
)
LAST = (Column("reconstruction_recall", "own well", 3, "higher"), Column("fid", "FID", better="lower"))
_HEAD = ("retrieval", "Retrieval", "Retrieval")
_BRIEF = (
    "FR: share of compounds told from controls. R@k: share of a well's replicates among its k nearest wells (at most "
    "k / replicates); beside it its floor, compounds permuted within each plate. own well: a reconstruction's nearest original is "
    "its own. FID: mean over stains or passes, in the extractor's features (not the TF-FID of image generation)."
)


def section(scored: ScoredRun) -> Section:
    """Return one table of scores per extractor, or the reason why nothing was scored."""
    rows = outcome.retrieval_rows(scored)
    if scored.config.score.perturbation is None:
        return Section(
            *_HEAD, reasons=["No retrieval: score.perturbation is null. There are no compounds in this run."]
        )
    if not rows:
        return Section(*_HEAD, reasons=["No retrieval: nothing was scored."])
    rows = [row | _recalls_with_floors(scored, row) for row in rows]
    return Section(
        *_HEAD,
        tables=scored.tables_by_extractor("Retrieval", rows, [*COLUMNS, *recall_columns(scored.config), *LAST]),
        reasons=outcome.reasons(scored),
        notes=[_fid_note(scored, name) for name in scored.extractors(row["extractor"] for row in rows)],
        brief=_BRIEF,
    )


def recall_columns(config: RunConfig) -> list[Column]:
    """Return the columns of replicate recall at three k at most: the first, the middle and the last."""
    at = sorted(set(config.score.recall_at))
    chosen = at if len(at) <= 3 else [at[0], at[len(at) // 2], at[-1]]
    return [Column(f"replicate_recall_at_{k}", f"R@{k}", 3, "higher") for k in chosen]


def _recalls_with_floors(scored: ScoredRun, row: Values) -> Values:
    """Return the recalls at k of a row, each with its floor in words; nothing for a run that has no floors of recall."""
    table = scored.scores.neighbours
    if table.height == 0:
        return {}
    here = table.filter(
        (pl.col("extractor") == row["extractor"]) & (pl.col("side") == row["side"]) & (pl.col("group") == row["group"])
    ).filter(pl.col("shared") == "replicates")
    floors = {f"replicate_recall_at_{k}": floor for k, floor in here.select("k", "floor_share").rows()}
    return {
        name: Beside(row[name], number(floor, 2))
        for name, floor in floors.items()
        if row.get(name) is not None and floor is not None
    }


def _fid_note(scored: ScoredRun, extractor: str) -> str:
    here = scored.scores.distributions.filter(pl.col("extractor") == extractor)
    if here.height == 0 or "fid" not in here.columns:
        return f"FID by {extractor}: there are no patch features of the originals in this space."
    patches, features = min(here["n_image"].to_list()), max(here["dimensions"].to_list())
    few = " Fewer patches than features: it is then far too large." if patches <= features else ""
    return f"FID by {extractor}: the mean over stains or passes; {patches:,} or more patches of {features:,} features a side.{few}"
