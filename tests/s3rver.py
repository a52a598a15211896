"""A second S3 server, s3rver of npm, which refuses unknown keys and knows no conditional writes; `make .s3rver` brings it.

It does not compute signatures of version 4, so a wrong secret passes.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[1] / ".s3rver/node_modules/.bin/s3rver"
BUCKET, KEY, SECRET = "plates", "S3RVER", "S3RVER"  # the one pair of keys that the server knows


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run the server on a free port of loopback, with its data in a folder, and yield its URL. Skip the test if it is not there."""
    if not PROGRAM.exists():
        pytest.skip("s3rver is not there: `make .s3rver` installs it from npm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(PROGRAM),
        "-d",
        str(folder),
        "-a",
        "127.0.0.1",
        "-p",
        str(port),
        "--configure-bucket",
        BUCKET,
        "--silent",
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def python(program: str, *arguments: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """Run a program with the keys in its environment: a process reads its credentials once."""
    keys = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": SECRET}
    # s3rver stores the frames of checksummed uploads as if they were the data
    plain = {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required", "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required"}
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, env={**os.environ, **keys, **plain}, capture_output=True, text=True, timeout=300, check=False
    )
