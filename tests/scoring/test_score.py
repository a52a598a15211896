"""The second stage on embeddings made here, whose answer is known: profiles, indices and scores."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
from polars.testing import assert_frame_equal
from rich.console import Console
from run_files import small_run

from sdvae_ray.config import RunConfig
from sdvae_ray.dictionary import TABLES, unknown_columns, unused_columns
from sdvae_ray.distributions.fid import frechet_distance, moments
from sdvae_ray.distributions.kernel import cmmd, kid
from sdvae_ray.distributions.prdc import prdc
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.queries.search import search_well
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.splits import Space, control_splits, pool_of
from sdvae_ray.retrieval.tasks.activity import activity_in
from sdvae_ray.retrieval.tasks.transfer import transfer
from sdvae_ray.retrieval.tasks.transfer_pairs import Pair
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import SCORE_TABLES, Scores, read_scores
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import EMBEDDINGS, ERROR, FOV_ID, KEYS, PLATE_KEY, ROW, WELL_KEY, fov_id
from sdvae_ray.scoring.cross_fitting import cross_fits
from sdvae_ray.scoring.score import score
from sdvae_ray.storage import Storage

SILENT = Console(quiet=True)
PLATES, CONTROLS, SITES, GROUPS, DEPTH, KEPT = ("P1", "P2"), 16, 2, 2, 6, 3
COMPOUNDS = ("strong", "null 1", "null 2", "null 3")


def wells() -> list[dict[str, str | None]]:
    """Per plate: 16 controls and two wells of each compound; the second plate is another cell line's in `Metadata_Cell_type`."""
    rows = []
    for plate in PLATES:
        treatments = [None] * CONTROLS + [name for name in COMPOUNDS for _ in range(2)]
        for position, treatment in enumerate(treatments):
            keys = dict(zip(KEYS, ("s", "b", plate, f"{'ABCDEF'[position // 6]}{position % 6 + 1:02d}"), strict=False))
            control = None if treatment else "negcon"
            rows.append(keys | {"Metadata_broad_sample": treatment or "", "Metadata_control_type": control})
    return rows


def embeddings(seed: int) -> tuple[list[dict[str, str | None]], np.ndarray]:
    """Rows of FOVs and their (n, P, G, D) patch features: plate offsets, noise, and a shift for the strong compound."""
    random = np.random.default_rng(seed)
    rows, features = [], []
    offset = {plate: random.normal(0, 1, (GROUPS, DEPTH)) for plate in PLATES}
    for well in wells():
        shift = 6.0 * (well["Metadata_broad_sample"] == "strong") * np.eye(GROUPS, DEPTH)
        for site in range(1, SITES + 1):
            rows.append({**well, "Metadata_Site": str(site)})
            features.append(offset[str(well["Metadata_Plate"])] + shift + random.normal(0, 0.5, (KEPT, GROUPS, DEPTH)))
    return rows, np.asarray(features)


def store(config: RunConfig, sides: dict[str, np.ndarray], rows: list[dict[str, str | None]]) -> None:
    """Three files, one more FOV that failed."""
    ids = np.array([fov_id(row) for row in rows], object)
    for part, chosen in enumerate(np.array_split(np.arange(len(rows)), 3)):
        columns = {FOV_ID: ids[chosen], ERROR: np.full(len(chosen), "", object)}
        columns[ROW] = np.array([json.dumps(rows[i]) for i in chosen], object)
        for side, patches in sides.items():
            table = f"{EMBEDDINGS}/made/{side}"
            columns[f"{table}:embedding"] = patches[chosen].mean(1).astype(np.float16)
            columns[f"{table}:patches"] = patches[chosen].astype(np.float16)
        write_rows(config.output, f"part-{part}", columns, Storage(config.storage))


SCORE = {"normalise": "plate_standardise", "null_size": 2000, "floor_repeats": 1}


def run_of(folder: Path, **score: Any) -> RunConfig:
    """A run of one extractor, `made`; `score` are keys of its section, laid over SCORE."""
    extractors = {"latent": None, "intensity": None, "made": {"name": "intensity"}}
    return small_run(folder, autoencoders={"tiny": None}, extractors=extractors, metrics=[], score=SCORE | score)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return run_of(tmp_path)


class Scored(NamedTuple):
    """A run that was scored once: its rows, the patch features of its sides, and what `score` returned."""

    config: RunConfig
    rows: list[dict[str, str | None]]
    sides: dict[str, np.ndarray]
    scores: Scores


