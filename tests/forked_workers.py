"""Ray's worker processes, forked from one process that has imported the heavy libraries.

A worker of Ray imports torch, pandas, pyarrow and polars before its first call, and a test of the stream starts five workers.
Here Ray is given an executable of Python that hands a worker's command line, environment, folder and open files to a server. The
server forks: the child has the libraries, and imports Ray by itself, because Ray reads its environment once, at import. Every other
command line goes to the real Python. The worker's code is the one that runs on a cluster.
"""

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

WORKER = "default_worker.py"
# what workers and Ray itself import, and Ray is no part of
HEAVY = (
    *("torch", "pandas", "polars", "fsspec", "scipy.stats", "pyarrow.parquet", "pyarrow.dataset", "pyarrow.fs"),
    *("requests", "jsonschema", "msgpack", "filelock", "tqdm", "google.protobuf.json_format", "rich.console"),
    *("faiss", "sklearn.covariance", "sklearn.decomposition", "sdvae_ray.retrieval.normalisation.normalise"),
    *("sdvae_ray.engine.encode", "sdvae_ray.engine.load", "sdvae_ray.engine.models", "sdvae_ray.run.tables"),
    *(
        "sdvae_ray.retrieval.tasks.activity",
        "sdvae_ray.retrieval.floors.control_floors",
        "sdvae_ray.queries.saved_index",
    ),
)
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
line.recv(1)
"""


@contextmanager
def forked_workers(folder: Path) -> Iterator[None]:
    """Let Ray, if it is started in the block, fork its workers. The server ends with the block, or with this process.

    folder: for the socket and the executable; a path of less than 90 characters, which is what a socket may have.
    """
    address, client = folder / "socket", folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address), worker=WORKER))
    client.chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), str(client)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin is not None
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    executable, sys.executable = sys.executable, str(client)
    try:
        yield
    finally:
        sys.executable = executable
        server.stdin.close()
        server.wait(60)


def serve(address: str, client: str) -> None:
    """Fork a worker for every order that comes to the socket at `address`, until the standard input ends.

    client: the executable that a worker takes for Python.
    """
    for library in HEAVY:
        importlib.import_module(library)
    assert "ray" not in sys.modules  # it reads a worker's environment when it is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child is waited for
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    while sys.stdin not in (ready := select.select([listener, sys.stdin], [], [])[0]):
        if listener not in ready:
            continue
        line, _ = listener.accept()
        size, files, _, _ = socket.recv_fds(line, 8, 3)
        order = json.loads(line.makefile("rb").read(int.from_bytes(size, "big")))
        if os.fork():
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
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, order["mask"])
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        sys.executable, sys.argv[:], sys.path[0] = client, order["words"], os.path.dirname(order["words"][0])
        runpy.run_path(order["words"][0], run_name="__main__")
        return


if __name__ == "__main__":
    serve(*sys.argv[1:])
