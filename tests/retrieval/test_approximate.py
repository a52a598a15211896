"""Approximate indices against the exact one: recall, merging, tuning, bytes, reading in place, and what they refuse."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import faiss
import numpy as np
import pytest

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.index import tuning
from sdvae_ray.retrieval.index.approximate import (
    REACHES,
    Choice,
    add,
    choices,
    merge,
    nearest_cosine,
    plan,
    train,
)
from sdvae_ray.retrieval.index.faiss_index import (
    SETTINGS,
    build,
    configure,
    create,
    from_bytes,
    ids_of,
    nlist_of,
    open_mapped,
    search,
    threads,
    to_bytes,
)
from sdvae_ray.retrieval.index.faiss_index import train as fit
from sdvae_ray.retrieval.index.tuning import measure_recall, record, tune

N, D, QUERIES = 6000, 48, 200
GB = 10**9


def clustered(count, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    middle = np.random.default_rng(99).normal(size=(60, D))
    middle /= np.linalg.norm(middle, axis=1, keepdims=True)
    return middle[random.integers(0, 60, count)] + random.normal(size=(count, D)) * spread / D**0.5


@pytest.fixture(scope="module")
def data():
    """Vectors, their ids, queries that are not among them, the exact neighbours by brute force."""
    x, queries = clustered(N), clustered(QUERIES, seed=1)
    ids = np.random.default_rng(2).permutation(2**40 // 10**6)[:N].astype(np.int64) * 10**6
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (x, queries)]
    return x, ids, queries, ids[np.argsort(-(unit[1] @ unit[0].T), axis=1)[:, :10]]


@pytest.fixture(scope="module")
def built(data):
    """By kind: the empty index, its choice, and the index of all vectors in one piece."""
    x, ids, _, _ = data
    indices = {}
    for kind in SETTINGS:
        empty, choice = train(x[:4000], plan(kind, N, D))
        indices[kind] = empty, choice, add(empty, x, ids)
    return indices


@pytest.fixture
def copy(built):
    """copy(kind) -> an index of all vectors that a test may change."""
    return lambda kind: from_bytes(to_bytes(built[kind][2]))


def exact(x, queries):
    """(Q, 10) row numbers of the exact neighbours."""
    return search(build(x), queries, 10)[1]


WIDEST = {"flat": {}, "ivf_sq8": {"nprobe": 10**6}, "ivf_pq_refined": {"nprobe": 10**6, "k_factor": 64}}


def stored(index):
    """The vectors as the index's codes have them, in order."""
    inner = faiss.downcast_index(index.index)
    if isinstance(inner, faiss.IndexRefine):
        inner = faiss.downcast_index(inner.refine_index)
    elif isinstance(inner, faiss.IndexIVF):
        inner.make_direct_map()
    return inner.reconstruct_n(0, index.ntotal)


# two neighbours may swap at the k-th place, where estimates differ by a rounding
@pytest.mark.parametrize(("kind", "least"), [("flat", 1.0), ("ivf_sq8", 0.999), ("ivf_pq_refined", 0.999)])
def test_every_kind_at_its_widest_finds_what_brute_force_over_its_codes_finds(data, built, copy, kind, least):
    x, ids, queries, truth = data
    index = copy(kind)
    decoded = stored(index)
    # 6 bits over the range of a feature, about 7 standard deviations: steps of 0.11, errors of up to half of one
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert np.median(np.abs(decoded - unit)) < (1e-7 if kind == "flat" else 0.06 / D**0.5)
    configure(index, WIDEST[kind])
    similarity = queries / np.linalg.norm(queries, axis=1, keepdims=True) @ decoded.T
    if built[kind][1].parameters.get("by_distance"):
        similarity -= (decoded**2).sum(axis=1) / 2
    by_codes = ids[np.argsort(-similarity, axis=1)[:, :10]]
    assert measure_recall(index, queries, by_codes).recall >= least
    assert measure_recall(index, queries, truth).recall > 0.9