@pytest.fixture(scope="module")
def scored(local_ray, tmp_path_factory) -> Scored:
    """Four sides: the originals, the same again, those with a little noise, and noise that hides the strong compound."""
    rows, patches = embeddings(0)
    for row in rows:
        row["Metadata_target"] = {"strong": "kinase|gpcr", "null 1": "gpcr", "null 2": "kinase"}.get(
            str(row["Metadata_broad_sample"])
        )
    noise = np.random.default_rng(1).normal(0, 3, patches.shape)
    other = patches + np.random.default_rng(2).normal(0, 0.3, patches.shape)
    sides = {"image": patches, "same": patches, "other": other, "noise": noise}
    by_plate = {"by": ["Metadata_Plate"]}
    config = run_of(
        tmp_path_factory.mktemp("scored"), target="Metadata_target", distributions=by_plate, floor_repeats=3
    )
    store(config, sides, rows)
    return Scored(config, rows, sides, score(Run(config), SILENT))


TRANSFER = {"column", "source", "target", "zero_norm", "position_<number>", "position_groups", "position_status"}
KINDS = {"text": cs.string(), "bool": cs.boolean(), "int": cs.integer(), "float": cs.float()}


@pytest.mark.parametrize("name", SCORE_TABLES)
def test_the_dictionary_has_every_column_of_the_scores_and_its_type(scored, name):
    table = getattr(scored.scores, name)
    assert unknown_columns(name, table.columns) == []
    if table.height:
        assert set(unused_columns(name, table.columns)) <= (TRANSFER if name == "tasks" else set())
    for column, (kind, _) in TABLES[name].columns.items():
        if column in table.columns:
            assert column in cs.expand_selector(table, KINDS[kind])


def test_the_strong_compound_is_retrieved_and_the_inactive_ones_are_not(scored):
    scores = scored.scores
    table = scores.compounds.filter(pl.col("side") == "image")
    assert table.filter(pl.col("retrieved"))["compound"].to_list() == ["strong"]
    summary = {row["side"]: row for row in scores.summary.iter_rows(named=True)}
    assert summary["image"]["fraction_retrieved"] == 1 / len(COMPOUNDS)
    assert summary["image"]["reconstruction_recall"] is None
    assert summary["same"]["reconstruction_recall"] == 1.0
    assert summary["noise"]["reconstruction_recall"] < 0.5
    assert summary["noise"]["fraction_retrieved"] == 0
    for name in ("mean_map", "fraction_retrieved", "replicate_recall_at_1"):
        assert summary["same"][name] == summary["image"][name]
    (step,) = json.loads(summary["image"]["normalisation"])
    assert (step["step"], step["fit_wells"]) == ("plate_standardise", CONTROLS * len(PLATES))
    floors = {(row["side"], row["quantity"]): row for row in scores.floors.rows(named=True)}
    assert floors["image", "labels_within_all"]["fraction_retrieved"] < 0.25
    estimates = {(row["side"], row["quantity"]): row for row in scores.estimates.rows(named=True)}
    assert {quantity for _, quantity in estimates} == {"full", "half_same", "half_other"}
    assert not {quantity for _, quantity in estimates} & {quantity for _, quantity in floors}
    assert estimates["image", "half_other"]["fraction_retrieved"] > 0
    assert (summary["image"]["splits"], summary["image"]["p_valid"]) == (4, True)
    over = {row["side"]: row for row in scores.over_floor.rows(named=True)}
    assert over["image"]["status"] == "ok"
    assert over["image"]["floor"] <= 0.1
    assert over["image"]["low"] <= over["image"]["over_floor"] <= over["image"]["high"]
    assert (over["image"]["map_between"], over["same"]["map_between"]) == (1, 1)
    assert over["noise"]["map_between"] < 0.5
    halves = {row["halves"]: row for row in scores.ceilings.rows(named=True)}
    assert set(halves) == {"wells", "plates", "sites"}
    assert halves["plates"]["status"] == halves["sites"]["status"] == "ok"
    assert (halves["sites"]["retrieved"], halves["sites"]["kept"], halves["sites"]["kept_share"]) == (1, 1, 1)
    assert set(scores.ceilings["side"]) == {"image"}
    assert {side for side, _ in floors} == {"image", "same", "other", "noise"}
    apart = {row["side"]: row for row in scores.differences.rows(named=True) if row["quantity"] == "fraction_retrieved"}
    assert apart["image"]["difference"] is None
    assert (apart["same"]["difference"], apart["same"]["difference_low"], apart["same"]["difference_high"]) == (0, 0, 0)
    assert (apart["noise"]["difference"], apart["noise"]["lost"], apart["noise"]["gained"]) == (-0.25, 1, 0)
    assert apart["image"]["low"] <= 0.25 <= apart["image"]["high"]


