"""Benchmark of reads from a bucket: processor time of this process per request, through storage (s3fs) and through obstore.

    python -m pip install --target /tmp/obstore obstore   # not a dependency; without it the rows of obstore are left out
    PYTHONPATH=/tmp/obstore python benchmarks/object_reads.py

A server of one object on loopback, in a process of its own, answers ranged requests by sendfile, so that the time is the client's.
The server takes no signatures. Eight threads ask at a time, as a load actor does, or one. A number is the fastest of the repeats.
The last line of output is one JSON object.
"""

import argparse
import importlib.util
import multiprocessing
import os
import socketserver
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray.config import StorageConfig
from sdvae_ray.storage import Storage

OBJECT = "bucket/object"
Read = Callable[[int, int], Any]


class Handler(BaseHTTPRequestHandler):
    """GET of the file that the server has, whole or a range."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file, size = self.server.file, self.server.size  # type: ignore[attr-defined]
        start, stop = 0, size
        if wanted := self.headers.get("Range"):
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(size, int(last) + 1)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("ETag", '"object"')
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.end_headers()
        self.wfile.flush()
        while start < stop:
            start += os.sendfile(self.connection.fileno(), file, start, stop - start)

    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


class Server(socketserver.ThreadingTCPServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 64


def serve(path: str, port: Connection) -> None:
    """Serves one file for ever, and sends the port."""
    with Server(("127.0.0.1", 0), Handler) as server, open(path, "rb") as file:
        server.file, server.size = file.fileno(), os.path.getsize(path)  # type: ignore[attr-defined]
        port.send(server.server_address[1])
        server.serve_forever()


def readers(endpoint: str) -> dict[str, Read]:
    """Name -> a function that reads the bytes from `start` up to `stop`."""
    storage = Storage(StorageConfig(anonymous=True, endpoint_url=endpoint, region="us-east-1"))
    ways: dict[str, Read] = {"s3fs": lambda start, stop: storage.read_range(f"s3://{OBJECT}", start, stop)}
    if importlib.util.find_spec("obstore"):
        obstore, stores = importlib.import_module("obstore"), importlib.import_module("obstore.store")
        bucket, _, key = OBJECT.partition("/")
        options = {"endpoint": endpoint, "region": "us-east-1", "skip_signature": True}
        store = stores.S3Store(bucket, **options, client_options={"allow_http": True})
        ways["obstore"] = lambda start, stop: bytes(obstore.get_range(store, key, start=start, end=stop))
    return ways


def measure(read: Read, size: int, total: int, threads: int, repeats: int) -> float:
    """Core-ms of this process per request of `size` bytes, over requests of `total` bytes together."""
    starts = range(0, total - size + 1, size)
    spent = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            start = time.process_time()
            for data in pool.map(lambda first: read(first, first + size), starts):
                assert len(data) == size
            spent.append(time.process_time() - start)
    return 1e3 * min(spent) / len(starts)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = [1 << 15, 1 << 19, 2_332_800, 1 << 22, 1 << 24]  # 2,332,800: a plane of 1,080 x 1,080 uint16
    options.add_argument("--sizes", type=int, nargs="+", default=sizes, help="bytes of a request")
    options.add_argument("--total", type=int, default=1 << 26, help="bytes of the object, read once per repeat")
    options.add_argument("--requests", type=int, default=100, help="of one repeat, at most")
    options.add_argument("--repeats", type=int, default=4)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    record = harness.head("object_reads", torch.device("cpu"), vars(options))
    record["results"] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object"
        path.write_bytes(np.random.default_rng(0).bytes(options.total))
        here, there = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=serve, args=(str(path), there), daemon=True)
        server.start()
        try:
            ways = readers(f"http://127.0.0.1:{here.recv()}")
            for size in options.sizes:
                total = min(options.total, size * options.requests)
                for threads in (1, 8):
                    spent = {name: measure(read, size, total, threads, options.repeats) for name, read in ways.items()}
                    record["results"].append({"bytes": size, "threads": threads, "core_ms_per_request": spent})
        finally:
            server.terminate()
            server.join()
    table = Table(caption="core-ms per request")
    for name in ("MB", "threads", *ways):
        table.add_column(name, justify="right")
    for row in record["results"]:
        spent = row["core_ms_per_request"].values()
        table.add_row(f"{row['bytes'] / 1e6:.2f}", str(row["threads"]), *(f"{value:.2f}" for value in spent))
    Console().print(table)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
