"""Commands one after another, as a user types them: photographs, a manifest, a run of it, its pixels back, runs compared."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import polars as pl
import pytest
import tifffile
import yaml
from run_files import ONE_EACH

from sdvae_ray.cli.main import main
from sdvae_ray.run.scores import read_scores
from sdvae_ray.storage import Storage

ROOT = Path(__file__).parents[2]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    return said.out


def photograph(random: np.random.Generator) -> np.ndarray:
    """(90, 120, 3) uint8: soft coloured discs."""
    y, x = np.mgrid[:90, :120]
    image = np.full((90, 120, 3), 40.0)
    for _ in range(8):
        near = np.exp(
            -((y - random.uniform(0, 90)) ** 2 + (x - random.uniform(0, 120)) ** 2) / random.uniform(100, 900)
        )
        image += near[:, :, None] * random.uniform(0, 150, 3)
    return image.clip(0, 255).astype(np.uint8)


@pytest.fixture
def run_file(tmp_path) -> Path:
    """The shipped run file of photographs, with models that need no download."""
    raw = yaml.safe_load((ROOT / "jobs/configs/photographs.yaml").read_text())
    raw |= {"manifest": str(tmp_path / "m.parquet"), "output": str(tmp_path / "run")}
    raw |= {"autoencoders": {"pca": {"name": "patch_pca"}}, "extractors": {"intensity": {"name": "intensity"}}}
    raw |= ONE_EACH
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.mark.slow
def test_photographs_go_through_every_command(local_ray, capsys, tmp_path, run_file):
    random = np.random.default_rng(0)
    for kind in ("classroom", "church"):
        (tmp_path / "set" / kind).mkdir(parents=True)
        for number in range(8):
            data = imagecodecs.jpeg8_encode(photograph(random), level=95)
            (tmp_path / "set" / kind / f"{number}.jpg").write_bytes(data)
    manifest = str(tmp_path / "m.parquet")
    assert "16 photographs, 2 classes" in run(
        capsys, "photographs", str(tmp_path / "set"), "-o", manifest, "--name", "toy"
    )
    said = run(capsys, "run", str(run_file), "--all")
    assert "No retrieval: score.perturbation is null." in said
    assert (tmp_path / "run/report/index.html").exists()
    output = str(tmp_path / "run")
    scores = read_scores(output, Storage())
    assert set(scores.distributions["slice"]) == {"church", "classroom"}
    assert scores.metrics.filter(pl.col("metric") == "mae")["part"].unique().sort().to_list() == ["B", "G", "R"]
    assert set(scores.metrics["side"]) == {"pca", "jpeg"}

    fov = pl.read_parquet(manifest)["fov_id"][0]
    picture = str(tmp_path / "x.tif")
    assert "by pca, 3 x 256 x 256 uint8" in run(capsys, "decode", str(run_file), "--fov", fov, "-o", picture)
    assert tifffile.imread(picture).shape == (3, 256, 256)

    found = json.loads(run(capsys, "compare", output, str(run_file), "--json"))
    assert found["settings"] == []
    assert all(row["difference"]["mean"] in (0, None) for row in found["metrics"])


def test_the_catalogue_is_one_json_object(capsys):
    found = json.loads(run(capsys, "models", "--json"))
    assert {each["shelf"] for each in found} == {"autoencoders", "codecs", "extractors", "metrics"}
