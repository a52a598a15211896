"""Charts as inline SVG: curves over bands, and points over a logarithmic rate. Values in, text out; nothing here knows a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sdvae_ray.report.figures import Scale, framed, svg_text, tick_text, ticks_around

_LEFT, _TOP, _WIDTH, _HEIGHT = 58, 10, 330, 210


@dataclass(frozen=True)
class Curve:
    """One side's values over the bands; None where there is none. `series` numbers the side's colour."""

    side: str
    series: int
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class RatePoint:
    """One side: bits per pixel and stain, and what is left at that rate."""

    side: str
    series: int
    bits: float
    value: float


def curves(title: str, x_axis: str, y_axis: str, bands: Sequence[str], drawn: Sequence[Curve], reference: float) -> str:
    """A line per side over the named bands; dashed at `reference`, where nothing is changed."""
    known = [value for curve in drawn for value in curve.values if value is not None and math.isfinite(value)]
    ticks = ticks_around(min([0.0, *known]), max([reference, *known]))
    down = Scale(ticks[0], ticks[-1], _TOP + _HEIGHT, _TOP)
    across = [_LEFT + _WIDTH * (number + 0.5) / len(bands) for number in range(len(bands))]
    body = _y_axis(down, ticks, y_axis)
    body += [svg_text(x, _TOP + _HEIGHT + 14, band, "middle", "tick") for x, band in zip(across, bands, strict=True)]
    body.append(svg_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 31, x_axis, "middle", "axis"))
    level = f"{down(reference):.1f}"
    body.append(f'<line class="diagonal" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{level}" y2="{level}"/>')
    for curve in drawn:
        at = [(x, down(y)) for x, y in zip(across, curve.values, strict=True) if y is not None and math.isfinite(y)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at)
        words = f"<title>{escape(_said(curve, bands))}</title>"
        body.append(f'<g class="s{curve.series}">{words}<polyline class="thin" fill="none" points="{line}"/>{dots}</g>')
    said = "; ".join(_said(curve, bands) for curve in drawn)
    return framed(_LEFT + _WIDTH + 14, _TOP + _HEIGHT + 38, title, f"{title}: {said}", "".join(body))


def rate_points(title: str, y_axis: str, points: Sequence[RatePoint], reference: float | None) -> str:
    """Each side at its rate, the rate on a logarithmic axis; dashed at `reference`, the originals'."""
    finite = [point for point in points if math.isfinite(point.value) and point.bits > 0]
    if not finite:
        return ""
    low, high = min(point.bits for point in finite), max(point.bits for point in finite)
    powers = list(range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1))
    powers = powers if len(powers) > 1 else [powers[0], powers[0] + 1]
    across = Scale(powers[0], powers[-1], _LEFT + 12, _LEFT + _WIDTH - 12)
    values = [*(point.value for point in finite), *([] if reference is None else [reference])]
    ticks = ticks_around(min(values), max(values))
    down = Scale(ticks[0], ticks[-1], _TOP + _HEIGHT, _TOP)
    body = _y_axis(down, ticks, y_axis)
    for power in powers:
        x = across(power)
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}"/>')
        body.append(svg_text(x, _TOP + _HEIGHT + 14, tick_text(2.0**power), "middle", "tick"))
    body.append(svg_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 31, "bits per pixel and stain", "middle", "axis"))
    if reference is not None:
        y = f"{down(reference):.1f}"
        body.append(f'<line class="diagonal" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}"/>')
    for point in finite:
        x, y_at = across(math.log2(point.bits)), down(point.value)
        words = f"{point.side}: {tick_text(round(point.bits, 3))} bits, {tick_text(round(point.value, 4))}"
        right = x > _LEFT + 0.62 * _WIDTH
        body.append(
            f'<g class="s{point.series}"><title>{escape(words)}</title>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y_at:.1f}" r="5"/></g>'
        )
        body.append(svg_text(x + (-9 if right else 9), y_at + 4, point.side, "end" if right else "start", "tick"))
    said = "; ".join(f"{point.side} {point.value:.4g} at {point.bits:.3g} bits" for point in finite)
    return framed(_LEFT + _WIDTH + 14, _TOP + _HEIGHT + 38, title, f"{title}: {said}", "".join(body))


def _y_axis(down: Scale, ticks: Sequence[float], words: str) -> list[str]:
    drawn = []
    for tick in ticks:
        y = f"{down(tick):.1f}"
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}"/>')
        drawn.append(svg_text(_LEFT - 6, down(tick) + 4, tick_text(tick), "end", "tick"))
    turned = f"translate(12 {_TOP + _HEIGHT / 2}) rotate(-90)"
    drawn.append(f'<text class="axis" transform="{turned}" text-anchor="middle">{escape(words)}</text>')
    return drawn


def _said(curve: Curve, bands: Sequence[str]) -> str:
    pairs = zip(bands, curve.values, strict=True)
    return f"{curve.side} " + ", ".join(f"{band} {value:.3g}" for band, value in pairs if value is not None)
