"""Samples that merge, KID, CMMD, precision to coverage: against naive loops, closed forms and the reference libraries."""

import functools
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from sdvae_ray.distributions.between import DISTANCES, compare
from sdvae_ray.distributions.fid import frechet_distance, moments
from sdvae_ray.distributions.kernel import cmmd, kid
from sdvae_ray.distributions.prdc import PRDC, prdc
from sdvae_ray.distributions.sample import Sample, hash_keys, merge, patch_keys, sample
from sdvae_ray.errors import ConfigError, DataError


def random_features(n, m, d=12):
    random = np.random.default_rng(3)
    mixing = np.eye(d) + 0.4 * random.normal(size=(d, d)) / np.sqrt(d)
    return random.normal(size=(n, d)) @ mixing + 0.5, 1.1 * random.normal(size=(m, d)) @ mixing + 0.6


def field_features(real_field, n, m, d=12):
    """(n, d) and (m, d): 8 x 8 patches of the five stains, and others of the same blurred, through one random projection."""
    import tifffile

    planes = np.stack([tifffile.imread(path) for path in real_field.values()]) / 65535
    random = np.random.default_rng(5)
    projection = random.normal(size=(5 * 64, d)) * 3
    chosen = random.permutation(135 * 135)
    sides = []
    for pixels, rows in ((planes, chosen[:n]), (gaussian_filter(planes, (0, 1, 1)), chosen[n : n + m])):
        patches = pixels.reshape(5, 135, 8, 135, 8).transpose(1, 3, 0, 2, 4).reshape(135 * 135, -1)
        sides.append(patches[rows] @ projection)
    return tuple(sides)


@pytest.fixture(scope="module", params=["random", "field"])
def features(request):
    """A function (n, m) -> two sides of 12 features."""
    if request.param == "random":
        return random_features
    return functools.partial(field_features, request.getfixturevalue("real_field"))


# --- samples ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text(max_size=2), st.integers(0, 3), st.integers(0, 4)), max_size=40),
    size=st.integers(1, 12),
    seed=st.integers(-5, 2**40),
    data=st.data(),
)
def test_any_order_of_splitting_and_merging_gives_the_same_sample(rows, size, seed, data):
    def of(chosen):
        values = np.array([[value, 0.1 * value] for _, value, _ in chosen], np.float64).reshape(-1, 2)
        return sample([key for key, _, _ in chosen], values, size, seed)

    parts = [of([row for row in rows if row[2] == part]) for part in range(5)]
    while len(parts) > 1:  # any binary tree
        first = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        second = parts.pop(data.draw(st.integers(0, len(parts) - 1)))
        parts.append(merge(first, second))
    found, whole = parts[0], of(rows)
    assert (found.n, found.size, found.seed) == (whole.n, whole.size, whole.seed) == (len(rows), size, seed)
    np.testing.assert_array_equal(found.hashes, whole.hashes)
    np.testing.assert_array_equal(found.values, whole.values)
    naive = sorted((int.from_bytes(naive_digest(key, seed), "little"), value) for key, value, _ in rows)[:size]
    assert [(int(key), int(value)) for key, value in zip(whole.hashes, whole.values[:, 0], strict=True)] == naive
    assert whole.values.dtype == np.float32


def naive_digest(key, seed):
    return hashlib.blake2b(f"{seed}\x1f{key}".encode(), digest_size=8).digest()


def test_hashes_are_the_same_on_every_machine_and_in_every_process():
    keys = patch_keys(["source_1/b/p/A01/1", "source_1/b/p/A01/11"], 2)
    assert keys[1] == "source_1/b/p/A01/1\x1f1"
    assert len(set(keys)) == 4
    # b2sum -l 64 of 7, U+001F and the key, its bytes read from the last to the first
    assert [f"{value:016x}" for value in hash_keys(keys[:2], 7)] == ["8fb5fb781ac09965", "5799626469ad6709"]
    code = f"from sdvae_ray.distributions.sample import hash_keys; print(hash_keys({keys!r}, 7).tolist())"
    for hash_seed in ("1", "2"):
        out = subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, text=True)
        assert out.strip() == str(hash_keys(keys, 7).tolist())


