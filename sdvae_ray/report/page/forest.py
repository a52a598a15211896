"""A forest plot whose rows stand in an HTML table: every row has its name and numbers as text, and its marks as SVG in percent of
the width, so that the plot is as readable on a phone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from sdvae_ray.report.facts.chart import Forest, ForestRow
from sdvae_ray.report.facts.table import number
from sdvae_ray.report.page.svg import titled

_ROW = 26  # pixels, height of a row
_ROOM = 0.06  # of the width, beside the outermost mark


@dataclass(frozen=True)
class ForestPlot:
    """A forest as SVG texts. head: names of the lines, above the rows. rows: (the row, its marks)."""

    head: str
    rows: list[tuple[ForestRow, str]]


def forest(chart: Forest) -> ForestPlot:
    """Return the drawing of a forest. Lines: the originals at 0, the floor; a band: the margin."""
    floor = None if chart.floor is None or chart.ceiling is None else chart.floor - chart.ceiling
    ends = [v for row in chart.rows for v in (row.low, row.high, row.estimate, row.margin, row.floor) if v is not None]
    known = [0.0, *ends, *(value for value in (floor, chart.margin) if value is not None)]
    least, most = min(known), max(known)
    spread = (most - least) or 1.0
    low, high = least - _ROOM * spread, most + _ROOM * spread

    def place(value: float) -> str:
        return f"{100 * (value - low) / (high - low):.2f}%"

    return ForestPlot(_head(chart, floor, place), [(row, _marks(chart, row, floor, place)) for row in chart.rows])


def _head(chart: Forest, floor: float | None, place: Callable[[float], str]) -> str:
    originals = "originals" if chart.ceiling is None else f"originals {number(chart.ceiling, 2)}"
    texts = _line_name(place(0.0), 11, originals, floor is None or floor <= 0)
    if floor is not None:
        texts += _line_name(place(floor), 24, f"floor {number(chart.floor, 2)}", floor > 0)
    return f'<svg class="forest-row" height="28" width="100%" aria-hidden="true">{texts}</svg>'


def _line_name(x: str, y: int, words: str, ends: bool) -> str:
    anchor, shift = ("end", 4) if ends else ("start", -4)
    return f'<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}" dx="{shift}">{words}</text>'


def _marks(chart: Forest, row: ForestRow, floor: float | None, place: Callable[[float], str]) -> str:
    middle, marks = _ROW / 2, ""
    margin, floor = chart.margin if row.margin is None else row.margin, floor if row.floor is None else row.floor
    if margin is not None:
        width = f"{float(place(margin)[:-1]) - float(place(-margin)[:-1]):.2f}%"
        marks += f'<rect class="margin" x="{place(-margin)}" width="{width}" y="0" height="{_ROW}"/>'
    marks += f'<line class="zero" x1="{place(0)}" x2="{place(0)}" y1="0" y2="{_ROW}"/>'
    if floor is not None:
        marks += f'<line class="floor" x1="{place(floor)}" x2="{place(floor)}" y1="0" y2="{_ROW}"/>'
    if row.low is not None and row.high is not None:
        x1, x2 = place(row.low), place(row.high)
        marks += f'<line class="whisker" x1="{x1}" x2="{x2}" y1="{middle}" y2="{middle}"/>'
    if row.estimate is not None and math.isfinite(row.estimate):
        marks += f'<circle class="dot" cx="{place(row.estimate)}" cy="{middle}" r="5"/>'
    words = titled(f"{row.side.text}: {row.word}, {row.interval}")
    return (
        f'<svg class="forest-row s{row.side.colour}" height="{_ROW}" width="100%" role="img" '
        f'aria-label="interval">{words}{marks}</svg>'
    )
