"""The report and the summary: what they say is what the tables hold, nothing is fetched, and nothing missing stops them."""

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import polars as pl
import pytest
import torch
from report_run import EVIL, RANDOM, STAINS, STORAGE, Page, page_of, run_config, scored, scores_of, summary_of
from rich.console import Console

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.engine.models import load_models, resolve_weights
from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.chart import Dumbbell, Dumbbells, Point, Scatter, Strip, Strips
from sdvae_ray.report.facts.metrics import metric_columns, shown_mean
from sdvae_ray.report.facts.table import Side
from sdvae_ray.report.page import figures, svg
from sdvae_ray.report.pictures.choice import choose
from sdvae_ray.report.pictures.draw import HIGH, LOW
from sdvae_ray.report.pictures.examples import load_examples
from sdvae_ray.report.sections.images import rates
from sdvae_ray.report.sections.phenotypes import truth
from sdvae_ray.report.terminal.summary import print_summary
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.tables import read_column, write_rows
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, uri_column


@pytest.fixture(scope="module")
def text(made: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the run as it is."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(made.output, folder / "run")
    config = made.model_copy(update={"output": str(folder / "run")})
    return page_of(config, scores_of(config))


def test_the_page_is_one_file_that_fetches_nothing(text: str) -> None:
    page = Page(text)
    assert {"link", "iframe", "object", "base", "form"}.isdisjoint(page.tags)
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "srcset", "data", "poster"):
            assert value.startswith("data:image/png;base64,"), (tag, name, value[:40])
        if name in ("href", "xlink:href"):
            assert value.startswith("#"), value
    css = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in css
    assert "@import" not in css
    assert len(text) < 3_000_000
    anchors = {value for _, name, value in page.attributes if name == "id"}
    assert {value[1:] for _, name, value in page.attributes if name == "href"} <= anchors


def test_the_page_names_every_side_and_extractor_and_says_what_is_synthetic_or_random(
    run: RunConfig, text: str
) -> None:
    page = Page(text)
    for name in (*run.autoencoders, *run.extractors, "image", *run.metrics, *STAINS):
        assert name in page.text
    assert "Synthetic data." in page.text
    assert "Synthetic truth" in page.text
    assert "Random weights: tiny." in page.text
    rows = re.findall(r'<th scope="row"><i class="swatch[^"]*"></i>([^<]*)', text)
    assert {name for name in rows if name.startswith("tiny")} == {f"tiny {RANDOM}"}
    real = run.model_copy(update={"synthetic": None})
    assert "ynthetic" not in Page(page_of(real, scores_of(real))).text.replace("synthetic: null", "")


def test_text_from_the_data_is_escaped(text: str) -> None:
    page = Page(text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)  # the wells are data: test_wells has their texts
    assert page.tags.count("script") == 2
    assert "alert" not in script
    assert EVIL in page.text  # as text: the point of the scatter plot and the caption of the example


def test_the_policy_of_the_page_allows_its_own_script_alone(text: str) -> None:
    (policy,) = [
        value for tag, name, value in Page(text).attributes if (tag, name) == ("meta", "content") and "-src" in value
    ]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_the_same_run_gives_the_same_page(run: RunConfig) -> None:
    assert page_of(run, scores_of(run)) == page_of(run, scores_of(run))


def test_a_group_without_scores_shows_its_reason(run: RunConfig) -> None:
    scores = scores_of(run)
    reason = "not scored: the group has fewer than two controls"
    row = {"extractor": "intensity", "side": "tiny", "group": "A549 / 24", "random_weights": True, "wells": 7}
    extra = pl.DataFrame([{**row, "status": reason}])
    scores = replace(scores, summary=pl.concat([scores.summary, extra], how="diagonal_relaxed"))
    assert reason in Page(page_of(run, scores)).text
    lines = " ".join(summary_of(run, scores).split())
    assert f"intensity tiny {RANDOM} [A549 / 24]: {reason}" in lines
    nothing = replace(scores, summary=extra, compounds=pl.DataFrame(schema={"extractor": pl.String, "side": pl.String}))
    page = Page(page_of(run, nothing))
    assert reason in page.text
    assert "No compound was scored" in page.text
    assert reason in " ".join(summary_of(run, nothing).split())