def test_other_tasks_are_scored_beside_activity(scored):
    """Against the naive way: every query's list sorted, precision at each of its positives."""
    found = {(row["side"], row["task"]): row for row in scored.scores.tasks.rows(named=True)}
    assert found["image", "distinctiveness"]["status"] == "ok"
    assert ("image", "cross_side") not in found
    assert {task for _, task in found} == {"distinctiveness", "consistency", "cross_side"}
    assert found["same", "distinctiveness"]["mean_map"] == found["image", "distinctiveness"]["mean_map"]
    assert found["same", "cross_side"]["mean_map"] > found["noise", "cross_side"]["mean_map"]
    assert found["same", "cross_side"]["queries"] == 16
    assert found["same", "cross_side"]["groups"] == 4
    for side, task in (("image", "distinctiveness"), ("same", "cross_side")):
        assert found[side, task]["floor_status"] == "ok"
        assert found[side, task]["floor_map"] < found[side, task]["mean_map"] - 0.05

    table = pl.read_parquet(f"{scored.config.output}/profiles/made/image/**/*.parquet")
    features, compound = table.select(pl.col("^made_.*$")).to_numpy(), table["Metadata_broad_sample"].to_numpy()
    control = (table["Metadata_control_type"] == "negcon").fill_null(False).to_numpy()
    x = normalise(features, control, table["Metadata_Plate"], "plate_standardise").features
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    by_compound: dict[str, list[float]] = {}
    for query in np.flatnonzero(~control):
        others = [at for at in np.flatnonzero(~control) if at != query]
        ranked = sorted(others, key=lambda at: -float(x[query] @ x[at]))
        hits = np.array([compound[at] == compound[query] for at in ranked])
        precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
        by_compound.setdefault(compound[query], []).append(float(precision[hits].mean()))
    naive = float(np.mean([np.mean(values) for values in by_compound.values()]))
    assert found["image", "distinctiveness"]["mean_map"] == pytest.approx(naive, abs=1e-9)


def test_profiles_are_means_of_fovs_and_the_scores_are_the_libraries(scored):
    """The straight line: mean over FOVs in numpy, then the functions of retrieval and distributions called directly."""
    stored = pl.read_parquet(f"{scored.config.output}/profiles/made/other/**/*.parquet")
    of_well: dict[str, list[np.ndarray]] = {}
    for row, values in zip(scored.rows, scored.sides["other"].mean(1).astype(np.float16), strict=True):
        of_well.setdefault(f"{row['Metadata_Plate']}/{row['Metadata_Well']}", []).append(values.astype(np.float64))
    expected = {well: np.mean(values, 0).ravel() for well, values in of_well.items()}
    named = Run(scored.config).features("made", "other")["feature"].to_list()
    assert stored.select(pl.col("^made_.*$")).columns == named
    features = stored.select(pl.col("^made_.*$")).to_numpy()
    for key, profile in zip(
        stored.select(pl.concat_str("Metadata_Plate", "Metadata_Well", separator="/")).to_series(),
        features,
        strict=True,
    ):
        np.testing.assert_allclose(profile, expected[key], rtol=1e-6)

    roles = stored.with_columns(
        pl.col("Metadata_broad_sample").alias("compound"),
        (pl.col("Metadata_control_type") == "negcon").fill_null(False).alias("is_control"),
        pl.concat_str(PLATE_KEY, separator="/").alias("plate"),
        pl.lit("all").alias("group"),
    )
    where = (roles[name].to_numpy().astype(str) for name in ("Metadata_Well", "plate"))
    splits = control_splits(*where, roles["is_control"].to_numpy(), 4, scored.config.seed, "all")
    spaces = [
        Space(normalise(features, split.fit, roles["plate"], "plate_standardise").features, split.negatives)
        for split in splits
    ]
    direct = activity_in(spaces, roles, Chance(null_size=2000), key=("Metadata_Plate", "Metadata_Well"))
    ours = scored.scores.compounds.filter(pl.col("side") == "other").sort("compound")
    for name in ("map", "normalised_map"):
        assert ours[name].to_list() == pytest.approx(direct.compounds.sort("compound")[name].to_list(), rel=1e-5)


