"""The exact index against brute force."""

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
    to_bytes,
    unit_float32,
)


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
        insert(index, x[half], ids[half])
    for one, other in zip(search(index, x, 5), search(build(x, ids), x, 5), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("vectors_and_ids", [(3, 2), (3, 4), (0, 1), (BLOCK, BLOCK + 1)])
def test_another_number_of_ids_than_vectors_is_a_value_error(vectors_and_ids):
    rows, ids = np.ones((vectors_and_ids[0], 2)), np.arange(vectors_and_ids[1])
    index = create("flat", 2, {})
    for call in (lambda: insert(index, rows, ids), lambda: build(rows, ids)):
        with pytest.raises(ValueError, match="every vector needs one"):
            call()
    assert index.ntotal == 0


def test_rows_are_scaled_alike_in_one_block_and_in_several():
    x = vectors(BLOCK + 3, 2)
    scaled = unit_float32(x)
    np.testing.assert_allclose(scaled, x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_array_equal(scaled[-3:], unit_float32(x[-3:]))


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
        (lambda: build([[1.0, np.nan]]), "1 profiles have features that are not finite"),
        (lambda: unit_float32(np.full((BLOCK + 2, 1), np.inf)), "features that are not finite"),
        (lambda: search(build(vectors()), vectors(2, 5), 3), "queries have 5 features but the index has 12"),
        (lambda: from_bytes(b"no index at all"), "no readable FAISS index"),
        (lambda: from_bytes(to_bytes(build(vectors()))[:200]), "no readable FAISS index"),
        (lambda: from_bytes(b""), "no readable FAISS index"),
    ],
)
def test_data_that_cannot_be_indexed_is_one_line(wrong, said):
    with pytest.raises(DataError, match=said):
        wrong()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: build([1.0, 2.0]), "matrix"),
        (lambda: search(build(vectors()), vectors(2), 0), "0 neighbours of 60 vectors"),
        (lambda: search(build(np.empty((0, 3))), vectors(2, 3), 1), "1 neighbours of 0 vectors"),
        (lambda: create("flatt", 3, {}), "no kind of index 'flatt'"),
    ],
)
def test_a_wrong_call_is_a_value_error(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
