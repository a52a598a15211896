"""A TCP proxy in front of the loopback S3 server, which goes away for some seconds in the middle of a run, or denies everything."""

import socket
import threading
import time
from contextlib import suppress
from typing import Literal, Self

EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ExpiredToken</Code>'
    b"<Message>The provided token has expired.</Message></Error>"
)
ANSWER = b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s"


class OutageProxy:
    """A proxy on a free port of loopback.

    target: URL of the server. after: the number of requests for a .tiff that pass before the outage. seconds: how long it lasts.
    kind: `refused`: no connection is accepted, and those that are open are closed; `expired`: every request is answered by 403.
    """

    def __init__(self, target: str, after: int, seconds: float, kind: Literal["refused", "expired"]) -> None:
        host, _, port = target.removeprefix("http://").partition(":")
        self.target, self.after, self.seconds, self.kind = (host, int(port)), after, seconds, kind
        self.passed, self.turned_away = 0, 0
        self.outage_until: float | None = None  # None: it has not begun
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._open: set[socket.socket] = set()
        self._listener = self._listening(0)
        self.port = self._listener.getsockname()[1]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._close_all()

    def _listening(self, port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(64)
        listener.settimeout(0.1)
        return listener

    def _is_away(self) -> bool:
        return self.outage_until is not None and time.monotonic() < self.outage_until

    def _serve(self) -> None:
        while not self._stop.is_set():
            if self.kind == "refused" and self._is_away():
                self._listener.close()
                self._close_all()
                while self._is_away() and not self._stop.wait(0.05):
                    pass
                self._listener = self._listening(self.port)
            with suppress(TimeoutError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._forward, args=(client,), daemon=True).start()
        self._listener.close()

    def _close_all(self) -> None:
        with self._lock:
            for end in self._open:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _forward(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(self.target) as server:
            with self._lock:
                self._open |= {client, server}
            answers = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            answers.start()
            while data := client.recv(1 << 16):
                self._count(data)
                if self._is_away():
                    self.turned_away += 1
                    if self.kind == "expired":
                        client.sendall(ANSWER % (len(EXPIRED), EXPIRED))
                    break
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)
            answers.join()
        with self._lock:
            self._open -= {client, server}

    def _copy(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)

    def _count(self, data: bytes) -> None:
        if data.startswith(b"GET ") and b".tiff" in data.split(b"\r\n", 1)[0]:
            with self._lock:
                self.passed += 1
                if self.passed > self.after and self.outage_until is None:
                    self.outage_until = time.monotonic() + self.seconds