def test_what_stands_behind_the_scores_is_in_tables_of_its_own(scored):
    """Both plates have one layout and two wells of a compound each, so every rung but batch and source is there."""
    scores = scored.scores
    rungs = {(row["side"], row["task"], row["rung"]): row for row in scores.stringency.rows(named=True)}
    assert {task for _, task, _ in rungs} == {"activity", "distinctiveness", "consistency", "cross_side"}
    tasks = {(row["side"], row["task"]): row for row in scores.tasks.rows(named=True)}
    for side, task in (("image", "distinctiveness"), ("image", "consistency"), ("same", "cross_side")):
        for name in ("mean_map", "mean_normalised_map"):
            assert rungs[side, task, "any"][name] == pytest.approx(tasks[side, task][name], abs=1e-9)
    for task in ("activity", "distinctiveness"):
        assert rungs["image", task, "plate"]["status"] == rungs["image", task, "position"]["status"] == "ok"
        assert rungs["image", task, "batch"]["status"] == "one_batch"
        assert rungs["same", task, "plate"]["mean_map"] == rungs["image", task, "plate"]["mean_map"]
    shares = {(row["side"], row["shared"], row["k"]): row for row in scores.neighbours.rows(named=True)}
    summary = {row["side"]: row for row in scores.summary.rows(named=True)}
    for k in (1, 5, 10):
        assert shares["other", "replicates", k]["share"] == summary["other"][f"replicate_recall_at_{k}"]
    assert shares["image", "plate", 5]["status"] == "ok"
    # three compounds with targets: two of them share one, and one neighbour says little
    (whole,) = (
        row for row in scores.enrichment.rows(named=True) if (row["side"], row["label"], row["k"]) == ("image", None, 1)
    )
    assert (whole["compounds"], whole["tests"], whole["status"]) == (3, 4, "cannot_reject")
    (probe,) = (row for row in scores.probes.rows(named=True) if row["side"] == "image")
    assert probe["status"] == "not scored: fewer than two labels have two compounds"
    again = read_scores(scored.config.output, Storage(scored.config.storage))
    assert_frame_equal(again.stringency, scores.stringency)


def second_pass(rows: list[dict[str, str | None]], *sides: np.ndarray, plate: str | None = None) -> list[np.ndarray]:
    """Stored patches (n, D) of the second RGB pass, of all plates or of one."""
    on = [plate in (None, row["Metadata_Plate"]) for row in rows]
    return [values[on].astype(np.float16).astype(np.float64)[:, :, 1].reshape(-1, DEPTH) for values in sides]


def test_distances_between_sides_are_those_of_their_patches_in_every_slice(scored):
    """From moments and samples merged over plates, against the functions on all patches at once; the sample holds all of them."""
    found = {
        (row["side"], row["slice"]): row for row in scored.scores.distributions.rows(named=True) if "ER" in row["part"]
    }
    assert found.keys() == {(side, name) for side in ("same", "other", "noise") for name in ("all", *PLATES)}
    for name, plate in (("all", None), ("P2", "P2")):
        row, flat = (
            found["other", name],
            second_pass(scored.rows, scored.sides["image"], scored.sides["other"], plate=plate),
        )
        assert (row["part"], row["by"]) == ("RNA+ER+DNA", "slice" if plate else "group")
        assert (row["n_image"], row["sampled"], row["dimensions"]) == (len(flat[0]), len(flat[1]), DEPTH)
        assert row["fid"] == pytest.approx(frechet_distance(*map(moments, flat)), rel=1e-6)
        assert row["kid"] == pytest.approx(kid(*flat), rel=1e-6)
        assert row["kid_paired"] == pytest.approx(kid(*flat, paired=True), rel=1e-6)
        assert row["cmmd"] == pytest.approx(cmmd(*flat), rel=1e-5)
        for what, value in asdict(prdc(*flat)).items():
            assert row[what] == pytest.approx(value, rel=1e-9)
        assert row["reason"] is None
    same = found["same", "all"]
    assert [same[name] for name in ("kid_paired", "cmmd", "precision", "recall", "coverage")] == [0, 0, 1, 1, 1]
    assert same["fid"] == pytest.approx(0, abs=1e-12)


