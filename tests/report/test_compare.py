"""Two runs side by side: differences of settings and scores, what is missing, and where the paper's numbers may stand."""

import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.report.facts import published
from sdvae_ray.report.facts.compare import comparison
from sdvae_ray.report.facts.papers import beside_the_paper
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.terminal.summary import print_comparison
from sdvae_ray.run import record as provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores, read_scores
from sdvae_ray.run.stored.table_files import write_table
from sdvae_ray.runfile import load_run, parse_run
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.storage import Storage

STORAGE = Storage()
GROUPS = ("A549 / 24", "U2OS / 48")
A549_24 = ("BR00116991", "BR00116992", "BR00116993", "BR00116994")
U2OS_48 = ("BR00117010", "BR00117011", "BR00117012", "BR00117013")
SD = {"name": "diffusers_kl", "source": "CompVis/stable-diffusion-v1-4", "subfolder": "vae", "latent": "sample"}
PUBLISHED_SCORE = {
    "fit": "controls",
    "group": ["Metadata_Cell_type", "Metadata_Time"],
    "half_mean": True,
    "normalise": "published_float16",
    "strict": True,
    "negatives": "group",
    "null": "copairs",
    "null_size": 1_000_000,
    "ties": "copairs",
}


def config_of(folder: Path, **changes: Any) -> RunConfig:
    raw = {
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "run"),
        "image": {"transpose": True},
        "precision": "float16",
        "autoencoders": {"sd14": SD, "tiny": {"name": "diffusers_kl", "random": True, "architecture": "tiny"}},
        "codecs": {"jxl": {"name": "jpegxl"}},
        "extractors": {"inception": {"name": "inception_v3", "half_mean": True}, "intensity": {"name": "intensity"}},
        "metrics": ["ssim", "psnr"],
        "score": PUBLISHED_SCORE,
    }
    return parse_run({**raw, **changes})


def scores_of(config: RunConfig, shift: float = 0.0, **means: float | None) -> Scores:
    """FR 0.5 for image, then 0.1 less for each side, all `shift` higher; `means`: of a metric on every side."""
    random, rest = set(config.random_weights), dict.fromkeys(("precision", "recall", "density", "coverage"), 0.9)
    summary, distributions, metrics = [], [], []
    for extractor in config.extractors:
        for number, side in enumerate(("image", *config.sides)):
            for group in GROUPS:
                head = {"extractor": extractor, "side": side, "random_weights": bool({extractor, side} & random)}
                found = {"fraction_retrieved": 0.5 - 0.1 * number + shift, "mean_map": 0.4 + shift}
                counts = {"wells": 1280, "controls": 256, "compounds": 306, "compounds_scored": 306, "retrieved": 100}
                summary.append({**head, "group": group, **counts, **found, "status": "ok"})
                rows = [
                    {**head, "by": "group", "slice": group, "part": part, "n_image": 64, "n_side": 64, "reason": None}
                    | {
                        "fid": 4.0 + number + at + shift,
                        "kid": 0.01,
                        "kid_paired": None if side == "tiny" else 0.002,
                        **rest,
                    }
                    for at, part in enumerate(("Mito+AGP+RNA", "RNA+ER+DNA"))
                ]
                plate = {**rows[0], "by": "slice", "slice": "P1", "fid": 1e6}
                distributions += [*rows, plate] if side != "image" else []
    for side in config.sides:
        for metric, mean in {"ssim": 0.9, "psnr": 30.0, "bits": 65536.0, **means}.items():
            for at, part in enumerate(config.image.stains):
                value = None if mean is None else mean + (0.01 * (at - 2) if metric == "ssim" else 0)
                row = {"side": side, "metric": metric, "part": part, "band": None, "mean": value, "median": value}
                metrics.append({**row, "random_weights": side in random})
    metrics.append({**metrics[0], "metric": "radial_power", "band": "2-4 px", "mean": 7.0})
    empty = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    tables = (pl.DataFrame(rows, infer_schema_length=None) for rows in (summary, distributions, metrics))
    summary_table, distances, means_table = tables
    means_table = means_table.with_columns(pl.col("band").cast(pl.String))
    return Scores(
        summary=summary_table,
        compounds=empty,
        wells=empty,
        floors=empty,
        estimates=empty,
        over_floor=empty,
        ceilings=empty,
        tasks=empty,
        differences=empty,
        distributions=distances,
        metrics=means_table,
        latents=empty,
        latent_channels=empty,
    )


