"""Serves the pages of `browse` on loopback until Ctrl-C."""

import secrets
import socket
from collections.abc import Callable

from aiohttp import web

from sdvae_ray.browse.app import Browser
from sdvae_ray.browse.questions import Questions
from sdvae_ray.errors import ConfigError

HOST = "127.0.0.1"


def serve(questions: Questions, port: int, ready: Callable[[str], None]) -> None:
    """Serve a run's pages until KeyboardInterrupt. port: 0: a free one. ready: takes the address, with its token.

    Raises ConfigError if the port is taken.
    """
    token = secrets.token_urlsafe(24)
    application = Browser(questions).application(token)
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
            listening.listen()
        except OSError as error:
            raise ConfigError(f"--port {port}: {error.strerror or error}; --port 0 takes a free one") from error
        ready(f"http://{HOST}:{listening.getsockname()[1]}/?token={token}")
        web.run_app(application, sock=listening, print=None, access_log=None, handle_signals=False, shutdown_timeout=1)
