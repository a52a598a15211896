"""Cost is the fourth axis: core-seconds and GPU-seconds of sides in the rates, of metrics where one is recommended."""

from dataclasses import replace

import numpy as np
from report_run import Page, page_of, scores_of, summary_of

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts.conclude.predictors import Answer
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.sections.answers.questions import _best
from sdvae_ray.report.sections.images.rates import rates
from sdvae_ray.retrieval.significance.prediction import prediction
from sdvae_ray.run.cost import COSTS, Cost, told
from sdvae_ray.run.run import Run


def with_costs(config: RunConfig, gpu: float | None) -> RunConfig:
    """The run after a session that measured two FOVs."""
    costs = {"encode pca": Cost(2, 0.5, gpu), "decode pca": Cost(2, 0.75, gpu), "compress jpeg": Cost(2, 0.02)}
    run = Run(config)
    session = {"session": "s", "started": "2026-11-27T00:00:00+00:00", "fovs": 2, "stages": [{COSTS: told(costs)}]}
    run.write_record({**run.record, "sessions": [session]})
    return config


def test_a_side_costs_what_its_parts_cost(run: RunConfig) -> None:
    scored = ScoredRun.read(Run(with_costs(run, None)), scores_of(run))
    rows = {row["side"]: row for row in rates(scored)}
    assert rows["pca"]["core_seconds"] == 0.625
    assert rows["jpeg"]["core_seconds"] == 0.01
    assert "core_seconds" not in rows["tiny"]
    assert "core_seconds" not in rows["image"]
    for text in (Page(page_of(run, scores_of(run))).text, summary_of(run, scores_of(run))):
        assert "core-s" in text
        assert "0.625" in text
        assert "GPU-s" not in text


def test_seconds_of_a_gpu_have_a_column_of_their_own(run: RunConfig) -> None:
    with_costs(run, 0.375)
    assert "GPU-s" in summary_of(run, scores_of(run))
    assert "0.375" in summary_of(run, scores_of(run))


def test_a_run_that_measured_no_cost_has_no_column_of_it(run: RunConfig) -> None:
    assert "core-s" not in summary_of(run, scores_of(run))


def test_the_cheapest_metric_that_predicts_is_named_with_its_cost() -> None:
    loss = np.random.default_rng(0).random((8, 20))
    good = prediction(loss[None], loss, np.arange(20) % 4)
    noise = prediction(np.random.default_rng(1).random((1, 8, 20)), loss, np.arange(20) % 4)
    costs = {"ssim": Cost(1, 0.5), "mae": Cost(1, 0.25, 0.125), "emd": Cost(1, 0.01)}
    answer = Answer("intensity", "all", {"ssim": good, "mae": good, "emd": noise}, costs=costs)
    assert answer.predicting == ["ssim", "mae"]
    assert answer.cheapest == "mae"
    assert "The cheapest that predicts is mae: 0.2500 core-seconds and 0.1250 GPU-seconds" in _best(answer, "intensity")
    unknown = replace(answer, costs={"mae": costs["mae"]})
    assert unknown.cheapest is None
    assert "not measured" in _best(unknown, "intensity")