def write_run(config: RunConfig, scores: Scores | None = None, sha: str = "0" * 64, batch: str = "CPJUMP1") -> str:
    manifest = {"uri": config.manifest, "fovs": 128, "sha256": sha}
    record = provenance.new_record(config, manifest, {}, 8, "float32")
    provenance.write_record(config.output, record, STORAGE)
    named = {"Metadata_Batch": f"2020_11_04_{batch}", ERROR: None}
    rows = [
        {
            FOV_ID: f"s/b/{plate}/A01/1",
            "Metadata_Plate": plate,
            "Metadata_Cell_type": cell,
            "Metadata_Time": time,
            **named,
        }
        for (cell, time), plates in {("A549", "24"): A549_24, ("U2OS", "48"): U2OS_48}.items()
        for plate in plates
    ]
    rows.append({**rows[0], FOV_ID: "s/b/p/A02/1", "Metadata_Batch": "never read", ERROR: "truncated"})
    write_table(f"{config.output}/fovs/part-0.parquet", pl.DataFrame(rows).to_arrow(), STORAGE)
    (scores or scores_of(config)).write(config.output, STORAGE)
    return config.output


def two(tmp_path: Path, scores: Scores | None = None, **changes: Any) -> tuple[str, str]:
    """Run A as `config_of` has it, and B with `changes`."""
    a, b = config_of(tmp_path / "a"), config_of(tmp_path / "b", **changes)
    return write_run(a), write_run(b, scores or scores_of(b))


def compared(a: str, b: str, storage: StorageConfig | None = None) -> dict[str, Any]:
    keys = None if storage is None else storage.model_dump(exclude_none=True)
    return comparison(Run.open(a, storage=keys), Run.open(b, storage=keys))


