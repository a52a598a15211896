"""Ctrl-C and SIGTERM, sent to the command as a user runs it: its exit code, its one line, what it leaves behind."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from processes import of_session

_PROGRAM = "from sdvae_ray.cli.main import main; main()"


def running_in(session: int) -> list[str]:
    """The command lines of the processes of a session, without zombies."""
    lines = []
    for process in of_session(session):
        with suppress(OSError):  # it has ended since
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                lines.append(Path(f"/proc/{process}/cmdline").read_text().replace("\0", " "))
    return lines


def program(text: str) -> subprocess.CompletedProcess[str]:
    """What a program printed that begins as the command does, and its exit code."""
    start = "import os, signal, sys, time\nfrom sdvae_ray.cli import signals\nsignals.install()\n"
    return subprocess.run([sys.executable, "-c", start + text], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_that_the_interpreter_swallows_comes_again(number, code):
    """A destructor cannot raise, and neither can a callback of an import lock."""
    ended = program(f"""
class Import:
    def __del__(self):
        os.kill(os.getpid(), signal.{number})
        time.sleep(0.01)
try:
    Import()
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(signals.exit_code())
""")
    assert (ended.returncode, ended.stderr) == (code, "")


def test_a_signal_after_the_end_of_ray_unwinds_the_command():
    """A report is drawn then, and the lease is given back."""
    ended = program("""
from sdvae_ray.cluster.session import ray_session
with ray_session("local"):
    pass
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(20)
except KeyboardInterrupt:
    sys.exit(signals.exit_code())
""")
    assert (ended.returncode, ended.stderr) == (143, "")


def test_a_signal_during_the_exit_changes_no_exit_code():
    ended = program("signals.ignore()\nos.kill(os.getpid(), signal.SIGTERM)\nsys.exit(143)")
    assert (ended.returncode, ended.stderr) == (143, "")


def test_a_caller_that_goes_on_has_its_handlers_back():
    ended = program("""
signals.restore()
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background processes ignore the signal
signals.install()
signals.restore()
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)
""")
    assert ended.returncode == -signal.SIGTERM


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "line", "times", "delay"),
    [
        *((signal.SIGINT, 130, "; starting", 1, delay / 4) for delay in range(8)),  # modules are being imported
        *((signal.SIGTERM, 143, "; starting", 1, delay / 4) for delay in range(8)),
        (signal.SIGINT, 130, "FOVs to do", 1, 0.0),
        (signal.SIGTERM, 143, "FOVs to do", 1, 0.0),
        (signal.SIGINT, 130, "FOVs to do", 2, 0.0),
        (signal.SIGTERM, 143, "FOVs to do", 2, 0.0),
    ],
)
def test_a_stopped_command_says_so_in_one_line_and_leaves_no_process_and_no_lease(
    tmp_path, number, code, line, times, delay
):
    command = [sys.executable, "-c", _PROGRAM, "demo", "--output", str(tmp_path / "demo")]
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
    try:
        until = time.monotonic() + 400
        while line not in (tmp_path / "out").read_text() and time.monotonic() < until:
            assert process.poll() is None, (tmp_path / "err").read_text()
            time.sleep(0.05)
        time.sleep(delay)
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
