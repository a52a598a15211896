"""A cluster of three nodes on this machine; one node is lost and another one comes while the stream runs."""

import subprocess
import sys

import pytest
from field_files import write_fields
from run_files import small_run
from straight_line import expected_values, stored_values, write_manifest

from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR

pytestmark = pytest.mark.slow
COUNT = 24

# in a process of its own: a process has one Ray
PROGRAM = """
import json, subprocess, sys, threading, time
from pathlib import Path
import ray
from ray.cluster_utils import Cluster
from rich.console import Console
from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.encode import encode
from sdvae_ray.run.run import Run

config = RunConfig.model_validate_json(Path(sys.argv[1]).read_text())
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
added = []
lost = [cluster.add_node(num_cpus=2) for _ in range(2)][0]

def lose():
    while len(list((Path(config.output) / "fovs").glob("*.parquet"))) < 3:
        time.sleep(0.05)
    cluster.remove_node(lost, allow_graceful=False)
    print("one node is lost", flush=True)
    node = [sys.executable, "-m", "ray.scripts.scripts", "start", "--address", cluster.address, "--num-cpus", "2", "--block"]
    added.append(subprocess.Popen(node, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    while sum(node["Alive"] for node in ray.nodes()) < 3:
        time.sleep(0.2)
    print("one node is new", flush=True)

thread = threading.Thread(target=lose)
thread.start()
try:
    done = encode(Run(config), Console(width=200), cluster.address)
    thread.join()
finally:
    for node in added:
        node.terminate()
        node.wait()
print(json.dumps({"computed": done.computed, "errors": done.errors}), flush=True)
"""


def test_a_node_is_lost_and_another_one_comes_and_every_fov_is_there_once(tmp_path):
    fields = write_fields(tmp_path / "images", count=COUNT)
    config = small_run(
        tmp_path,
        manifest=str(write_manifest(tmp_path / "manifest.parquet", fields)),
        write={"rows_per_file": 1},
        cluster={"shared_filesystem": True},
        load={"actors": 2, "cpus": 0.5, "batch_fovs": 1},
        encode={"actors": 2, "cpus": 1, "batch_fovs": 1},
        max_error_fraction=0,
    )
    (tmp_path / "run.json").write_text(config.model_dump_json())
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "run.json")],
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "one node is new" in ended.stdout
    assert f'"computed": {COUNT}, "errors": 0' in ended.stdout
    fovs = Run(config).fovs([])
    assert (fovs.height, fovs[ERROR].null_count()) == (COUNT, COUNT)
    assert all(len(files) == 1 for files in fovs["files"].to_list())
    assert stored_values(config) == expected_values(config)
    assert "died" not in ended.stdout  # the lines of Ray are in the log of the run