def test_vectors_that_lie_close_together_are_ranked_by_distance():
    """As raw embeddings do: a common mean that is long beside what tells them apart."""
    random = np.random.default_rng(7)
    x = 40 * random.normal(size=D) + random.normal(size=(4200, D)) * np.geomspace(2, 0.05, D)
    x, queries = x[200:], x[:200]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert nearest_cosine(x) > 0.99
    recall = {}
    for by_distance in (0, 1):
        empty = create("ivf_sq8", D, {"nlist": 20, "by_distance": by_distance})
        fit(empty, x)
        index = add(empty, x, np.arange(len(x)))
        configure(index, {"nprobe": 20})
        recall[by_distance] = measure_recall(index, queries, exact(x, queries)).recall
        similarity, found = search(index, queries, 10)
        np.testing.assert_allclose(similarity, np.take_along_axis(asked @ unit.T, found, axis=1), atol=0.02)
    assert recall[1] > recall[0] + 0.1
    assert train(x, plan("ivf_sq8", len(x), D))[1].parameters["by_distance"] == 1
    spread = random.normal(size=(4000, D))
    assert train(spread, plan("ivf_sq8", len(x), D))[1].parameters["by_distance"] == 0
    assert nearest_cosine(x[:1]) == 0


@pytest.mark.parametrize(("bits", "least"), REACHES.items())
def test_codes_allow_the_recall_that_choices_count_on(bits, least):
    """At the width at which REACHES was measured; with fewer vectors, which are easier to tell apart."""
    random = np.random.default_rng(5)
    middle = random.normal(size=(40, 384)) / 384**0.5
    x = middle[random.integers(0, 40, 4300)] + random.normal(size=(4300, 384)) * 1.5 / 384**0.5
    x, queries = x[300:], x[:300]
    index = add(train(x, plan("ivf_pq_refined", len(x), 384, bits))[0], x, np.arange(len(x)))
    configure(index, {"nprobe": 100, "k_factor": 16})
    assert measure_recall(index, queries, exact(x, queries)).recall >= least


def test_more_bits_find_more(data):
    x, ids, queries, truth = data
    recalls = []
    for bits in REACHES:
        index = add(train(x, plan("ivf_pq_refined", N, D, bits))[0], x, ids)
        configure(index, WIDEST["ivf_pq_refined"])
        recalls.append(measure_recall(index, queries, truth).recall)
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


def test_recall_equals_a_count_by_hand(data, copy):
    _, _, queries, truth = data
    index = copy("ivf_pq_refined")
    configure(index, {"nprobe": 2, "k_factor": 1})
    _, found = search(index, queries, 10)
    by_hand = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, truth, strict=True)])
    got = measure_recall(index, queries, truth)
    assert got.recall == pytest.approx(by_hand, abs=1e-12)
    assert 0.1 < got.recall < 0.95
    assert (got.k, got.queries, got.threads) == (10, QUERIES, faiss.omp_get_max_threads())
    assert got.queries_per_second > 0


def test_recall_of_fewer_neighbours_takes_the_nearest_of_the_exact_ones(data):
    x, ids, queries, truth = data
    assert measure_recall(build(x, ids), queries, truth, 4).recall == 1


@pytest.mark.parametrize("kind", SETTINGS)
def test_shards_merge_to_what_one_build_is(data, built, kind):
    x, ids, queries, _ = data
    empty, whole = (from_bytes(to_bytes(built[kind][i])) for i in (0, 2))  # as it reaches another machine
    cuts = [slice(0, 900), slice(900, 901), slice(901, 901), slice(901, 4000), slice(4000, N)]
    sent = [to_bytes(add(empty, x[cut], ids[cut])) for cut in cuts]
    merged = merge(from_bytes(data) for data in sent)
    assert merged.ntotal == N
    np.testing.assert_array_equal(ids_of(merged), ids)
    for settings in (dict.fromkeys(SETTINGS[kind], 8), WIDEST[kind]):
        for index in (merged, whole):
            configure(index, settings)
        for one, other in zip(search(merged, queries, 10), search(whole, queries, 10), strict=True):
            np.testing.assert_array_equal(one, other)
    again = from_bytes(to_bytes(merged))
    np.testing.assert_array_equal(search(again, queries, 10)[1], search(merged, queries, 10)[1])


