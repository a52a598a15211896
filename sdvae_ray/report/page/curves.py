"""Charts as inline SVG: curves over bands, and points over a logarithmic rate. A chart's values in, text out."""

import math

from sdvae_ray.report.facts.chart import Curve, Curves, RatePoints
from sdvae_ray.report.page.labels import place_labels
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
_WIDE = 420  # pixels, width of a chart of rates


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
    right = _LEFT + _WIDE
    across = Scale(powers[0], powers[-1], _LEFT + 16, right - 16)
    ticks = ticks_around(*chart.ends)
    down = Scale(ticks[0], ticks[-1], _BOTTOM, _TOP)
    body = y_axis(down, ticks, _LEFT, right, chart.y_axis)
    names = [power_text(power) for power in powers]
    body += x_axis(across, powers, _TOP, _BOTTOM, "bits per pixel and stain (each step doubles)", names)
    written = []
    if chart.reference is not None:
        body += line("diagonal", _LEFT, right, down(chart.reference), down(chart.reference))
        written = [(_LEFT + 4.0, down(chart.reference) - 4, "originals")]
        body += svg_text(*written[0], "start", "tick")
    places = [(across(math.log2(point.bits)), down(point.value), point.side.text) for point in points]
    labels = place_labels(places, (_LEFT, _TOP, right, _BOTTOM), written)
    for point, (x, y, text), label in zip(points, places, labels, strict=True):
        words = f"{text}: {tick_text(round(point.bits, 3))} bits, {tick_text(round(point.value, 4))}"
        interval = ""
        if point.low is not None and point.high is not None:
            words += f" ({tick_text(round(point.low, 3))} to {tick_text(round(point.high, 3))})"
            interval = line("thin faint", x, x, down(point.low), down(point.high))
        leader = line("leader", x, label.near, y, label.y - 4) if label.is_far else ""
        body += f'<g class="s{point.side.colour}">{titled(words)}{interval}{leader}{_mark(x, y, point.is_codec)}</g>'
        body += svg_text(label.x, label.y, text, "start", "lab small")
    words = "; ".join(f"{point.side.text} {point.value:.4g} at {point.bits:.3g} bits" for point in points)
    return framed(right + 14, _BOTTOM + 38, chart.title, f"{chart.title}: {words}", body)


def _mark(x: float, y: float, is_codec: bool) -> str:
    if is_codec:
        return f'<rect class="dot" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>'
    return f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
