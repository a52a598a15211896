"""Ctrl-C and SIGTERM, sent to the command as a user runs it: its exit code, its one line, what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

_PROGRAM = "from sdvae_ray.cli.main import main; main()"


def running_in(session: int) -> list[str]:
    """The command lines of the processes of a session of the system, without zombies."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, *fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == session and state != "Z":
                    found.append((folder / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


@pytest.mark.parametrize(
    ("number", "code", "line", "times"),
    [
        pytest.param(signal.SIGINT, 130, "; starting", 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "; starting", 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "FOVs to do", 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, "FOVs to do", 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, "FOVs to do", 2, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_command_says_so_in_one_line_and_leaves_no_process_and_no_lease(tmp_path, number, code, line, times):
    command = [sys.executable, "-c", _PROGRAM, "demo", "--output", str(tmp_path / "demo")]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
    try:
        until = time.monotonic() + 400
        while line not in (tmp_path / "out").read_text() and time.monotonic() < until:
            assert process.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.05)
        for _ in range(times):
            os.kill(process.pid, number)
            time.sleep(0.3)
        assert process.wait(timeout=60) == code
        assert (tmp_path / "err").read_text() == "stopped; the same command goes on where it left off\n"
        until = time.monotonic() + 5
        while (left := running_in(process.pid)) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == []
        assert not (tmp_path / "demo/run/_lease.json").exists()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
