"""Scaling constants from a hashed sample of every plate: what they are, that nothing but the pixels counts, and what is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tifffile
from field_files import write_tiff
from mixed_screen import mixed_run, name_of, write_screen
from rich.console import Console

from sdvae_ray.cli.main import main
from sdvae_ray.config import StorageConfig
from sdvae_ray.encoding.calibration import calibrate as module
from sdvae_ray.encoding.calibration.calibrate import Calibrated, CalibrateOptions, calibrate
from sdvae_ray.encoding.start import checked_manifest
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.rules import is_known
from sdvae_ray.storage import Storage

SILENT, STORAGE = Console(quiet=True), Storage()
SOURCES, PLATES, SAMPLE = 2, 4, 3


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of four plates; the third plate of the second is four times as bright, the last has images that are damaged."""
    folder = tmp_path_factory.mktemp("calibrated")
    manifest = write_screen(folder, SOURCES, PLATES)
    for row in pl.read_parquet(manifest).filter(pl.col("Metadata_Source") == name_of(1)).iter_rows(named=True):
        for stain in ("DNA", "ER"):
            path = Path(row[f"uri_{stain}"])
            if row["Metadata_Plate"].endswith("P3"):
                write_tiff(path, np.minimum(tifffile.imread(path).astype(np.uint32) * 4, 65535).astype(np.uint16))
            elif row["Metadata_Plate"].endswith("P4"):
                path.write_bytes(path.read_bytes()[:50])
    return manifest


def calibrated(manifest: Path, output: Path, **options: Any) -> Calibrated:
    options = {"fovs": SAMPLE, "percentiles": (1.0, 99.0), **options}
    return calibrate(str(manifest), str(output), STORAGE, SILENT, CalibrateOptions(**options))


def of_source(done: Calibrated, source: int, stain: str) -> dict[str, Any]:
    (row,) = [row for row in done.groups if (row["Metadata_Source"], row["stain"]) == (name_of(source), stain)]
    return row


def chosen_by_a_slow_way(manifest: Path, seed: int = 0) -> pl.DataFrame:
    """The rows of the smallest BLAKE2b of seed and fov_id, plate by plate."""
    table = pl.read_parquet(manifest)

    def key(fov: str) -> int:
        return int.from_bytes(hashlib.blake2b(f"{seed}\x1f{fov}".encode(), digest_size=8).digest(), "little")

    keep = []
    for _, plate in table.group_by("Metadata_Plate"):
        keep += sorted(plate[FOV_ID].to_list(), key=key)[:SAMPLE]
    return table.filter(pl.col(FOV_ID).is_in(keep))


def test_constants_are_medians_of_the_percentiles_of_corrected_fields(screen, tmp_path):
    done = calibrated(screen, tmp_path / "c.parquet")
    rows = chosen_by_a_slow_way(screen).filter(pl.col("Metadata_Source") == name_of(0))
    assert (done.plates, rows.height) == (SOURCES * PLATES, PLATES * SAMPLE)
    for stain in ("DNA", "ER"):
        corrected = [
            tifffile.imread(row[f"uri_{stain}"]) / np.load(row[f"illum_{stain}"]) for row in rows.iter_rows(named=True)
        ]
        low, high = (np.array([np.percentile(plane, q) for plane in corrected]) for q in (1, 99))
        width = high - low
        row = of_source(done, 0, stain)
        assert row["offset"] == pytest.approx(np.median(low), rel=1e-14)
        assert row["divisor"] == pytest.approx((np.median(high) - np.median(low)) / 255, rel=1e-14)
        assert row["fovs"] == PLATES * SAMPLE
        assert row["spread"] == pytest.approx(1.4826 * np.median(np.abs(width - np.median(width))), rel=1e-12)
    written = pl.read_parquet(tmp_path / "c.parquet")
    before = pl.read_parquet(screen)
    assert written.select(before.columns).equals(before)
    first = written.filter(pl.col("Metadata_Source") == name_of(0))
    assert first["scale_offset_ER"].unique().to_list() == [of_source(done, 0, "ER")["offset"]]
    assert first["scale_fovs_ER"].unique().to_list() == [PLATES * SAMPLE]
    assert set(written["scale_bits"]) == {8}
    assert all(is_known(name, ["DNA", "ER"]) for name in written.columns)


def test_the_sample_becomes_the_range_of_the_run(screen, tmp_path):
    calibrated(screen, tmp_path / "c.parquet")
    rows = pl.read_parquet(tmp_path / "c.parquet").filter(pl.col("Metadata_Source") == name_of(0))
    batch = {name: np.array(rows[name].to_list(), object) for name in rows.columns}
    image = {"stains": ("DNA", "ER"), "packing": "grey", "crop": 128, "patch": 64, "scaling": {"method": "manifest"}}
    pixels = Loader(ImageConfig(**image), StorageConfig())(batch)[IMAGE]
    assert 0.001 < (pixels == 0).mean() < 0.05
    assert 0.001 < (pixels == 255).mean() < 0.05


