"""Neighbours, set enrichment and the linear probe: against slow forms and scipy, on truth that is drawn, and on noise."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import fisher_exact
from scipy.stats.contingency import odds_ratio
from sklearn.model_selection import GroupKFold

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.audits.enrichment import enrichment
from sdvae_ray.retrieval.audits.neighbours import NUISANCES, REPLICATES, neighbour_shares
from sdvae_ray.retrieval.audits.probe import linear_probe


def wells_of(plates: int = 3, columns: int = 8) -> pl.DataFrame:
    """Four rows of wells a plate: a row of controls, and eight compounds with three wells on every plate, side by side."""
    rows = []
    for plate in range(plates):
        for at in range(4 * columns):
            compound = "" if at < columns else f"c{(at - columns) // 3}"
            where = {
                "plate": f"P{plate}",
                "batch": "b",
                "source": "s",
                "position": f"{'ABCD'[at // columns]}{at % columns + 1:02d}",
            }
            rows.append({"compound": compound, "is_treated": compound != "", **where})
    return pl.DataFrame(rows)


def searched(features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    x = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.argsort(-(x[queries] @ x.T), axis=1)[:, :11]


def test_shares_equal_a_loop_over_the_neighbours():
    wells, random = wells_of(), np.random.default_rng(0)
    queries = np.flatnonzero(wells["is_treated"].to_numpy())
    features = random.normal(size=(len(wells), 5)) + random.normal(size=(3, 5))[np.repeat(np.arange(3), 32)]
    neighbours = searched(features, queries)
    table = neighbour_shares(neighbours, queries, wells, (5, 10), seed=0, repeats=2)
    rows = {(row["shared"], row["k"]): row for row in table.rows(named=True)}
    assert {shared for shared, _ in rows} == {REPLICATES, *NUISANCES}
    values = {
        "plate": wells["plate"],
        "row": wells["position"].str.slice(0, 1),
        "column": wells["position"].str.slice(1),
    }
    for name, labels in values.items():
        same, counted, expected = 0, 0, 0.0
        for query, near in zip(queries, neighbours, strict=True):
            own = {at for at in range(len(wells)) if wells["compound"][at] == wells["compound"][int(query)]}
            others = [at for at in range(len(wells)) if at not in own]
            listed = [at for at in near[near != query][:5].tolist() if at not in own]
            counted += len(listed)
            same += sum(labels[at] == labels[int(query)] for at in listed)
            expected += len(listed) * np.mean([labels[at] == labels[int(query)] for at in others])
        row = rows[name, 5]
        assert row["share"] == pytest.approx(same / counted)
        assert row["chance"] == pytest.approx(expected / counted)
        assert row["over_chance"] == pytest.approx(same / expected)
        assert row["status"] == "ok"
    assert rows["plate", 5]["over_chance"] > 1.5 > 1.15 > rows["plate", 5]["floor_over_chance"] > 0.85
    assert rows[REPLICATES, 10]["share"] >= rows[REPLICATES, 5]["share"]
    assert (rows["batch", 5]["status"], rows["batch", 5]["share"]) == ("one_batch", None)


def test_compounds_that_are_found_are_above_the_floor_and_no_nuisance():
    """Wells of a compound stand side by side: with their replicates counted, the rows and columns would look shared."""
    wells, random = wells_of(), np.random.default_rng(1)
    code = np.unique(wells["compound"].to_numpy().astype(str), return_inverse=True)[1]
    features = 4 * random.normal(size=(code.max() + 1, 8))[code] * (code > 0)[:, None] + random.normal(
        size=(len(wells), 8)
    )
    queries = np.flatnonzero(wells["is_treated"].to_numpy())
    table = neighbour_shares(searched(features, queries), queries, wells, (8,), seed=0, repeats=3)
    rows = {row["shared"]: row for row in table.rows(named=True)}
    assert rows[REPLICATES]["share"] > 0.9 > 0.2 > rows[REPLICATES]["floor_share"]
    assert rows["plate"]["over_chance"] < 1.4


def drawn_sets(effect: float, seed: int = 0) -> tuple[np.ndarray, list[list[str]]]:
    """48 compounds of six targets, one compound with two of them and one target of a single compound."""
    random = np.random.default_rng(seed)
    target = np.repeat(np.arange(6), 8)
    labels = [[f"t{code}"] for code in target]
    labels[0], labels[1] = ["t0", "t5"], ["alone"]
    return effect * random.normal(size=(6, 10))[target] + random.normal(size=(48, 10)), labels


def test_enrichment_equals_fishers_exact_test_of_every_compound():
    profiles, labels = drawn_sets(0.7)
    table = enrichment(profiles, labels, (5, 100), 0.05, seed=0, repeats=3)
    assert table["k"].unique().to_list() == [5]  # 100 neighbours are more than there are
    x = profiles / np.linalg.norm(profiles, axis=1, keepdims=True)
    hits, log_odds, least_needed = {}, {}, []
    for at, own in enumerate(labels):
        others = [other for other in np.argsort(-(x @ x[at])) if other != at]
        for name in own:
            has = np.array([name in labels[other] for other in others])
            if not has.any():
                continue
            cells = np.array([[has[:5].sum(), 5 - has[:5].sum()], [has[5:].sum(), (~has[5:]).sum()]])
            least_needed.append(fisher_exact(cells, alternative="greater").pvalue)
            hits.setdefault(name, []).append(cells[0, 0])
            log_odds.setdefault(name, []).append(np.log(odds_ratio(2 * cells + 1, kind="sample").statistic))
    rows = {row["label"]: row for row in table.rows(named=True)}
    assert set(rows) == {None, *hits}
    for name, values in hits.items():
        assert rows[name]["hits"] == pytest.approx(np.mean(values))
        assert rows[name]["odds_ratio"] == pytest.approx(np.exp(np.mean(log_odds[name])))
    p = np.sort(least_needed)
    retrieved = np.flatnonzero(p <= 0.05 * np.arange(1, len(p) + 1) / len(p)).max(initial=-1) + 1  # Benjamini-Hochberg
    assert rows[None]["enriched"] == pytest.approx(retrieved / len(p))
    assert rows[None]["tests"] == len(p) == 48
    assert rows[None]["odds_ratio"] > 2 > rows[None]["floor_odds_ratio"]
    assert rows[None]["floor_enriched"] < 0.05


def test_an_enrichment_that_no_p_could_show_says_so_and_noise_has_none():
    profiles, labels = drawn_sets(0.0)
    whole = enrichment(profiles, labels, (5,), 0.05, seed=0, repeats=1).row(0, named=True)
    assert 0.6 < whole["odds_ratio"] < 1.6
    assert whole["enriched"] == 0
    few = enrichment(profiles[:4], [["a"], ["a"], ["b"], ["b"]], (1,), 0.05, seed=0, repeats=1).row(0, named=True)
    assert (few["enriched"], few["status"]) == (None, "cannot_reject")
    assert few["least_p_corrected"] == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="no label has two compounds"):
        enrichment(profiles[:3], [["a"], ["b"], ["c"]], (1,), 0.05, seed=0, repeats=1)


def probed(effect: float, of_compound: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """20 compounds of two labels, four wells each; every compound has an effect of its own, and its label has one."""
    random = np.random.default_rng(seed)
    compound = np.repeat(np.arange(20), 4)
    label = np.where(compound % 2 == 0, "a", "b")
    shift = effect * random.normal(size=(2, 12))[compound % 2] + of_compound * random.normal(size=(20, 12))[compound]
    return shift + 0.3 * random.normal(size=(80, 12)), label, compound.astype(str)


def test_the_probe_learns_labels_and_never_compounds():
    """Without an effect of the label, wells of one compound in both parts of a fold would be classified; held out they are not."""
    found = linear_probe(*probed(1.5), seed=0, repeats=3)
    assert found["balanced_accuracy"] > 0.9
    assert (found["chance"], found["wells"], found["compounds"], found["labels"], found["folds"]) == (0.5, 80, 20, 2, 5)
    assert 0.2 < found["floor_balanced_accuracy"] < 0.75
    alone = np.mean(
        [linear_probe(*probed(0.0, 2.0, seed), seed=0, repeats=0)["balanced_accuracy"] for seed in range(6)]
    )
    assert abs(alone - 0.5) < 0.12


def test_the_probe_is_scikit_learns_ridge_on_held_out_compounds():
    """A label that one direction tells exactly is told exactly by scikit-learn's own folds, and by ours."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, label, compound = probed(3.0)
    model = make_pipeline(StandardScaler(), RidgeClassifier(alpha=12.0, class_weight="balanced"))
    theirs = cross_val_score(model, x, label, groups=compound, cv=GroupKFold(5), scoring="balanced_accuracy").mean()
    assert linear_probe(x, label, compound, seed=1, repeats=0)["balanced_accuracy"] == pytest.approx(theirs, abs=0.05)
    with pytest.raises(DataError, match="fewer than two labels"):
        linear_probe(x, np.full(80, "a"), compound, seed=0, repeats=1)
