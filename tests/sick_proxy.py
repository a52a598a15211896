"""An HTTP proxy in front of the loopback S3 server that makes some of its answers ill, one request at a time."""

import http.client
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

# answers that the proxy gives in the server's place: code of S3 by status
CODES = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
DELAY = 1.5  # seconds
OBJECT = re.compile(rb"<Contents>(?:(?!</Contents>).)*<LastModified>([^<]+)<.*?</Contents>", re.S)
Ill = (
    str | int | None
)  # a status of CODES, or one of: reset, cut, truncate, delay, hang, flip; None: the server's own answer


class Sometimes:
    """An illness of a share of the requests: never of the same object twice in a row, so that a patient client gets through.

    ills: are drawn from. share: of requests. methods: the other methods are well.
    """

    def __init__(self, ills: list[Ill], share: float, seed: int, methods: tuple[str, ...] = ("GET", "PUT")) -> None:
        self.ills, self.share, self.methods = ills, share, methods
        self._random, self._lock, self._last = random.Random(seed), threading.Lock(), {}

    def __call__(self, method: str, path: str) -> Ill:
        with self._lock:
            key = (method, path.partition("?")[0])
            is_ill = method in self.methods and not self._last.get(key) and self._random.random() < self.share
            self._last[key] = is_ill
            return self._random.choice(self.ills) if is_ill else None


class SickProxy:
    """A proxy on a free port of loopback.

    target: URL of the server. ill_of(method, path) -> the illness of one request. lag: seconds for which a listing lacks a new
    object. counts: requests by illness, and the objects that listings lacked as "unlisted".
    """

    def __init__(self, target: str, ill_of: Callable[[str, str], Ill] = lambda *_: None, lag: float = 0) -> None:
        self.target, self.ill_of, self.lag = target.removeprefix("http://"), ill_of, lag
        self.counts: Counter[Ill] = Counter()
        self.stopped = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._server.shutdown()
        self._server.server_close()

    def listed(self, entry: re.Match[bytes]) -> bytes:
        """Return an entry of a listing; nothing if the object is younger than the lag."""
        written = datetime.fromisoformat(entry[1].decode())
        if (datetime.now(UTC) - written).total_seconds() > self.lag:
            return entry[0]
        self.counts["unlisted"] += 1
        return b""


def _handler(proxy: SickProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Prints nothing."""

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def answer(self) -> None:
            """Gives one request the server's answer, or an ill one."""
            ill = proxy.ill_of(self.command, self.path)
            proxy.counts[ill] += 1
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if isinstance(ill, int):
                text = f"<Error><Code>{CODES[ill]}</Code><Message>an ill answer</Message></Error>".encode()
                self._give(ill, [("Content-Type", "application/xml")], text)
                return
            if ill in ("reset", "cut"):
                self._hang_up(with_reset=ill == "reset")
                return
            if ill == "hang":
                proxy.stopped.wait()
                self._hang_up()
                return
            if ill == "delay":
                time.sleep(DELAY)
            connection = http.client.HTTPConnection(proxy.target, timeout=60)
            with suppress(ConnectionError):
                connection.request(self.command, self.path, body, dict(self.headers))
                response = connection.getresponse()
                data = response.read()
                if proxy.lag and self.command == "GET" and "list-type=2" in self.path:
                    data = OBJECT.sub(proxy.listed, data)
                if ill == "flip" and data:
                    place = len(data) // 2
                    data = data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :]
                self._give(response.status, response.getheaders(), data, half=ill == "truncate" and len(data) > 1)
            connection.close()

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer  # noqa: N815, names of http.server

        def _give(self, status: int, headers: list[tuple[str, str]], data: bytes, half: bool = False) -> None:
            """Sends an answer. half: half of the data that its head announces."""
            self.send_response_only(status)
            is_head = self.command == "HEAD"
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection") and (
                    is_head or name.lower() != "content-length"
                ):
                    self.send_header(name, value)
            if not is_head:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if not is_head:
                self.wfile.write(data[: len(data) // 2] if half else data)
            if half:
                self._hang_up()

        def _hang_up(self, with_reset: bool = False) -> None:
            """Ends the connection; with_reset: by a packet RST, else in order."""
            self.close_connection = True
            self.wfile.flush()
            if with_reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

    return Handler
