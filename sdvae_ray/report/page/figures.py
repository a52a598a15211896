"""Charts as inline SVG, drawn by hand: quantile strips, dumbbells, scatter plots. Colours are the page's, by class.

Values in, text out; nothing here knows a run. Every chart has a title and a description for a screen reader, labelled axes, and
says what it could not draw.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_CHAR = 7.8  # pixels, width of a character at 12 px, about


@dataclass(frozen=True)
class Strip:
    """Quantiles of one side's values: 5, 25, 50, 75 and 95 %. `series` numbers the side's colour."""

    side: str
    series: int
    quantiles: tuple[float, float, float, float, float]


@dataclass(frozen=True)
class Dumbbell:
    """Fraction retrieved of one side beside the originals'; None where it was not scored. `counts`: text at the right."""

    extractor: str
    group: str
    side: str
    series: int
    image: float | None
    recon: float | None
    counts: str


@dataclass(frozen=True)
class Point:
    """A compound: its mAP on the originals (x) and on a reconstruction (y), and whether each retrieved it."""

    name: str
    x: float
    y: float
    on_image: bool
    on_recon: bool

    @property
    def kind(self) -> str:
        return {(True, True): "both", (True, False): "lost", (False, True): "gained"}.get(
            (self.on_image, self.on_recon), "neither"
        )


KINDS = {
    "both": "retrieved from both",
    "lost": "lost: from the originals only",
    "gained": "gained: from the reconstruction only",
    "neither": "from neither",
}


def strips(title: str, axis: str, rows: Sequence[tuple[str, Sequence[Strip]]]) -> str:
    """One metric: per part (stain or pass) a strip per side; thin 5-95 %, thick 25-75 %, dot the median.

    Infinity has a column of its own at the right.
    """
    values = [value for _, part in rows for strip in part for value in strip.quantiles]
    finite = [value for value in values if math.isfinite(value)]
    labels = max((_width(name) for name, _ in rows), default=0)
    left, top, width, row_height = min(max(46, labels + 14), 180), 8, 460, 13
    infinite = len(finite) < len(values)
    right = width - (44 if infinite else 18)
    ticks = ticks_around(min(finite), max(finite)) if finite else [0.0, 1.0]
    scale = Scale(ticks[0], ticks[-1], left, right)
    bands: list[str] = []
    drawn: list[str] = []
    y = float(top)
    for number, (name, part) in enumerate(rows):
        height = row_height * len(part) + 9
        if number % 2 == 0:
            bands.append(f'<rect class="band" x="0" y="{y:.1f}" width="{width}" height="{height}"/>')
        drawn.append(svg_text(left - 8, y + height / 2 + 4, _short(name, 23), "end", "lab", name))
        for place, strip in enumerate(part):
            drawn.append(_strip(strip, scale, y + 4.5 + row_height * (place + 0.5), name, width - 22))
        y += height
    axes = _x_axis(scale, ticks, top, y, axis)
    if infinite:
        axes += svg_text(width - 22, y + 14, "∞", "middle", "tick")
    return framed(width, y + 38, title, f"{title}: {_said(rows)}", "".join(bands) + axes + "".join(drawn))


def _strip(strip: Strip, scale: "Scale", y: float, part: str, infinity: float) -> str:
    low, first, middle, third, high = (scale(value) if math.isfinite(value) else infinity for value in strip.quantiles)
    words = ", ".join(
        f"{name} {tick_text(value)}"
        for name, value in zip(("5 %", "median", "95 %"), strip.quantiles[::2], strict=True)
    )
    return (
        f'<g class="s{strip.series}"><title>{escape(f"{strip.side}, {part}: {words}")}</title>'
        f'<line class="thin" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<line class="thick" x1="{first:.1f}" x2="{third:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="dot" cx="{middle:.1f}" cy="{y:.1f}" r="3.6"/></g>'
    )


def _said(rows: Sequence[tuple[str, Sequence[Strip]]]) -> str:
    medians = [f"{s.side} {name} median {tick_text(s.quantiles[2])}" for name, part in rows for s in part]
    return "; ".join(medians) or "no values"


def dumbbells(title: str, axis: str, rows: Sequence[Dumbbell]) -> str:
    """Per extractor, group and side a line from the originals' fraction (ring) to the reconstruction's (dot), with counts."""
    left, right, width, top, step = 340, 700, 960, 8, 26
    scale = Scale(0.0, 1.0, left, right)
    drawn: list[str] = []
    y, least, before = float(top), 0.0, ("", "")
    for number, row in enumerate(rows):
        if (row.extractor, row.group) != before:
            if number:
                y = max(y, least) + 6
                drawn.append(f'<line class="grid" x1="0" x2="{width}" y1="{y - 3:.1f}" y2="{y - 3:.1f}"/>')
            drawn.append(svg_text(4, y + 17, _short(row.extractor, 27), "start", "lab strong", row.extractor))
            drawn.append(svg_text(4, y + 33, _short(row.group, 27), "start", "tick", row.group))
            least = y + 38  # room for the two lines
        before = (row.extractor, row.group)
        drawn.append(svg_text(left - 14, y + 17, _short(row.side, 26), "end", "lab", row.side))
        drawn.append(_dumbbell(row, scale, y + 13))
        drawn.append(svg_text(right + 22, y + 17, row.counts, "start", "lab"))
        y += step
    y = max(y, least)
    said = "; ".join(f"{row.extractor}, {row.group}, {row.side}: {row.counts}" for row in rows)
    ticks = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    return framed(width, y + 38, title, f"{title}: {said}", _x_axis(scale, ticks, top, y, axis) + "".join(drawn))


