"""The demo's own run file, JSON in place of lines, and lines where a command takes longer than a second."""

import io
import json
import re
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from sdvae_ray.cli.main import main
from sdvae_ray.commands.demo import ONE_MORE_SIDE, demo_run, real_cells_run, run_file
from sdvae_ray.commands.first_line import give, lines_of
from sdvae_ray.console import waiting
from sdvae_ray.encoding.pending import trial
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.run.run import Run


@pytest.mark.parametrize(("folder", "overrides"), [("demo", []), ("de: mo, {1}", []), ("demo", ["synthetic.plates=1"])])
def test_the_demos_run_file_is_its_run(tmp_path, folder, overrides):
    run = demo_run(str(tmp_path / folder), overrides)
    path = tmp_path / "run.yaml"
    path.write_text(run_file(run, str(tmp_path / folder)))
    assert Run.open(path) == run
    assert ("# made by hand" in path.read_text()) == (
        folder == "demo" and not overrides
    )  # comments where nothing is changed


def test_the_line_that_the_demo_names_adds_a_side_to_its_run_file(tmp_path):
    text = run_file(demo_run(str(tmp_path), []), str(tmp_path))
    (tmp_path / "run.yaml").write_text(re.sub("^(codecs:.*)$", r"\1\n" + ONE_MORE_SIDE, text, flags=re.MULTILINE))
    assert Run.open(tmp_path / "run.yaml").config.sides == [
        *demo_run(str(tmp_path), []).config.autoencoders,
        "soft",
        "jpeg",
        "jpegxl",
        "avif",
    ]


def test_a_trial_is_spread_over_the_manifest_and_a_larger_one_is_the_whole():
    keys = pl.DataFrame({"fov_id": [str(number) for number in range(100)]})
    assert trial(keys, 5)["fov_id"].to_list() == ["0", "24", "49", "74", "99"]
    assert trial(keys, 1)["fov_id"].to_list() == ["0"]
    assert trial(keys, 100).height == trial(keys, 1000).height == trial(keys, None).height == 100
    assert trial(keys, 99)["fov_id"].n_unique() == 99


def test_a_wait_of_more_than_a_second_says_what_it_is_for(monkeypatch):
    monkeypatch.setattr("sdvae_ray.console._FIRST_LINE", 0.05)
    monkeypatch.setattr("sdvae_ray.console._NEXT_LINE", 0.1)
    said = io.StringIO()
    with waiting(Console(file=said), "report: drawing"):
        time.sleep(0.4)
    lines = said.getvalue().splitlines()
    assert lines[0] == "report: drawing"
    assert lines[1].startswith("report: drawing; ")
    quick = io.StringIO()
    with waiting(Console(file=quick), "report: drawing"):
        pass
    assert quick.getvalue() == ""


def test_json_has_stdout_to_itself(capsys):
    lines_of(Console(), True).print("a line")
    give({"fovs": 1}, Console(), True)
    said = capsys.readouterr()
    assert json.loads(said.out) == {"fovs": 1}
    assert said.err == "a line\n"
    give({"fovs": 1}, Console(), False)
    assert capsys.readouterr().out == ""


NUMBERS = (
    "init",
    "manifest",
    "photographs",
    "pack",
    "check",
    "bench",
    "encode",
    "retry",
    "status",
    "verify",
    "compact",
)
NUMBERS += ("score", "report", "run", "conclude", "retrieve", "compare", "search", "decode", "export", "models")


@pytest.mark.parametrize("command", NUMBERS)
def test_every_command_that_prints_numbers_takes_json(capsys, command):
    with pytest.raises(SystemExit):
        main([command, "-h"])
    assert "--json" in capsys.readouterr().out


def test_a_manifest_is_told_as_json(capsys, tmp_path):
    (tmp_path / "a.csv").write_text(
        "Metadata_Plate,Metadata_Well,Metadata_Site,FileName_OrigDNA,PathName_OrigDNA\nP,A01,1,x.tif,/nowhere\n"
    )
    given = ["--stains", "DNA", "--source", "s", "--batch", "b", "-o", str(tmp_path / "m.parquet"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(["manifest", str(tmp_path / "a.csv"), *given])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["fovs"], told["wells"], told["plates"]) == (1, 1, 1)
    assert Path(told["output"]).is_file()


def test_the_demo_has_real_cells_of_the_gallery_in_a_run_of_their_own(tmp_path):
    run = real_cells_run(str(tmp_path), ["synthetic.plates=1", "codecs.jpeg.quality=40"])
    demo = demo_run(str(tmp_path), ["codecs.jpeg.quality=40"]).config
    assert (run.config.autoencoders, run.config.codecs) == (demo.autoencoders, demo.codecs)
    assert (run.config.extractors, run.config.synthetic, run.config.score.perturbation) == ({}, None, None)
    assert run.output != demo.output
    rows = pl.read_parquet(run.config.manifest).to_dicts()
    assert {row["Metadata_Source"] for row in rows} == {"source_4"}
    batch = {name: np.array([row.get(name) for row in rows], object) for name in rows[0]}
    loaded = Loader(run.config.image, run.config.storage)(batch)
    assert loaded["error"].tolist() == [""] * 3
    assert (loaded["image"].std((2, 3, 4)) > 1).all()  # (fields, patches, stains, rows, columns): cells in every stain
