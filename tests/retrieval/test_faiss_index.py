"""The exact index and the recalls against brute force."""

import numpy as np
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.index.faiss_index import (
    BLOCK,
    build,
    create,
    from_bytes,
    insert,
    search,
    size,
    to_bytes,
    unit_blocks,
)
from sdvae_ray.retrieval.tasks.recall import reconstruction_recall, replicate_recall


def vectors(n=60, d=12, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def cosine(a, b):
    return (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T


@pytest.mark.parametrize("queries", [3, 50])
def test_search_equals_brute_force(queries):
    x, q = vectors(), vectors(queries, seed=1)
    ids = np.arange(60) * 7 + 5
    similarities, found = search(build(x, ids), q, 10)
    order = np.argsort(-cosine(q, x), axis=1)[:, :10]
    np.testing.assert_array_equal(found, ids[order])
    np.testing.assert_allclose(similarities, np.take_along_axis(cosine(q, x), order, axis=1), atol=1e-6)
    assert (similarities.dtype, found.dtype) == (np.float32, np.int64)


def test_an_index_survives_the_round_trip_through_bytes():
    x, ids = vectors(), np.arange(60)[::-1] + 2**40
    index = build(x, ids)
    data = to_bytes(index)
    assert isinstance(data, bytes)
    for before, after in zip(search(index, x, 5), search(from_bytes(data), x, 5), strict=True):
        np.testing.assert_array_equal(before, after)


def test_the_same_vectors_give_the_same_bytes():
    assert to_bytes(build(vectors())) == to_bytes(build(vectors() * 3.0))


def test_an_index_made_in_steps_finds_what_build_finds():
    x, ids = vectors(), np.arange(60) * 7 + 5
    index = create("flat", 12, {})
    for half in (slice(0, 30), slice(30, 60)):
        insert(index, unit_blocks(x[half], 12), ids[half])
    for one, other in zip(search(index, x, 5), search(build(x, ids), x, 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_are_scaled_alike_in_one_block_and_in_several():
    x = vectors(BLOCK + 3, 2)
    scaled = unit_blocks(x, 2)
    np.testing.assert_allclose(scaled, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(scaled[-3:], unit_blocks(x[-3:], 2))


def test_the_size_of_an_index_is_that_of_its_bytes():
    index = build(vectors(3000, 100))
    assert size(index) == len(to_bytes(index)) > 3000 * 100 * 4


def test_level_neighbours_come_in_order_of_id():
    _, found = search(build(np.ones((4, 3)), [9, 2, 7, 4]), np.ones((1, 3)), 4)
    assert found.tolist() == [[2, 4, 7, 9]]


def test_more_neighbours_than_vectors_gives_all_vectors():
    similarities, found = search(build(vectors(4)), vectors(2), 10)
    assert similarities.shape == found.shape == (2, 4)
    assert (found >= 0).all()


def test_an_all_zero_profile_is_similar_to_nothing():
    x = vectors(5)
    x[2] = 0
    similarities, found = search(build(x), x, 5)
    assert (similarities[2] == 0).all()
    assert (similarities[found == 2] == 0).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: build(vectors(3), [1, 1, 2]), "repeat"),
        (lambda: build(vectors(3), [1, 2]), "as many whole ids"),
        (lambda: build(vectors(3), [-1, 0, 1]), "at least 0"),
        (lambda: build(vectors(3), [0.5, 1.0, 2.0]), "whole ids"),
        (lambda: build([[1.0, np.nan]]), "1 profiles have features that are not finite"),
        (lambda: build([1.0, 2.0]), "matrix"),
        (lambda: search(build(vectors()), vectors(2, 5), 3), "queries have 5 features but the index has 12"),
        (lambda: search(build(vectors()), vectors(2), 0), "k must be at least 1"),
        (lambda: search(build(np.empty((0, 3))), vectors(2, 3), 1), "index is empty"),
        (lambda: create("flatt", 3, {}), "no kind of index 'flatt'; did you mean 'flat'"),
        (lambda: unit_blocks(vectors(3), 5), "have 12 features but the index has 5"),
        (lambda: unit_blocks(np.full((BLOCK + 2, 1), np.inf), 1), "features that are not finite"),
        (lambda: from_bytes(b"no index at all"), "no readable FAISS index"),
        (lambda: from_bytes(to_bytes(build(vectors()))[:200]), "no readable FAISS index"),
        (lambda: from_bytes(b""), "no readable FAISS index"),
    ],
)
def test_what_an_index_cannot_do_is_said_in_one_line(wrong, said):
    with pytest.raises(DataError, match=said):
        wrong()


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
    out = replicate_recall(neighbours, queries, compound, treated, k)
    similarity = cosine(x, x)
    for i, q in enumerate(queries):
        others = [w for w in np.argsort(-similarity[q]) if w != q][:k]
        hits = sum(compound[w] == compound[q] and treated[w] for w in others)
        replicates = int((compound == compound[q]).sum()) - 1
        assert out.replicates[i] == replicates
        if replicates:
            assert out.recall[i] == pytest.approx(hits / replicates)
            assert out.hit[i] == float(hits > 0)
        else:
            assert np.isnan(out.recall[i])
            assert np.isnan(out.hit[i])
    assert 0 < np.nanmean(out.hit) <= 1


def test_controls_are_nobodys_replicates():
    neighbours = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0]])
    out = replicate_recall(neighbours, [0, 1, 2], ["DMSO", "DMSO", "A"], [False, False, True], 2)
    assert np.isnan(out.recall[2])
    treated = replicate_recall(neighbours, [0, 1, 2], ["DMSO", "DMSO", "A"], [True, True, True], 1)
    assert treated.hit[:2].tolist() == [1.0, 1.0]
    excluded = replicate_recall([[0, 2, 1]], [0], ["A", "A", "A"], [True, True, False], 1)
    assert (excluded.hit[0], excluded.replicates[0]) == (0.0, 1)


