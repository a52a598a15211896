"""Sources of several geometries in one run through Ray, by a manifest of a file per plate: checked, encoded, resumed, scored,
searched and reported."""

from pathlib import Path

import polars as pl
import pytest
from mixed_screen import PIXEL_UM, WELLS, geometry_of, mixed_run, name_of, write_screen
from rich.console import Console
from straight_line import expected_values, stored_values

from sdvae_ray import read_manifest
from sdvae_ray.commands.report import report
from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.calibration.calibrate import CalibrateOptions, calibrate
from sdvae_ray.encoding.check import check
from sdvae_ray.encoding.encode import encode
from sdvae_ray.engine.columns import kept_patches
from sdvae_ray.queries.decode import decode_fov
from sdvae_ray.queries.search import search_row
from sdvae_ray.run.run import Run
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.scoring.score import score
from sdvae_ray.storage import Storage

SILENT = Console(quiet=True)


def calibrated_to_reported(folder: Path, sources: int, plates: int, bad: int, stops: bool = False) -> RunConfig:
    """One run of a screen whose source `bad` has a bad plate, from its constants to its page. stops: the run is a trial first."""
    manifest, calibrated = (
        str(write_screen(folder, sources, plates, bad)),
        str(folder / "calibrated"),
    )  # a file per plate
    done = calibrate(manifest, calibrated, Storage(), SILENT, CalibrateOptions(fovs=4))
    assert done.groups[2]["divisor"] > 1.5 * done.groups[0]["divisor"]  # the second source has twice the light
    config = mixed_run(
        folder,
        sources,
        manifest=calibrated,
        image={"scaling": {"method": "manifest"}},
        score={"fov_index": {"level": "patch"}, "tasks": []},
        max_error_fraction=0.5,
        **({} if stops else {"codecs": {"jpeg": None}, "extractors": {"latent": None}, "metrics": ["ssim"]}),
    )
    run = Run(config)
    checked = check(run, SILENT)
    assert len({group["value"] for group in checked.fields}) == sources
    assert sum(not group["fits"] for group in checked.fields) == 1
    if stops:
        encode(run, SILENT, limit=sources * plates * len(WELLS) // 2)
    encoded = encode(run, SILENT)
    assert (encoded.fovs, encoded.errors) == (sources * plates * len(WELLS), len(WELLS))
    if stops:
        assert encode(run, SILENT).computed == len(WELLS)  # the failed fields alone
    score(run, SILENT)
    report(run, SILENT)
    return config


def check_the_run(config: RunConfig, sources: int, plates: int, bad: int) -> None:
    run = Run(config)
    fovs = run.fovs()
    assert sorted(fovs[FOV_ID]) == sorted(read_manifest(config.manifest)[FOV_ID])  # every FOV once
    failed = fovs.filter(pl.col(ERROR).is_not_null())
    assert failed["Metadata_Plate"].unique().to_list() == [f"{name_of(bad)}-P{plates}"]
    reasons = failed[ERROR].to_list()
    assert sum("truncated or corrupt" in reason or "no page" in reason for reason in reasons) == 1
    assert sum("crop" in reason and "does not fit" in reason for reason in reasons) == len(WELLS) - 1
    summary = run.scores().summary.filter(pl.col("extractor") == "intensity", pl.col("side") == "pca")
    assert set(summary["group"]) == {name_of(source) for source in range(sources)}
    patches = sum(
        geometry_of(source).crop ** 2 // 64**2 * (plates - (source == bad)) * len(WELLS) for source in range(sources)
    )
    metrics = run.scores().metrics.filter(pl.col("metric") == "ssim", pl.col("side") == "pca")
    assert set(metrics["patches"]) == {patches}
    assert f"{patches:,}" in (Path(config.output) / "report/index.html").read_text()
    for source in (0, 1):
        stains, facts = decode_fov(run, f"{name_of(source)}/batch_1/{name_of(source)}-P1/A01/1", None)
        assert stains.shape[1:] == (geometry_of(source).crop, geometry_of(source).crop)
        assert ("resampled to 1.2 micrometres" in facts["crop"]) == (geometry_of(source).pixel_um != PIXEL_UM)
    fov_id = f"{name_of(1)}/batch_1/{name_of(1)}-P1/A01/1"  # of one patch
    (patch,) = kept_patches(config, "intensity", fov_id, 1)
    answer = search_row(run, fov_id, int(patch), "intensity", "image", 20)
    assert answer.neighbours.height == 20
    assert answer.neighbours["patch"].null_count() == 0
    of_many = answer.neighbours.filter(~pl.col("Metadata_Source").is_in([name_of(n) for n in range(1, sources, 4)]))
    assert of_many["patch"].max() > 0


def check_one_source_alone(config: RunConfig, source: int, folder: Path) -> None:
    """The source alone in a run with a plain image section, computed straight on without Ray, has the same bytes."""
    rows = read_manifest(config.manifest).filter(pl.col("Metadata_Source") == name_of(source))
    rows.write_parquet(folder / "alone.parquet")
    raw = config.model_dump(mode="json")
    raw |= {"manifest": str(folder / "alone.parquet"), "image": {**raw["image"], "policies": None, "pixel_um": None}}
    plain = parse_run(raw)
    stored = stored_values(config)
    for name, values in expected_values(plain).items():
        assert values == {fov: data for fov, data in stored[name].items() if fov.startswith(f"{name_of(source)}/")}


def test_sources_of_several_geometries_with_a_bad_plate_are_one_run(local_ray, tmp_path):
    config = calibrated_to_reported(tmp_path, sources=3, plates=2, bad=2)
    check_the_run(config, sources=3, plates=2, bad=2)
    check_one_source_alone(config, 0, tmp_path)


@pytest.mark.slow
def test_twelve_sources_of_four_geometries_are_one_run(local_ray, tmp_path):
    config = calibrated_to_reported(tmp_path, sources=12, plates=3, bad=6, stops=True)
    check_the_run(config, sources=12, plates=3, bad=6)
    for source in (0, 2, 10):  # the third geometry is that of the source with the bad plate too
        check_one_source_alone(config, source, tmp_path)
