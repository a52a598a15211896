"""The pools of a run by the CPUs and GPUs of the cluster, which is not there: its resources are told."""

import os
import time

import pytest
import ray
from rich.console import Console

from sdvae_ray.cluster.pools import SPARE_CPUS, plan_pools
from sdvae_ray.cluster.session import ray_session
from sdvae_ray.errors import ConfigError, ResourceError, RunError

JPEG = {"jpeg": {"name": "jpeg"}}
AUTO = {"load": None, "encode": None}  # in the place of the one actor of each that tests have


def pools(config, monkeypatch, cpus, gpus=0, seconds=None):
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(gpus)})
    return plan_pools(config, seconds)


@pytest.mark.parametrize("seconds", [None, {"load": 0.1, "compress": 3.0}, {"load": 3.0, "compress": 0.1}])
@pytest.mark.parametrize("codecs", [{}, JPEG])
@pytest.mark.parametrize(
    ("cpus", "gpus"), [(2, 0), (4, 0), (16, 0), (64, 0), (2, 1), (3, 1), (4, 1), (5, 1), (8, 1), (16, 1), (96, 8)]
)
def test_auto_fits_every_machine_and_leaves_cpus_for_reading_and_writing(
    small_run_config, monkeypatch, cpus, gpus, codecs, seconds
):
    planned = pools(small_run_config(codecs=codecs, **AUTO), monkeypatch, cpus, gpus, seconds)
    held = sum(pool.least * pool.cpus for pool in planned.stages.values())
    assert held <= cpus - SPARE_CPUS
    assert SPARE_CPUS <= planned.write_cpus <= cpus - held
    assert list(planned.stages) == (["load", "compress", "encode"] if codecs else ["load", "encode"])
    assert all(pool.least >= 1 for pool in planned.stages.values())


def test_codecs_get_most_of_the_cpus_beside_gpus(small_run_config, monkeypatch):
    planned = pools(small_run_config(codecs=JPEG, **AUTO), monkeypatch, 64, 4)
    assert planned.compress is not None
    assert planned.compress.least >= 3 * planned.load.least - 3
    assert planned.encode.least == 4
    assert str(planned) == "load 15 x 1 CPU, compress 44 x 1 CPU, encode 4 x 1 CPU + 1 GPU"


def test_measured_seconds_divide_the_cpus_between_load_and_compress(small_run_config, monkeypatch):
    measured = {"load": 1.0, "compress": 1.0, "encode": 0.1}
    planned = pools(small_run_config(codecs=JPEG, **AUTO), monkeypatch, 64, 4, measured)
    assert str(planned) == "load 30 x 1 CPU, compress 29 x 1 CPU, encode 4 x 1 CPU + 1 GPU"


def test_fixed_pools_that_do_not_fit_are_named(small_run_config, monkeypatch):
    fixed = {"load": {"actors": 1, "cpus": 1}, "compress": {"actors": 8, "cpus": 1}}
    config = small_run_config(codecs=JPEG, **fixed, encode=None)
    with pytest.raises(
        ResourceError, match=r"compress \(8 x 1 CPU\).*lower load.actors, compress.actors or encode.actors"
    ):
        pools(config, monkeypatch, 4)


def test_an_autoscaling_cluster_wants_a_number_of_every_pool(small_run_config, monkeypatch):
    fixed = {"load": {"actors": 1}, "encode": {"actors": 1, "gpus": 0}, "cluster": {"autoscaling": True}}
    assert pools(small_run_config(**fixed), monkeypatch, 0).compress is None
    with pytest.raises(ConfigError, match="compress.actors: auto measures nodes"):
        pools(small_run_config(**fixed, codecs=JPEG), monkeypatch, 0)


def test_a_node_that_takes_too_long_is_started_again(monkeypatch):
    starts = []

    def init(**options: object) -> None:
        starts.append(options)
        if len(starts) < 3:
            raise Exception("The current node timed out during startup. This could happen")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    with ray_session():
        pass
    assert len(starts) == 3
    starts.clear()
    monkeypatch.setattr("sdvae_ray.cluster.session._STARTS", 2)
    with pytest.raises(RunError, match="Ray did not start: The current node timed out"), ray_session():
        pass
    assert len(starts) == 2


@pytest.mark.parametrize("is_of_stderr", [False, True])
def test_a_start_that_takes_long_is_said(monkeypatch, capfd, is_of_stderr):
    def init(**options: object) -> None:
        os.write(2, b"a greeting of Ray's core")
        time.sleep(0.3)

    monkeypatch.setattr("sdvae_ray.console._FIRST_LINE", 0.05)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(console=Console(stderr=is_of_stderr)):
        pass
    said = capfd.readouterr()
    assert (said.err if is_of_stderr else said.out) == "starting Ray on this machine\n"
    assert "greeting" not in said.err


@pytest.mark.parametrize(
    ("raised", "error", "line"),
    [
        (
            ConnectionError("no GCS\n at 10.0.0.1"),
            ConfigError,
            "cannot connect to Ray at 10.0.0.1:6379: no GCS at 10.0.0.1",
        ),
        (
            Exception("The current node timed out"),
            RunError,
            "Ray did not start: The current node timed out; .*; run again",
        ),
    ],
)
def test_a_ray_that_does_not_start_or_answer_is_one_line(monkeypatch, raised, error, line):
    def init(**options: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(error, match=f"^{line}$"), ray_session("10.0.0.1:6379"):
        pass
