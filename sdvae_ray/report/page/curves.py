"""Charts as inline SVG: curves over bands, and points over a logarithmic rate. A chart's values in, text out."""

import math

from sdvae_ray.report.facts.chart import Curve, Curves, RatePoints
from sdvae_ray.report.page.svg import (
    Scale,
    framed,
    line,
    power_text,
    svg_text,
    tick_text,
    ticks_around,
    titled,
    x_axis,
    y_axis,
)

_LEFT, _TOP, _WIDTH, _HEIGHT = 58, 10, 330, 210
_RIGHT, _BOTTOM = _LEFT + _WIDTH, _TOP + _HEIGHT
_RATIOS = (-6, 4)  # powers of 2 at the edges of a chart of ratios, at most
_LINE = 12  # pixels between labels


def curves(chart: Curves) -> str:
    """Return the chart as SVG: one line per side on a logarithmic axis; dashed at 1. Values beyond the
    axis are drawn on its edge.
    """
    known = [value for curve in chart.curves for value in curve.values if value is not None and value > 0]
    low, high = (math.floor(math.log2(min([0.5, *known]))), math.ceil(math.log2(max([2.0, *known]))))
    low, high = max(low, _RATIOS[0]), min(high, _RATIOS[1])
    down = Scale(low, high, _BOTTOM, _TOP)
    across = [_LEFT + _WIDTH * (number + 0.5) / len(chart.bands) for number in range(len(chart.bands))]
    step = 1 if high - low <= 5 else 2
    ticks = [power for power in range(low, high + 1) if power % step == 0]
    body = y_axis(down, ticks, _LEFT, _RIGHT, chart.y_axis, [power_text(power) for power in ticks])
    for x, band in zip(across, chart.bands, strict=True):
        body += svg_text(x, _BOTTOM + 14, band, "middle", "tick")
    body += svg_text(_LEFT + _WIDTH / 2, _BOTTOM + 31, chart.x_axis, "middle", "axis")
    body += line("diagonal", _LEFT, _RIGHT, down(0), down(0))
    for curve in chart.curves:
        pairs = zip(across, curve.values, strict=True)
        places = [
            (x, down(_power(value, low, high))) for x, value in pairs if value is not None and not math.isnan(value)
        ]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places)
        thin = f'<polyline class="thin" fill="none" points="{joined}"/>'
        body += f'<g class="s{curve.side.colour}">{titled(_words(curve, chart))}{thin}{dots}</g>'
    words = "; ".join(_words(curve, chart) for curve in chart.curves)
    return framed(_RIGHT + 14, _BOTTOM + 38, chart.title, f"{chart.title}: {words}", body)


def _power(value: float, low: int, high: int) -> float:
    return low if value <= 2.0**low else min(math.log2(value), high)


def _words(curve: Curve, chart: Curves) -> str:
    pairs = zip(chart.bands, curve.values, strict=True)
    return f"{curve.side.text} " + ", ".join(f"{band} {value:.3g}" for band, value in pairs if value is not None)


def rate_points(chart: RatePoints) -> str:
    """Return the chart as SVG: every side at its rate, on a logarithmic axis; dashed at the originals'
    value. "" without points.
    """
    points = [point for point in chart.points if math.isfinite(point.value) and point.bits > 0]
    if not points:
        return ""
    low, high = min(point.bits for point in points), max(point.bits for point in points)
    powers = list(range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1))
    powers = powers if len(powers) > 1 else [powers[0], powers[0] + 1]
    across = Scale(powers[0], powers[-1], _LEFT + 12, _RIGHT - 12)
    values = [*(point.value for point in points), *([] if chart.reference is None else [chart.reference])]
    ticks = ticks_around(min(values), max(values))
    down = Scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    body = y_axis(down, ticks, _LEFT, _RIGHT, chart.y_axis)
    names = [power_text(power) for power in powers]
    body += x_axis(across, powers, _TOP, _BOTTOM, "bits per pixel and stain", names)
    if chart.reference is not None:
        body += line("diagonal", _LEFT, _RIGHT, down(chart.reference), down(chart.reference))
    taken: list[tuple[float, float, float]] = []
    for point in sorted(points, key=lambda point: -point.value):
        x, y = across(math.log2(point.bits)), down(point.value)
        words = f"{point.side.text}: {tick_text(round(point.bits, 3))} bits, {tick_text(round(point.value, 4))}"
        dot = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        body += f'<g class="s{point.side.colour}">{titled(words)}{dot}</g>'
        left, anchor = (-9, "end") if x > _LEFT + 0.62 * _WIDTH else (9, "start")
        y = _free(taken, x, y, anchor == "end", point.side.text)
        body += svg_text(x + left, y + 4, point.side.text, anchor, "tick")
    words = "; ".join(f"{point.side.text} {point.value:.4g} at {point.bits:.3g} bits" for point in points)
    return framed(_RIGHT + 14, _BOTTOM + 38, chart.title, f"{chart.title}: {words}", body)


def _free(taken: list[tuple[float, float, float]], x: float, y: float, ends: bool, words: str) -> float:
    """Return the y nearest below `y` at which a label that starts or ends at x overlaps none of `taken`. taken: (left, right, y)
    of the labels so far; the label is added to them."""
    width = 9 + 6.2 * len(words)
    left, right = (x - width, x) if ends else (x, x + width)
    while any(left < end and start < right and abs(y - other) < _LINE for start, end, other in taken):
        y += 1
    taken.append((left, right, y))
    return y