MERGED = """
import numpy as np
from sdvae_ray.retrieval.index import approximate, faiss_index
x = np.random.default_rng(0).normal(size=(1000, 12)).astype(np.float32)
empty = faiss_index.create("ivf_pq_refined", 12, {"nlist": 1, "subquantizers": 4, "refine_bits": 8})
faiss_index.train(empty, x)
whole = approximate.add(empty, x, np.arange(1000))
cuts = [0, 64, 128, 192, 200, 256, 1000]  # a block has 32 vectors and 64 bytes
for _ in range(100):
    shards = (approximate.add(empty, x[a:b], np.arange(a, b)) for a, b in zip(cuts, cuts[1:]))
    merged = approximate.merge(shards)
    for one, other in zip(faiss_index.search(merged, x, 5), faiss_index.search(whole, x, 5)):
        np.testing.assert_array_equal(one, other)
"""


def test_lists_of_full_blocks_merge_within_their_memory():
    """FAISS itself writes past it: the process dies, or a search finds other neighbours."""
    run = subprocess.run([sys.executable, "-c", MERGED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("kind", SETTINGS)
def test_shards_in_another_order_find_the_same_neighbours(data, built, copy, kind):
    x, ids, queries, _ = data
    empty, whole = built[kind][0], copy(kind)
    merged = merge([add(empty, x[3000:], ids[3000:]), add(empty, x[:3000], ids[:3000])])
    for index in (merged, whole):
        configure(index, WIDEST[kind])
    same = search(merged, queries, 10)[1] == search(whole, queries, 10)[1]
    assert same.mean() > 0.999  # equal estimates at the k-th place


@pytest.mark.parametrize("kind", SETTINGS)
def test_an_empty_shard_changes_nothing(data, built, kind):
    x, ids, queries, _ = data
    empty = built[kind][0]
    nothing = add(empty, np.empty((0, D)), np.empty(0, np.int64))
    assert nothing.ntotal == 0
    one, other = merge([nothing, add(empty, x, ids)]), add(empty, x, ids)
    np.testing.assert_array_equal(search(one, queries, 10)[1], search(other, queries, 10)[1])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pq_refined"])
def test_the_same_sample_trains_the_same_index(data, built, kind, count):
    x, _, _, _ = data
    with threads(count):
        assert to_bytes(train(x[:4000], plan(kind, N, D))[0]) == to_bytes(built[kind][0])


def test_filling_leaves_the_trained_index_empty(data, built):
    for empty, _, whole in built.values():
        assert (empty.ntotal, whole.ntotal) == (0, N)


@pytest.mark.parametrize("kind", SETTINGS)
def test_tuning_takes_the_cheapest_settings_and_reports_on_other_queries(data, copy, kind):
    _, _, queries, truth = data
    index = copy(kind)
    tuned = tune(index, queries, truth, recall=0.9)
    assert tuned.reached
    assert tuned.recall_chosen_on >= 0.9
    assert set(tuned.settings) == set(SETTINGS[kind])
    assert tuned.recall_chosen_on == measure_recall(index, queries[::2], truth[::2]).recall
    assert tuned.measured.recall == measure_recall(index, queries[1::2], truth[1::2]).recall
    grid = tuning._by_cost(index, 10)
    for cheaper in grid[: grid.index(tuned.settings)]:  # every one of them, those that tune skipped too
        configure(index, cheaper)
        assert measure_recall(index, queries[::2], truth[::2]).recall < 0.9
    configure(index, tuned.settings)
    kept = from_bytes(to_bytes(index))
    np.testing.assert_array_equal(search(kept, queries, 10)[1], search(index, queries, 10)[1])


def test_a_recall_out_of_reach_gets_the_best_settings(data):
    x, ids, queries, truth = data
    index = add(train(x, plan("ivf_pq_refined", N, D, 4))[0], x, ids)
    tuned = tune(index, queries, truth, recall=1.0)
    configure(index, WIDEST["ivf_pq_refined"])
    assert not tuned.reached
    assert tuned.recall_chosen_on == pytest.approx(measure_recall(index, queries[::2], truth[::2]).recall, abs=0.005)


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_record_is_json_and_its_bytes_are_the_index(data, built, copy, kind):
    _, _, queries, truth = data
    index, choice = copy(kind), built[kind][1]
    tuned = tune(index, queries, truth)
    found = json.loads(json.dumps(record(index, choice, tuned, plates=3)))
    assert found["bytes"] == len(to_bytes(index))
    assert found["bytes_per_vector"] == pytest.approx(len(to_bytes(index)) / N)
    # the estimate leaves out headers, below 300 bytes, and how full the lists' last blocks are
    assert found["bytes_per_vector"] == pytest.approx(choice.bytes_per_vector, rel=0.03)
    assert (found["kind"], found["vectors"], found["settings"], found["plates"]) == (kind, N, tuned.settings, 3)
    assert (found["recall"], found["k"]) == (tuned.measured.recall, 10)


MAPPED = """
import sys
from sdvae_ray.retrieval.index.faiss_index import open_mapped
read = lambda: int(next(line for line in open("/proc/self/io") if line.startswith("rchar")).split()[1])
before = read()
index = open_mapped(sys.argv[1])
copied = read() - before
resident = mapped = 0
ours = False
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0] and not line.split()[0].endswith(":"):
        ours = line.rstrip().endswith(sys.argv[1])
    elif ours and line.startswith("Size:"):
        mapped += int(line.split()[1]) * 1024
    elif ours and line.startswith("Rss:"):
        resident += int(line.split()[1]) * 1024
print(index.ntotal, copied, mapped, resident)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's account of mapped files")
def test_a_mapped_index_is_not_read_when_it_is_opened(tmp_path):
    path = tmp_path / "flat.faiss"
    x = np.random.default_rng(0).normal(size=(40_000, 256)).astype(np.float32)
    path.write_bytes(to_bytes(build(x)))
    whole = path.stat().st_size
    run = subprocess.run([sys.executable, "-c", MAPPED, str(path)], capture_output=True, text=True, check=True)
    count, copied, mapped, resident = map(int, run.stdout.split())
    assert count == 40_000
    assert mapped >= whole > 40_000_000
    assert copied < whole / 10  # faiss and smaps apart, nothing is read
    assert resident < whole / 10


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_mapped_index_finds_the_same(data, copy, tmp_path, kind):
    _, _, queries, _ = data
    index = copy(kind)
    path = tmp_path / "an index.faiss"
    path.write_bytes(to_bytes(index))
    for one, other in zip(search(open_mapped(path), queries, 10), search(index, queries, 10), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_file_cut_short_is_refused(copy, tmp_path, kind, share):
    data, path = to_bytes(copy(kind)), tmp_path / "cut.faiss"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"cut\.faiss is no readable FAISS index"):
        open_mapped(path)
    with pytest.raises(DataError, match="no readable FAISS index"):
        from_bytes(path.read_bytes())


def cost(choice: Choice) -> float:
    return choice.bytes_per_vector


def first(n, memory, recall):
    """The first kind that fits, or None."""
    try:
        return choices(n, 384, memory, recall)[0]
    except DataError:
        return None


def test_choices_at_the_size_of_jump():
    def kind(*wanted):
        choice = first(*wanted)
        return choice.kind, choice.parameters.get("refine_bits")

    assert kind(5_000, GB, 0.9) == ("flat", None)
    assert kind(10**6, GB, 0.9) == ("ivf_pq_refined", 6)
    assert kind(10**6, GB, 0.95) == ("ivf_pq_refined", 8)
    assert kind(10**6, 0.45 * GB, 0.95) == ("ivf_sq8", None)
    assert kind(10**6, 2 * GB, 1.0) == ("flat", None)
    assert cost(first(10**6, GB, 0.93)) <= 384  # one byte a dimension


def test_the_first_choice_is_monotone_in_size_memory_and_recall():
    sizes = (1, 100, 10_000, 10_001, 100_000, 10**6, 10**7, 10**8)
    memories = [10**6 * 2**i for i in range(19)]
    recalls = (0.5, 0.8, 0.81, 0.93, 0.94, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)
    for n, memory in itertools.product(sizes, memories):
        over_recall = [first(n, memory, recall) for recall in recalls]
        given = [choice for choice in over_recall if choice]
        assert over_recall[: len(given)] == given  # a kind that fits at a recall fits at any lower one
        assert [cost(c) for c in given] == sorted(cost(c) for c in given)
        assert all(cost(c) * n <= memory for c in given)
    for n, recall in itertools.product(sizes, recalls):
        given = [choice for memory in memories if (choice := first(n, memory, recall))]
        assert [cost(c) for c in given] == sorted(cost(c) for c in given)
        assert first(n, memories[-1], recall) is not None
    for memory, recall in itertools.product(memories, recalls):
        over_size = [first(n, memory, recall) for n in sizes]
        given = [choice for choice in over_size if choice]
        assert over_size[: len(given)] == given
        assert [cost(c) for c in given] == sorted((cost(c) for c in given), reverse=True)
        lists = [c.parameters.get("nlist", 1) for c in given]
        assert lists == sorted(lists)


def test_what_does_not_reach_the_recall_gives_way_to_what_may():
    kinds = [(choice.kind, choice.parameters.get("refine_bits")) for choice in choices(10**6, 384, 8 * GB, 0.95)]
    assert kinds == [("ivf_pq_refined", 8), ("ivf_pq_refined", 16), ("ivf_sq8", None), ("flat", None)]
    assert [choice.kind for choice in choices(10**6, 384, 0.6 * GB, 0.95)] == ["ivf_pq_refined", "ivf_sq8"]
    assert choices(10**4, 384, 8 * GB, 0.95)[0].kind == "flat"


@pytest.mark.parametrize("dimensions", [1, 2, 7, 48, 384, 769, 1000])
def test_subquantizers_divide_any_number_of_dimensions(dimensions):
    assert dimensions % plan("ivf_pq_refined", 10**6, dimensions).parameters["subquantizers"] == 0


def test_a_small_sample_gets_fewer_lists_and_says_so(data):
    x, ids, queries, truth = data
    empty, choice = train(x[:1000], plan("ivf_sq8", N, D))
    assert nlist_of(empty) == choice.parameters["nlist"] == 1000 // 39
    assert choice.note == "nlist 25, not 77: 1000 training vectors are fewer than 39 a list"
    index = add(empty, x, ids)
    assert record(index, choice, tune(index, queries, truth))["note"] == choice.note
    assert train(x[:4000], plan("ivf_sq8", N, D))[1].note == ""


def test_threads_are_given_back():
    before = faiss.omp_get_max_threads()
    with threads(before + 1):
        assert faiss.omp_get_max_threads() == before + 1
    assert faiss.omp_get_max_threads() == before


def bad(row=None):
    x = clustered(700)
    if row is not None:
        x[row, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda b: choices(10**6, 384, 10**8, 0.9), "fits 0.1 GB at recall 0.9: the smallest takes 0.37"),
        (lambda b: train(bad(3), plan("ivf_sq8", 700, D)), "1 profiles have features that are not finite"),
        (
            lambda b: train(bad()[:600], plan("ivf_pq_refined", N, D)),
            "trained on 624 vectors or more, not 600: take flat",
        ),
        (lambda b: train(np.empty((0, D)), plan("ivf_sq8", N, D)), "trained on 1 vectors or more, not 0"),
        (lambda b: add(b["ivf_sq8"][0], bad(5), range(700)), "1 profiles have features that are not finite"),
        (lambda b: search(b["flat"][2], bad()[:, :5], 3), "queries have 5 features but the index has 48"),
        (lambda b: open_mapped(os.devnull), "no index at"),
    ],
)
def test_data_that_cannot_be_indexed_is_one_line(built, wrong, said):
    with pytest.raises(DataError, match=said) as caught:
        wrong(built)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda b: plan("ivf_pq_refine", 10, 10), "no kind of index 'ivf_pq_refine'"),
        (lambda b: plan("ivf_pq_refined", 10, 10, 5), "with 5 bits to refine by"),
        (lambda b: add(b["ivf_sq8"][2], bad(), range(700)), "starts from the empty index"),
        (lambda b: merge([]), "no shards"),
        (lambda b: merge([add(b["flat"][0], bad(), range(700)) for _ in "12"]), "repeat between shards"),
        (lambda b: search(b["ivf_pq_refined"][0], bad(), 3), "3 neighbours of 0 vectors"),
        (lambda b: measure_recall(b["flat"][2], bad()[:0], np.ones((0, 10), int)), "of 0 queries"),
        (lambda b: measure_recall(b["flat"][2], bad(), np.ones((700, 3), int)), "must be 700 x 10 ids"),
        (lambda b: tune(b["flat"][2], bad()[:1], np.ones((1, 10), int)), "two queries or more"),
        (lambda b: configure(b["ivf_sq8"][2], {"k_factor": 2}), "has no setting 'k_factor'"),
        (lambda b: configure(b["ivf_sq8"][2], {"nprobe": 0}), "no setting 'nprobe' of 0"),
    ],
)
def test_a_wrong_call_is_a_value_error(built, wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong(built)
