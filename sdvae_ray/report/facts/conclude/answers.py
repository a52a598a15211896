"""The answers to the paper's three questions, JSON-ready."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sdvae_ray.report.facts.conclude.dose_response import dose_responses
from sdvae_ray.report.facts.conclude.extractors import extractor_verdicts
from sdvae_ray.report.facts.conclude.predictors import answers
from sdvae_ray.report.facts.conclude.study import Rule, studies
from sdvae_ray.report.facts.conclude.verdicts import Verdict, fates, verdicts
from sdvae_ray.report.facts.conclude.words import what_decides
from sdvae_ray.report.facts.scored import ScoredRun


def conclusion(runs: Sequence[ScoredRun], rules: Sequence[Rule]) -> dict[str, Any]:
    """Return the answers of one or more scored runs; a number that does not exist is None. rules: one per run.

    studies  one per set of runs that differ in the seed alone: runs (uri, seed), rule (margin, level, declared), verdicts (one per
             extractor, group and side), compounds (their fates), extractors (one verdict per pair of extractors and group)
    metrics  one answer per extractor and group, over the sides of all runs; `cost`: of one side of a field, `cheapest`: of
             those that predict
    dose_responses  one curve per extractor, group and phenotype, over the sides of all runs
    """
    rule_by_run = dict(zip((id(run) for run in runs), rules, strict=True))
    parts = []
    for study in studies(runs):
        rule = rule_by_run[id(study.first)]
        parts.append(
            {
                "runs": [{"uri": run.run.output, "seed": run.config.seed} for run in study.runs],
                "rule": asdict(rule),
                "random_weights": study.first.config.random_weights,
                "verdicts": [_flat(verdict) for verdict in verdicts(study, rule)],
                "compounds": [asdict(compound) for compound in fates(study, rule)],
                "extractors": [
                    _flat(verdict) | {"against": verdict.side} for verdict in extractor_verdicts(study, rule)
                ],
            }
        )
    metrics = [
        {
            **{
                name: getattr(answer, name)
                for name in ("extractor", "group", "reason", "left_out", "parts", "cheapest")
            },
            "metrics": {
                name: {
                    **asdict(metric),
                    "parts": metric.parts.tolist(),
                    "predicts": metric.predicts,
                    "cost": asdict(answer.costs[name]) if name in answer.costs else None,
                }
                for name, metric in answer.metrics.items()
            },
        }
        for answer in answers(runs)
    ]
    doses = [asdict(curve) for curve in dose_responses(runs)]
    return dict(_finite({"studies": parts, "metrics": metrics, "dose_responses": doses}))


def _flat(verdict: Verdict) -> dict[str, Any]:
    values = asdict(verdict)
    return {**values, "would_decide": what_decides(verdict.difference), "verdict": verdict.word}


def _finite(value: Any) -> Any:
    """Return the value with None for NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