def test_pixels_that_cannot_be_read_are_said_and_not_fatal(run: RunConfig, tmp_path: Path) -> None:
    gone = run.model_copy(update={"manifest": str(tmp_path / "gone.parquet")})
    page = Page(page_of(gone, scores_of(gone)))
    assert "No pictures: the pixels cannot be read now" in page.text
    assert "img" not in page.tags
    rows = pl.read_parquet(run.manifest)
    lost = rows.with_columns(pl.lit(str(tmp_path / "lost.tiff")).alias(uri_column("ER")))
    lost.write_parquet(gone.manifest)
    page = Page(page_of(gone, scores_of(gone)))
    assert "is not shown: no such object" in page.text


def test_other_weights_than_the_runs_hide_that_side_alone(run: RunConfig) -> None:
    record = json.loads(Path(run.output, "run.json").read_text())
    record["weights"]["autoencoders.pca"]["files"] = {"patch_pca.safetensors": "0" * 64}
    Path(run.output, "run.json").write_text(json.dumps(record))
    text = page_of(run, scores_of(run))
    assert "its weights cannot be had now: autoencoders.pca" in Page(text).text
    originals, with_differences, trio, viewer = 6, 12, 3, 1
    # tiny and jpeg have differences; identity is the same
    assert text.count("<img") == 7 * (originals + 2 * with_differences + trio) + viewer


def test_a_run_of_failures_alone_is_reported(run: RunConfig) -> None:
    shutil.rmtree(run.output)
    count = 230
    columns = {
        FOV_ID: np.array([f"s/b/P/A{n:03d}/1" for n in range(count)], object),
        "row_json": np.array([json.dumps(dict.fromkeys(KEYS, "P"))] * count, object),
        ERROR: np.array([f"truncated: {n}.tiff <b>" for n in range(count)], object),
    }
    write_rows(run.output, "all", columns, STORAGE)
    empty = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})  # as `score` leaves it
    scores = dataclasses.replace(scores_of(run, ()), summary=empty, compounds=empty, distributions=empty)
    page = Page(page_of(run, scores))
    assert f"{count} of {count} could not be used" in page.text
    assert page.text.count("truncated: ") == 200
    assert "No pictures: there is no usable field of view." in page.text
    summary = summary_of(run, scores)
    assert f"{count} of {count} fields of view failed" in summary
    assert re.search(r"s/b/P/A002/1 +truncated: 2.tiff <b>", summary)
    assert "and 197 more" in summary


def test_one_side_alone(made: RunConfig, tmp_path: Path) -> None:
    config = run_config(tmp_path, manifest=made.manifest, synthetic=None, autoencoders={"pca": {"name": "patch_pca"}})
    shutil.copytree(made.output, config.output)
    for side in ("tiny", "identity"):
        shutil.rmtree(Path(config.output, "metrics", side))
    scores = scores_of(config, ("pca",))  # and not even the originals were scored
    page = Page(page_of(config, scores))
    assert "The originals were not scored" in page.text
    assert "identity" not in page.text.partition("How to read")[0]
    assert "pca" in summary_of(config, scores)
    assert "Known truth" in page.text


def test_infinite_and_absent_metrics_are_words(run: RunConfig) -> None:
    scores = scores_of(run)
    columns = metric_columns(scored(run, scores))
    texts = {c.key: c.text(shown_mean(scores.metrics, "identity", c.key)) for c in columns}
    assert texts == {"kld": "–", "mae": "0", "ssim": "1.0000", "emd": "0", "psnr": "inf"}
    assert shown_mean(scores.metrics, "pca", "kld") is None
    assert shown_mean(scores.metrics, "tiny", "kld") > 0
    text = page_of(run, scores)
    assert not re.search(r"\b(nan|NaN|None|Infinity)\b", Page(text).text)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', re.sub(r'(alt|aria-label|src)="[^"]*"', "", text))
    assert "∞" in text
    assert "does not apply to pca, identity" in Page(text).text
    assert re.search(r"identity\s.*\binf\b", summary_of(run, scores))


def test_one_exact_patch_does_not_hide_the_others_behind_infinity(run: RunConfig) -> None:
    row = {"side": "pca", "metric": "psnr", "patches": 9, "sd": None, "q05": 20.0, "q95": math.inf}
    rows = [{**row, "band": None, "part": str(part), "mean": math.inf, "median": 30.0 + part} for part in range(5)]
    cell = shown_mean(pl.DataFrame(rows), "pca", "psnr")
    assert (cell.value, cell.words) == (math.inf, "(median 32.00)")
    scores = scores_of(run)
    metrics = scores.metrics.filter(pl.col("metric") != "psnr")
    infinite = replace(scores, metrics=pl.concat([metrics, pl.DataFrame(rows)], how="diagonal_relaxed"))
    assert "inf (median 32.00)" in Page(page_of(run, infinite)).text
    assert re.search(r"inf +[\d.]*\s", summary_of(run, infinite))
    assert "(median 32.00)" in summary_of(run, infinite)


