"""Retrieval of a run: rows of scores/summary, compounds that a side keeps, distances, and reasons why something has no score."""

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import REASON, Column, number

OK = "ok"
FRACTION = "fraction_retrieved"
DISTANCES = {  # of scores/distributions
    column.key: column
    for column in (
        Column("fid", "FID", better="lower"),
        Column("kid", "KID", better="lower"),
        Column("kid_paired", "KID, paired", better="lower"),
        Column("cmmd", "CMMD", better="lower"),
        Column("precision", "precision", better="higher"),
        Column("recall", "recall", better="higher"),
        Column("density", "density"),
        Column("coverage", "coverage", better="higher"),
    )
}


def retrieval_rows(scored: ScoredRun) -> list[Values]:
    """Return the rows of scores/summary in order, with `fid`. A row that was not scored has `reason` instead of the counts."""
    fid = {tuple(key): value for *key, value in mean_distances(scored, "fid")}
    rows = []
    for row in scored.scores.summary.to_dicts():
        row["fid"] = fid.get((row["extractor"], row["side"], row["group"]))
        if (status := row.get("status") or OK) != OK:
            row |= {"wells": None, REASON: status}  # where nothing was scored, `wells` counts controls too
        rows.append(row)
    return scored.in_order(rows)


def mean_distances(scored: ScoredRun, name: str) -> list[tuple[str, str, str, float]]:
    """Return (extractor, side, group, value) of a distance, a column of scores/distributions: its mean
    over stains or RGB passes.
    """
    table = scored.scores.distributions
    if name not in table.columns:
        return []
    return table.filter(pl.col("by") == "group").group_by("extractor", "side", "slice").agg(pl.col(name).mean()).rows()


def reasons(scored: ScoredRun) -> list[str]:
    """Return one line per distinct reason why rows have no score; the line names the rows."""
    lines: dict[str, list[str]] = {}
    for row in retrieval_rows(scored):
        if REASON in row:
            group = "" if row["group"] == "all" else f" [{row['group']}]"
            where = f"{scored.label(row['extractor'])} {scored.label(row['side'])}{group}"
            lines.setdefault(row[REASON], []).append(where)
    return [*(f"{', '.join(where)}: {why}" for why, where in lines.items()), *_doubts(scored)]


def _doubts(scored: ScoredRun) -> list[str]:
    """Return what has to stand beside every FR: a p that is not valid, a test that cannot reject."""
    table, lines = scored.scores.summary, []
    if "p_valid" in table.columns and table.filter(~pl.col("p_valid")).height:
        lines.append("p not valid: fitted on the negatives (score.fit: controls). So is FR, which counts such p.")
    if "retrieval_status" in table.columns:
        lacking = table.filter(pl.col("retrieval_status") != OK).group_by("retrieval_status", maintain_order=True)
        for (status,), rows in lacking:
            least = rows["least_p_corrected"].min()
            words = "" if least is None else f": the least p that it can give, corrected, is {number(least, 3)}"  # type: ignore[arg-type]
            lines.append(
                f"no FR for {rows.height} of extractor, side and group: {str(status).replace('_', ' ')}{words}"
            )
    return lines


def kept(scored: ScoredRun) -> list[Values]:
    """Return counts of compounds for every extractor, group and reconstruction that was scored as the originals were.

    original: compounds that the originals retrieve. both: compounds that the originals and the reconstruction retrieve. added:
    compounds that only the reconstruction retrieves.
    """
    if scored.scores.compounds.height == 0:
        return []
    known = scored.scores.compounds.filter(pl.col("retrieved").is_not_null())
    key = ["extractor", "group", "compound"]
    originals = known.filter(pl.col("side") == IMAGE_SIDE).select(*key, image=pl.col("retrieved").cast(pl.Boolean))
    pairs = known.filter(pl.col("side") != IMAGE_SIDE).join(originals, on=key, how="inner", maintain_order="left")
    image, recon = pl.col("image"), pl.col("retrieved").cast(pl.Boolean)
    counts = pairs.group_by("extractor", "group", "side", maintain_order=True).agg(
        original=image.sum(), both=(image & recon).sum(), added=(~image & recon).sum()
    )
    return scored.in_order(counts.to_dicts())
