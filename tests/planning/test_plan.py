"""The plan of a run: rates, limits, hours and dollars by hand, and the command that tells them."""

import json
from typing import Any

import pytest
import yaml

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.planning.clusters import availability, size_of, worker_of
from sdvae_ray.planning.measured import MEASURED, Measured, measured_file
from sdvae_ray.planning.pieces import files_of_a_table
from sdvae_ray.planning.plan import Asked, plan
from sdvae_ray.planning.prices import bill, month
from sdvae_ray.planning.rates import rates_of
from sdvae_ray.planning.work import FIGURES
from sdvae_ray.run.run import Run
from sdvae_ray.runfile import parse_run
from sdvae_ray.storage import Storage

FOVS = 1_000_000
WORK = {**dict.fromkeys(FIGURES), "fovs": FOVS, "reads": 5_000_000, "looks": 0, "writes": 20_000, "read_bytes": 10**13}
WORK |= {"written_bytes": 10**12}
PLAN = {
    "sources": {"source_4": {"fovs": FOVS, "plates": 300, "bytes_in": 1e7}},
    "seconds": {"load": 0.08, "encode": 0.05, "write": 0.02},
    "first_fov_seconds": 100,
    "bytes_out": 1e6,
}


def config_of(**changes: Any) -> RunConfig:
    raw = {
        "manifest": "/nowhere/manifest.parquet",
        "output": "/nowhere/run",
        "autoencoders": {"pca": {"name": "patch_pca"}},
    }
    raw |= {"image": {"crop": 128, "patch": 64}, "extractors": {}, **changes}
    return parse_run({**raw, "plan": {**PLAN, **changes.get("plan", {})}})


def size(config: RunConfig, workers: int, *measurements: Measured) -> Any:
    rates = rates_of(config, measurements)
    worker = worker_of(config, rates)
    return size_of(config, rates, WORK, worker, workers), worker


def test_a_gpu_with_the_cpus_that_it_wants_is_the_limit_until_the_driver_is():
    small, worker = size(config_of(), 8)
    assert (worker.gpus, worker.feeding, worker.loaders) == (1, pytest.approx(0.10 / 0.05), 2)
    assert (small.limit, small.rates["GPU"]) == ("GPU", pytest.approx(160))
    assert small.seconds == pytest.approx(100 + FOVS / 160)
    assert small.gpu_hours == pytest.approx(8 * small.seconds / 3600)
    large, _ = size(config_of(), 512)
    assert (large.limit, large.rates["driver"]) == ("driver", pytest.approx(1000 / 0.65))


def test_a_source_with_fewer_patches_is_counted_as_one_with_the_most_and_the_plan_says_so():
    policies = {"values": {"source_4": {}, "source_2": {"crop": 64}}}
    image = {"crop": 128, "patch": 64}
    for settings, notes in ((image, []), ({**image, "policies": policies}, ["as if every field had 4 patches"])):
        run = Run(config_of(image=settings))
        told = [note for note in plan(run, Asked(workers=(1,)))["notes"] if "patches" in note]
        assert len(told) == len(notes)
        assert all(words in note for words, note in zip(notes, told, strict=True))


@pytest.mark.parametrize(
    ("plan", "limit", "rate"),
    [
        ({"cpus_per_worker": 2.0}, "load CPUs", 8 * 1.0 / 0.10),
        ({"cpus_per_worker": 2.0, "seconds": {**PLAN["seconds"], "compress": 2.0}}, "codecs", 8 / 2.10),
        ({"gigabits_per_node": 1.0}, "network", 8 * 1e9 / 8 / 1.1e7),
        ({"gigabits_per_node": 1.0, "gpus_per_node": 8}, "network", 1e9 / 8 / 1.1e7),
        ({"reads_per_second": 100.0}, "storage", 20.0),
    ],
)
def test_the_limit_is_named(plan, limit, rate):
    codecs = {"codecs": {"jpeg": {"name": "jpeg"}}} if "seconds" in plan else {}
    told, _ = size(config_of(plan=plan, **codecs), 8)
    assert (told.limit, told.rates[told.limit]) == (limit, pytest.approx(rate))


