"""Charts as inline SVG: curves over bands, and points over a logarithmic rate. Values in, text out; nothing here knows a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sdvae_ray.report.page.figures import Scale, framed, svg_text, tick_text, ticks_around

_LEFT, _TOP, _WIDTH, _HEIGHT = 58, 10, 330, 210
_RATIOS = (-6, 4)  # powers of 2 at the edges of a chart of ratios, at most
_LINE = 12  # pixels between labels


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


def curves(title: str, x_axis: str, y_axis: str, bands: Sequence[str], drawn: Sequence[Curve]) -> str:
    """Ratios over the named bands, a line per side, on a logarithmic axis; dashed at 1. What lies outside of it is on its edge."""
    known = [value for curve in drawn for value in curve.values if value is not None and value > 0]
    low, high = (math.floor(math.log2(min([0.5, *known]))), math.ceil(math.log2(max([2.0, *known]))))
    low, high = max(low, _RATIOS[0]), min(high, _RATIOS[1])
    down = Scale(low, high, _TOP + _HEIGHT, _TOP)
    across = [_LEFT + _WIDTH * (number + 0.5) / len(bands) for number in range(len(bands))]
    step = 1 if high - low <= 5 else 2
    ticks = [power for power in range(low, high + 1) if power % step == 0]
    body = _y_axis(down, ticks, y_axis, [f"1/{2**-power}" if power < 0 else f"{2**power}" for power in ticks])
    body += [svg_text(x, _TOP + _HEIGHT + 14, band, "middle", "tick") for x, band in zip(across, bands, strict=True)]
    body.append(svg_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 31, x_axis, "middle", "axis"))
    level = f"{down(0):.1f}"
    body.append(f'<line class="diagonal" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{level}" y2="{level}"/>')
    for curve in drawn:
        pairs = zip(across, curve.values, strict=True)
        at = [(x, down(_power(value, low, high))) for x, value in pairs if value is not None and not math.isnan(value)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        dots = "".join(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in at)
        words = f"<title>{escape(_said(curve, bands))}</title>"
        body.append(f'<g class="s{curve.series}">{words}<polyline class="thin" fill="none" points="{line}"/>{dots}</g>')
    said = "; ".join(_said(curve, bands) for curve in drawn)
    return framed(_LEFT + _WIDTH + 14, _TOP + _HEIGHT + 38, title, f"{title}: {said}", "".join(body))


def _power(value: float, low: int, high: int) -> float:
    return low if value <= 2.0**low else min(math.log2(value), high)


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
        body.append(
            svg_text(x, _TOP + _HEIGHT + 14, f"1/{2**-power}" if power < 0 else f"{2**power}", "middle", "tick")
        )
    body.append(svg_text(_LEFT + _WIDTH / 2, _TOP + _HEIGHT + 31, "bits per pixel and stain", "middle", "axis"))
    if reference is not None:
        y = f"{down(reference):.1f}"
        body.append(f'<line class="diagonal" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}"/>')
    taken: list[tuple[float, float, float]] = []
    for point in sorted(finite, key=lambda point: -point.value):
        x, y_at = across(math.log2(point.bits)), down(point.value)
        words = f"{point.side}: {tick_text(round(point.bits, 3))} bits, {tick_text(round(point.value, 4))}"
        right = x > _LEFT + 0.62 * _WIDTH
        body.append(
            f'<g class="s{point.series}"><title>{escape(words)}</title>'
            f'<circle class="dot" cx="{x:.1f}" cy="{y_at:.1f}" r="5"/></g>'
        )
        body.append(
            svg_text(
                x + (-9 if right else 9),
                _free(taken, x, y_at, right, point.side) + 4,
                point.side,
                "end" if right else "start",
                "tick",
            )
        )
    said = "; ".join(f"{point.side} {point.value:.4g} at {point.bits:.3g} bits" for point in finite)
    return framed(_LEFT + _WIDTH + 14, _TOP + _HEIGHT + 38, title, f"{title}: {said}", "".join(body))


def _free(taken: list[tuple[float, float, float]], x: float, y: float, right: bool, words: str) -> float:
    """The y nearest below `y` where a label at x meets none of `taken` (left, right, y), which it joins."""
    width = 9 + 6.2 * len(words)
    left, end = (x - width, x) if right else (x, x + width)
    while any(left < other_end and other_left < end and abs(y - at) < _LINE for other_left, other_end, at in taken):
        y += 1
    taken.append((left, end, y))
    return y


def _y_axis(down: Scale, ticks: Sequence[float], words: str, names: Sequence[str] = ()) -> list[str]:
    drawn = []
    for tick, name in zip(ticks, names or [tick_text(tick) for tick in ticks], strict=True):
        y = f"{down(tick):.1f}"
        drawn.append(f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}"/>')
        drawn.append(svg_text(_LEFT - 6, down(tick) + 4, name, "end", "tick"))
    turned = f"translate(12 {_TOP + _HEIGHT / 2}) rotate(-90)"
    drawn.append(f'<text class="axis" transform="{turned}" text-anchor="middle">{escape(words)}</text>')
    return drawn


def _said(curve: Curve, bands: Sequence[str]) -> str:
    pairs = zip(bands, curve.values, strict=True)
    return f"{curve.side} " + ", ".join(f"{band} {value:.3g}" for band, value in pairs if value is not None)
