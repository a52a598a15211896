"""Parts of a chart as SVG text: the frame, axes, ticks, words. Every word is escaped here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Scale:
    """A linear map from the values first..last to the pixels low..high."""

    first: float
    last: float
    low: float
    high: float

    def __call__(self, value: float) -> float:
        return self.low + (value - self.first) / (self.last - self.first) * (self.high - self.low)


def framed(width: float, height: float, title: str, words: str, body: str) -> str:
    """Return a whole chart as SVG. words: describe it to a screen reader."""
    return (
        f'<svg class="chart" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'style="max-width:{width:.0f}px"><desc>{escape(words[:2000])}</desc>{body}</svg>'
    )


def svg_text(x: float, y: float, words: str, anchor: str, kind: str, whole: str | None = None) -> str:
    """Return SVG of words at a place. whole: the full text, shown over shortened words when a reader points at them."""
    more = titled(whole) if whole is not None and whole != words else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}{more}</text>'


def titled(words: str) -> str:
    """Return the SVG title of a mark: the words that a reader sees when pointing at the mark."""
    return f"<title>{escape(words)}</title>"


def line(kind: str, x1: float, x2: float, y1: float, y2: float) -> str:
    """Return SVG of a line from (x1, y1) to (x2, y2), in pixels. kind: its class in the style sheet."""
    return f'<line class="{kind}" x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}"/>'


def x_axis(
    scale: Scale, ticks: Sequence[float], top: float, bottom: float, words: str, names: Sequence[str] = ()
) -> str:
    """Return SVG of the grid lines, ticks and words of a horizontal axis. names: texts of the ticks, if not their numbers."""
    parts = []
    for tick, name in zip(ticks, names or map(tick_text, ticks), strict=True):
        parts.append(line("grid", scale(tick), scale(tick), top, bottom))
        parts.append(svg_text(scale(tick), bottom + 14, name, "middle", "tick"))
    middle = (scale.low + scale.high) / 2
    return "".join(parts) + svg_text(middle, bottom + 31, words, "middle", "axis")


def y_axis(
    scale: Scale, ticks: Sequence[float], left: float, right: float, words: str, names: Sequence[str] = ()
) -> str:
    """Return SVG of the grid lines, ticks and words of a vertical axis. names: texts of the ticks, if not their numbers."""
    parts = []
    for tick, name in zip(ticks, names or map(tick_text, ticks), strict=True):
        parts.append(line("grid", left, right, scale(tick), scale(tick)))
        parts.append(svg_text(left - 6, scale(tick) + 4, name, "end", "tick"))
    turned = f"translate(12 {(scale.low + scale.high) / 2}) rotate(-90)"
    return "".join(parts) + f'<text class="axis" transform="{turned}" text-anchor="middle">{escape(words)}</text>'


def ticks_around(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers, equally spaced, that enclose low..high; at most about `wanted` steps."""
    spread = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / wanted))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * wanted >= spread * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [number * step for number in range(first, max(last, first + 1) + 1)]


def tick_text(value: float) -> str:
    """Return the number of a tick as text: five significant digits at most, thousands as k."""
    if math.isinf(value):
        return "∞"
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:,.4g}k"
    return f"{value:.6f}".rstrip("0").rstrip(".") if 1e-4 <= size < 1 else f"{value:.5g}"


def power_text(power: int) -> str:
    """Return 2^power as text, a fraction below 1."""
    return f"1/{2**-power}" if power < 0 else f"{2**power}"
