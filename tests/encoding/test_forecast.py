"""What a run will take, from seconds per FOV, pools and prices; and where those seconds come from."""

import json

import pytest

from sdvae_ray.cluster.pools import Pool, Pools
from sdvae_ray.encoding.forecast import dollars, forecast
from sdvae_ray.planning.measured import MEASURED, measured_bytes, measured_seconds, session_seconds
from sdvae_ray.run.run import Run
from sdvae_ray.settings.pools import ClusterConfig

POOLS = Pools(Pool(2, 2, 1.0), Pool(12, 12, 1.0), Pool(1, 1, 1.0, 1.0))
SECONDS = {"load": 0.1, "compress": 2.4, "encode": 0.05, "write": 9.0}


def test_the_stage_with_the_lowest_rate_decides_the_hours():
    told = forecast(36_000, SECONDS, POOLS, ClusterConfig())
    assert told.rates == pytest.approx({"load": 20, "compress": 5, "encode": 20})
    assert (told.bottleneck, told.rate, told.seconds) == ("compress", pytest.approx(5), pytest.approx(7200))
    assert (told.gpu_hours, told.cpu_hours) == (pytest.approx(2), pytest.approx(30))
    assert told.feeding == pytest.approx({"load": 2, "compress": 48})
    assert told.dollars is None


def test_hours_cost_what_the_run_file_says():
    prices = ClusterConfig(dollars_per_gpu_hour=3.0, dollars_per_cpu_hour=0.04)
    assert forecast(36_000, SECONDS, POOLS, prices).dollars == pytest.approx(2 * 3.0 + 30 * 0.04)
    assert dollars(5, 7, ClusterConfig(dollars_per_gpu_hour=0.0)) == 0


def test_seconds_per_fov_are_of_all_streams_of_a_session():
    work = {"load": {"rows": 4, "seconds": 2.0}, "encode": {"rows": 4, "seconds": 8.0}, "first_fov": 3.0}
    again = {"load": {"rows": 2, "seconds": 4.0}, "encode": {"rows": 2, "seconds": 1.0}, "first_fov": 1.0}
    assert session_seconds([work, again]) == {"load": 1.0, "encode": 1.5}
    assert session_seconds([]) is None
    assert session_seconds([{"load": {"rows": 0, "seconds": 0.0}, "encode": {"rows": 0, "seconds": 0.0}}]) is None


def test_the_newest_session_counts_before_what_check_has_left(small_run_config):
    run = Run(small_run_config())
    assert measured_seconds(run) is None
    assert measured_bytes(run) == 0
    kept = {"digest": run.config.digest(), "seconds": SECONDS}
    run.storage.write_bytes(run.uri(MEASURED), json.dumps(kept).encode())
    assert measured_seconds(run) == SECONDS
    stages = {"load": {"rows": 2, "seconds": 4.0}, "encode": {"rows": 2, "seconds": 6.0}}
    record = {"config": {}, "manifest": {}, "weights": {}}
    run.write_record({**record, "sessions": [{"stages": [stages]}, {"stages": []}]})
    assert measured_seconds(run) == {"load": 2.0, "encode": 3.0}


@pytest.mark.parametrize("kept", [b'{"digest": "of another run", "seconds": {"load": 1}}', b"{half", b"[]", b"{}"])
def test_what_check_has_left_of_another_run_or_by_halves_is_not_taken(small_run_config, kept):
    run = Run(small_run_config())
    run.storage.write_bytes(run.uri(MEASURED), kept)
    assert measured_seconds(run) is None
