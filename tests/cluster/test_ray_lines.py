"""Lines of Ray go to the log of the run; every other line stays on its stream."""

import logging
import sys

import pytest

from sdvae_ray.cluster import session
from sdvae_ray.cluster.ray_lines import log_ray_data, ray_lines_logged
from sdvae_ray.console import LOGGER


class Kept(logging.Handler):
    """Keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def kept(monkeypatch) -> Kept:
    """The handler of the logger of the driver, which takes all levels."""
    handler = Kept()
    monkeypatch.setattr(LOGGER, "level", logging.DEBUG)
    monkeypatch.setattr(LOGGER, "handlers", [handler])
    monkeypatch.setattr(LOGGER, "_cache", {})
    return handler


def test_lines_of_ray_are_logged_and_all_others_are_printed(capsys, kept):
    with ray_lines_logged():
        print("encode: 4 FOVs (raylet) to do")
        print("\x1b[33m(raylet)\x1b[0m A worker died or was killed")
        print("(LoadActor pid=12, ip=10.0.0.1) from an actor", file=sys.stderr)
        print("(autoscaler +3s) Adding 2 nodes")
        print()
        print("(4 of 5) done", file=sys.stderr)
    captured = capsys.readouterr()
    assert captured.out == "encode: 4 FOVs (raylet) to do\n\n"
    assert captured.err == "(4 of 5) done\n"
    assert kept.messages == [
        "(raylet) A worker died or was killed",
        "(LoadActor pid=12, ip=10.0.0.1) from an actor",
        "(autoscaler +3s) Adding 2 nodes",
    ]


def test_errors_of_ray_data_are_logged_once_and_never_printed(capfd, kept, monkeypatch):
    logger = logging.getLogger("ray.data")
    monkeypatch.setattr(logger, "handlers", [logging.StreamHandler(sys.stderr), *logger.handlers])
    for _ in range(2):
        log_ray_data()
    logger.error("a task failed\nTraceback (most recent call last)")
    logger.warning("advice")
    assert capfd.readouterr() == ("", "")
    assert kept.messages == ["a task failed\nTraceback (most recent call last)"]


def test_the_streams_are_as_they_were_after_the_block():
    before = sys.stdout, sys.stderr
    with ray_lines_logged():
        assert sys.stdout.isatty() == before[0].isatty()
    assert (sys.stdout, sys.stderr) == before


def test_lines_that_ray_holds_back_until_its_end_are_not_printed(capsys, monkeypatch):
    """Ray prints a repeated line once, and then its count when it shuts down."""
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "init", lambda **options: None)
    monkeypatch.setattr(session.ray, "shutdown", lambda: print("\x1b[33m(raylet)\x1b[0m Task failed [repeated 3x]"))
    with session.ray_session():
        print("encode: 4 FOVs to do")
    assert capsys.readouterr().out == "encode: 4 FOVs to do\n"
