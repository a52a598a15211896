"""The charts and pictures of a report as files of their own, for a paper or a slide: SVG and PNG."""

import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from typing import Any

from sdvae_ray.report.facts.chart import KINDS, Chart, Curves, Dumbbells, RatePoints, Scatter, Strips
from sdvae_ray.report.facts.table import Section, Side
from sdvae_ray.report.page.curves import curves, rate_points
from sdvae_ray.report.page.figures import dumbbells, key, scatter, strips
from sdvae_ray.report.page.svg import svg_text
from sdvae_ray.report.pictures.draw import Pictures
from sdvae_ray.report.sections.images.examples import Gallery, GalleryPage

_DRAWN_BY: dict[type, Callable[[Any], str]] = {
    Strips: strips,
    Dumbbells: dumbbells,
    Scatter: scatter,
    Curves: curves,
    RatePoints: rate_points,
}
_FONT = "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_EDGE, _HEAD, _ROW = 12, 30, 18  # pixels: margin, title, and one row of the legend
_CHARACTER = 6.6  # pixels, width of a character at 12 px, about


def resource(*parts: str) -> str:
    """Return the text of a file of the page: a style sheet or a script."""
    return files("sdvae_ray.report.page").joinpath(*parts).read_text()


def drawn(chart: Chart) -> str:
    """Return a chart as SVG inside a page; "" for a chart without anything to draw."""
    return _DRAWN_BY[type(chart)](chart)


def figure_files(sections: Sequence[Section]) -> Iterator[tuple[str, bytes]]:
    """Yield (file name, content): every chart as SVG with its title and legend, every picture of the page as PNG."""
    for section in sections:
        more = section.content if isinstance(section.content, list) else []
        charts = [chart for chart in (*section.charts, *more) if isinstance(chart, Chart)]
        for number, chart in enumerate(charts, 1):
            if body := drawn(chart):
                yield (
                    f"{section.anchor}-{number:02d}-{_slug(chart.title)}.svg",
                    _standalone(chart, body, section.legend),
                )
        if isinstance(section.content, GalleryPage):
            for number, gallery in enumerate(section.content.galleries, 1):
                for name, png in _pictures(gallery, section.content.stains):
                    yield f"{section.anchor}-{number:02d}-{name}.png", png


def _standalone(chart: Chart, body: str, legend: Sequence[Side]) -> bytes:
    """Return a chart as an SVG file: the page's drawing between its title and its legend, in the colours of paper."""
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"', body)
    assert size is not None
    width, height = int(size[1]), int(size[2])
    marks = [(f'<circle class="dot s{side.colour}" cx="5" cy="-4" r="5"/>', side.text) for side in legend]
    if isinstance(chart, Scatter):
        marks = [
            (f'<g transform="translate(-2 -11)">{_sized(key(kind), 14, 14)}</g>', words)
            for kind, words in KINDS.items()
        ]
    under = textwrap.wrap(chart.more, max(20, int(width / _CHARACTER)))
    head = _HEAD + _ROW * len(under)
    words, left, rows = "", 0.0, 0
    for mark, text in marks:
        needed = 30 + _CHARACTER * len(text)
        if left and left + needed > width:
            left, rows = 0.0, rows + 1
        place = f"translate({_EDGE + left:.0f} {head + height + _EDGE + _ROW * (rows + 0.5):.0f})"
        words += f'<g transform="{place}">{mark}{svg_text(15, 0, text, "start", "lab")}</g>'
        left += needed
    bottom = head + height + 2 * _EDGE + (_ROW * (rows + 1) if marks else 0)
    title = svg_text(_EDGE, 20, chart.title, "start", "lab strong")
    title += "".join(svg_text(_EDGE, 20 + _ROW * line, text, "start", "tick") for line, text in enumerate(under, 1))
    whole = width + 2 * _EDGE
    paper = f'<style>{resource("chart.css")}</style><rect width="100%" height="100%" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole}" height="{bottom}" viewBox="0 0 {whole} {bottom}" '
        f'class="chart" style="font-family:{_FONT}">{paper}'
        f'{title}<g transform="translate({_EDGE} {head})">{_sized(body, width, height)}</g>{words}</svg>\n'
    ).encode()


def _sized(svg: str, width: int, height: int) -> str:
    """Return an inner SVG with a size in pixels; the page alone gives it another."""
    return re.sub(r' style="max-width:[^"]*"', "", svg).replace("<svg ", f'<svg width="{width}" height="{height}" ', 1)


def _pictures(gallery: Gallery, stains: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG): for every side the composite, its stains, and their differences from the original."""
    what = _slug(gallery.choice.what or gallery.where)
    for side, pictures in gallery.sides:
        if isinstance(pictures, Pictures) and not (pictures.exact and pictures.differences):
            name = f"{what}-{_slug(side.text)}"
            yield f"{name}-composite", pictures.composite
            yield from ((f"{name}-{_slug(stain)}", png) for stain, png in zip(stains, pictures.stains, strict=True))
            for stain, png in zip(stains, pictures.differences, strict=bool(pictures.differences)):
                yield f"{name}-{_slug(stain)}-difference", png


def _slug(words: str) -> str:
    """Return words as a part of a file name: letters, digits, points, dashes and underscores."""
    return re.sub(r"[^\w.-]+", "-", words).strip("-.") or "figure"
