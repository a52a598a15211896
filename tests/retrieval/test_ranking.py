"""Average precision by any rules: against loops over pairs, against copairs, on ties, on real plates."""

import contextlib
import io
import json
import sys
import warnings
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.retrieval.arrays import blocks
from sdvae_ray.retrieval.ranking import average_precision as engine
from sdvae_ray.retrieval.ranking import candidates, counting, positives
from sdvae_ray.retrieval.ranking.average_precision import average_precision
from sdvae_ray.retrieval.ranking.formula import normalised_average_precision
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.retrieval.ranking.similarity import DISTANCES, prepare

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import consistency
import harness

# pos_sameby, pos_diffby, neg_sameby, neg_diffby
ACTIVITY = (["compound", "reference"], [], ["plate"], ["compound", "reference"])
RULES = {
    "activity": ACTIVITY,
    "distinct": (["compound"], [], [], ["compound"]),
    "distinct on the plate": (["compound"], [], ["plate"], ["compound"]),
    "across plates": (["compound"], ["plate"], [], ["compound"]),
    "not an equivalence": ([], ["plate"], ["kind"], ["compound"]),
    "many positives": (["kind"], ["plate"], [], ["compound"]),
    "pairs that are both": (["compound"], [], ["plate"], []),
    "two that differ": (["compound"], ["plate"], ["kind"], ["compound", "plate"]),
}
LABELS = (["labels"], ["compound"], [], ["labels"])
LABELS_ON_PLATES = (["labels", "kind"], [], ["plate"], ["labels", "compound"])


