"""Reconstruction quality: the mean of every metric per side."""

from sdvae_ray.report.facts.metrics import metric_columns, plain_metrics, shown_mean
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import SIDE, Row, Section, Table

_HEAD = ("metrics", "Reconstruction quality", "Quality")
_ARROWS = "↑ higher is better, ↓ lower is better, – does not apply."


def section(scored: ScoredRun) -> Section:
    plain, columns = plain_metrics(scored.scores.metrics), metric_columns(scored)
    rows: list[Row] = [
        {"side": scored.side(side)} | {column.key: shown_mean(plain, side, column.key) for column in columns}
        for side in scored.sides(plain["side"])
    ]
    if not rows:
        return Section(*_HEAD, reasons=["No metrics: no side has a usable field of view."])
    title = "Metrics, mean over patches and stains" + (" of synthetic images" if scored.is_synthetic else "")
    return Section(
        *_HEAD,
        tables=[Table(title, [SIDE, *columns], rows)],
        notes=[f"Mean over all patches, then over stains (kld: RGB passes). {_ARROWS}"],
        brief=f"{_ARROWS} ssim is SSIM, not 1 - SSIM.",
    )