def test_order_and_row_groups_and_workers_change_nothing(local_ray, screen, tmp_path, monkeypatch):
    expected = calibrated(screen, tmp_path / "one.parquet")
    shuffled = pl.read_parquet(screen).sample(fraction=1, shuffle=True, seed=5)
    shuffled.write_parquet(tmp_path / "shuffled.parquet", row_group_size=7)
    monkeypatch.setattr(module, "_FEW", 0)  # through Ray
    monkeypatch.setattr(module, "_PER_TASK", 5)
    assert calibrated(tmp_path / "shuffled.parquet", tmp_path / "two.parquet") == expected
    one, two = (pl.read_parquet(tmp_path / name).sort(FOV_ID) for name in ("one.parquet", "two.parquet"))
    assert one.equals(two)
    other = calibrated(screen, tmp_path / "seed.parquet", seed=1)
    assert other.groups != expected.groups


def test_plates_that_stand_out_are_named_and_unread_plates_take_the_constants_of_their_source(screen, tmp_path):
    done = calibrated(screen, tmp_path / "c.parquet")
    bright = [row for row in done.outliers if row["Metadata_Plate"] == f"{name_of(1)}-P3"]
    assert {row["stain"] for row in bright} == {"DNA", "ER"}
    assert all(row["z"] > 5 for row in bright)
    assert done.outliers == sorted(done.outliers, key=lambda row: -abs(row["z"]))
    assert done.unread == [f"{name_of(1)}/batch_4/{name_of(1)}-P4"]
    assert len(done.failed) == SAMPLE
    assert all("corrupt" in why for why in done.failed.values())
    assert not calibrated(screen, tmp_path / "d.parquet", threshold=1e6).outliers

    own = calibrated(screen, tmp_path / "plates.parquet", level="plate")
    table = pl.read_parquet(tmp_path / "plates.parquet").filter(pl.col("Metadata_Source") == name_of(1))
    offsets = dict(table.select("Metadata_Plate", "scale_divisor_DNA").unique().iter_rows())
    assert len(set(offsets.values())) == PLATES
    assert offsets[f"{name_of(1)}-P3"] > 2 * offsets[f"{name_of(1)}-P1"]
    assert offsets[f"{name_of(1)}-P4"] == of_source(own, 1, "DNA")["divisor"]
    assert own.groups == done.groups


def test_another_column_groups_the_plates(screen, tmp_path):
    done = calibrated(screen, tmp_path / "c.parquet", by="Metadata_Batch")
    assert [row["Metadata_Batch"] for row in done.groups if row["stain"] == "ER"] == [f"batch_{n}" for n in range(1, 5)]
    with pytest.raises(
        DataError, match="plate .* has several values of Metadata_Well; --by takes a column with one per plate"
    ):
        calibrated(screen, tmp_path / "c.parquet", by="Metadata_Well")
    with pytest.raises(DataError, match="has no column Metadata_Nothing"):
        calibrated(screen, tmp_path / "c.parquet", by="Metadata_Nothing")
    with pytest.raises(DataError, match="Metadata_control_type of .* is empty"):
        calibrated(screen, tmp_path / "c.parquet", by="Metadata_control_type")


def test_constant_images_are_refused_with_the_place(screen, tmp_path):
    table = pl.read_parquet(screen).filter(pl.col("Metadata_Source") == name_of(0))
    flat = write_tiff(tmp_path / "flat.tiff", np.full((135, 135), 300, np.uint16))
    dead = table.with_columns(uri_ER=pl.lit(flat), illum_ER=pl.lit(None, pl.String))
    dead.write_parquet(tmp_path / "flat.parquet")
    with pytest.raises(
        DataError, match=f"{name_of(0)}: ER has no spread, both percentiles of 12 fields are 300, such as of"
    ):
        calibrated(tmp_path / "flat.parquet", tmp_path / "c.parquet")
    assert not (tmp_path / "c.parquet").exists()


def test_a_source_that_cannot_be_read_is_refused_with_the_reason(screen, tmp_path):
    table = pl.read_parquet(screen).with_columns(
        uri_ER=pl.when(pl.col("Metadata_Source") == name_of(1)).then(pl.lit("/nowhere.tiff")).otherwise("uri_ER")
    )
    table.write_parquet(tmp_path / "gone.parquet")
    with pytest.raises(DataError, match=f"{name_of(1)}: not one of 12 fields can be read, the first: no such object"):
        calibrated(tmp_path / "gone.parquet", tmp_path / "c.parquet")


def test_constants_for_other_bits_are_refused_by_a_run(screen, tmp_path):
    calibrated(screen, tmp_path / "manifest.parquet", bits=16)
    config = mixed_run(tmp_path, SOURCES, image={"scaling": {"method": "manifest"}})
    with pytest.raises(
        ConfigError, match=r"image.scaling.bits is 8, and .* has constants for 16: `sdvae-ray calibrate --bits 8`"
    ):
        checked_manifest(Run(config))


def test_the_command_prints_the_constants_and_gives_one_json_object(screen, tmp_path, capsys):
    shutil.copy(screen, tmp_path / "m.parquet")
    arguments = ["calibrate", str(tmp_path / "m.parquet"), "-o", str(tmp_path / "c.parquet"), "--fovs", "1"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"])
    assert ended.value.code == 0
    out, lines = capsys.readouterr()
    told = json.loads(out)
    assert (told["fovs"], told["plates"], told["level"]) == (7, 8, "source")
    assert f"{name_of(0)}  DNA: offset" in lines
    assert "calibrate: constants of every Metadata_Source, by 7 fields of 8 plates" in lines
    for wrong, line in (
        (["--low", "60", "--high", "40"], "--low 60 must be below --high 40"),
        (["--bits", "12"], "8 or 16"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, *wrong])
        assert ended.value.code == 2
        assert line in capsys.readouterr().err.replace("\n", " ")
