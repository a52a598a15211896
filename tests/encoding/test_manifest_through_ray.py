"""A manifest of many files through tasks of Ray, and one whose making is killed on the way."""

import json
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from sdvae_ray import read_manifest
from sdvae_ray.encoding import manifest_folder
from sdvae_ray.encoding.manifest_folder import BUILDING, build_folder
from sdvae_ray.schema import FOV_ID, KEYS
from sdvae_ray.settings.load_data import LoadDataConfig
from sdvae_ray.sources.manifest.index import INDEX
from sdvae_ray.sources.manifest.plate import Recipe
from sdvae_ray.storage import Storage

PLATES, WELLS, STAINS = 60, 24, ("DNA", "ER")
PROGRAM = """
import sys
import sdvae_ray.encoding.manifest_folder as module
from sdvae_ray.cli.main import main
module._LINE_EVERY, module._THREADS = 0.0, 1
main(["manifest", *sys.argv[1:]])
"""


def write_load_data(folder: Path) -> str:
    for number in range(PLATES):
        plate = f"P{number:02d}"
        rows = []
        for well in range(WELLS):
            row = dict(zip(KEYS, ("s1", "b1", plate, f"{'AB'[well // 12]}{well % 12 + 1:02d}", "1"), strict=True))
            rows.append(row | {f"URL_Orig{stain}": f"s3://b/{plate}/{well}-{stain}.tiff" for stain in STAINS})
        place = folder / "load_data_csv" / plate
        place.mkdir(parents=True)
        pl.DataFrame(rows).write_csv(place / "load_data.csv")
    return str(folder / "load_data_csv/*/load_data.csv")


@pytest.mark.slow
def test_tasks_of_ray_make_the_same_manifest_as_threads(local_ray, tmp_path, monkeypatch):
    section = LoadDataConfig(files=(write_load_data(tmp_path),))
    recipes = [Recipe.of(section, STAINS, str(tmp_path / name), Storage().config) for name in ("threads", "ray")]
    assert build_folder(recipes[0], Console(quiet=True)).fovs == PLATES * WELLS
    monkeypatch.setattr(manifest_folder, "_FEW", 2)
    monkeypatch.setattr(manifest_folder, "_FEW_CPUS", 0)
    assert build_folder(recipes[1], Console(quiet=True)).fovs == PLATES * WELLS
    assert (tmp_path / "threads" / INDEX).read_bytes() == (tmp_path / "ray" / INDEX).read_bytes()


@pytest.mark.slow
def test_a_manifest_that_is_killed_on_the_way_goes_on_and_is_whole(tmp_path):
    output = tmp_path / "manifest"
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        write_load_data(tmp_path),
        "--stains",
        ",".join(STAINS),
        "-o",
        str(output),
        "--json",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((output / BUILDING).glob("*.json"))) < 10:
        assert process.poll() is None, "it was over before it was killed"
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert not (output / INDEX).exists()
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    assert told["fovs"] == PLATES * WELLS
    assert 10 <= told["resumed"] < PLATES
    rows = read_manifest(str(output))
    assert rows[FOV_ID].n_unique() == rows.height == PLATES * WELLS
