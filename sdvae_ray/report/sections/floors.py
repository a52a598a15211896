"""Floors: every FR with its interval, its difference from the originals', and FR without anything to find."""

import polars as pl

from sdvae_ray.report.facts.floors import FLOORS, MEANINGS
from sdvae_ray.report.facts.outcome import FRACTION, OK
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Column, Section, with_interval

COLUMNS = (
    Column(FRACTION, "FR", 3, unit="95 %"),
    Column("difference", "−\u00a0image", 3, unit="95 %", signed=True),
    *FLOORS.values(),
)
_LEAD = (
    "FR with its interval (compounds resampled), its difference from the originals' over the same compounds, and what the same "
    "code gives where there is nothing to find, or without the leak of the fit into the negatives. A score near its floors "
    "says nothing."
)
_BRIEF = (
    "Intervals: 95 %, compounds resampled. Floors are FR by the same code: half of the controls for the fit, half for "
    "negatives; controls posing as compounds; labels permuted. FR near a floor says nothing. The page has more of them."
)


def section(scored: ScoredRun) -> Section | None:
    """Return FR and its floors; None if nothing was scored."""
    differences, floors = scored.scores.differences, scored.scores.floors
    if differences.height == 0:
        return None
    fractions: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in floors.rows(named=True):
        fractions.setdefault((row["extractor"], row["side"], row["group"]), {})[row["quantity"]] = row[FRACTION]
    rows = []
    for row in differences.filter(pl.col("quantity") == FRACTION).rows(named=True):
        key = {name: row[name] for name in ("extractor", "side", "group")}
        scores = {
            FRACTION: with_interval(row, "estimate"),
            "difference": with_interval(row, "difference", "difference_"),
        }
        rows.append({**key, **scores, **fractions.get(tuple(key.values()), {})})
    return Section(
        "floors",
        "Floors",
        "Floors",
        lead=_LEAD,
        tables=scored.tables_by_extractor("FR and its floors", rows, COLUMNS),
        reasons=_reasons(floors),
        terms={column.heading: MEANINGS[name] for name, column in FLOORS.items()},
        brief=_BRIEF,
    )


def _reasons(floors: pl.DataFrame) -> list[str]:
    """Return one line per floor and reason why the floor has no number."""
    if floors.height == 0:
        return []
    lacking = floors.filter((pl.col("status") != OK) & pl.col("quantity").is_in(list(FLOORS)))
    counts = lacking.group_by("quantity", "status", maintain_order=True).agg(pl.col("side").n_unique())
    return [f"{quantity}: {status.replace('_', ' ')}, on {count} sides" for quantity, status, count in counts.rows()]