def test_parts_of_the_originals_are_compared_as_a_side_is(scored):
    """From the patches of each part in numpy; the plates and sites of a half are those that were drawn, one plate each here."""
    found = {(row["reference"], row["part"]): row for row in scored.scores.references.rows(named=True)}
    assert {reference for reference, _ in found} == {"sites", "plates", "controls"}
    part = next(name for _, name in found if "ER" in name)
    patches = scored.sides["image"].astype(np.float16).astype(np.float64)[:, :, 1]
    of_plate = [patches[[row["Metadata_Plate"] == name for row in scored.rows]].reshape(-1, DEPTH) for name in PLATES]
    assert found["plates", part]["fid"] == pytest.approx(frechet_distance(*map(moments, of_plate)), rel=1e-6)
    names = [row["Metadata_broad_sample"] for row in scored.rows]
    control, strong = (patches[[name == wanted for name in names]].reshape(-1, DEPTH) for wanted in ("", "strong"))
    row = found["controls", part]
    assert (row["n_image"], row["n_side"]) == (len(control), len(strong))
    assert row["fid"] == pytest.approx(frechet_distance(moments(control), moments(strong)), rel=1e-6)
    sites = found["sites", part]
    assert sites["n_image"] == sites["n_side"] == len(patches) * KEPT / 2
    assert 0 < sites["fid"] < found["plates", part]["fid"]
    assert sites["fid"] < row["fid"]


def test_a_distance_that_cannot_be_had_is_null_with_its_reason(local_ray, config):
    rows, patches = embeddings(0)
    store(config, {"image": patches[:3, :1], "other": patches[:3, :1] + 1}, rows[:3])
    row = score(Run(config), SILENT).distributions.row(0, named=True)
    assert row["precision"] is None
    assert row["fid"] is not None
    assert "precision" in row["reason"] or "neighbour" in row["reason"]


def test_a_subsample_is_the_same_patches_on_both_sides(local_ray, config):
    rows, patches = embeddings(0)
    store(config, {"image": patches, "same": patches}, rows)
    distributions = config.score.distributions.model_copy(update={"samples": 50})
    scored = config.model_copy(update={"score": config.score.model_copy(update={"distributions": distributions})})
    row = score(Run(scored), SILENT).distributions.row(0, named=True)
    assert (row["sampled"], row["n_side"]) == (50, len(rows) * KEPT)
    assert (row["kid_paired"], row["cmmd"]) == (0, 0)


def test_without_a_perturbation_there_are_distances_and_no_retrieval(local_ray, config):
    rows, patches = embeddings(0)
    for row in rows:
        del row["Metadata_broad_sample"], row["Metadata_control_type"]
    store(config, {"image": patches, "other": patches + 1}, rows)
    scores = score(
        Run(config.model_copy(update={"score": config.score.model_copy(update={"perturbation": None})})), SILENT
    )
    assert scores.summary["status"].unique().to_list() == ["not scored: score.perturbation is null"]
    assert scores.compounds.height == 0
    assert (scores.distributions["fid"] > 1).all()


def roles_table() -> pl.DataFrame:
    return pl.DataFrame(wells()).with_columns(
        is_control=(pl.col("Metadata_control_type") == "negcon").fill_null(False),
        is_treated=pl.col("Metadata_broad_sample") != "",
        compound=pl.col("Metadata_broad_sample"),
        plate=pl.col("Metadata_Plate"),
    )


def test_no_negative_has_a_part_in_the_fit_of_its_split_and_some_controls_are_in_no_fit(tmp_path):
    table = roles_table()
    fits = cross_fits(Run(run_of(tmp_path)), table, "all")
    assert (len(fits.splits), fits.crossed, fits.p_valid) == (4, True, True)
    control, well = table["is_control"].to_numpy(), table["Metadata_Well"].to_numpy()
    for split in fits.splits:
        assert not (split.fit & split.negatives).any()
        assert ((split.fit | split.negatives) == control).all()
        assert not set(well[split.fit]) & set(well[split.negatives])
        assert split.fit.sum() == pytest.approx(CONTROLS * len(PLATES) / 2, abs=2 * len(PLATES))
        assert not (fits.fittable(split) & split.negatives).any()
    pool = pool_of(fits.splits)
    assert 0.25 * control.sum() <= pool.sum() <= 0.4 * control.sum()
    assert (
        np.sum([split.negatives for split in fits.splits], axis=0)[control] >= 1
    ).all()  # every control is one somewhere
    again = cross_fits(Run(run_of(tmp_path, splits=4)), table[::-1], "all")
    assert [split.fit[::-1].tolist() for split in again.splits] == [split.fit.tolist() for split in fits.splits]
    assert (cross_fits(Run(run_of(tmp_path)), table, "other").splits[0].fit != fits.splits[0].fit).any()