def test_both_sides_keep_the_same_patches_and_the_seed_chooses_others():
    keys = patch_keys([f"fov{number}" for number in range(50)], 4)
    image = np.arange(200.0)[:, None]
    order = np.random.default_rng(0).permutation(200)
    first, second = sample(keys, image, 30, 1), sample([keys[row] for row in order], -image[order], 30, 1)
    np.testing.assert_array_equal(first.hashes, second.hashes)
    np.testing.assert_array_equal(first.values, -second.values)
    other = sample(keys, image, 30, 2)
    assert len(set(first.values[:, 0]) & set(other.values[:, 0])) < 15  # 4.5 expected


def test_every_key_is_as_likely_as_another():
    keys = patch_keys(["a", "b"], 10)
    counts = np.zeros(20)
    for seed in range(2000):
        counts[sample(keys, np.arange(20.0)[:, None], 5, seed).values[:, 0].astype(int)] += 1
    deviation = ((counts - 500) ** 2 / (2000 * 0.25 * 0.75)).sum() * 19 / 20  # chi-squared of 19 degrees
    assert deviation < 43.8  # p = 0.001


def test_a_sample_of_values_that_float32_cannot_hold_is_refused():
    with pytest.raises(DataError, match="2 vectors have features that are not finite in float32"):
        sample(["a", "b"], [[1e39], [np.nan]], 3, 0)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: sample(["a"], [[1.0]], 0, 0), "at least 1"),
        (lambda: sample(["a"], [[1.0], [2.0]], 3, 0), "1 keys do not fit"),
        (lambda: sample(["a"], [1.0], 3, 0), "do not fit"),
        (lambda: merge(sample(["a"], [[1.0]], 3, 0), sample(["b"], [[1.0]], 4, 0)), "cannot be merged"),
        (lambda: merge(sample(["a"], [[1.0]], 3, 0), sample(["b"], [[1.0]], 3, 1)), "seed 1, cannot be merged"),
        (lambda: merge(sample(["a"], [[1.0]], 3, 0), sample(["b"], [[1.0, 2]], 3, 0)), "1 and 2 features"),
    ],
)
def test_samples_that_make_no_sense_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


# --- KID -------------------------------------------------------------------------------------------------------------


