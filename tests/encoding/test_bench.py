"""The bench of a run on the cluster at hand: real streams of some FOVs, whose folders are gone afterwards."""

import io
import json
from pathlib import Path

import pytest
from field_files import write_fields
from rich.console import Console
from run_files import PCA, small_run
from straight_line import write_manifest

from sdvae_ray.cli.main import main
from sdvae_ray.encoding.bench import _doubling, _spread, bench
from sdvae_ray.errors import ConfigError, RunError
from sdvae_ray.run.run import Run

SINGLE = {"batch_fovs": 1, "cpus": 0.3}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("bench")
    fields = write_fields(folder / "images", count=10)
    manifest = write_manifest(folder / "manifest.parquet", fields)
    prices = {"dollars_per_cpu_hour": 36.0}
    return Run(small_run(folder, manifest=str(manifest), autoencoders=PCA, encode=SINGLE, load=SINGLE, cluster=prices))


@pytest.mark.slow
def test_every_step_is_a_stream_of_its_own_and_leaves_nothing(local_ray, run):
    console = Console(file=io.StringIO(), width=300)
    one, two = bench(run, console, 10, [1, 1])["steps"]  # a second actor may come when ten FOVs are done already
    assert (one["actors"], one["fovs"], two["actors"], two["fovs"]) == (1, 10, 1, 10)
    for step in (one, two):
        assert step["rate"] > 0
        assert step["per_actor"] == pytest.approx(step["rate"] / step["actors"])
        assert step["cold_start"] > 0
        assert set(step["busy"]) == {"load", "encode"}
        assert step["devices"]
        cpus = 0.3 * step["actors"] + 0.3
        assert step["dollars_per_1000_fovs"] == pytest.approx(1000 / step["rate"] / 3600 * cpus * 36, rel=1e-3)
    assert one["scaling"] == 1
    assert two["scaling"] == pytest.approx(two["per_actor"] / one["per_actor"])
    printed = console.file.getvalue()
    assert "bench: 1 actor: " in printed
    assert "dollars per 1,000 FOVs" in printed
    assert [path for path in Path(run.output).rglob("*") if path.is_file()] == []


def test_the_command_prints_one_json_object(local_ray, run, tmp_path, capsys):
    file = tmp_path / "run.yaml"
    file.write_text(run.config.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(file), "--fovs", "4", "--actors", "1", "--json"])
    assert ended.value.code == 0
    (step,) = json.loads(capsys.readouterr().out)["steps"]
    assert (step["actors"], step["fovs"], set(step["busy"])) == (1, 4, {"load", "encode"})
    assert step["dollars_per_1000_fovs"] == pytest.approx(1000 / step["rate"] / 3600 * 0.6 * 36, rel=1e-3)
    assert [path for path in Path(run.output).rglob("*") if path.is_file()] == []


@pytest.mark.slow
def test_too_few_fovs_for_a_rate_are_refused(local_ray, run):
    with pytest.raises(ConfigError, match="too few FOVs"):
        bench(run, Console(quiet=True), 1, [1])


@pytest.mark.slow
def test_a_failed_fov_is_no_speed(local_ray, encoded):
    """The run of the other tests, with its truncated TIFF."""
    one = encoded.encode.model_copy(update={"batch_fovs": 1})
    with pytest.raises(RunError, match="1 FOVs failed, which would flatter the rate"):
        bench(Run(encoded.model_copy(update={"encode": one})), Console(quiet=True), 11, [1])


@pytest.mark.parametrize("given", ["0", "1,,2", "two", "-1", "1.5"])
def test_wrong_numbers_of_actors_are_refused_in_one_line(run, tmp_path, capsys, given):
    file = tmp_path / "run.yaml"
    file.write_text(run.config.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(["bench", str(file), f"--actors={given}"])
    assert ended.value.code == 2
    assert "whole numbers above 0" in capsys.readouterr().err


def test_the_steps_double_and_end_with_the_whole_cluster():
    assert [_doubling(most) for most in (1, 2, 3, 8, 12)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 8], [1, 2, 4, 8, 12]]


@pytest.mark.parametrize(("fovs", "wanted"), [(10, 50), (10, 10), (1000, 64), (1000, 50), (40, 33), (17, 16), (5, 3)])
def test_the_fovs_of_a_step_are_spread_over_the_manifest_in_stretches(fovs, wanted):
    chosen = _spread(fovs, wanted)
    assert len(chosen) == len(set(chosen)) == min(fovs, wanted)
    assert 0 <= min(chosen) <= max(chosen) < fovs
    if fovs == 1000:
        assert max(chosen) > 900
