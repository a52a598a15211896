"""A driver that is killed, alone or together with its own Ray: the same command again ends with every FOV exactly once."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
import ray
from processes import of_session
from run_files import PCA
from straight_line import expected_values, stored_values
from waiting_run import WaitingRun, waiting_run

from sdvae_ray.cli.main import main
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.schema import FOV_ID
from sdvae_ray.storage import Storage

COUNT, STUCK = 8, 6  # FOVs; the row whose DNA file is a pipe


@dataclass(frozen=True)
class Waiting:
    """A waiting run, and its run file."""

    run: WaitingRun
    run_file: Path

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "sdvae_ray.cli.main", "encode", str(self.run_file)]

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        """A driver in a process of its own, once two FOVs are committed."""
        driver = subprocess.Popen(
            [*self.command, *options], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300  # seconds; a busy machine takes two minutes to start a Ray
        while len(self.run.commits) < 2 and time.monotonic() < deadline and driver.poll() is None:
            time.sleep(0.02)
        return driver

    def mend(self) -> int:
        """Puts the file in the place of the pipe; returns how many FOVs are committed."""
        with contextlib.suppress(OSError):  # a loader that still waits at the pipe goes on, so that it can end
            os.close(os.open(self.run.pipe, os.O_WRONLY | os.O_NONBLOCK))
        self.run.pipe.unlink()
        self.run.pipe.write_bytes(self.run.pixels)
        done = read_fovs(self.run.config.output, Storage()).height
        assert 0 < done <= STUCK, "the kill came too late or too early to show anything"
        return done

    def check(self, done: int, said: str) -> None:
        """The second run computed the rest, and the tables are those of a run that was left alone."""
        assert f"encode: {COUNT - done} of {COUNT} FOVs to do ({done} done before)" in said
        for table in ("fovs", "latents/pca", "embeddings/latent/pca", "metrics/identity"):
            ids = pl.read_parquet(f"{self.run.config.output}/{table}/*.parquet", columns=[FOV_ID])[FOV_ID]
            assert (len(ids), ids.n_unique()) == (COUNT, COUNT), table
        assert stored_values(self.run.config) == expected_values(self.run.config)


@pytest.fixture
def waiting(tmp_path: Path) -> Waiting:
    run = waiting_run(tmp_path, count=COUNT, stuck=STUCK, autoencoders=PCA)
    run_file = tmp_path / "run.yaml"
    run_file.write_text(run.config.model_dump_json())
    return Waiting(run, run_file)


def test_a_killed_driver_resumes_with_every_fov_exactly_once(local_ray, waiting, capsys):
    driver = waiting.start("--address", ray.get_runtime_context().gcs_address)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # workers that outlive their driver end, or finish the write that they are in
    done = waiting.mend()
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(waiting.run_file)])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    waiting.check(done, said.out)


@pytest.mark.slow
def test_a_driver_that_dies_with_its_own_ray_resumes_with_every_fov_exactly_once(waiting, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    driver = waiting.start("--address", "local")
    processes = list(of_session(driver.pid))
    assert len(processes) > 5, "the driver has no Ray of its own"
    for process in processes:
        os.kill(process, signal.SIGKILL)
    driver.wait()
    done = waiting.mend()
    again = subprocess.run([*waiting.command, "--address", "local"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    waiting.check(done, again.stdout)
