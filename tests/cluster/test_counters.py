"""The counts of a stream where Prometheus reads them: at the metrics port of a node, on loopback."""

import functools
import re
import time
import urllib.request

import pytest
import ray

from sdvae_ray.cluster.counters import Counters
from sdvae_ray.encoding.supervision.ledger import Ledger


def exported(run: str) -> dict[tuple[str, str | None], float]:
    """(name, stage) -> value of the counters of a run, as the node exports them now."""
    port = ray.nodes()[0]["MetricsExportPort"]
    text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
    counters = {}
    for name, labels, value in re.findall(r"^ray_sdvae_ray_(\w+)_total\{(.*)\} (\S+)$", text, re.MULTILINE):
        if f'run="{run}"' in labels:
            stage = re.search(r'stage="(\w+)"', labels)
            counters[name, stage and stage[1]] = float(value)
    return counters


@pytest.mark.slow
def test_the_counts_of_a_stream_are_exported_to_prometheus(local_ray):
    ledger = ray.remote(Ledger).options(num_cpus=0)
    counting = ledger.remote(1, ["load", "encode"], counters=functools.partial(Counters, "s3://bucket/run"))
    for stage, again in (("load", False), ("encode", False), ("encode", True)):
        ray.get(counting.started.remote(stage, again))
    ray.get(counting.add_rows.remote("load", 3, 0.5))
    ray.get(counting.add_written.remote("file", 3, 1, "no such object"))
    expected = {
        ("fovs", "load"): 3,
        ("busy_seconds", "load"): 0.5,
        ("actor_starts", "load"): 1,
        ("actor_starts", "encode"): 2,
        ("restarts", "encode"): 1,
        ("written_fovs", None): 3,
        ("failed_fovs", None): 1,
    }
    until = time.monotonic() + 60
    while (counters := exported("s3://bucket/run")) != expected and time.monotonic() < until:
        time.sleep(0.5)
    assert counters == expected