def test_controls_that_are_few_beside_the_compounds_are_split_once(tmp_path):
    """Two wells on each of two plates, among four controls or more, have 225 arrangements: twice what 4 compounds need, not 44."""
    table = roles_table()
    treated = table.filter("is_treated")
    more = [treated.with_columns(compound=pl.lit(f"{copy} ") + pl.col("compound")) for copy in range(10)]
    assert len(cross_fits(Run(run_of(tmp_path)), table, "all").splits) == 4
    assert len(cross_fits(Run(run_of(tmp_path)), pl.concat([table, *more]), "all").splits) == 1


def test_few_controls_are_split_once_and_a_leak_is_never_the_way_out(tmp_path):
    run = Run(run_of(tmp_path))
    table = roles_table()
    few = table.filter(~pl.col("is_control") | pl.col("Metadata_Well").is_in(["A01", "A02", "A03", "A04"]))
    fits = cross_fits(run, few, "all")
    assert (len(fits.splits), fits.p_valid) == (1, True)
    (split,) = fits.splits
    assert split.fit.sum() == split.negatives.sum() == 4
    one = table.filter(~pl.col("is_control") | (pl.col("Metadata_Well") == "A01"))
    with pytest.raises(DataError, match="need 2 well positions at least, and they are at 1"):
        cross_fits(run, one, "all")
    leaky = cross_fits(Run(run_of(tmp_path, fit="controls")), table, "all")
    assert leaky.splits[0].fit.tolist() == leaky.splits[0].negatives.tolist() == table["is_control"].to_list()
    assert not leaky.p_valid
    assert cross_fits(Run(run_of(tmp_path, fit="controls", normalise="none")), table, "all").p_valid


def test_an_index_is_read_back_by_faiss_with_its_wells(scored):
    stem = Path(scored.config.output) / "index" / "made" / "image" / "all"
    index, names = faiss.read_index(f"{stem}.faiss"), pl.read_parquet(f"{stem}.parquet")
    assert index.ntotal == names.height == len(wells())
    assert names["id"].to_list() == list(range(names.height))
    vector = index.reconstruct(5)
    assert index.search(vector[None], 1)[1][0, 0] == 5


def test_groups_are_scored_apart_and_one_without_controls_says_why(local_ray, config):
    rows, patches = embeddings(0)
    for row in rows:
        row["Metadata_Cell_type"] = "U2OS" if row["Metadata_Plate"] == "P1" else "A549"
        if row["Metadata_Plate"] == "P2":
            row["Metadata_control_type"] = None
    store(config, {"image": patches}, rows)
    grouped = config.model_copy(update={"score": config.score.model_copy(update={"group": ("Metadata_Cell_type",)})})
    scores = score(Run(grouped), SILENT)
    status = dict(scores.summary.select("group", "status").iter_rows())
    assert status["U2OS"] == "ok"
    assert status["A549"].startswith("not scored: ")
    assert "control" in status["A549"]
    again = read_scores(config.output, Storage())
    assert again.summary.equals(scores.summary)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"control": "Metadata_controltype == 'negcon'"}, "did you mean 'Metadata_control_type'"),
        ({"control": "import os"}, "cannot read"),
        ({"control": "__import__('os').system('true')"}, "is not a comparison"),
        ({"perturbation": "Metadata_broad_sampel"}, "did you mean 'Metadata_broad_sample'"),
        ({"group": ("Metadata_Celltype",)}, "there is no column 'Metadata_Celltype'"),
        ({"normalise": "publishd"}, "published"),
    ],
)
def test_a_mistake_in_the_score_section_is_one_line(config, change, words):
    rows, patches = embeddings(0)
    store(config, {"image": patches}, rows)
    with pytest.raises(ConfigError, match="(?s).*") as caught:
        score(Run(config.model_copy(update={"score": config.score.model_copy(update=change)})), SILENT, "local")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_nothing_to_score_is_said(config):
    with pytest.raises(DataError, match="sdvae-ray encode"):
        score(Run(config), SILENT)