def test_rates_frequencies_distances_and_the_latent_space_are_reported(run: RunConfig) -> None:
    scores = scores_of(run, ("image", "pca", "tiny", "identity", "jpeg"))
    text = Page(page_of(run, scores)).text
    for title in ("Rate, distortion and phenotype", "Which frequencies are lost", "Distances between patches"):
        assert title in text
    assert "The latent space" in text
    assert "64 of 128" in text
    assert "0.5000 to 3.25" in text
    assert "radial_power, ER" in text
    assert "16-32 px" in text
    assert scores.metrics.filter(pl.col("band") == "32-64 px")["mean"].null_count() == 5 * 4  # patches are too small
    rows = {row["side"]: row for row in rates.rates(scored(run, scores))}
    assert rows["image"]["bits"] == 8
    assert rows["identity"]["bits"] == 8
    # two passes of four float16 values per 8 x 8 pixels, five stains
    assert rows["pca"]["bits"] == pytest.approx(2 * 4 * 16 / 64 / 5)
    assert 0 < rows["pca"]["bits_entropy"] < rows["pca"]["bits"] / 2
    assert rows["jpeg"]["bits_entropy"] is None
    jpeg = read_column(run.output, "metrics/jpeg", "bits", read_fovs(run.output, STORAGE), STORAGE)[1]
    assert rows["jpeg"]["bits"] == pytest.approx(jpeg.mean() / 64**2)
    first, *others = rates.rates(scored(run, scores))
    assert first["side"] == "image"
    assert [row["bits"] for row in others] == sorted((row["bits"] for row in others), reverse=True)
    summary = summary_of(run, scores)
    assert "Rate, distortion, phenotype" in summary
    assert "radial_power" not in summary  # its numbers are curves


def test_the_terminal_shows_one_table_unless_all_are_asked_for(run: RunConfig) -> None:
    scores = scores_of(run)
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(scored(run, scores), console, whole=False)
    first, whole = console.export_text(), summary_of(run, scores)
    assert "7 usable FOVs of 8" in " ".join(first.split())
    assert "Rate, distortion, phenotype" in first
    assert whole.startswith(first.rstrip())
    assert "Retrieval by" in whole
    assert "Retrieval by" not in first


def test_fr_stands_beside_its_interval_its_difference_and_its_floors(run: RunConfig) -> None:
    scores = scores_of(run)
    for text in (Page(page_of(run, scores)).text, summary_of(run, scores)):
        for words in (
            "0.20 to 0.50",
            "-0.125",
            "-0.25 to 0.00",
            "0.625",
            "0.085",
            "-0.01 to 0.18",
            "0.765",
            "0.271",
            "posing_shuffled: too few controls, on 4 sides",
            "0.722",
            "halves of plates: cannot reject",
        ):
            assert words in text
        assert re.search(r"position\s+effect\s+unknown", text)


def test_estimates_of_the_leak_are_apart_from_the_floors(run: RunConfig) -> None:
    page = Page(page_of(run, scores_of(run))).text
    assert "These are no floors" in page
    assert "half_same: too few controls, on 4 sides" in page
    assert "half fit, other half" not in page[: page.index("Estimates of the leak")]


def test_a_p_that_is_not_valid_and_a_test_that_cannot_reject_are_said_beside_fr(run: RunConfig) -> None:
    scores = scores_of(run)
    leaky = scores.summary.with_columns(p_valid=pl.lit(False), retrieval_status=pl.lit("ok"))
    blunt = scores.summary.with_columns(
        p_valid=pl.lit(True), retrieval_status=pl.lit("cannot_reject"), least_p_corrected=pl.lit(1 / 9)
    )
    for summary, words in (
        (leaky, "p not valid: fitted on the negatives"),
        (blunt, "cannot reject: the least p that it can give, corrected, is 0.111"),
    ):
        changed = replace(scores, summary=summary)
        for text in (Page(page_of(run, changed)).text, summary_of(run, changed)):
            assert words in " ".join(text.split())
            assert ("p not valid" in text) == (summary is leaky)


def test_other_tasks_are_reported_with_the_reason_of_what_is_not_scored(run: RunConfig) -> None:
    scores = scores_of(run)
    for text in (Page(page_of(run, scores)).text, summary_of(run, scores)):
        for words in (
            "distinctiveness",
            "0.345",
            "0.678",
            "cross_side not scored: no well (3 of extractor, side and group)",
        ):
            assert words in text
        assert not re.search(r"consistency (\d|not scored)", text)


