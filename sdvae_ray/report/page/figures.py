"""Charts as inline SVG, drawn by hand: quantile strips, dumbbells, scatter plots. Colours are the page's, by class.

A chart's values in, text out. Every chart has a title and a description for a screen reader, labelled axes, and says what it could
not draw.
"""

import math

from sdvae_ray.report.facts.chart import KINDS, Dumbbell, Dumbbells, Point, Scatter, Strip, Strips
from sdvae_ray.report.page.svg import Scale, framed, line, svg_text, tick_text, ticks_around, titled, x_axis, y_axis

_CHAR = 7.8  # pixels, width of a character at 12 px, about
_LONGEST = 23  # characters of a part's name


def strips(chart: Strips) -> str:
    """Return the chart as SVG: one strip per part and side, thin 5-95 %, thick 25-75 %, dot the median; "" without parts. Infinity
    has a column of its own at the right."""
    if not chart.parts:
        return ""
    values = [value for _, part in chart.parts for strip in part for value in strip.quantiles]
    finite = [value for value in values if math.isfinite(value)]
    labels = max(min(len(name), _LONGEST) * _CHAR for name, _ in chart.parts)
    left, top, width, row_height = min(max(46, labels + 14), 180), 8, 460, 13
    infinite = len(finite) < len(values)
    ticks = ticks_around(min(finite), max(finite)) if finite else [0.0, 1.0]
    scale = Scale(ticks[0], ticks[-1], left, width - (44 if infinite else 18))
    bands, marks, y = "", "", float(top)
    for number, (name, part) in enumerate(chart.parts):
        height = row_height * len(part) + 9
        if number % 2 == 0:
            bands += f'<rect class="band" x="0" y="{y:.1f}" width="{width}" height="{height}"/>'
        marks += svg_text(left - 8, y + height / 2 + 4, _short(name, _LONGEST), "end", "lab", name)
        for place, strip in enumerate(part):
            marks += _strip(strip, scale, y + 4.5 + row_height * (place + 0.5), name, width - 22)
        y += height
    axes = x_axis(scale, ticks, top, y, chart.axis)
    if infinite:
        axes += svg_text(width - 22, y + 14, "∞", "middle", "tick")
    medians = [f"{s.side.text} {name} median {tick_text(s.quantiles[2])}" for name, part in chart.parts for s in part]
    words = f"{chart.title}: {'; '.join(medians) or 'no values'}"
    return framed(width, y + 38, chart.title, words, bands + axes + marks)


def _strip(strip: Strip, scale: Scale, y: float, part: str, infinity: float) -> str:
    low, first, middle, third, high = (scale(value) if math.isfinite(value) else infinity for value in strip.quantiles)
    names = zip(("5 %", "median", "95 %"), strip.quantiles[::2], strict=True)
    words = ", ".join(f"{name} {tick_text(value)}" for name, value in names)
    return (
        f'<g class="s{strip.side.colour}">{titled(f"{strip.side.text}, {part}: {words}")}'
        f"{line('thin', low, high, y, y)}{line('thick', first, third, y, y)}"
        f'<circle class="dot" cx="{middle:.1f}" cy="{y:.1f}" r="3.6"/></g>'
    )


def dumbbells(chart: Dumbbells) -> str:
    """Return the chart as SVG: per extractor, group and side a line from the originals' fraction (ring) to the reconstruction's
    (dot).
    """
    left, right, width, top, step = 340, 700, 960, 8, 26
    scale = Scale(0.0, 1.0, left, right)
    marks, y, least, before = "", float(top), 0.0, ("", "")
    for number, row in enumerate(chart.rows):
        if (row.extractor, row.group) != before:
            if number:
                y = max(y, least) + 6
                marks += line("grid", 0, width, y - 3, y - 3)
            marks += svg_text(4, y + 17, _short(row.extractor, 27), "start", "lab strong", row.extractor)
            marks += svg_text(4, y + 33, _short(row.group, 27), "start", "tick", row.group)
            least = y + 38  # room for the two lines
        before = (row.extractor, row.group)
        marks += svg_text(left - 14, y + 17, _short(row.side.text, 26), "end", "lab", row.side.text)
        marks += _dumbbell(row, scale, y + 13) + svg_text(right + 22, y + 17, row.counts, "start", "lab")
        y += step
    y = max(y, least)
    words = "; ".join(f"{row.extractor}, {row.group}, {row.side.text}: {row.counts}" for row in chart.rows)
    axis = x_axis(scale, [0, 0.2, 0.4, 0.6, 0.8, 1.0], top, y, chart.axis)
    return framed(width, y + 38, chart.title, f"{chart.title}: {words}", axis + marks)


def _dumbbell(row: Dumbbell, scale: Scale, y: float) -> str:
    marks, kind = "", f"s{row.side.colour}"
    if row.image is not None and row.recon is not None:
        marks += line(f"link {kind}", scale(row.image), scale(row.recon), y, y)
    if row.recon is not None:
        marks += f'<g class="{kind}"><circle class="dot" cx="{scale(row.recon):.1f}" cy="{y:.1f}" r="5"/></g>'
    if row.image is not None:
        marks += f'<circle class="ring" cx="{scale(row.image):.1f}" cy="{y:.1f}" r="7.5"/>'
    return f"<g>{titled(f'{row.side.text}: {row.counts}')}{marks}</g>"


def scatter(chart: Scatter) -> str:
    """Return the chart as SVG: compounds, 0 to 1 on both axes; the mark says from which sides a compound was retrieved."""
    left, top, size = 58, 10, 250
    across, down = Scale(0.0, 1.0, left, left + size), Scale(0.0, 1.0, top + size, top)
    ticks = [0, 0.25, 0.5, 0.75, 1.0]
    axes = x_axis(across, ticks, top, top + size, chart.x_axis) + y_axis(down, ticks, left, left + size, chart.y_axis)
    axes += line("diagonal", left, left + size, top + size, top)
    points = sorted(chart.points, key=lambda point: point.kind != "neither")
    marks = "".join(_mark(point, across(point.x), down(point.y)) for point in points)
    counts = {kind: sum(point.kind == kind for point in points) for kind in KINDS}
    words = ", ".join(f"{number} {KINDS[kind]}" for kind, number in counts.items())
    return framed(left + size + 14, top + size + 38, chart.title, f"{chart.title}: {words}", axes + marks)


def _mark(point: Point, x: float, y: float) -> str:
    words = titled(f"{point.name}: {point.x:.3f} on the originals, {point.y:.3f} on the reconstruction")
    return f'<path class="mark {point.kind}" d="{_shape(point.kind)}" transform="translate({x:.1f} {y:.1f})">{words}</path>'


def _shape(kind: str) -> str:
    if kind == "lost":
        return "M-5 -4L5 -4L0 5Z"
    if kind == "gained":
        return "M-5 4L5 4L0 -5Z"
    radius = 4 if kind == "both" else 3.4
    return f"M-{radius} 0a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 -{2 * radius} 0"


def key(kind: str) -> str:
    """Return the mark of a kind of point as SVG, for a legend in the text."""
    return f'<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true"><path class="mark {kind}" d="{_shape(kind)}"/></svg>'


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