# Searching what was saved


def test_the_wells_nearest_to_a_well_are_found_with_their_treatment(scored):
    config = scored.config
    strong = next(row for row in scored.rows if row["Metadata_broad_sample"] == "strong")
    name = f"{strong['Metadata_Plate']}/{strong['Metadata_Well']}"
    found, about = search_well(Run(config), name, None, None, 5)
    assert about == {"well": name, "extractor": "made", "side": "image", "group": "all", "perturbation": "strong"}
    assert found["Metadata_broad_sample"][:3].to_list() == ["strong"] * 3
    assert found["similarity"].is_sorted(descending=True)
    assert found.height == 5
    assert (
        name not in found.select(pl.concat_str("Metadata_Plate", "Metadata_Well", separator="/")).to_series().to_list()
    )
    noisy, where = search_well(Run(config), name, "made", "noise", 3)
    assert where["side"] == "noise"
    assert noisy["similarity"].to_list() != found["similarity"][:3].to_list()
    for asked, words in (
        ({"well": "P1/Z99"}, "no well 'P1/Z99'"),
        ({"well": "P1"}, "P1"),
        ({"well": name, "side": "imgae"}, "did you mean 'image'"),
        ({"well": name, "extractor": "mode"}, "did you mean 'made'"),
    ):
        given = {"extractor": None, "side": None, "count": 3, **asked}
        with pytest.raises(DataError) as caught:
            search_well(Run(config), **given)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_run_without_an_index_says_so(config):
    with pytest.raises(DataError, match="has no index of wells: run `sdvae-ray score` first"):
        search_well(Run(config), "P1/A01", None, None, 3)


def test_a_streamed_score_is_the_held_one(local_ray, tmp_path, monkeypatch):
    config = run_of(tmp_path, normalise="published", null_size=200)
    rows, patches = embeddings(0)
    store(config, {"image": patches, "other": patches + np.random.default_rng(1).normal(0, 0.3, patches.shape)}, rows)
    held = score(Run(config), SILENT)
    monkeypatch.setattr("sdvae_ray.scoring.normalised.normaliser_of.__defaults__", (8,))
    streamed = score(Run(config), SILENT)
    for name in ("compounds", "wells", "floors", "tasks", "summary"):
        a, b = getattr(held, name), getattr(streamed, name)
        numbers = [column for column, kind in a.schema.items() if kind.is_float()]
        rest = [column for column in a.columns if column not in (*numbers, "normalisation")]
        assert a.select(rest).equals(b.select(rest)), name
        for column in numbers:
            np.testing.assert_allclose(a[column].to_numpy(), b[column].to_numpy(), rtol=0, atol=1e-6, err_msg=column)


def test_transfer_between_groups_is_scored_both_ways(local_ray, config):
    """The numbers are those of retrieval.transfer, on both groups normalised together."""
    rows, patches = embeddings(0)
    for row in rows:
        row["Metadata_Cell_type"] = {"P1": "A549", "P2": "U2OS"}[str(row["Metadata_Plate"])]
    store(config, {"image": patches}, rows)
    asked = config.model_copy(
        update={"score": config.score.model_copy(update={"group": ("Metadata_Cell_type",), "fit": "controls"})}
    )
    tasks = score(Run(asked), SILENT).tasks.filter(pl.col("task").str.starts_with("transfer"))
    assert tasks.select("column", "source", "target").unique().sort("source").rows() == [
        ("Metadata_Cell_type", "A549", "U2OS"),
        ("Metadata_Cell_type", "U2OS", "A549"),
    ]
    table = pl.read_parquet(f"{config.output}/profiles/made/image/**/*.parquet")
    features = table.select(pl.col("^made_.*$")).to_numpy()
    table = table.with_columns(
        compound="Metadata_broad_sample",
        plate=pl.concat_str(PLATE_KEY, separator="/"),
        group="Metadata_Cell_type",
        is_control=pl.col("Metadata_control_type").eq_missing(pl.lit("negcon")),
    )
    control = table["is_control"].to_numpy()
    chance = Chance("copairs", null_size=2000, seed=config.seed)
    made = normalise(features, control, table["plate"], "plate_standardise").features
    pair, repeats = Pair("Metadata_Cell_type", "A549", "U2OS"), config.score.floor_repeats
    expected = transfer(made, table, pair, chance, key=WELL_KEY, repeats=repeats)
    same = ["column", "source", "target", "task", "queries", "groups", "mean_map", "fraction_retrieved", "floor_map"]
    assert_frame_equal(tasks.select(same), expected.select(same), check_row_order=False)
    assert tasks["mean_map"].null_count() == 0
    assert (tasks["position_status"] == "too_few_wells").all()  # eight controls a plate pose, and no p can be small
    none = config.model_copy(update={"score": asked.score.model_copy(update={"tasks": ("distinctiveness",)})})
    assert score(Run(none), SILENT).tasks["task"].unique().to_list() == ["distinctiveness"]


