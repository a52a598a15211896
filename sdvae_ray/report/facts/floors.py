"""Every FR with its interval, the difference from the originals', and its floors: rows for the terminal and the page."""

from dataclasses import dataclass

import polars as pl

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts import findings
from sdvae_ray.report.facts.findings import NONE, number
from sdvae_ray.run.scores import Scores

FLOORS = {  # quantity -> two lines of a heading, and what it is
    "half_same": ("half fit\nsame half", "fit on half of the controls, the same half are the negatives"),
    "half_other": (
        "half fit\nother half",
        "fit on half, the other half are the negatives: less than half_same by the leak",
    ),
    "posing_position": ("posing,\nposition", "controls posing as compounds, one position on all plates each"),
    "posing_shuffled": ("posing,\nshuffled", "controls posing as compounds, positions shuffled"),
    "labels_within_treated": ("permuted,\ntreated", "labels permuted among the treated wells of a plate"),
    "labels_within_all": ("permuted,\nall", "labels and roles permuted among all wells of a plate"),
    "position_matched": ("position-\nmatched", "negatives at the query's own position on other plates"),
}
FRACTION = "fraction_retrieved"


@dataclass(frozen=True)
class FloorRow:
    """Texts of one side: FR, its interval, the difference from the originals' with its interval, FR of every floor."""

    extractor: str
    side: str
    group: str
    fraction: str
    interval: str
    difference: str
    floors: dict[str, str]


def floor_rows(config: RunConfig, scores: Scores) -> list[FloorRow]:
    """By extractor, group and side, of what was scored."""
    if scores.differences.height == 0:
        return []
    of_floor: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in scores.floors.rows(named=True):
        key = (row["extractor"], row["side"], row["group"])
        of_floor.setdefault(key, {})[row["quantity"]] = number(row[FRACTION], 3)
    rows = []
    for row in scores.differences.filter(pl.col("quantity") == FRACTION).rows(named=True):
        key = (row["extractor"], row["side"], row["group"])
        found = of_floor.get(key, {})
        difference = row.get("difference")
        apart = NONE if difference is None else f"{difference:+.3f}"
        if difference is not None:
            apart += f"\n{_between(row['difference_low'], row['difference_high'])}"
        texts = {name: found.get(name, NONE) for name in FLOORS}
        rows.append(FloorRow(*key, number(row["estimate"], 3), _between(row["low"], row["high"]), apart, texts))
    return findings.in_order(config, rows)


def reasons(scores: Scores) -> list[str]:
    """Why a floor has no number, a line per reason and quantity."""
    if scores.floors.height == 0:
        return []
    lacking = scores.floors.filter((pl.col("status") != "ok") & pl.col("quantity").is_in(list(FLOORS)))
    found = lacking.group_by("quantity", "status", maintain_order=True).agg(pl.col("side").n_unique())
    return [f"{quantity}: {status.replace('_', ' ')}, on {count} sides" for quantity, status, count in found.rows()]


def _between(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{low:.2f} to {high:.2f}"