def test_spot_nodes_work_for_a_share_of_the_time_and_are_paid_for_it():
    config = config_of(plan={"spot_losses_per_hour": 1.0, "replacement_minutes": 15.0})
    assert availability(config) == pytest.approx(0.8)
    told, worker = size(config, 8)
    assert told.spot_seconds == pytest.approx(100 + FOVS / 160 / 0.8)
    assert told.spot_gpu_hours == pytest.approx(8 * 0.8 * told.spot_seconds / 3600)
    priced = config.model_copy(
        update={
            "cluster": config.cluster.model_copy(update={"spot_dollars_per_gpu_hour": 2.0, "dollars_per_gpu_hour": 5.0})
        }
    )
    on_demand, spot = (bill(priced, WORK, told, worker, spot) for spot in (False, True))
    assert on_demand.items == {"compute": pytest.approx(5 * told.gpu_hours)}
    assert spot.total == pytest.approx(2 * told.spot_gpu_hours)


def test_what_has_no_price_is_named_and_is_no_zero():
    told, worker = size(config_of(), 8)
    without = bill(config_of(), WORK, told, worker, spot=False)
    assert (without.total, without.items) == (None, {})
    assert set(without.not_priced) == {"compute", "read requests", "write requests", "bytes in"}
    prices = {
        "dollars_per_1000_reads": 0.0004,
        "dollars_per_1000_writes": 0.005,
        "dollars_per_gb_read": 0.01,
        "dollars_per_gb_month": 0.02,
    }
    config = config_of(storage=prices, cluster={"dollars_per_gpu_hour": 0.0})
    whole = bill(config, WORK, told, worker, spot=False)
    assert whole.total == pytest.approx(0 + 5000 * 0.0004 + 20 * 0.005 + 10_000 * 0.01)
    assert month(config, WORK) == pytest.approx(1000 * 0.02)
    assert month(config_of(), WORK) is None


def test_cpus_alone_are_paid_by_the_cpu_hour():
    config = config_of(encode={"gpus": 0, "cpus": 2}, cluster={"dollars_per_cpu_hour": 0.05})
    told, worker = size(config, 4)
    assert (worker.gpus, worker.cpus, told.limit) == (0, pytest.approx(4.0), "encode CPUs")
    assert bill(config, WORK, told, worker, spot=False).total == pytest.approx(0.05 * 4 * 4.0 * told.seconds / 3600)


def test_a_measurement_comes_before_an_assumption_and_every_number_says_which_it_is():
    rates = rates_of(
        config_of(), [Measured("a bench", {"encode": 0.04}, True, 30.0), Measured("a check", {"load": 0.2})]
    )
    assert rates.seconds == {"load": 0.2, "encode": 0.04, "write": 0.02}
    assert (rates.on_gpu, rates.first_fov) == (True, 30.0)
    assert rates.origins["seconds load"] == "a check"
    assert rates.origins["seconds encode"] == rates.origins["first FOV"] == "a bench"
    assert rates.origins["seconds write"] == rates.origins["bytes out"] == "assumed in the run file"
    with pytest.raises(ConfigError, match=r"no seconds per FOV of load and encode: `sdvae-ray check` measures them"):
        rates_of(config_of(plan={"seconds": {}}), [])


def test_the_files_of_a_table_hold_whole_blocks(small_run_config):
    config = small_run_config(encode={"batch_fovs": 8})
    assert files_of_a_table(config, 100_000) == 391  # as benchmarks/scale.py found them
    assert files_of_a_table(config, 10_000) == 40
    assert files_of_a_table(small_run_config(encode={"batch_fovs": 64}), 1000) == 16
    assert files_of_a_table(small_run_config(write={"rows_per_file": 3}, encode={"batch_fovs": 8}), 11) == 2


