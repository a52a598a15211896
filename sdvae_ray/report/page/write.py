"""The report: one HTML file with everything in it, readable offline, on paper and in the dark. Templates escape every text."""

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sdvae_ray.report.facts.chart import KINDS, Curves, Dumbbells, RatePoints, Scatter, Strips
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import REASON, Beside, Column, Row, Side, Table, Value, number
from sdvae_ray.report.page.curves import curves, rate_points
from sdvae_ray.report.page.figures import dumbbells, key, scatter, strips
from sdvae_ray.report.page.forest import ForestPlot, forest
from sdvae_ray.report.page.wells_data import wells_json
from sdvae_ray.report.sections.header import header
from sdvae_ray.report.sections.order import sections_of

FILE = "report/index.html"
# all of the page's scripts; its policy allows no other
_SCRIPTS = ("sections.js", "tables.js", "viewer.js", "wells_data.js", "wells_draw.js", "wells.js")
_DRAWN_BY: dict[type, Callable[[Any], str]] = {
    Strips: strips,
    Dumbbells: dumbbells,
    Scatter: scatter,
    Curves: curves,
    RatePoints: rate_points,
}


def write_report(scored: ScoredRun) -> str:
    """Write `<output>/report/index.html` and return its URI. The page itself says what could not be shown."""
    uri = scored.run.uri(FILE)
    scored.run.storage.write_bytes(uri, render(scored).encode())
    return uri


def render(scored: ScoredRun) -> str:
    """Return the whole page as text."""
    script = "\n".join(_resource("scripts", name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = _templates().get_template("page.html")
    return page.render(
        header=header(scored),
        sections=sections_of(scored),
        style=Markup(_resource("page.css")),
        script=Markup(script),
        script_hash=digest,
    )


def _resource(*parts: str) -> str:
    return files("sdvae_ray.report.page").joinpath(*parts).read_text()


def _templates() -> Environment:
    loader = PackageLoader("sdvae_ray.report.page")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "draw": lambda chart: Markup(_DRAWN_BY[type(chart)](chart)),
        "base64": _base64,
        "cells": cells,
        "forest": lambda chart: _with_markup(forest(chart)),
        "number": number,
        "wells_json": lambda explorer: Markup(wells_json(explorer)),
    }
    environment.tests |= {
        "side": lambda value: isinstance(value, Side),
        "beside": lambda value: isinstance(value, Beside),
    }
    environment.globals["KINDS"] = {kind: (Markup(key(kind)), text) for kind, text in KINDS.items()}
    return environment


def _with_markup(drawn: ForestPlot) -> ForestPlot:
    return ForestPlot(Markup(drawn.head), [(row, Markup(marks)) for row, marks in drawn.rows])


def _base64(png: bytes) -> str:
    return base64.b64encode(png).decode()


def cells(table: Table, index: int) -> list[tuple[Column, Value, int]]:
    """Return (column, value, number of columns that the cell spans) of a row; a reason replaces the first missing values."""
    row: Row = table.rows[index]
    columns = list(table.columns)
    spanned = [(column, table.value(index, column), 1) for column in columns]
    if REASON not in row:
        return spanned
    missing = [row.get(column.key) is None for column in columns]
    first = missing.index(True) if True in missing else len(columns)
    last = missing.index(False, first) if False in missing[first:] else len(columns)
    return [*spanned[:first], (Column(REASON, ""), row[REASON], last - first), *spanned[last:]]