def test_a_subset_of_plates_is_scored_alone(local_ray, config):
    rows, patches = embeddings(0)
    store(config, {"image": patches}, rows)
    score(Run(config), SILENT)
    asked = config.model_copy(update={"score": config.score.model_copy(update={"plates": ("P2",)})})
    assert score(Run(asked), SILENT).wells["plate"].unique().to_list() == ["s/b/P2"]
    assert Storage().list(f"{config.output}/profiles/made/image") == ["s/b/P2.parquet"]
    regrouped = config.model_copy(update={"score": config.score.model_copy(update={"group": ("Metadata_Plate",)})})
    score(Run(regrouped), SILENT)
    names = {name.partition(".")[0] for name in Storage().list(f"{config.output}/index/made/image")}
    assert names == {"P1", "P2"}  # the index of the earlier score's only group is gone
    wrong = config.model_copy(update={"score": config.score.model_copy(update={"plates": ("P2", "P3")})})
    with pytest.raises(DataError, match="score.plates: no usable FOV is of plate 'P3'; did you mean 'P"):
        score(Run(wrong), SILENT)


def test_recalls_of_a_large_group_are_of_a_draw_of_its_wells(local_ray, tmp_path, monkeypatch):
    config = run_of(tmp_path, null_size=200, tasks=[])
    rows, patches = embeddings(0)
    store(config, {"image": patches, "same": patches}, rows)
    monkeypatch.setattr("sdvae_ray.scoring.indices.well_index._QUERIES", 5)
    summary = score(Run(config), SILENT).summary
    assert summary["recall_queries"].to_list() == [5, 5]
    assert summary.filter(pl.col("side") == "same")["reconstruction_recall"].to_list() == [1.0]


def test_a_column_that_differs_within_a_well_is_a_reason(local_ray, config):
    rows, patches = embeddings(0)
    store(config, {"image": patches}, rows)
    changed = {"target": "Metadata_Site", "normalise": ({"tvn": {"components": 2}},)}
    asked = config.model_copy(update={"score": config.score.model_copy(update=changed)})
    tasks = {row["task"]: row["status"] for row in score(Run(asked), SILENT).tasks.rows(named=True)}
    assert tasks["distinctiveness"] == "ok"
    assert tasks["consistency"] == "not scored: Metadata_Site differs within a well"
    asked = config.model_copy(update={"score": asked.score.model_copy(update={"batch": "Metadata_Site"})})
    (status,) = score(Run(asked), SILENT).summary["status"]
    assert status == "not scored: score.batch: Metadata_Site differs within a well"


@pytest.mark.slow
def test_a_score_in_a_bucket_is_the_local_one(local_ray, config, s3, monkeypatch):
    rows, patches = embeddings(0)
    few = config.model_copy(update={"score": config.score.model_copy(update={"null_size": 200, "tasks": ()})})
    remote = few.model_copy(update={"output": s3.prefix, "storage": s3.config})
    for each in (few, remote):
        store(each, {"image": patches, "same": patches}, rows)
    local = score(Run(few), SILENT)
    monkeypatch.setattr("sdvae_ray.scoring.normalised.normaliser_of.__defaults__", (8,))
    streamed = score(Run(remote), SILENT)
    assert_frame_equal(streamed.compounds, local.compounds, abs_tol=1e-6)
    assert_frame_equal(read_scores(s3.prefix, s3.storage).floors, local.floors, abs_tol=1e-6)
    assert s3.storage.list(f"{s3.prefix}/profiles/made/same") == ["s/b/P1.parquet", "s/b/P2.parquet"]