@pytest.mark.parametrize(
    ("content", "seconds"),
    [
        ({"steps": [{"per_actor": 2.0, "gpus": 1.0, "cold_start": 9.0}]}, {"encode": 0.5}),
        (
            {"seconds": {"load": 1.0, "encode": 2.0}, "device": "cpu", "stored": {"fovs": 10}},
            {"load": 1.0, "encode": 2.0},
        ),
        (
            {"sessions": [{"stages": [{name: {"rows": 2, "seconds": 4.0} for name in ("load", "encode")}]}]},
            {"load": 2.0, "encode": 2.0},
        ),
    ],
)
def test_rates_come_from_a_bench_a_check_or_another_run(tmp_path, content, seconds):
    (tmp_path / "run.json").write_text(json.dumps(content))
    assert measured_file(str(tmp_path), Storage()).seconds == seconds
    assert measured_file(str(tmp_path / "run.json"), Storage()).seconds == seconds


@pytest.mark.parametrize("content", ["{half", "[]", "{}", '{"sessions": []}'])
def test_a_file_without_rates_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "rates.json").write_text(content)
    with pytest.raises(
        DataError, match=r"rates\.json .*a check\.json, a run\.json or the JSON of `sdvae-ray bench` is wanted"
    ):
        measured_file(str(tmp_path / "rates.json"), Storage())
    with pytest.raises(DataError, match="no measurement at"):
        measured_file(str(tmp_path / "absent.json"), Storage())


def test_a_plan_without_a_manifest_counts_with_the_run_files_sources():
    told = plan(Run(config_of()), Asked(workers=(1, 64), simulate=False))
    assert told["planned"]["fovs"] == FOVS
    assert told["planned"]["reads"] == 5 * FOVS + 5 * 300
    assert told["planned"]["read_bytes"] == 1e7 * FOVS
    assert told["planned"]["written_bytes"] == 1e6 * FOVS
    assert told["planned"]["encode_hours"] == pytest.approx(FOVS * 0.05 / 3600)
    assert told["spent"] is None
    assert [size["workers"] for size in told["sizes"]] == [1, 64]
    assert told["scales_to"] == {"workers": pytest.approx(1000 / 0.65 * 0.05), "limit": "driver"}
    assert "no manifest at" in told["notes"][0]


def test_the_command_prints_tables_or_one_json_object(tmp_path, capsys):
    config = config_of(output=str(tmp_path / "run"), cluster={"dollars_per_gpu_hour": 4.0})
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    printed = []
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["plan", str(file), "--workers", "1,8", "--simulate", *more])
        assert ended.value.code == 0
        printed.append(capsys.readouterr().out)
    told = json.loads(printed[1])
    assert told["sizes"][1]["simulated"]["limit"] == "encode"
    assert told["sizes"][1]["simulated"]["seconds"] == pytest.approx(told["sizes"][1]["spot_seconds"], rel=0.05)
    for words in (
        "source_4",
        "1,000,000",
        "limited by",
        "assumed in the run file",
        "not priced, spot: compute",
        "at least ",
        "dollars, on demand",
    ):
        assert words in printed[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["0", "1,,2", "many"])
def test_wrong_sizes_are_refused_in_one_line(tmp_path, capsys, given):
    file = tmp_path / "run.yaml"
    file.write_text(config_of().model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(["plan", str(file), f"--workers={given}"])
    assert ended.value.code == 2
    assert f"--workers {given}: whole numbers above 0" in capsys.readouterr().err


def test_check_json_of_the_run_is_taken(tmp_path, small_run_config):
    run = Run(small_run_config(plan=PLAN, manifest="/nowhere/manifest.parquet", autoencoders={"tiny": None}))
    kept = {
        "digest": run.config.digest(),
        "device": "cpu",
        "seconds": {"load": 0.3, "encode": 2.0},
        "stored": {"fovs": 7},
    }
    run.storage.write_bytes(run.uri(MEASURED), json.dumps(kept).encode())
    told = plan(run, Asked(workers=(2,)))
    assert (told["rates"]["on_gpu"], told["rates"]["seconds"]["encode"]) == (False, 2.0)
    assert told["planned"]["written_bytes"] == 7 * FOVS