def naive_kid(x, y, paired=False):
    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    within = [np.mean([k(a, b) for i, a in enumerate(z) for j, b in enumerate(z) if i != j]) for z in (x, y)]
    return sum(within) - 2 * np.mean(
        [k(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if not paired or i != j]
    )


@pytest.mark.parametrize("block", [7, 512])
def test_kid_equals_the_naive_loop(features, block):
    x, y = features(40, 33)
    scale = np.mean((x @ x.T / 12 + 1) ** 3)  # the terms that nearly cancel set the rounding
    assert kid(x, y, block=block) == pytest.approx(naive_kid(x, y), rel=1e-12, abs=1e-13 * scale)
    pair = kid(x[:33], y, paired=True, block=block)
    assert pair == pytest.approx(naive_kid(x[:33], y, paired=True), rel=1e-12, abs=1e-13 * scale)


def test_kid_equals_torch_fidelity_on_all_rows(features):
    reference = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = features(200, 200)
    assert kid(x, y) == pytest.approx(reference.kernel_mmd(x, y, kid_kernel="poly"), rel=1e-9)


def test_kid_of_a_set_against_itself_has_a_known_value(features):
    x, _ = features(60, 10)
    kernel = (x @ x.T / 12 + 1) ** 3
    expected = -2 * (np.diagonal(kernel).mean() - kernel.mean()) / 59
    assert kid(x, x) == pytest.approx(expected, rel=1e-9)
    assert expected < 0
    assert kid(x, x, paired=True) == pytest.approx(0, abs=1e-13 * kernel.mean())


def test_kid_is_unbiased_for_independent_sets_and_paired_kid_for_paired_ones():
    random = np.random.default_rng(8)
    independent, paired, naive = [], [], []
    for _ in range(600):
        x, z, noise = random.normal(size=(3, 8, 4))
        independent.append(kid(x, z))
        y = (x + noise) / np.sqrt(2)  # of the same distribution as x, row by row correlated
        paired.append(kid(x, y, paired=True))
        naive.append(kid(x, y))
    for values in (independent, paired):
        assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(600)
    assert np.mean(naive) < -4 * np.std(naive) / np.sqrt(600)


# --- CMMD ------------------------------------------------------------------------------------------------------------


def naive_cmmd(x, y, sigma, scale):
    x, y = ([row / np.sqrt((row**2).sum()) for row in side] for side in (x, y))
    means = [
        np.mean([np.exp(-((a - b) ** 2).sum() / (2 * sigma**2)) for a in first for b in second])
        for first, second in ((x, x), (y, y), (x, y))
    ]
    return scale * (means[0] + means[1] - 2 * means[2])


@pytest.mark.parametrize(("sigma", "scale"), [(10, 1000), (0.4, 1)])
@pytest.mark.parametrize("block", [7, 512])
def test_cmmd_equals_the_naive_loop(features, sigma, scale, block):
    x, y = features(40, 33)
    expected = naive_cmmd(x, y, sigma, scale)  # kernels near 1 cancel: good to 1e-16 * scale and a few
    assert cmmd(x, y, sigma, scale, block=block) == pytest.approx(expected, rel=1e-11, abs=1e-14 * scale)
    assert expected > 1e-10 * scale


def test_cmmd_sees_directions_alone_and_is_zero_for_equal_sets(features):
    x, y = features(50, 40)
    lengths = np.random.default_rng(0).uniform(1e-3, 1e3, size=(50, 1))
    assert cmmd(x * lengths, y) == pytest.approx(cmmd(x, y), rel=1e-9)
    assert cmmd(x, x[::-1], block=7) <= 1e-12  # scale 1000, rounding 1e-16
    assert cmmd([[1.0, 0], [1, 0]], [[0, 2.0]]) == pytest.approx(2000 * (1 - np.exp(-2 / 200)), rel=1e-12)
    assert cmmd([[1e300, 0]], [[1e-300, 0]]) == 0


# --- precision, recall, density, coverage ----------------------------------------------------------------------------


def naive_prdc(real, fake, k):
    def squared(a, b):
        return sum((p - q) ** 2 for p, q in zip(a.tolist(), b.tolist(), strict=True))

    def radii(side):
        return [sorted(squared(a, b) for j, b in enumerate(side) if j != i)[k - 1] for i, a in enumerate(side)]

    real_radii, fake_radii = radii(real), radii(fake)
    between = [[squared(a, b) for b in fake] for a in real]
    holders = [sum(row[j] <= radius for row, radius in zip(between, real_radii, strict=True)) for j in range(len(fake))]
    return PRDC(
        precision=np.mean([count > 0 for count in holders]),
        recall=np.mean([any(d <= r for d, r in zip(row, fake_radii, strict=True)) for row in between]),
        density=np.mean(holders) / k,
        coverage=np.mean([min(row) <= radius for row, radius in zip(between, real_radii, strict=True)]),
    )


def as_tuple(found):
    return found.precision, found.recall, found.density, found.coverage


@pytest.mark.parametrize(("k", "block"), [(1, 7), (5, 7), (5, 512)])
def test_prdc_equals_the_naive_loop(features, k, block):
    x, y = features(60, 45)
    expected = as_tuple(naive_prdc(x, y, k))
    assert as_tuple(prdc(x, y, k, block)) == pytest.approx(expected, rel=1e-14)
    assert 0 < expected[0] < 1 or 0 < expected[1] < 1


@settings(max_examples=60, deadline=None)
@given(
    real=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=6, max_size=25),
    fake=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=6, max_size=25),
    k=st.integers(1, 5),
    offset=st.sampled_from([0, 10**6]),
    block=st.sampled_from([3, 512]),
)
def test_ties_and_equal_vectors_are_decided_exactly(real, fake, k, offset, block):
    x, y = np.array(real, np.float64) + offset, np.array(fake, np.float64) + offset  # whole numbers: the loop is exact
    assert as_tuple(prdc(x, y, k, block)) == pytest.approx(as_tuple(naive_prdc(x, y, k)), rel=1e-14)


