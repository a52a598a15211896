"""The recall of replicates against brute force, and who is nobody's replicate."""

import numpy as np
import pytest

from sdvae_ray.retrieval.index.faiss_index import build, search
from sdvae_ray.retrieval.tasks.recall import replicate_recall


def group(seed=0, compounds=8, replicates=4, controls=20, singles=2, features=10):
    random = np.random.default_rng(seed)
    compound = np.r_[np.repeat(np.arange(compounds), replicates), np.arange(singles) + 100, np.full(controls, -1)]
    x = random.normal(size=(len(compound), features)) + random.normal(size=(compounds + 101, features))[compound]
    return x, compound.astype(str), compound >= 0


@pytest.mark.parametrize("k", [1, 3, 10, 53])
def test_replicate_recall_equals_brute_force(k):
    x, compound, treated = group()
    queries = np.flatnonzero(treated)
    _, neighbours = search(build(x), x[queries], k + 1)
    recall = replicate_recall(neighbours, queries, compound, treated, k)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i, q in enumerate(queries):
        others = [w for w in np.argsort(-(unit @ unit[q])) if w != q][:k]
        hits = sum(compound[w] == compound[q] and treated[w] for w in others)
        replicates = int((compound == compound[q]).sum()) - 1
        if replicates:
            assert recall[i] == pytest.approx(hits / replicates)
        else:
            assert np.isnan(recall[i])
    assert 0 < np.nanmean(recall) <= 1


def recall_of(neighbours, queries, compound, treated, k):
    return replicate_recall(np.array(neighbours), np.array(queries), compound, np.array(treated), k).tolist()


def test_controls_are_nobodys_replicates():
    neighbours, compound = [[0, 1, 2], [1, 0, 2], [2, 1, 0]], ["DMSO", "DMSO", "A"]
    assert np.isnan(recall_of(neighbours, [0, 1, 2], compound, [False, False, True], 2)[2])
    assert recall_of(neighbours, [0, 1, 2], compound, [True, True, True], 1)[:2] == [1.0, 1.0]
    # the nearest well is of the compound, but neither treated nor a replicate: well 1 is the only one
    assert recall_of([[0, 2, 1]], [0], ["A", "A", "A"], [True, True, False], 1) == [0.0]
    assert recall_of([[0, 2, 1]], [0], ["A", "A", "A"], [True, True, False], 2) == [1.0]


def test_a_query_crowded_out_of_its_own_list_still_has_k_neighbours():
    assert recall_of([[1, 2, 3]], [0], ["A", "B", "A", "A"], [True] * 4, 2) == [0.5]


def test_too_few_neighbours_are_refused():
    with pytest.raises(ValueError, match="too few"):
        recall_of([[0, 1]], [0], ["A", "A", "B"], [True] * 3, 2)