def test_without_a_perturbation_the_page_and_the_summary_speak_of_pixels_alone(run: RunConfig) -> None:
    config = run.model_copy(update={"score": run.score.model_copy(update={"perturbation": None})})
    scores = scores_of(run)
    nothing = scores.summary.select("extractor", "side", "group", "random_weights").with_columns(
        status=pl.lit("not scored: score.perturbation is null")
    )
    scores = dataclasses.replace(scores, summary=nothing, compounds=scores.compounds.head(0))
    assert "No retrieval: score.perturbation is null." in summary_of(config, scores)
    text = Page(page_of(config, scores)).text
    assert "no compounds in this run" in text
    assert "Distances between patches" in text
    assert "How much of the images survives" in text
    assert "closer to each other than to the negative controls" not in text
    assert "No compound was scored" not in text
    assert "psnr over the rate" in text
    assert "not drawn, without error: identity" in text


def test_the_summary_fits_100_columns_and_cuts_no_number(run: RunConfig) -> None:
    long = "a-very-long-name-of-an-autoencoder-1.2.3"
    autoencoders = {**run.autoencoders, long: run.autoencoders["tiny"]}
    config = run.model_copy(update={"autoencoders": autoencoders})
    scores = scores_of(config, ("image", "pca", "tiny", "identity", long))
    second = scores.summary.with_columns(group=pl.lit("A549 / 24 h / high density"))
    scores = replace(scores, summary=pl.concat([scores.summary, second]))
    text = summary_of(config, scores)
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for number in ("12,345", "6,789", "0.457", "0.333", "0.111", "0.555", "1.110", "0.125", "6.00"):
        assert number in text
    rows = [line for line in text.splitlines() if "12,345" in line]
    assert len(rows) == 2 * (5 + 4)
    numbers = [len(re.findall(r"[\d,.]+|–", line.partition("12,345")[2])) for line in rows]
    # intensity: FID in a second grid, a floor beside R@10 in the group that has one
    assert numbers == [9] * 8 + [8] * 5 + [9] * 5
    assert "synthetic plates, 7 usable FOVs of 8" in " ".join(text.split())
    assert "1 of 8 fields of view failed" in text
    assert text.count("truncated or corrupt") == 1


def test_truth_is_joined_by_compound(run: RunConfig) -> None:
    known = scored(run)
    rows = truth.truth_rows(known)
    found = {(row.extractor, row.phenotype): row for row in rows}
    strong = found["intensity", "er_stress"]
    assert (strong.strength, strong.cells["image"].verdict, strong.cells["tiny"].verdict) == ("1", "yes", "no")
    assert strong.cells["image"].normalised_map == pytest.approx(0.7)
    assert [row.phenotype for row in rows][-1] == "none"
    other = pl.when(pl.col("Metadata_Well") == "A02").then(pl.lit("other")).otherwise("Metadata_phenotype")
    two = replace(known, fovs=known.fovs.with_columns(Metadata_phenotype=other))
    assert "er_stress" not in {row.phenotype for row in truth.truth_rows(two)}
    assert truth.truth_rows(replace(known, fovs=known.fovs.drop("Metadata_phenotype"))) == []


def test_kept_counts_the_originals_compounds(run: RunConfig) -> None:
    rows = outcome.kept(scored(run))
    kept = {(row["extractor"], row["side"]): (row["original"], row["both"], row["added"]) for row in rows}
    assert kept == {
        ("intensity", "pca"): (1, 1, 0),
        ("intensity", "tiny"): (1, 0, 0),
        ("intensity", "identity"): (1, 1, 0),
    }


def test_the_choice_has_the_ends_of_a_metric_what_is_kept_and_a_control_and_is_the_same_every_time(
    run: RunConfig,
) -> None:
    known = scored(run)
    chosen = choose(known)
    assert [choice.kind for choice in chosen[:3]] == ["worst", "median", "best"]
    means = [float(choice.why.split()[1].rstrip(",")) for choice in chosen[:3]]
    assert means == sorted(means)
    assert chosen[0].why.startswith("ssim ")
    assert "control" in {choice.kind for choice in chosen}
    assert len({choice.fov_id for choice in chosen}) == len(chosen) == 7
    assert chosen == choose(replace(known, fovs=known.fovs.sample(fraction=1, shuffle=True, seed=3)))
    unscored = replace(known, scores=replace(known.scores, compounds=pl.DataFrame()))
    assert len({choice.fov_id for choice in choose(unscored)}) == 7


