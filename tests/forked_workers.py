"""Ray's worker processes, forked from one process that has imported the heavy libraries.

A worker of Ray imports torch, pandas, pyarrow and polars before its first call, and a test of the stream starts five workers.
Here Ray is given an executable of Python that hands a worker's command line, environment, folder and open files to a server. The
server forks: the child has the libraries. Ray reads its environment once, when it is imported: the server imports it with the
environment of the first worker, and a worker whose settings of Ray are others is started by the real Python, as is every other
command line. The worker's code is the one that runs on a cluster.
"""

import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKER = "default_worker.py"
# what workers and Ray itself import, and Ray is no part of
HEAVY = (
    *("torch", "pandas", "polars", "fsspec", "scipy.stats", "pyarrow.parquet", "pyarrow.dataset", "pyarrow.fs"),
    *("requests", "jsonschema", "msgpack", "filelock", "tqdm", "google.protobuf.json_format", "rich.console"),
    *("faiss", "sklearn.covariance", "sklearn.decomposition", "sdvae_ray.retrieval.normalisation.normalise"),
    *("sdvae_ray.engine.encode", "sdvae_ray.engine.files.load", "sdvae_ray.engine.models"),
    *("sdvae_ray.run.stored.tables", "sdvae_ray.queries.saved_index"),
    *("sdvae_ray.retrieval.tasks.activity", "sdvae_ray.retrieval.floors.control_floors"),
)
WITH_RAY = ("ray.data", "sdvae_ray.encoding.stream", "sdvae_ray.scoring.score")
OF_ONE_WORKER = ("RAY_JOB_ID", "RAY_RAYLET_PID")  # variables that Ray reads when the worker starts
# in isolated mode and without site-packages Python starts in 20 ms
CLIENT = """#!{python} -ISE
import json, os, signal, socket, sys
words = sys.argv[1:]
while words and words[0].startswith("-"):
    words = words[1:]
if not words or os.path.basename(words[0]) != {worker!r}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
mask = [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])]
order = json.dumps(dict(words=words, environment=dict(os.environ), folder=os.getcwd(), mask=mask)).encode()
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
socket.send_fds(line, [len(order).to_bytes(8, "big")], [0, 1, 2])
line.sendall(order)
if line.recv(1) != b"1":
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@contextmanager
def forked_workers(folder: Path) -> Iterator[None]:
    """Let Ray, if it is started in the block, fork its workers. The server ends with the block, or with this process.

    folder: for the socket and the executable; a path of less than 90 characters, which is what a socket may have.
    """
    address, client = folder / "socket", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address), worker=WORKER))
    client.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:  # workers that come while the server imports wait in line
        listener.bind(str(address))
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, __file__, str(listener.fileno()), str(client)],
            stdin=subprocess.PIPE,
            pass_fds=[listener.fileno()],
        )
    assert server.stdin is not None
    executable, sys.executable = sys.executable, str(client)
    try:
        yield
    finally:
        sys.executable = executable
        server.stdin.close()
        server.wait(60)


def serve(listener: socket.socket, client: str) -> None:
    """Fork a worker for every order that comes to the listener, until the standard input ends.

    client: the executable that a worker takes for Python.
    """
    for library in HEAVY:
        importlib.import_module(library)
    assert "ray" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    # a child's collector leaves what was imported alone, else the child would copy all of it
    gc.disable()
    ray_settings: dict[str, str] | None = None
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        if listener not in ready:
            continue
        line, _ = listener.accept()
        size, files, _, _ = socket.recv_fds(line, 8, 3)
        order = json.loads(line.makefile("rb").read(int.from_bytes(size, "big")))
        if ray_settings is None:
            ray_settings = settings_of(order)
            import_ray(order["environment"])
            gc.freeze()
        is_ours = settings_of(order) == ray_settings
        if not is_ours:
            line.send(b"0")
        if not is_ours or os.fork():
            for file in files:
                os.close(file)
            line.close()
            continue
        os.setpgid(0, 0)  # Ray ends a worker together with its group
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        line.send(b"1")
        line.close()
        listener.close()
        gc.enable()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, order["mask"])
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.executable, sys.argv[:], sys.path[0] = client, order["words"], os.path.dirname(order["words"][0])
        runpy.run_path(order["words"][0], run_name="__main__")
        return


def settings_of(order: dict[str, Any]) -> dict[str, str]:
    """The variables of Ray in the environment of a worker, which are the same for all workers of one Ray."""
    return {
        name: value
        for name, value in order["environment"].items()
        if name.startswith("RAY_") and name not in OF_ONE_WORKER
    }


def import_ray(environment: dict[str, str]) -> None:
    """Imports Ray, and the modules of ours that stand on it, under the environment of a worker."""
    own = dict(os.environ)
    os.environ.update(environment)
    for library in WITH_RAY:
        importlib.import_module(library)
    os.environ.clear()
    os.environ.update(own)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2])
