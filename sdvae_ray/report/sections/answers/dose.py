"""How much damage does a phenotype bear? Dose and response of every phenotype over the ladder of sides."""

from collections.abc import Sequence

import numpy as np

from sdvae_ray.report.facts.chart import Curve, Curves
from sdvae_ray.report.facts.conclude.dose_response import DoseResponse, dose_responses
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import BLOCK, Column, Row, Section, Side, Table, number, text_column

_STEPS = 7  # doses of a chart
_COLOURS = 11  # of the page's style sheet
_NOTE = (
    "Sides in the order of their damage by one metric, the one that predicts the loss best, and normalised mAP of a phenotype on "
    "each of them, by an isotonic regression, which never rises. Half lost: where the fit falls to half of the originals'; – : "
    "not between two sides of the ladder. Phenotypes that the originals retrieve."
)


def section(scored: ScoredRun) -> Section | None:
    """Return the section of the page; None for a run that has too few sides to ask."""
    curves = dose_responses([scored])
    if not curves:
        return None
    columns = [
        text_column("extractor", "by", says_once=True),
        text_column("phenotype", "phenotype"),
        text_column("metric", "damage by"),
        Column("half", "half lost at", 3),
        Column("image", "originals", 2),
        Column("least", "at the least damage", 2),
        Column("most", "at the most", 2),
        Column("compounds", "compounds"),
        Column("sides", "sides"),
    ]
    rows: list[Row] = []
    for curve in curves:
        by = scored.by(curve.extractor, curve.group)
        head: Row = {BLOCK: by, "extractor": by, "phenotype": curve.phenotype, "metric": curve.metric}
        ends = {"least": curve.fit[0], "most": curve.fit[-1]}
        counts = {"compounds": curve.compounds, "sides": len(curve.sides)}
        rows.append({**head, "half": curve.half, "image": curve.image, **ends, **counts})
    places = dict.fromkeys((curve.extractor, curve.group) for curve in curves)
    charts = [
        _chart(scored, [curve for curve in curves if (curve.extractor, curve.group) == place]) for place in places
    ]
    legend = [_line(number, name) for number, name in enumerate(dict.fromkeys(curve.phenotype for curve in curves))]
    return Section(
        "dose",
        "How much damage does a phenotype bear?",
        "Dose and response",
        legend=legend,
        tables=[Table("", columns, rows)],
        charts=charts,
        notes=[_NOTE],
    )


def _line(place: int, name: str) -> Side:
    return Side(name, 1 + place % _COLOURS)


def _chart(scored: ScoredRun, curves: Sequence[DoseResponse]) -> Curves:
    """Return the fits of the phenotypes of one extractor and group, as shares of the originals' normalised mAP, at some doses."""
    first = curves[0]
    order = np.sign(first.doses[-1] - first.doses[0]) or 1.0  # more damage is to the right
    doses = order * np.quantile([order * dose for curve in curves for dose in curve.doses], np.linspace(0, 1, _STEPS))
    lines = []
    for place, curve in enumerate(curves):
        fitted = np.interp(order * doses, order * np.array(curve.doses), curve.fit)
        shares = tuple((fitted / curve.image).tolist()) if curve.image > 0 else (None,) * _STEPS
        lines.append(Curve(_line(place, curve.phenotype), shares))
    title = f"By {scored.by(first.extractor, first.group)}"
    bands = [number(dose) for dose in doses]
    return Curves(title, "", f"{first.metric}, more damage →", "share of the originals' mAP", bands, lines)