def text_of(a: str, b: str, width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    print_comparison(compared(a, b), console)
    return console.export_text()


def words(text: str) -> str:
    return " ".join(text.split())


def row_of(rows: list[dict[str, Any]], **keys: str) -> dict[str, Any]:
    (row,) = [row for row in rows if all(row[key] == value for key, value in keys.items())]
    return row


# --- comparison --------------------------------------------------------------------------------------------------------------


def test_a_run_against_itself_differs_in_nothing(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    output = write_run(config, scores_of(config, psnr=math.inf))
    found = compared(output, output)
    assert found["settings"] == []
    assert found["a"] == found["b"]
    assert all(names == [] for names in found["a"]["only"].values())
    for table, numbers in (("retrieval", 2), ("metrics", 1), ("distances", 8)):
        assert found[table]
        for row in found[table]:
            kept = [value for value in row["difference"].values() if value is not None]
            missing = {"cmmd", "kid_paired"} if row["side"] == "tiny" else {"cmmd"}
            assert kept == [0.0] * (numbers - len(missing) * (table == "distances"))
    assert "settings, versions and weights are the same" in text_of(output, output)
    assert "manifests differ" not in text_of(output, output)


def test_numbers_are_those_of_the_tables_and_the_difference_is_b_less_a(tmp_path: Path) -> None:
    b = config_of(tmp_path / "b")
    found = compared(write_run(config_of(tmp_path / "a")), write_run(b, scores_of(b, 0.25, ssim=0.8)))
    assert len(found["retrieval"]) == 2 * 4 * 2
    row = row_of(found["retrieval"], extractor="intensity", group="U2OS / 48", side="tiny")
    assert row["a"] == {
        "fraction_retrieved": pytest.approx(0.3),
        "mean_map": 0.4,
        "compounds_scored": 306,
        "paper": None,
        "status": "ok",
    }
    assert row["b"]["fraction_retrieved"] == pytest.approx(0.55)
    assert row["difference"] == {"fraction_retrieved": pytest.approx(0.25), "mean_map": pytest.approx(0.25)}
    row = row_of(found["metrics"], side="jxl", metric="ssim")
    assert (row["a"]["mean"], row["b"]["mean"]) == (pytest.approx(0.9), pytest.approx(0.8))
    assert (row["a"]["one_minus"], row["b"]["one_minus"]) == (pytest.approx(0.1), pytest.approx(0.2))
    assert row["difference"]["mean"] == pytest.approx(-0.1)
    assert "one_minus" not in row_of(found["metrics"], side="jxl", metric="psnr")["a"]
    bits = row_of(found["metrics"], side="jxl", metric="bits")["a"]
    assert (bits["mean"], bits["unit"]) == (1.0, "per pixel and stain")  # 65,536 bits of 256 x 256 pixels
    assert "radial_power" not in {row["metric"] for row in found["metrics"]}
    assert len(found["distances"]) == 2 * 3 * 2
    row = row_of(found["distances"], extractor="inception", group="A549 / 24", side="sd14")
    assert (row["a"]["fid"], row["b"]["fid"]) == (5.5, 5.75)  # the mean of two parts; the slice by plate is not in it
    assert row["difference"]["fid"] == 0.25
    assert row["difference"]["cmmd"] is None
    sides = [row["side"] for row in found["retrieval"] if row["group"] == GROUPS[0] and row["extractor"] == "intensity"]
    assert sides == ["image", "sd14", "tiny", "jxl"]


def test_the_dictionary_is_json_and_holds_what_is_printed(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    found = compared(a, b)
    assert list(found) == ["a", "b", "settings", "retrieval", "floors", "metrics", "distances"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_settings_that_differ_are_listed_and_no_others(tmp_path: Path) -> None:
    changes = {
        "score": {**PUBLISHED_SCORE, "normalise": "plate_standardise", "negatives": "plate"},
        "autoencoders": {"sd14": {**SD, "latent": "mean"}, "pca": {"name": "patch_pca"}},
        "extractors": {"inception": {"name": "inception_v3", "half_mean": True, "weights_seed": 3}},
    }
    a, b = two(tmp_path, **changes)
    found = {row["key"]: (row["a"], row["b"], row["only"]) for row in compared(a, b)["settings"]}
    assert found.pop("autoencoders.tiny")[1:] == (None, "a")
    assert found.pop("autoencoders.pca")[::2] == (None, "b")
    assert found.pop("extractors.intensity")[1:] == (None, "a")
    manifest = found.pop("recorded.manifest.uri")
    assert [Path(uri).parent.name for uri in manifest[:2]] == ["a", "b"]
    assert found == {
        "score.normalise": ("published_float16", "plate_standardise", None),
        "score.negatives": ("group", "plate", None),
        "autoencoders.sd14.latent": ("sample", "mean", None),
        "extractors.inception.weights_seed": (None, 3, "b"),
    }
    text = words(text_of(a, b))
    assert "score.negatives group plate" in text
    assert "extractors.inception.weights_seed – 3" in text


def test_the_same_packing_in_other_words_is_no_difference(tmp_path: Path) -> None:
    triples = [["Mito", "AGP", "RNA"], ["RNA", "ER", "DNA"]]
    a, b = two(tmp_path, image={"transpose": True, "packing": triples})
    assert [row["key"] for row in compared(a, b)["settings"]] == ["recorded.manifest.uri"]


def test_versions_and_weights_are_said_where_they_differ(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    for output, version, sha in ((a, "2.9", "a" * 64), (b, "2.10", "b" * 64)):
        record = provenance.read_record(output, STORAGE)
        record["libraries"]["torch"] = version
        record["weights"] = {"autoencoders.sd14": {"revision": "main", "files": {"model.safetensors": sha}}}
        provenance.write_record(output, record, STORAGE)
    found = {row["key"]: (row["a"], row["b"]) for row in compared(a, b)["settings"]}
    assert found["recorded.libraries.torch"] == ("2.9", "2.10")
    assert found["recorded.weights.autoencoders.sd14.files.model.safetensors"] == ("a" * 64, "b" * 64)
    assert len(found) == 3
    assert f"{'a' * 12} {'b' * 12}" in words(text_of(a, b))


def test_other_data_is_said_plainly(tmp_path: Path) -> None:
    a, b = config_of(tmp_path / "a"), config_of(tmp_path / "b")
    assert "The manifests differ" in text_of(write_run(a), write_run(b, sha="1" * 64))
    assert "The manifests differ" not in text_of(a.output, write_run(b))


def test_what_one_run_has_not_is_a_dash_and_is_named(tmp_path: Path) -> None:
    a, b = two(tmp_path, autoencoders={"sd14": SD, "pca": {"name": "patch_pca"}})
    found = compared(a, b)
    assert found["a"]["only"] == {"extractors": [], "groups": [], "sides": ["tiny"], "metrics": []}
    assert found["b"]["only"]["sides"] == ["pca"]
    row = row_of(found["retrieval"], extractor="intensity", group=GROUPS[0], side="pca")
    assert row["a"] is None
    assert row["b"]["fraction_retrieved"] is not None
    assert set(row["difference"].values()) == {None}
    text = words(text_of(a, b))
    assert "only in A: sides: tiny (matched by name)" in text
    assert "only in B: sides: pca (matched by name)" in text
    assert "pca – 0.300 – – – 0.400 – – 306" in text


def test_random_weights_are_said_beside_every_name(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    text = text_of(a, b, 140)
    assert "A and B: random weights: tiny." in text
    assert text.count("tiny (random weights)") == text.count("tiny") - 2  # but for two lines that say it otherwise
    assert "no printed FR for tiny: random weights" in text
    extractors = {"inception": {"name": "inception_v3", "random": True}, "intensity": {"name": "intensity"}}
    a, b = two(tmp_path, extractors=extractors)
    text = text_of(a, b, 140)
    assert "Retrieval by inception (random weights in B)" in text
    assert "B: random weights: tiny, inception." in text


def test_null_nan_and_infinity_are_not_numbers_of_the_table(tmp_path: Path) -> None:
    config = config_of(tmp_path / "b")
    scores = scores_of(config, psnr=math.inf, ssim=None)
    first = pl.int_range(pl.len()) == 0
    holed = scores.summary.with_columns(
        fraction_retrieved=pl.when(first).then(None).otherwise("fraction_retrieved"),
        mean_map=pl.when(first).then(math.nan).otherwise("mean_map"),
    )
    distances = scores.distributions.with_columns(kid=pl.lit(None, pl.Float64), reason=pl.lit("too few [patches]"))
    a, b = (
        write_run(config_of(tmp_path / "a")),
        write_run(config, replace(scores, summary=holed, distributions=distances)),
    )
    found = compared(a, b)
    json.dumps(found, allow_nan=False)
    row = found["retrieval"][0]
    assert (row["b"]["fraction_retrieved"], row["b"]["mean_map"]) == (None, None)
    assert row["difference"] == {"fraction_retrieved": None, "mean_map": None}
    row = row_of(found["metrics"], side="jxl", metric="psnr")
    assert (row["a"]["mean"], row["b"]["mean"], row["difference"]["mean"]) == (30.0, "inf", "inf")
    assert row_of(found["metrics"], side="jxl", metric="ssim")["b"]["mean"] is None
    assert found["distances"][0]["b"]["kid"] is None
    text = words(text_of(a, b))
    assert "jxl psnr ↑ dB 30.00 inf +inf median: 30.00 | inf" in text
    assert "1 - SSIM: 0.1000 | –" in text
    assert "B, intensity: too few [patches]" in text
    assert re.search(r"\bnan\b", text) is None


def test_a_group_that_was_not_scored_has_its_reason(tmp_path: Path) -> None:
    config = config_of(tmp_path / "b")
    scores = scores_of(config)
    status = pl.when((pl.col("side") == "jxl") & (pl.col("group") == GROUPS[1])).then(pl.lit("not scored: no controls"))
    number = pl.when(status.is_null()).then("fraction_retrieved")
    summary = scores.summary.with_columns(status=status.otherwise("status"), fraction_retrieved=number)
    a, b = write_run(config_of(tmp_path / "a")), write_run(config, replace(scores, summary=summary))
    assert compared(a, b)["a"]["reasons"] == []
    assert "B: inception jxl [U2OS / 48], intensity jxl [U2OS / 48]: not scored: no controls" in words(text_of(a, b))


def test_nothing_to_compare_is_no_failure(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    whole = scores_of(config)
    unscored = whole.summary.select("extractor", "side", "group", "wells", "random_weights")
    bare = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    scores = replace(whole, summary=unscored, distributions=bare, metrics=whole.metrics.clear())
    output = write_run(config, scores)
    found = compared(output, output)
    assert found["metrics"] == found["distances"] == []
    assert {row["a"]["fraction_retrieved"] for row in found["retrieval"]} == {None}
    text_of(output, output)
    output = write_run(config, replace(scores, summary=pl.DataFrame()))
    assert "No retrieval" in text_of(output, output)


@pytest.mark.parametrize("width", [100, 120])
def test_tables_fit_the_page(tmp_path: Path, width: int) -> None:
    a, b = two(tmp_path, autoencoders={"a_side_with_a_rather_long_name": SD})
    text = text_of(a, b, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "cision ↑" in text


# --- which runs --------------------------------------------------------------------------------------------------------------


def test_a_run_file_stands_for_its_output(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    output = write_run(config)
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(config.model_dump(mode="json")))
    assert compared(str(file), output)["a"]["uri"] == output
    assert compared(str(file), f"{output}/")["settings"] == []


def test_a_moved_run_is_read_where_it_is(tmp_path: Path) -> None:
    output = write_run(config_of(tmp_path))
    moved = Path(output).rename(tmp_path / "moved")
    found = compared(str(moved), str(moved))
    assert found["a"]["uri"] == str(moved)
    assert papers_of(found, "a")  # so its batches were found


def test_a_bucket_is_read_with_the_storage_that_is_given(s3: Any, tmp_path: Path) -> None:
    local = write_run(config_of(tmp_path))
    for path in Path(local).rglob("*.*"):
        s3.storage.write_bytes(f"{s3.prefix}/run/{path.relative_to(local)}", path.read_bytes())
    found = compared(f"{s3.prefix}/run", local, s3.config)
    assert found["settings"] == []
    assert found["a"]["uri"] == f"{s3.prefix}/run"
    with pytest.raises(DataError, match="no run at"):
        compared(f"{s3.prefix}/elsewhere", local, s3.config)


def test_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    output = write_run(config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no run at .*/empty: there is no run\.json"):
        compared(output, str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"cannot read the run file .*gone\.yaml"):
        compared(output, str(tmp_path / "gone.yaml"))
    Path(output, "scores", "summary.parquet").unlink()
    with pytest.raises(DataError, match="has no scores yet: run `sdvae-ray score` first") as error:
        compared(output, output, StorageConfig())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", '{"sdvae_ray": "0.1"}', "[1]", "null"])
def test_a_damaged_record_is_one_line(tmp_path: Path, text: str) -> None:
    output = write_run(config_of(tmp_path))
    Path(output, "run.json").write_text(text)
    with pytest.raises(DataError, match=r"run\.json") as error:
        compared(output, output)
    assert "\n" not in str(error.value)


# --- the paper ---------------------------------------------------------------------------------------------------------------

# group -> mean (original, reconstruction), median (original, reconstruction); typed by column, not copied from the package
INCEPTION = {
    "A549 / 24": ((0.8464, 0.8464), (0.8725, 0.9063)),
    "A549 / 48": ((0.9346, 0.9150), (0.9608, 0.9510)),
    "U2OS / 24": ((0.8333, 0.8519), (0.8366, 0.8475)),
    "U2OS / 48": ((0.7680, 0.7505), (0.8366, 0.8366)),
}
OPENPHENOM = {
    "A549 / 24": ((0.8039, 0.8214), (0.7222, 0.7288)),
    "A549 / 48": ((0.9248, 0.9150), (0.8824, 0.8791)),
    "U2OS / 24": ((0.7745, 0.8268), (0.8170, 0.8355)),
    "U2OS / 48": ((0.7190, 0.7680), (0.6601, 0.6972)),
}


def test_the_printed_fractions() -> None:
    seen = 0
    for extractor, table in (("inception_v3", INCEPTION), ("openphenom", OPENPHENOM)):
        for group, by_aggregate in table.items():
            for aggregate, (original, reconstruction) in zip(("mean", "median"), by_aggregate, strict=True):
                assert published.printed(extractor, True, group, aggregate) == original
                assert published.printed(extractor, False, group, aggregate) == reconstruction
                seen += 2
    assert seen == 32
    assert sum(len(row) for table in published.FRACTIONS.values() for row in table.values()) == 32


def test_printed_fractions_are_whole_compounds_of_306() -> None:
    """An original's is k / 306, a reconstruction's the mean of three: of four digits at random one in ten would be."""
    for row in (row for table in published.FRACTIONS.values() for row in table.values()):
        for at, fraction in enumerate(row):
            whole = 306 if at % 2 == 0 else 3 * 306
            assert 0.66 <= fraction <= 0.97
            assert round(round(fraction * whole) / whole, 4) == fraction


@pytest.mark.parametrize("group", ["24 / A549", "a549 / 24 h", "A549 / 24h", "A549/24.0", "A-549 / 24 hours"])
def test_a_group_may_be_written_in_other_ways(group: str) -> None:
    assert published.printed("openphenom", True, group, "mean") == 0.8039


@pytest.mark.parametrize(
    "group", ["all", "A549", "24", "A549 / 72", "HeLa / 24", "A549 / U2OS", "24 / 48", "A549 / 24 / compound", ""]
)
def test_other_groups_have_no_printed_fraction(group: str) -> None:
    assert published.printed("openphenom", True, group, "mean") is None


def test_other_extractors_and_aggregates_have_none() -> None:
    assert published.printed("inception_fid", True, "A549 / 24", "mean") is None
    assert published.printed("inception_v3", True, "A549 / 24", "mode") is None


def papers_of(found: dict[str, Any], run: str) -> dict[tuple[str, str, str], float]:
    return {
        (row["extractor"], row["side"], row["group"]): row[run]["paper"]
        for row in found["retrieval"]
        if row[run] and row[run]["paper"] is not None
    }


def test_the_paper_stands_beside_its_own_model_data_and_sides_only(tmp_path: Path) -> None:
    a, b = two(tmp_path, score={**PUBLISHED_SCORE, "aggregate": "median"})
    found = compared(a, b)
    assert papers_of(found, "a") == {
        ("inception", "image", "A549 / 24"): 0.8464,
        ("inception", "image", "U2OS / 48"): 0.7680,
        ("inception", "sd14", "A549 / 24"): 0.8464,
        ("inception", "sd14", "U2OS / 48"): 0.7505,
    }
    assert set(papers_of(found, "b").values()) == {0.8725, 0.9063, 0.8366}
    assert found["a"]["departures"] == []
    assert found["b"]["departures"] == []
    assert found["a"]["no_paper"] == [
        "no printed FR for tiny: random weights",
        "no printed FR for jxl: the authors print FR of diffusers_kl from CompVis/stable-diffusion-v1-4 alone",
        "no printed FR for intensity: the authors print FR of inception_v3 and openphenom alone",
    ]
    text = words(text_of(a, b))
    assert "Cropsal & Mercado 2025, arXiv 2510.19887" in text
    assert "A 0.8464" in text
    assert "B 0.9063" in text
    assert " 0.8464 " in words(text_of(a, a))


def test_no_printed_figure_stands_beside_a_run_that_departs_in_a_setting(tmp_path: Path) -> None:
    a, b = two(tmp_path, score={**PUBLISHED_SCORE, "negatives": "plate"})
    found = compared(a, b)
    assert papers_of(found, "a")
    assert papers_of(found, "b") == {}
    assert found["b"]["departures"] == ["score.negatives plate (published: group)"]
    line = (
        "B is not the published protocol, so no printed FR stands beside it: score.negatives plate (published: group)."
    )
    assert line in words(text_of(a, b))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"compounds_scored": 302}, "A549 / 24: compounds scored 302 (published: 306)"),
        ({"controls": 128}, "A549 / 24: controls 128 (published: 256)"),
    ],
)
def test_no_printed_figure_stands_beside_other_compounds_or_controls(
    tmp_path: Path, change: dict[str, int], line: str
) -> None:
    config = config_of(tmp_path)
    scores = scores_of(config)
    changed = [
        pl.when(pl.col("group") == "A549 / 24").then(value).otherwise(name).alias(name)
        for name, value in change.items()
    ]
    output = write_run(config, replace(scores, summary=scores.summary.with_columns(changed)))
    found = compared(output, output)
    assert papers_of(found, "a") == {}
    assert found["a"]["departures"] == [line]


def test_no_printed_figure_stands_beside_other_plates_which_are_named(tmp_path: Path) -> None:
    output = write_run(config_of(tmp_path))
    path = f"{output}/fovs/part-0.parquet"
    fovs = pl.read_parquet(path).with_columns(pl.col("Metadata_Plate").replace("BR00117013", "BR00117012"))
    write_table(path, fovs.to_arrow(), STORAGE)
    found = compared(output, output)
    assert papers_of(found, "a") == {}
    assert found["a"]["departures"] == [
        "U2OS / 48: plates BR00117010, BR00117011, BR00117012 "
        "(published: BR00117010, BR00117011, BR00117012, BR00117013)"
    ]


def test_the_shipped_run_file_departs_in_no_setting() -> None:
    config = load_run(Path(__file__).parents[2] / "jobs/configs/cpjump1-published.yaml")
    assert published.departures(config, ["inception_v3", "openphenom"], ["image", "sd14"]) == []
    median = config.model_copy(update={"score": config.score.model_copy(update={"aggregate": "median"})})
    assert published.departures(median, ["inception_v3", "openphenom"], ["image", "sd14"]) == []


def test_the_plates_of_the_paper_are_those_that_the_gallery_describes() -> None:
    experiments = Path(__file__).parents[3] / "shared/data/metadata/cpjump1/experiment-metadata.tsv"
    if not experiments.exists():
        pytest.skip("the gallery's experiment-metadata.tsv is not at hand")
    table = pl.read_csv(experiments, separator="\t", infer_schema=False).filter(
        Batch="2020_11_04_CPJUMP1", Perturbation="compound", Cell_line="Parental", Density="100", Antibiotics="absent"
    )
    plates = {
        (cell.lower(), int(hours)): tuple(sorted(names))
        for cell, hours, names in table.group_by("Cell_type", "Time").agg("Assay_Plate_Barcode").rows()
    }
    assert plates == published.PLATES


def test_three_seeds_stand_beside_the_paper_as_mean_and_sd(tmp_path: Path, capsys: Any) -> None:
    outputs = []
    for seed, shift in enumerate((0.0, 0.03, 0.09)):
        config = config_of(tmp_path / str(seed), seed=seed, manifest="m.parquet")
        outputs.append(write_run(config, scores_of(config, shift)))
    rows = beside_the_paper([ScoredRun.read(Run.open(output)) for output in outputs])
    assert len(rows) == 4
    row = row_of(rows, extractor="inception", group="U2OS / 48", side="sd14")
    assert row["paper"] == 0.7505
    assert row["runs"] == 3
    assert row["mean"] == pytest.approx(0.44)
    assert row["sd"] == pytest.approx(np.std([0.4, 0.43, 0.49], ddof=1))
    with pytest.raises(SystemExit, match="0"):
        main(["published", *outputs])
    assert "0.7505 0.4400 0.0458 3" in words(capsys.readouterr().out)
    (alone, *_) = beside_the_paper([ScoredRun.read(Run.open(outputs[0]))])
    assert alone["sd"] is None


def test_a_run_that_departs_is_refused_with_every_departure_by_name(tmp_path: Path, capsys: Any) -> None:
    b = config_of(tmp_path, score={**PUBLISHED_SCORE, "strict": False}, precision="float32")
    output = write_run(b)
    with pytest.raises(SystemExit, match="2"):
        main(["published", output])
    error = words(capsys.readouterr().err)
    assert "precision float32 (published: float16); score.strict false (published: true)" in error


def test_runs_of_two_settings_are_not_seeds_of_one(tmp_path: Path, capsys: Any) -> None:
    a, b = two(tmp_path, score={**PUBLISHED_SCORE, "aggregate": "median"})
    with pytest.raises(SystemExit, match="2"):
        main(["published", a, b])
    assert "not seeds of one configuration" in words(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"extractors": {"inception": {"name": "inception_v3", "random": True}}}, "for inception: random weights"),
        ({"extractors": {"inception": {"name": "inception_fid"}}}, "for inception: the authors print"),
        ({"extractors": {"inception_v3": {"name": "intensity"}}}, "for inception_v3: the authors print"),
    ],
)
def test_no_paper_beside_another_extractor(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    a, b = two(tmp_path, **changes)
    found = compared(a, b)
    assert papers_of(found, "b") == {}
    assert any(reason in line for line in found["b"]["no_paper"])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({**SD, "source": "stabilityai/sd-vae-ft-mse"}, "its weights are not from CompVis"),
        ({"name": "diffusers_kl", "source": "asset:demo_kl"}, "its weights are not from CompVis"),
        ({**SD, "latent_bits": 4}, "its latents are quantised"),
        ({**SD, "random": True}, "random weights"),
        ({"name": "patch_pca"}, "the authors print FR of diffusers_kl from CompVis"),
    ],
)
def test_no_paper_beside_another_autoencoder(tmp_path: Path, model: dict[str, Any], reason: str) -> None:
    a, b = two(tmp_path, autoencoders={"sd14": model})
    found = compared(a, b)
    assert {side for _, side, _ in papers_of(found, "b")} == {"image"}
    assert any(f"sd14: {reason}" in line or f"sd14, jxl: {reason}" in line for line in found["b"]["no_paper"])
    assert any(side == "sd14" for _, side, _ in papers_of(found, "a"))


def test_no_paper_beside_other_data(tmp_path: Path) -> None:
    a, b = config_of(tmp_path / "a"), config_of(tmp_path / "b")
    found = compared(write_run(a), write_run(b, batch="Batch3"))
    assert papers_of(found, "a")
    assert papers_of(found, "b") == {}
    assert "no printed FR for this run: its batches are not all of CPJUMP1" in found["b"]["no_paper"]
    assert found["b"]["departures"] == []
    for path in Path(b.output, "fovs").iterdir():
        path.unlink()
    assert papers_of(compared(a.output, b.output), "b") == {}


def test_no_paper_beside_other_groups(tmp_path: Path) -> None:
    config = config_of(tmp_path / "b")
    scores = scores_of(config)
    summary = scores.summary.with_columns(group=pl.col("group").str.replace("48", "72"))
    b = write_run(config, replace(scores, summary=summary))
    found = compared(write_run(config_of(tmp_path / "a")), b)
    assert {group for _, _, group in papers_of(found, "b")} == {"A549 / 24"}
    assert "no printed FR for U2OS / 72: the authors' groups are A549 and U2OS, 24 and 48 h" in found["b"]["no_paper"]


def test_departures_from_the_published_protocol(tmp_path: Path) -> None:
    changes = {
        "image": {"packing": "grey", "crop": 512},
        "precision": "float32",
        "autoencoders": {"sd1.4": {**SD, "latent": "mean"}},
        "extractors": {"op": {"name": "openphenom"}, "inception": {"name": "inception_v3", "half_mean": True}},
        "score": {"group": ["Metadata_Cell_type", "Metadata_Time"], "normalise": [{"pca": {"components": 3}}]},
    }
    assert published.departures(config_of(tmp_path, **changes), ["op", "inception"], ["image", "sd1.4"]) == [
        "image.crop 512 (published: 1024)",
        "image.transpose false (published: true)",
        "precision float32 (published: float16)",
        "score.half_mean false (published: true)",
        'score.normalise [{"pca": {"components": 3}}] (published: published_float16)',
        "score.fit cross (published: controls)",
        "score.negatives plate (published: group)",
        "score.null exchange (published: copairs)",
        "score.null_size 10000 (published: 1000000)",
        "score.strict false (published: true)",
        "score.ties average (published: copairs)",
        "extractors.op.half_mean false (published: true)",
        "extractors.op.published_range false (published: true)",
        "autoencoders.sd1.4.latent mean (published: sample)",
        "image.packing grey (published: published)",
    ]


def test_fr_is_printed_with_its_floors_and_its_difference_from_the_originals(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    scores = read_scores(a, STORAGE)
    key = scores.summary.filter(pl.col("side") != "image").row(0, named=True)
    where = {name: key[name] for name in ("extractor", "side", "group")}
    difference = {"difference": -0.0625, "difference_low": -0.125, "difference_high": 0.0}
    ends = {"quantity": "fraction_retrieved", "estimate": 0.4375, "low": 0.25, "high": 0.5}
    floor = {"quantity": "posing", "fraction_retrieved": 0.3125, "status": "ok"}
    replace(
        scores, differences=pl.DataFrame([{**where, **ends, **difference}]), floors=pl.DataFrame([{**where, **floor}])
    ).write(a, STORAGE)
    (row,) = compared(a, b)["floors"]
    assert row["a"]["posing"] == 0.3125
    assert row["a"]["difference_low"] == -0.125
    assert row["b"] is None
    console = Console(width=140, record=True, file=io.StringIO())
    print_comparison(compared(a, b), console)
    text = console.export_text()
    for words in ("0.438", "0.25 to 0.50", "-0.062", "-0.12 to 0.00", "0.312"):
        assert words in text