def _dumbbell(row: Dumbbell, scale: "Scale", y: float) -> str:
    parts = []
    if row.image is not None and row.recon is not None:
        a, b = scale(row.image), scale(row.recon)
        parts.append(f'<line class="link s{row.series}" x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}"/>')
    if row.recon is not None:
        parts.append(f'<g class="s{row.series}"><circle class="dot" cx="{scale(row.recon):.1f}" cy="{y}" r="5"/></g>')
    if row.image is not None:
        parts.append(f'<circle class="ring" cx="{scale(row.image):.1f}" cy="{y}" r="7.5"/>')
    return f"<g><title>{escape(f'{row.side}: {row.counts}')}</title>{''.join(parts)}</g>"


def scatter(title: str, x_axis: str, y_axis: str, points: Sequence[Point]) -> str:
    """Compounds, 0 to 1 on both axes, with the diagonal; the mark says from which side a compound was retrieved."""
    left, top, size = 58, 10, 250
    across, down = Scale(0.0, 1.0, left, left + size), Scale(0.0, 1.0, top + size, top)
    ticks = [0, 0.25, 0.5, 0.75, 1.0]
    drawn = [_x_axis(across, ticks, top, top + size, x_axis)]
    for tick in ticks:
        drawn.append(f'<line class="grid" x1="{left}" x2="{left + size}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>')
        drawn.append(svg_text(left - 6, down(tick) + 4, tick_text(tick), "end", "tick"))
    middle = top + size / 2
    drawn.append(
        f'<text class="axis" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{escape(y_axis)}</text>'
    )
    drawn.append(f'<line class="diagonal" x1="{left}" y1="{top + size}" x2="{left + size}" y2="{top}"/>')
    for point in sorted(points, key=lambda point: point.kind != "neither"):
        drawn.append(_mark(point, across(point.x), down(point.y)))
    counts = {kind: sum(point.kind == kind for point in points) for kind in KINDS}
    said = ", ".join(f"{number} {KINDS[kind]}" for kind, number in counts.items())
    return framed(left + size + 14, top + size + 38, title, f"{title}: {said}", "".join(drawn))


def _mark(point: Point, x: float, y: float) -> str:
    words = (
        f"<title>{escape(f'{point.name}: {point.x:.3f} on the originals, {point.y:.3f} on the reconstruction')}</title>"
    )
    return f'<path class="mark {point.kind}" d="{_shape(point.kind)}" transform="translate({x:.1f} {y:.1f})">{words}</path>'


def _shape(kind: str) -> str:
    if kind == "lost":
        return "M-5 -4L5 -4L0 5Z"
    if kind == "gained":
        return "M-5 4L5 4L0 -5Z"
    radius = 4 if kind == "both" else 3.4
    return f"M-{radius} 0a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 -{2 * radius} 0"


def key(kind: str) -> str:
    """The mark of a kind of point, for a legend in the text."""
    return f'<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true"><path class="mark {kind}" d="{_shape(kind)}"/></svg>'


@dataclass(frozen=True)
class Scale:
    """Values first..last on pixels low..high."""

    first: float
    last: float
    low: float
    high: float

    def __call__(self, value: float) -> float:
        return self.low + (value - self.first) / (self.last - self.first) * (self.high - self.low)


def ticks_around(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers that enclose low..high."""
    spread = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * wanted >= spread * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def tick_text(value: float) -> str:
    if math.isinf(value):
        return "∞"
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.6f}".rstrip("0").rstrip(".") if 1e-4 <= size < 1 else f"{value:.5g}"


def _x_axis(scale: Scale, ticks: Sequence[float], top: float, bottom: float, words: str) -> str:
    parts = []
    for tick in ticks:
        x = scale(tick)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom:.1f}"/>')
        parts.append(svg_text(x, bottom + 14, tick_text(tick), "middle", "tick"))
    middle = (scale.low + scale.high) / 2
    return "".join(parts) + svg_text(middle, bottom + 31, words, "middle", "axis")


def svg_text(x: float, y: float, words: str, anchor: str, kind: str, whole: str | None = None) -> str:
    more = f"<title>{escape(whole)}</title>" if whole is not None and whole != words else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}{more}</text>'


def _short(words: str, most: int) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"


def _width(words: str) -> float:
    return min(len(words), 23) * _CHAR


def framed(width: float, height: float, title: str, said: str, body: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width:.0f}px"><desc>{escape(said[:2000])}</desc>{body}</svg>'
    )