def test_a_query_crowded_out_of_its_own_list_still_has_k_neighbours():
    out = replicate_recall([[1, 2, 3]], [0], ["A", "B", "A", "A"], [True] * 4, 2)
    assert (out.hit[0], out.recall[0]) == (1.0, 0.5)


def test_too_few_neighbours_are_refused():
    with pytest.raises(ValueError, match="too few"):
        replicate_recall([[0, 1]], [0], ["A", "A", "B"], [True] * 3, 2)


@pytest.mark.parametrize("k", [1, 4])
def test_reconstruction_recall_equals_brute_force(k):
    x, compound, treated = group(seed=3)
    recon = x + np.random.default_rng(9).normal(size=x.shape) * 0.9
    queries = np.flatnonzero(treated)
    _, neighbours = search(build(x), recon[queries], k + 1)
    out = reconstruction_recall(neighbours, queries, compound, treated, k)
    similarity = cosine(recon, x)
    for i, q in enumerate(queries):
        ranked = np.argsort(-similarity[q])
        assert out.same_well[i] == (ranked[0] == q)
        assert out.same_compound[i] == any(compound[w] == compound[q] for w in ranked[:k])
        others = [w for w in ranked if w != q]
        if (compound == compound[q]).sum() > 1:
            assert out.other_replicate[i] == any(compound[w] == compound[q] for w in others[:k])
        else:
            assert np.isnan(out.other_replicate[i])
    assert 0 < out.same_well.mean() < 1


def test_a_perfect_reconstruction_finds_its_own_well():
    x, compound, treated = group()
    queries = np.flatnonzero(treated)
    _, neighbours = search(build(x), x[queries], 2)
    out = reconstruction_recall(neighbours, queries, compound, treated, 1)
    assert out.same_well.mean() == out.same_compound.mean() == 1.0
