"""`init`: load_data files in; a run file out that the checks of a run accept, and the commands that come next."""

import json
import shlex
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from field_files import STAINS, write_tiff

from sdvae_ray.cli.main import main
from sdvae_ray.encoding.check_score import check_score
from sdvae_ray.encoding.start import checked_manifest, probe
from sdvae_ray.engine.models import check_names
from sdvae_ray.run.run import Run
from sdvae_ray.sources.synthetic.screen import COMPOUNDS, write_screen


def command(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    """What the command prints: stdout, or stderr of one that is refused."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.err if code else said.out


def accepted(run: Run) -> list[str]:
    """The checks of `check` that need no cluster; what it says of the scores."""
    lines: list[str] = []
    check_names(run.config)
    keys = checked_manifest(run)
    probe(run, keys)
    check_score(run, lines.append)
    return lines


@pytest.fixture
def load_data(tmp_path) -> Path:
    """load_data of two fields of stains that are not the published ones, of 140 pixels, without tables of treatments."""
    random, rows = np.random.default_rng(0), []
    for well in ("A01", "A02"):
        row = {"Metadata_Plate": "P1", "Metadata_Well": well, "Metadata_Site": "1"}
        for stain in ("DNA", "Actin", "BrightfieldH"):
            path = tmp_path / "images" / f"{well}-{stain}.tiff"
            write_tiff(path, random.integers(0, 3000, (140, 150)).astype(np.uint16))
            row |= {f"FileName_Orig{stain}": path.name, f"PathName_Orig{stain}": str(path.parent)}
        rows.append(row)
    path = tmp_path / "load_data.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def test_a_screen_with_tables_is_scored_by_its_treatments_and_controls(capsys, tmp_path):
    files = write_screen(tmp_path / "plates", size=64, controls=2, replicates_per_plate=1, compounds=COMPOUNDS[:2])
    tables = ["--platemap", str(files.barcode_platemap), "--metadata", str(files.compound_metadata)]
    tables += ["--metadata", str(files.experiment_metadata)]
    for before, after in files.rewrites:
        tables += ["--rewrite", f"{before}={after}"]
    file = tmp_path / "mine" / "run.yaml"
    said = json.loads(command(capsys, "init", *map(str, files.load_data), *tables, "-o", str(file), "--json"))
    assert (said["fovs"], tuple(said["stains"])) == (8, STAINS)
    make, *_ = (shlex.split(line) for line in said["commands"])
    assert make[0] == "sdvae-ray"
    assert "8 FOVs" in command(capsys, *make[1:])
    run = Run.open(file)
    assert (run.config.image.crop, run.config.image.patch, run.config.image.packing) == (64, 64, "published")
    assert run.config.score.perturbation == "Metadata_broad_sample"
    assert run.config.score.control == "Metadata_control_type == 'negcon'"
    assert any("negative controls" in line for line in accepted(run))
    for line in said["commands"]:
        assert f"#   {line}" in file.read_text()


def test_other_stains_are_grey_and_without_treatments_there_is_no_retrieval(capsys, tmp_path, load_data):
    file = tmp_path / "run.yaml"
    said = command(capsys, "init", str(load_data), "--source", "lab", "--batch", "week 1", "-o", str(file))
    assert "stains DNA, Actin" in said
    assert "--batch 'week 1'" in said
    (line,) = [line for line in said.splitlines() if line.startswith("  sdvae-ray manifest")]
    command(capsys, *shlex.split(line, comments=True)[1:])
    run = Run.open(file)
    assert (run.config.image.crop, run.config.image.patch, run.config.image.packing) == (128, 128, "grey")
    assert run.config.score.perturbation is None
    assert "name them, and retrieval is scored" in file.read_text()
    accepted(run)


def test_images_that_cannot_be_read_are_said_and_the_sizes_are_the_published_ones(capsys, tmp_path, load_data):
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    file = tmp_path / "run.yaml"
    said = command(capsys, "init", str(load_data), "--source", "lab", "--batch", "b", "-o", str(file))
    assert "no image could be read, so crop and patch are a guess" in said
    assert Run.open(file).config.image.crop == 1024


def test_bad_input_is_one_line_and_writes_nothing(capsys, tmp_path, load_data):
    (tmp_path / "old.yaml").write_text("mine")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    place = ["--source", "lab", "--batch", "b"]
    for arguments, words in (
        ([str(load_data), *place, "-o", str(tmp_path / "old.yaml")], "exists; another --output is wanted"),
        ([str(load_data), *place, "-o", str(tmp_path / "run.txt")], "a run file ends in .yaml"),
        ([str(load_data), "-o", str(tmp_path / "run.yaml")], "give it with --source"),
        ([str(tmp_path / "other.csv"), "-o", str(tmp_path / "run.yaml")], "is not a load_data file"),
        ([str(tmp_path / "none.csv"), "-o", str(tmp_path / "run.yaml")], "none.csv does not exist"),
    ):
        said = command(capsys, "init", *arguments, code=2)
        assert words in said
        assert said.count("\n") == 1
    assert (tmp_path / "old.yaml").read_text() == "mine"
    assert not (tmp_path / "run.yaml").exists()
