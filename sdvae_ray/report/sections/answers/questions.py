"""The paper's other two questions: are general extractors as good, and which metric should one use?"""

from collections.abc import Sequence

from sdvae_ray.report.facts.conclude.extractors import extractor_verdicts, labelled
from sdvae_ray.report.facts.conclude.predictors import Answer, answers
from sdvae_ray.report.facts.conclude.study import Rule, Study, rule_of
from sdvae_ray.report.facts.conclude.words import interval_words, listed, percent, what_decides
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import BLOCK, Column, Row, Section, Table, number, text_column

_EXTRACTORS = ("extractors", "Are the extractors equally good on the originals?")
_METRICS = ("predictors", "Which metric predicts the loss of phenotype?")


def extractors_of_run(scored: ScoredRun) -> Section | None:
    """Return the section of the page on extractors."""
    return extractors(Study((scored,)), rule_of(scored))


def metrics_of_run(scored: ScoredRun) -> Section | None:
    """Return the section of the page on metrics; None for a run that has too few sides to ask."""
    found = [answer for answer in answers([scored]) if not answer.reason]
    return _metrics([scored], found) if found else None


def extractors(study: Study, rule: Rule) -> Section | None:
    """Return one row per pair of extractors that embed the originals; None for fewer than two."""
    rows = extractor_verdicts(study, rule)
    if not rows:
        return None
    columns = [
        text_column("group", "group", says_once=True),
        text_column("first", "extractor"),
        text_column("second", "against"),
        text_column("verdict", "verdict"),
        Column("difference", "difference", 3, signed=True),
        Column("interval", f"{percent(rule)} interval"),
        Column("first_map", "mAP", 3),
        Column("second_map", "mAP against", 3),
        Column("margin", "margin", 3),
    ]
    shown: list[Row] = [
        {
            BLOCK: row.group,
            "group": row.group,
            "first": labelled(study, row.extractor),
            "second": labelled(study, row.side),
            "verdict": row.word,
            "difference": row.difference.estimate,
            "interval": interval_words(row.difference),
            "first_map": row.ceiling,
            "second_map": row.side_map,
            "margin": row.difference.margin,
        }
        for row in rows
    ]
    reasons = [
        f"Undecided: {labelled(study, row.side)} against {labelled(study, row.extractor)}: "
        + "; ".join(text for text in (row.reason, what_decides(row.difference)) if text)
        + "."
        for row in rows
        if row.word == "undecided"
    ]
    note = (
        "Normalised mAP of the originals by the extractor under `against`, less that of the other, over the same wells. The words "
        "are of p corrected by Holm over the pairs of a group; the intervals are not corrected."
    )
    return Section(
        *_EXTRACTORS, "Extractors", tables=[Table("", columns, shown)], reasons=reasons, notes=[note], brief=note
    )


def metrics(runs: Sequence[ScoredRun]) -> Section | None:
    """Return the metrics from the best down, or why the question has no answer; None if nothing was scored on the originals."""
    given = answers(runs)
    return _metrics(runs, given) if given else None


def _metrics(runs: Sequence[ScoredRun], given: Sequence[Answer]) -> Section:
    columns = [
        text_column("extractor", "by", says_once=True),
        text_column("metric", "metric"),
        Column("correlation", "rank correlation", 2, signed=True),
        Column("interval", "95 % interval"),
        Column("error", "error, unseen family", 3, "lower"),
        Column("blind", "without the metric", 3),
        text_column("predicts", "predicts"),
        Column("core_seconds", "core-s", None, "lower", "per side and field"),
        Column("gpu_seconds", "GPU-s", None, "lower", "per side and field"),
        Column("sides", "sides"),
        Column("families", "families"),
    ]
    shown: list[Row] = []
    lines, reasons = [], []
    for answer in given:
        by = runs[0].by(answer.extractor, answer.group)
        if answer.reason:
            reasons.append(f"Which metric predicts the loss by {by} cannot be answered: {answer.reason}.")
            continue
        lines.append(_best(answer, by))
        for name, metric in answer.metrics.items():
            interval = f"{number(metric.low, 2)} to {number(metric.high, 2)}"
            shown.append(
                {
                    BLOCK: by,
                    "extractor": by,
                    "metric": name,
                    "correlation": metric.correlation,
                    "interval": interval,
                    "error": metric.error,
                    "blind": metric.blind,
                    "predicts": "yes" if metric.predicts else "no",
                    "core_seconds": answer.costs[name].core_seconds if name in answer.costs else None,
                    "gpu_seconds": answer.costs[name].gpu_seconds if name in answer.costs else None,
                    "sides": metric.sides,
                    "families": metric.families,
                }
            )
        reasons += [f"{name} by {by}: {why}." for name, why in answer.left_out.items()]
    note = (
        "Over the sides that change a score, within compounds that the originals retrieve and within stains: Spearman's "
        "correlation of damage by the metric with loss of normalised AP, its 95 % interval over compounds and sides, and the error "
        "of a side's mean loss as the other families predict it. A metric predicts if the interval lies above 0 and its error is "
        "the lower one."
    )
    columns = [
        column
        for column in columns
        if not column.key.endswith("_seconds") or any(row[column.key] is not None for row in shown)
    ]
    tables = [Table("", columns, shown)] if shown else []
    return Section(
        *_METRICS,
        "Metrics that predict",
        lines=lines,
        tables=tables,
        reasons=reasons,
        notes=[note],
        brief=note if shown else "",
    )


def _best(answer: Answer, by: str) -> str:
    if not (names := answer.predicting):
        return f"By {by}: no metric predicts the loss."
    others = f" ({listed(names[1:])} predict it too)" if len(names) > 1 else ""
    return f"By {by}: {names[0]} goes best with the loss{others}. {_cheapest(answer)}"


def _cheapest(answer: Answer) -> str:
    if (name := answer.cheapest) is None:
        return "What a metric costs was not measured: which of them is the cheapest is not known."
    cost = answer.costs[name]
    gpu = "" if cost.gpu_seconds is None else f" and {number(cost.gpu_seconds)} GPU-seconds"
    return f"The cheapest that predicts is {name}: {number(cost.core_seconds)} core-seconds{gpu} a side and field."
