"""The ladder of positives against a loop over sorted lists, and on effects of plates and positions that are drawn."""

import numpy as np
import polars as pl
import pytest

from sdvae_ray.retrieval.audits.stringency import RUNGS, RankedTask, ladder
from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.significance.chance import Chance

RULES = PairRules(["compound"], neg_diffby=["compound"])
RECALL_AT = (1, 3)


def screen(wells_per_plate: int = 2, seed: int = 0) -> pl.DataFrame:
    """Eight compounds on four plates of two batches, at one position of all plates and at a second one that differs by plate."""
    rows = []
    for plate in range(4):
        for compound in range(8):
            for replicate in range(wells_per_plate):
                column = compound + 1 if replicate == 0 else 9 + (compound + plate) % 8
                where = {"plate": f"P{plate}", "batch": f"B{plate // 2}", "source": "s", "position": f"A{column:02d}"}
                rows.append({"compound": f"c{compound}", "label": f"c{compound}", **where})
    return pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=seed)


def task_of(features: np.ndarray, wells: pl.DataFrame) -> RankedTask:
    every = np.ones(len(wells), bool)
    return RankedTask("distinctiveness", features, wells, RULES, every, every, wells["plate"])


def slow(features: np.ndarray, wells: pl.DataFrame, rung: str) -> dict[str, float]:
    """Means over compounds of AP and recall, from the sorted list of every query."""
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    compound = wells["compound"].to_list()
    apart = wells[rung].to_list() if rung != "any" else list(range(len(wells)))
    scores: dict[str, list[list[float]]] = {}
    for query in range(len(wells)):
        positive = [
            compound[at] == compound[query] and at != query and apart[at] != apart[query] for at in range(len(wells))
        ]
        listed = [at for at in range(len(wells)) if positive[at] or compound[at] != compound[query]]
        hits = np.array([positive[at] for at in sorted(listed, key=lambda at: -float(x[query] @ x[at]))])
        if hits.any():
            ap = (np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean()
            scores.setdefault(compound[query], []).append([ap, *(hits[:k].sum() / hits.sum() for k in RECALL_AT)])
    means = np.mean([np.mean(rows, axis=0) for rows in scores.values()], axis=0)
    return dict(zip(("mean_map", *(f"recall_at_{k}" for k in RECALL_AT)), means.tolist(), strict=True))


def test_every_rung_equals_a_loop_over_sorted_lists():
    wells = screen()
    effect = np.random.default_rng(1).normal(size=(8, 6))[[int(name[1]) for name in wells["compound"]]]
    features = effect + np.random.default_rng(2).normal(size=(len(wells), 6))
    rows = {row["rung"]: row for row in ladder(lambda _: task_of(features, wells), Chance(), RECALL_AT, repeats=2)}
    assert tuple(rows) == RUNGS
    for rung in ("any", "plate", "batch", "position"):
        assert rows[rung]["status"] == rows[rung]["floor_status"] == "ok"
        for name, value in slow(features, wells, rung).items():
            assert rows[rung][name] == pytest.approx(value, abs=1e-12)
            assert rows[rung][f"floor_{name.removeprefix('mean_')}"] < value
    assert rows["source"] == {"rung": "source", "status": "one_source"}


def test_what_a_position_shares_is_gone_with_positives_at_another_position():
    """No compound has an effect and every position has one: below the rung of positions mAP is far above 0, on it it is not."""
    wells = screen()
    names, code = np.unique(wells["position"].to_numpy().astype(str), return_inverse=True)
    random = np.random.default_rng(3)
    features = 2 * random.normal(size=(len(names), 12))[code] + random.normal(size=(len(wells), 12))
    rows = {row["rung"]: row for row in ladder(lambda _: task_of(features, wells), Chance(), RECALL_AT, repeats=3)}
    for rung in ("any", "plate", "batch"):
        assert rows[rung]["mean_normalised_map"] > 0.2 > 0.05 > rows[rung]["floor_normalised_map"]
    assert rows["position"]["mean_normalised_map"] < 0.05


def test_a_compound_at_one_position_of_all_plates_has_no_positive_at_another():
    wells = screen(wells_per_plate=1)
    features = np.random.default_rng(4).normal(size=(len(wells), 6))
    rows = {row["rung"]: row["status"] for row in ladder(lambda _: task_of(features, wells), Chance(), (), repeats=1)}
    assert rows == {"any": "ok", "plate": "ok", "batch": "ok", "source": "one_source", "position": "same_position"}


def test_recall_counts_a_level_negative_as_half_above():
    """One positive level with one negative stands at 1.5; two level negatives put it at 2."""
    table = pl.DataFrame({"compound": ["a", "a", "b", "c"]})
    for features, at in (
        (np.array([[1.0, 0], [1, 1], [1, 1], [0, 1]]), 2),
        (np.array([[1.0, 0], [1, 1], [1, 1], [1, 1]]), 2),
    ):
        lists = average_precision(features, table, RULES, recall_at=(1, 2, 3))
        assert lists.recall[0].tolist() == [0, at <= 2, 1]
    assert average_precision(features, table, RULES).recall.shape == (4, 0)