def test_precision_and_recall_equal_torch_fidelity(features):
    reference = pytest.importorskip("torch_fidelity.metric_prc")
    import torch

    x, y = features(300, 250)
    found = prdc(x, y, 5)
    theirs = reference.prc_features_to_metric(
        torch.from_numpy(y), torch.from_numpy(x), prc_neighborhood=5, verbose=False
    )
    assert found.precision == pytest.approx(theirs["precision"], abs=1e-6)  # theirs are float32 means
    assert found.recall == pytest.approx(theirs["recall"], abs=1e-6)


def test_a_set_against_itself_is_all_found(features):
    x, _ = features(80, 10)
    assert as_tuple(prdc(x, x, 5, block=7)) == pytest.approx((1, 1, 1.2, 1), rel=1e-14)
    empty = np.concatenate([x, np.full((20, 12), 0.1)])  # equal vectors: balls of radius 0
    found = prdc(empty, empty[::-1], 5)
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    apart = prdc(x, x + 1e3, 5)
    assert as_tuple(apart) == (0, 0, 0, 0)


# --- by name ---------------------------------------------------------------------------------------------------------


def sides(x, y, size=100):
    keys = patch_keys(["f"], len(x))
    return moments(x), moments(y), sample(keys, x, size, 0), sample(keys[: len(y)], y, size, 0)


def test_compare_gives_the_numbers_by_name(features):
    x, y = features(40, 30)
    given = sides(x, y)
    found, reasons = compare(*given, ["prdc", "fid", "cmmd", "kid"], neighbours=3)
    a, b = given[2].values, given[3].values
    expected = {
        "fid": frechet_distance(moments(x), moments(y)),
        "kid": kid(a, b),
        "cmmd": cmmd(a, b),
        **vars(prdc(a, b, 3)),
    }
    assert found == expected
    assert reasons == {}
    assert {output for outputs in DISTANCES.values() for output in outputs} == set(found)
    assert set(compare(*given, ["kid"])[0]) == {"kid"}


def test_compare_says_why_a_number_is_missing():
    x, y = random_features(5, 1)
    found, reasons = compare(*sides(x, y), list(DISTANCES))
    assert [name for name, value in found.items() if value is not None] == ["cmmd"]
    assert set(reasons) == set(found) - {"cmmd"}
    assert "at least 2 vectors" in reasons["fid"]
    assert "at least 2 vectors" in reasons["kid"]
    assert "at least 6 vectors on each side, not 1" in reasons["recall"]
    full = sides(*random_features(9, 9))
    found, reasons = compare(None, full[1], full[2], None, ["fid", "prdc"])
    assert set(found.values()) == {None}
    assert reasons["fid"] == "no moments of the image side"
    assert reasons["density"] == "no sample of the other side"
    zeros = Sample(9, 0, 9, full[2].hashes, np.zeros((9, 12), np.float32))
    found, reasons = compare(None, None, zeros, full[3], ["cmmd", "kid"])
    assert found["cmmd"] is None
    assert "no direction" in reasons["cmmd"]
    assert found["kid"] is not None


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: compare(None, None, None, None, ["fidd"]), ConfigError, "did you mean 'fid'"),
        (lambda: compare(None, None, None, None, ["prdc"], 0), ConfigError, "neighbours"),
        (lambda: compare(moments([[1.0]]), moments([[1.0, 2]]), None, None, []), DataError, "1 and 2 features"),
        (lambda: prdc([[1.0]] * 9, [[1.0]] * 9, 0), ConfigError, "neighbours"),
        (lambda: prdc([[1.0]] * 9, [[1.0]] * 5, 5), DataError, "at least 6"),
        (lambda: kid([[1.0]] * 2, [[1.0, 2]] * 2), DataError, "1 and 2 features"),
        (lambda: kid([[1.0]] * 2, [[1.0]] * 3, paired=True), DataError, "2 and 3"),
        (lambda: kid([[1.0], [np.nan]], [[1.0]] * 3), DataError, "not finite"),
        (lambda: kid([1.0, 2.0], [[1.0]] * 3), DataError, "matrix"),
        (lambda: cmmd([[1.0]], [[0.0]]), DataError, "no direction"),
        (lambda: cmmd([[1.0]], [[1.0]], sigma=0), ValueError, "sigma"),
        (lambda: cmmd(np.empty((0, 2)), [[1.0, 0]]), DataError, "at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(wrong, error, said):
    with pytest.raises(error, match=said):
        wrong()