def test_without_a_metric_what_is_kept_comes_first(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdvae_ray.report.pictures.choice._RANKED_BY", ())
    kept, control, *_ = choose(scored(run))
    assert (kept.kind, kept.what, control.kind) == ("kept", "strong (er_stress, strength 1)", "control")


def test_the_pictures_are_the_stored_data(run: RunConfig) -> None:
    """Grey levels against the pixels and against the stored latent decoded here; captions against the tables."""
    known = scored(run)
    usable = known.usable
    examples = load_examples(known, choose(known, 1))
    (example,) = examples.shown
    assert (examples.crop, examples.notes) == (64, [])
    manifest = pl.read_parquet(run.manifest).filter(pl.col(FOV_ID) == example.choice.fov_id)
    batch = {name: np.array(manifest[name].to_list(), object) for name in manifest.columns}
    pixels = Loader(run.image, run.storage)(batch)[IMAGE][0, example.patch] / 255
    wanted = usable.filter(pl.col(FOV_ID) == example.choice.fov_id)
    _, latent = read_column(run.output, "latents/pca", "latent", wanted, STORAGE)
    model = load_models(run, resolve_weights(run, STORAGE), torch.device("cpu")).autoencoders["pca"]
    decoded = model.decode(torch.from_numpy(latent[0, example.patch]).float()).numpy()
    recon = np.stack([decoded[0, 0], decoded[0, 1], decoded[0, 2], decoded[1, 1], decoded[1, 2]])
    pictures = example.sides["pca"]
    assert not isinstance(pictures, str)
    assert pictures.how == "decoded from the stored latent"
    for stain in range(5):
        low, high = np.percentile(pixels[stain], [LOW, HIGH])
        for image, png in ((pixels, example.original.stains[stain]), (recon, pictures.stains[stain])):
            wanted_levels = np.clip((image[stain] - low) / (high - low), 0, 1) * 255
            assert np.abs(imagecodecs.png_decode(png) - wanted_levels).max() <= 255 / 63 / 2 + 1
        for metric in ("ssim", "psnr"):
            _, values = read_column(run.output, "metrics/pca", metric, wanted, STORAGE)
            assert pictures.captions[stain][metric] == values[0, example.patch, stain]
    same = example.sides["identity"]
    assert not isinstance(same, str)
    assert same.exact
    assert same.stains == example.original.stains


def test_time_is_bounded(run: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdvae_ray.report.pictures.examples.SECONDS", 0.0)
    page = Page(page_of(run, scores_of(run)))
    assert "not decoded: the limit of 0 s was reached" in page.text
    assert "1 of 7 fields are shown" in page.text


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (0.0, 1.0), (35.2, 44.9), (1e-7, 3e-7), (-3.0, 2e5), (5.0, 5.0)])
def test_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = svg.ticks_around(low, high)
    assert ticks[0] <= low + 1e-12
    assert ticks[-1] >= high - 1e-6 * abs(high)
    assert 2 <= len(ticks) <= 8


def test_charts_place_values_where_they_are() -> None:
    strip = Strip(Side("a <b>", 1), (0.0, 0.25, 0.5, math.inf, math.inf))
    chart = figures.strips(Strips("m", "", "m, dB", [("DNA", [strip])]))
    Page(chart)
    assert "a &lt;b&gt;, DNA: 5 % 0, median 0.5, 95 % ∞" in chart
    middle, low = (float(re.search(pattern, chart)[1]) for pattern in (r'cx="([\d.]+)"', r'class="thin" x1="([\d.]+)"'))
    ticks = [float(x) for x in re.findall(r'class="grid" x1="([\d.]+)"', chart)]
    assert low == ticks[0]
    assert middle == pytest.approx(ticks[-1], abs=0.1)  # 0 .. 0.5 is what is finite
    side = Side("s", 1)
    rows = [Dumbbell("e", "g", side, 0.5, 0.25, "2/4 → 1/4"), Dumbbell("f", "g", side, None, 1.0, "4/4")]
    chart = figures.dumbbells(Dumbbells("t", "", "x", rows))
    Page(chart)
    (ring,), dots = (
        [float(x) for x in re.findall(rf'class="{kind}" cx="([\d.]+)"', chart)] for kind in ("ring", "dot")
    )
    assert (dots[0] - 340, ring - 340, dots[1] - 340) == (90.0, 180.0, 360.0)
    points = [Point("p", 1.0, 0.0, True, False), Point("q", 0.5, 0.5, False, False)]
    chart = figures.scatter(Scatter("t", "", "x", "y", points))
    Page(chart)
    assert "1 lost: from the originals only" in chart
    assert 'class="mark lost"' in chart
