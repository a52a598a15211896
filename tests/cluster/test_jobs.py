"""Submitted jobs on a local cluster: the line of the README, its logs, its exit code, a stop that resumes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
FOVS = 232  # of the demo: 2 plates, 58 wells, 2 sites
RAY = str(Path(sys.executable).parent / "ray")


@dataclass(frozen=True)
class Head:
    """A Ray head of this test's own. `address`: of its dashboard."""

    address: str
    environment: dict[str, str]

    def submit(self, *arguments: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        line = [RAY, "job", "submit", "--address", self.address, *([] if wait else ["--no-wait"]), "--working-dir", "."]
        return subprocess.run(
            [*line, "--", "python", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """`ray start --head --block` on loopback; ended by its process group."""
    dashboard, port = free_port(), free_port()
    temporary = Path("/tmp") / f"sr{os.getpid()}"  # Ray's sockets need a short path
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    command = [RAY, "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=2"]
    command += [
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}",
        f"--temp-dir={temporary}",
        "--include-dashboard=true",
    ]
    command += ["--object-store-memory=500000000", "--disable-usage-stats"]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                break
        assert process.poll() is None, "the head did not start"
        time.sleep(0.5)
    time.sleep(3)
    yield Head(f"http://127.0.0.1:{dashboard}", environment)
    os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # SIGTERM can leave the GCS server alive
    shutil.rmtree(temporary, ignore_errors=True)


def places(folder: Path) -> list[str]:
    """The demo's places, moved into the test's folder."""
    keys = {"manifest": "manifest.parquet", "output": "run", "synthetic.folder": "plates"}
    return [word for key, name in keys.items() for word in ("--set", f"{key}={folder / name}")]


def details(head: Head, said: str) -> Any:
    """The job's own record, of what `ray job submit` printed."""
    import urllib.request

    job = next(word.strip("'") for word in said.split() if word.strip("'").startswith("raysubmit_"))
    with urllib.request.urlopen(f"{head.address}/api/jobs/{job}") as answer:
        return json.load(answer)


def test_the_submitted_demo_succeeds_with_readable_logs(head, tmp_path):
    done = head.submit("jobs/run.py", "jobs/configs/demo.yaml", *places(tmp_path))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"encode: {FOVS} of {FOVS} FOVs to do" in done.stdout
    assert (tmp_path / "run" / "report" / "index.html").stat().st_size > 10_000
    assert details(head, done.stdout)["driver_exit_code"] == 0


def test_a_job_that_fails_has_its_exit_code_and_its_line(head, tmp_path):
    done = head.submit("jobs/encode.py", "jobs/configs/demo.yaml", *places(tmp_path), "--set", "metrics=[ssmi]")
    assert done.returncode != 0
    assert "did you mean 'ssim'?" in done.stdout + done.stderr
    assert details(head, done.stdout)["driver_exit_code"] == 2


def test_a_relative_output_is_refused(head, tmp_path):
    done = head.submit("jobs/encode.py", "jobs/configs/demo.yaml", *places(tmp_path), "--set", "output=here")
    assert done.returncode != 0
    assert "output: here is relative" in done.stdout + done.stderr


def test_a_stopped_job_leaves_a_run_that_the_same_line_resumes(head, tmp_path):
    arguments = (
        "jobs/encode.py",
        "jobs/configs/demo.yaml",
        *places(tmp_path),
        "--set",
        "write.rows_per_file=1",
        "--set",
        "codecs={}",
    )
    started = head.submit(*arguments, wait=False)
    job = details(head, started.stdout)["submission_id"]
    fovs = tmp_path / "run" / "fovs"
    deadline = time.monotonic() + 240
    while len(list(fovs.glob("[!.]*.parquet"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    stop = [RAY, "job", "stop", "--address", head.address, job]
    subprocess.run(stop, env=head.environment, capture_output=True, timeout=120, check=True)
    before = len(list(fovs.glob("[!.]*.parquet")))
    assert 0 < before < FOVS
    done = head.submit(*arguments)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "done before" in done.stdout
    ids = pl.read_parquet(f"{tmp_path}/run/fovs/*.parquet", columns=["fov_id"])["fov_id"]
    assert (len(ids), ids.n_unique()) == (FOVS, FOVS)
