"""The report: one HTML file with everything in it, readable offline, on paper and in the dark. Templates escape every text."""

import base64
import hashlib
from collections.abc import Sequence

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from sdvae_ray.report.facts.chart import KINDS
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import REASON, Beside, Column, Row, Section, Side, Table, Value, number
from sdvae_ray.report.page.figure_files import drawn, figure_files, resource
from sdvae_ray.report.page.figures import key
from sdvae_ray.report.page.forest import ForestPlot, forest
from sdvae_ray.report.page.wells_data import wells_json
from sdvae_ray.report.sections.header import Header, header
from sdvae_ray.report.sections.order import sections_of
from sdvae_ray.report.sections.runs.order import page_of_runs

FILE, FIGURES = "report/index.html", "report/figures"
# all of the page's scripts; its policy allows no other
_SCRIPTS = ("sections.js", "tables.js", "viewer.js", "wells_data.js", "wells_draw.js", "wells.js")


def write_report(scored: ScoredRun, figures: bool = False) -> str:
    """Write `<output>/report/index.html` and return its URI. The page itself says what could not be shown.

    figures: write the charts (SVG) and pictures (PNG) into `<output>/report/figures/` too.
    """
    storage, sections = scored.run.storage, sections_of(scored)
    uri = scored.run.uri(FILE)
    storage.write_bytes(uri, _page(header(scored), sections).encode())
    for name, data in figure_files(sections) if figures else ():
        storage.write_bytes(scored.run.uri(FIGURES, name), data)
    return uri


def render(scored: ScoredRun) -> str:
    """Return the whole page as text."""
    return _page(header(scored), sections_of(scored))


def render_runs(runs: Sequence[ScoredRun]) -> str:
    """Return the page that compares several runs as text. Raises ConfigError for a run that is named twice."""
    return _page(*page_of_runs(runs))


def _page(head: Header, sections: Sequence[Section]) -> str:
    script = "\n".join(resource("scripts", name) for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = templates().get_template("page.html")
    return page.render(
        header=head,
        sections=sections,
        style=Markup(resource("chart.css") + resource("page.css")),
        script=Markup(script),
        script_hash=digest,
    )


def templates(*packages: str) -> Environment:
    """Return the page's templates, and those of other packages, which may include the page's."""
    loaders = [PackageLoader(package) for package in (*packages, "sdvae_ray.report.page")]
    environment = Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "draw": lambda chart: Markup(drawn(chart)),
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