def layout(count=160, features=12, seed=0, levels=None):
    """Wells at random: compounds, plates, kinds of many wells, a reference for controls, a list of labels."""
    random = np.random.default_rng(seed)
    control = np.arange(count) % 5 == 0
    wells = pl.DataFrame(
        {
            "compound": random.integers(0, max(2, count // 6), count),
            "plate": random.choice(["P1", "P2", "P3", "P4"], count),
            "kind": random.choice(["a", "b", "c"], count),
            "reference": np.where(control, np.arange(count), -1),
            "labels": [sorted({f"T{i}" for i in random.integers(0, 9, random.integers(0, 4))}) for _ in range(count)],
        },
        schema_overrides={"labels": pl.List(pl.String)},
    )
    x = random.normal(size=(count, features))
    if levels is not None:
        x = random.integers(1, levels + 1, size=(count, features)).astype(float)
        x[:, 0] = 5  # no profile is constant: copairs has NaN for its correlations
    return x, wells


def ranked(x, wells, rule, label=None, **options):
    return average_precision(x, wells, PairRules(*rule, multilabel_col=label), **options)


def similarities(x, distance):
    if distance == "euclidean":
        return 1 / (1 + np.linalg.norm(x[:, None] - x[None], axis=-1))
    x = x - x.mean(axis=1, keepdims=True) if distance == "correlation" else x
    norm = np.linalg.norm(x, axis=1)
    product = (x @ x.T) / np.outer(norm, norm)
    return np.abs(product) if distance == "abs_cosine" else product


def loop(x, wells, rule, distance="cosine", label=None):
    """Yield (label, well, AP averaged over level wells, positives, negatives), pair by pair."""
    similarity = np.round(similarities(x, distance), 9)
    rows = wells.to_dicts()

    def pair(i, j, same, diff, wanted=None):
        a, b = rows[i], rows[j]
        shared = set(a[label]) & set(b[label]) if label else set()
        return (
            i != j
            and all(wanted in shared if c == label else a[c] == b[c] for c in same)
            and all(not shared if c == label else a[c] != b[c] for c in diff)
        )

    every = range(len(rows))
    for wanted in sorted({name for row in rows for name in row[label]}) if label else [None]:
        for i in every:
            if label and wanted not in rows[i][label]:
                continue
            positives = [similarity[i, j] for j in every if pair(i, j, rule[0], rule[1], wanted)]
            negatives = [similarity[i, j] for j in every if pair(i, j, rule[2], rule[3])]
            yield wanted, i, tied_ap(positives, negatives), len(positives), len(negatives)


def tied_ap(positives, negatives):
    """Mean AP over the orders of level wells, position by position."""
    if not positives or not negatives:
        return np.nan
    total = seen = hits = 0
    for value in sorted({*positives, *negatives}, reverse=True):
        a = positives.count(value)
        n = a + negatives.count(value)
        for i in range(n):
            before = i * (a - 1) / (n - 1) if n > 1 else 0  # of this run's positives, where one stands here
            total += a / n * (hits + before + 1) / (seen + i + 1)
        seen, hits = seen + n, hits + a
    return total / len(positives)


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_ap_equals_a_loop_over_pairs(rule, distance, levels):
    x, wells = layout(60, seed=1, levels=levels, features=12 if levels is None else 4)
    _, well, ap, n_positives, n_negatives = zip(*loop(x, wells, rule, distance), strict=True)
    out = ranked(x, wells, rule, distance=distance, block=16)
    assert_array_equal(out.well, well)
    assert_array_equal(out.positives, n_positives)
    assert_array_equal(out.negatives, n_negatives)
    assert_allclose(out.ap, ap, rtol=0, atol=1e-12)
    assert np.isfinite(ap).any()


@pytest.mark.parametrize("rule", [LABELS, LABELS_ON_PLATES])
def test_every_label_of_a_well_is_a_query_of_its_own(rule):
    x, wells = layout(70, seed=2, levels=3, features=4)
    label, well, ap, positives, negatives = zip(*loop(x, wells, rule, label="labels"), strict=True)
    out = ranked(x, wells, rule, label="labels", block=16)
    assert out.label is not None
    assert out.label.to_list() == list(label)
    assert_array_equal(out.well, well)
    assert_array_equal(out.positives, positives)
    assert_array_equal(out.negatives, negatives)
    assert_allclose(out.ap, ap, rtol=0, atol=1e-12)


@pytest.fixture
def copairs():
    module = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    from copairs.map import multilabel

    def score(x, wells, rule, distance="cosine", label=None):
        """(label, row) -> AP, positives, list length; labels None without a multilabel column."""
        frame = wells.with_row_index("row").to_pandas()
        with warnings.catch_warnings():  # its own divisions by zero
            warnings.simplefilter("ignore")
            if label is None:
                return module.average_precision(frame, x, *rule, distance=distance, progress_bar=False)
            frame[label] = frame[label].map(list)
            return multilabel.average_precision(
                frame, x, *rule, multilabel_col=label, distance=distance, progress_bar=False
            ).sort_values([label, "row"])

    return score


def assert_equals_copairs(out, theirs, atol=1e-6):
    """Where a well has negatives: without any, copairs gives 1."""
    assert_array_equal(out.positives, theirs["n_pos_pairs"])
    assert_array_equal(out.positives + out.negatives, theirs["n_total_pairs"])
    both = (out.positives > 0) & (out.negatives > 0)
    assert both.any()
    assert_allclose(out.ap[both], theirs["average_precision"].to_numpy()[both], rtol=0, atol=atol)
    normalised = normalised_average_precision(out.ap, out.positives, out.positives + out.negatives)
    assert_allclose(
        normalised[both], theirs["normalized_average_precision"].to_numpy()[both], rtol=0, atol=max(atol, 1e-9)
    )


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_ap_equals_copairs(copairs, rule, distance, levels):
    x, wells = layout(levels=levels, features=12 if levels is None else 4)
    theirs = copairs(x, wells.drop("labels"), rule, distance)
    for block in (1024, 32):
        out = ranked(x, wells, rule, distance=distance, ties="copairs", block=block)
        assert_equals_copairs(out, theirs, atol=1e-12)


@pytest.mark.parametrize("levels", [None, 2])
def test_labels_equal_copairs(copairs, levels):
    x, wells = layout(levels=levels, features=12 if levels is None else 4)
    for rule in (LABELS, LABELS_ON_PLATES):
        out = ranked(x, wells, rule, label="labels", ties="copairs")
        paired = out.positives > 0  # copairs has no row for a label whose well has no positive
        theirs = copairs(x, wells, rule, label="labels")
        assert out.label is not None
        assert out.label.filter(pl.Series(paired)).to_list() == theirs["labels"].to_list()
        assert_array_equal(out.well[paired], theirs["row"])
        assert_allclose(out.ap[paired], theirs["average_precision"], rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def plates(shared):
    """Four plates of U2OS at 48 h: profiles without brightfield features, and their wells with targets."""
    paths = sorted((shared / "data/profiles").glob("*.csv.gz"))
    if len(paths) != 4:
        pytest.skip("the four real plates are not there")
    table = pl.concat([pl.read_csv(path, infer_schema_length=None) for path in paths], how="diagonal_relaxed")
    names = [n for n in table.columns if not n.startswith("Metadata_") and "Brightfield" not in n and "BF" not in n]
    annotation = pl.read_csv(
        shared / "data/metadata/JUMP-Target/JUMP-Target-1_compound_metadata.tsv", separator="\t", null_values="NA"
    )
    target = annotation.select("broad_sample", targets=pl.col("target_list").str.split("|").fill_null([]))
    wells = table.select(
        compound=pl.col("Metadata_broad_sample").fill_null("DMSO"),
        plate="Metadata_Plate",
        control=pl.col("Metadata_control_type").eq_missing(pl.lit("negcon")),
        row=pl.int_range(pl.len()),
    ).join(target, left_on="compound", right_on="broad_sample", how="left", maintain_order="left")
    wells = wells.with_columns(
        pl.col("targets").fill_null([]), reference=pl.when("control").then("row").otherwise(-1)
    ).drop("row")
    x = table.select(pl.col(names).cast(pl.Float64)).to_numpy()
    assert x.shape[0] == 1536
    assert x.shape[1] > 500
    assert wells["control"].sum() == 256
    return x, wells


@pytest.mark.parametrize("distance", DISTANCES)
def test_activity_of_real_plates_equals_copairs(copairs, plates, distance):
    x, wells = plates
    theirs = copairs(x, wells.drop("targets"), ACTIVITY, distance)
    out = ranked(x, wells, ACTIVITY, distance=distance, ties="copairs")
    assert np.isfinite(out.ap).sum() == 1280
    assert_equals_copairs(out, theirs)


SHARES = [3, pytest.param(1, marks=pytest.mark.slow)]  # one compound in so many: copairs takes seconds for all of them


def treated_wells(plates, share):
    x, wells = plates
    rank = wells["compound"].rank("dense").to_numpy() - 1
    treated = ~wells["control"].to_numpy() & (rank % share == 0)
    return x[treated], wells.filter(pl.Series(treated))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("pos_diffby", [[], ["plate"]], ids=["", "pos_diffby plate"])
def test_distinctiveness_on_real_plates_equals_copairs(copairs, plates, distance, pos_diffby, share):
    x, wells = treated_wells(plates, share)
    rule = (["compound"], pos_diffby, ["plate"], ["compound"])
    theirs = copairs(x, wells.drop("targets"), rule, distance)
    assert_equals_copairs(ranked(x, wells, rule, distance=distance, ties="copairs"), theirs)


@pytest.mark.parametrize("share", SHARES)
def test_distinctiveness_across_real_plates_equals_copairs(copairs, plates, share):
    x, wells = treated_wells(plates, share)
    theirs = copairs(x, wells.drop("targets"), RULES["distinct"])
    assert_equals_copairs(ranked(x, wells, RULES["distinct"], ties="copairs"), theirs)


@pytest.mark.parametrize("distance", DISTANCES)
def test_target_consistency_of_real_compounds_equals_copairs(copairs, plates, distance):
    x, wells = plates
    treated = wells.with_row_index("row").filter((pl.col("targets").list.len() > 0) & ~pl.col("control"))
    groups = treated.group_by("compound", maintain_order=True).agg("row", pl.col("targets").first())
    consensus = np.stack([x[rows].mean(axis=0) for rows in groups["row"].to_list()])
    rule = (["targets"], ["compound"], [], ["targets"])
    theirs = copairs(consensus, groups.select("compound", "targets"), rule, distance, label="targets")
    out = ranked(consensus, groups, rule, label="targets", distance=distance, ties="copairs")
    paired = out.positives > 0
    assert paired.sum() == len(theirs) > 300
    assert out.label is not None
    assert out.label.filter(pl.Series(paired)).to_list() == theirs["targets"].to_list()
    assert_array_equal(out.well[paired], theirs["row"])
    assert_array_equal((out.positives + out.negatives)[paired], theirs["n_total_pairs"])
    assert_allclose(out.ap[paired], theirs["average_precision"], rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rule=st.sampled_from([*RULES.values(), LABELS]),
    distance=st.sampled_from(DISTANCES),
    levels=st.sampled_from([None, 2, 3]),
    block=st.integers(1, 70),
)
def test_row_order_block_size_and_scale_change_nothing(seed, rule, distance, levels, block):
    x, wells = layout(50, features=4, seed=seed, levels=levels)
    label = "labels" if rule is LABELS else None
    plain = ranked(x, wells, rule, distance=distance, label=label)
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    scale = 3.7 if distance == "euclidean" else random.uniform(1e-3, 1e3, size=(len(x), 1))
    again = ranked(
        (x * scale)[order],
        wells[order],
        rule,
        distance=distance,
        label=label,
        block=block,
    )
    back = np.lexsort((order[again.well], np.zeros(len(again.well)) if again.label is None else again.label.rank()))
    assert_array_equal(order[again.well][back], plain.well)
    assert_array_equal(again.positives[back], plain.positives)
    assert_array_equal(again.negatives[back], plain.negatives)
    assert_allclose(again.ap[back], plain.ap, rtol=0, atol=1e-12)  # the order in which AP's terms are added


def test_distances_do_not_cancel():
    """An offset a million times the differences, and one well far from all: products alone would see neither."""
    x, wells = layout(120, features=6, seed=4)
    x[7] *= 1e5
    plain = ranked(x, wells, RULES["distinct"], distance="euclidean", block=32)
    x = np.round(x * 2**20) / 2**20  # so that the sum below is exact
    moved = x + 2.0**20
    again = ranked(moved, wells, RULES["distinct"], distance="euclidean", block=32)
    known = np.array([ap for _, _, ap, _, _ in loop_of_distances(x, wells)])
    assert_allclose(plain.ap, known, rtol=0, atol=1e-12)
    assert_allclose(again.ap, known, rtol=0, atol=1e-12)


def loop_of_distances(x, wells):
    """As `loop`, on the distances themselves: similarities of far wells would be rounded together."""
    distance = -np.linalg.norm(x[:, None] - x[None], axis=-1)
    compound = wells["compound"].to_numpy()
    for i in range(len(x)):
        same = compound == compound[i]
        same[i] = False
        other = compound != compound[i]
        yield None, i, tied_ap(distance[i, same].tolist(), distance[i, other].tolist()), same.sum(), other.sum()


def test_profiles_that_point_the_same_way_are_level_whatever_the_rounding():
    random = np.random.default_rng(0)
    query, direction = random.normal(size=(2, 37))
    x = np.stack([query, *(direction * scale for scale in random.uniform(0.1, 10, size=9))])
    wells = pl.DataFrame({"compound": [0, 0, *range(1, 9)]})
    out = ranked(x, wells, RULES["distinct"])
    assert out.ap[0] == pytest.approx(np.mean(1 / np.arange(1, 10)), abs=1e-12)


def test_small_batches_change_nothing(monkeypatch):
    x, wells = layout(levels=3)
    for rule, label in ((RULES["many positives"], None), (RULES["activity"], None), (LABELS, "labels")):
        whole = ranked(x, wells, rule, label=label)
        with monkeypatch.context() as patch:
            patch.setattr(engine, "_ENTRIES", 70)
            patch.setattr(positives, "_ELEMENTS", 1)
            patch.setattr(candidates, "_CUT", 2.0)  # mask everything
            again = ranked(x, wells, rule, label=label, block=16)
        assert_allclose(again.ap, whole.ap, rtol=0, atol=1e-15)  # the order in which AP's terms are added
        assert_array_equal(again.negatives, whole.negatives)


def test_wells_that_share_a_label_are_all_found_in_order_of_place():
    random = np.random.default_rng(0)
    has = random.random((40, 12)) < 0.15
    labels = candidates.SharedLabels.of(*np.nonzero(has), has.shape)
    rows = random.permutation(40)[:17]
    i, place = labels.pairs(rows)
    assert (np.diff(place) >= 0).all()
    shared = np.zeros((17, 40), dtype=bool)
    shared[i, place] = True
    assert_array_equal(shared, has[rows].astype(int) @ has.T.astype(int) > 0)
    assert len(i) == shared.sum()
    job = candidates.Job(rows, [(0, 40)], [])
    parts = [candidates.no_negatives(job, rows, columns, (i, place)) for columns in blocks(0, 40, 7)]
    assert_array_equal(np.concatenate(parts, axis=1), shared)


def test_profiles_may_be_float32():
    x, wells = layout()
    narrow = x.astype(np.float32)
    for distance in DISTANCES:
        wide = ranked(narrow.astype(np.float64), wells, RULES["distinct"], distance=distance)
        assert_array_equal(ranked(narrow, wells, RULES["distinct"], distance=distance).ap, wide.ap)


def test_queries_are_scored_and_the_others_still_count():
    x, wells = layout()
    asked = np.arange(len(x)) % 3 == 0
    for rule, label in ((RULES["distinct"], None), (LABELS, "labels")):
        whole = ranked(x, wells, rule, label=label)
        some = ranked(x, wells, rule, label=label, queries=asked)
        mine = asked[some.well]
        assert_array_equal(some.ap[mine], whole.ap[mine])
        assert np.isnan(some.ap[~mine]).all()
        assert not some.positives[~mine].any()
        assert not some.negatives[~mine].any()


def test_profiles_without_direction_are_flagged():
    x, wells = layout()
    x[4], x[9] = 0, 3.3
    for distance, flagged in (("cosine", [4]), ("correlation", [4, 9]), ("euclidean", [])):
        out = ranked(x, wells, RULES["distinct"], distance=distance)
        assert np.flatnonzero(out.zero_norm).tolist() == flagged


@given(columns=st.integers(1, 5000), share=st.sampled_from([0.0, 0.5, 1.0]), few=st.booleans())
@settings(max_examples=20, deadline=None)
def test_counts_of_a_block(columns, share, few):
    random = np.random.default_rng(columns)
    found = random.integers(0, 4, size=(3, columns)).astype(float) + (share == 1.0) * 9
    low = random.integers(0, 5, size=(3, 2 if few else 20)).astype(float)
    above, level = counting._counts(found, low, low)
    assert_array_equal(above, (found[:, None] > low[..., None]).sum(-1))
    assert_array_equal(level, (found[:, None] >= low[..., None]).sum(-1))


def test_products_of_distances_are_within_the_error_they_promise():
    x = layout(90, features=300, seed=5)[0] * np.geomspace(1e-3, 1e3, 90)[:, None]
    similarity = prepare(x, "euclidean")
    wells = np.arange(len(x))
    similarity.arrange(wells[::-1])
    error = np.abs(similarity.product(wells, slice(0, 90)) - similarity.scores(wells, wells))
    assert (error <= similarity.error(wells, slice(0, 90))).all()
    assert error.max() > 0
    assert_array_equal(similarity.size, prepare(x, "euclidean").size[::-1])


def test_distances_by_pair_are_those_of_the_matrix():
    x = layout(90, features=300, seed=5)[0]
    similarity = prepare(x, "euclidean")
    wells = np.arange(len(x))
    similarity.arrange(wells)
    by_pair = similarity.pairs(wells[:-1], wells[1:])
    assert_allclose(
        by_pair, [similarity.scores(wells, wells)[a, b] for a, b in pairwise(wells)], rtol=1e-13, atol=1e-15
    )


@pytest.mark.parametrize(
    ("rule", "label", "said"),
    [
        ((["compund"], [], [], ["compound"]), None, "did you mean 'compound'"),
        ((["compound"], ["compound"], [], ["compound"]), None, "pos_sameby and pos_diffby both have 'compound'"),
        ((["compound"], [], [], []), None, "every pair would do"),
        ((["gene"], [], [], ["gene"]), None, "gene: 1 wells have no value"),
        ((["ic50"], [], [], ["compound"]), None, "ic50: 1 wells have no value"),
        ((["labels"], [], [], ["labels"]), None, "lists of labels"),
        ((["compound"], [], [], ["labels"]), "labels", "must be in pos_sameby and in neg_diffby"),
        ((["compound"], [], [], ["compound"]), "compound", "lists of labels"),
    ],
)
def test_rules_that_cannot_be_kept_are_refused(rule, label, said):
    x, wells = layout(4)
    wells = wells.with_columns(gene=pl.Series(["a", None, "b", "b"]), ic50=pl.Series([1.0, np.nan, 2.0, 3.0]))
    with pytest.raises((ConfigError, DataError), match=said):
        ranked(x, wells, rule, label=label)


def test_bad_arguments_are_refused():
    x, wells = layout(4)
    rule = RULES["distinct"]
    with pytest.raises(ValueError, match="no distance 'cosin', only cosine"):
        ranked(x, wells, rule, distance="cosin")
    with pytest.raises(ValueError, match="came with 4 wells"):
        ranked(x[:3], wells, rule)
    with pytest.raises(ValueError, match="no ties 'best', only average"):
        ranked(x, wells, rule, ties="best")
    x[2, 1] = np.nan
    with pytest.raises(DataError, match="1 profiles"):
        ranked(x, wells, rule)


@pytest.mark.parametrize("targets", ["1", "1.5"])
def test_the_benchmark_of_consistency_checks_itself_against_scikit_learn(monkeypatch, targets):
    monkeypatch.setattr(consistency, "product_rate", lambda: harness.Rate(0.1, 0.1))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        consistency.main(["--compounds=700", "--features=8", f"--targets={targets}", "--check=40", "--threads=1"])
    (row,) = json.loads(out.getvalue().splitlines()[-1])["results"]
    assert row["largest_error"] < 1e-12
    assert row["queries"] > 600 * float(targets)
    assert row["positives"] / row["queries"] > counting.FEW
