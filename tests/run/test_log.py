"""The log of a command under the run's output: every line with its time, session and host, and how the command ended."""

import re
from io import StringIO

import pytest
from rich.console import Console

from sdvae_ray.config import StorageConfig
from sdvae_ray.console import LOGGER, print_line
from sdvae_ray.errors import DataError, RunError, StorageAwayError
from sdvae_ray.run.driver import log as log_module
from sdvae_ray.run.driver.log import RunLog
from sdvae_ray.storage import Storage

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?P<session>[0-9a-f]{8}) \S+ (?P<level>\w+): (?P<text>.*)")
HIDDEN = Console(file=StringIO())


def lines(folder) -> list[tuple[str, str]]:
    """The level and the text of every line of the one log of a folder."""
    (file,) = (folder / "logs").iterdir()
    matches = [LINE.fullmatch(line) for line in file.read_text().splitlines()]
    assert {match["session"] for match in matches} == {file.stem.rpartition("-")[2]}
    return [(match["level"], match["text"]) for match in matches]


def test_every_line_for_the_user_and_of_ray_is_in_the_log(tmp_path):
    with RunLog(str(tmp_path), Storage(), "encode") as log:
        print_line(HIDDEN, "encode: 4 FOVs [bold]to do")
        LOGGER.debug("(raylet) a worker died")
    print_line(HIDDEN, "after the log")
    assert log.file == f"logs/{next((tmp_path / 'logs').iterdir()).name}"
    assert re.fullmatch(r"logs/\d{8}T\d{6}Z-encode-[0-9a-f]{8}\.log", log.file)
    first, *rest = lines(tmp_path)
    assert first[1].startswith("sdvae_ray ")
    assert rest == [("info", "encode: 4 FOVs [bold]to do"), ("ray", "(raylet) a worker died")]


@pytest.mark.parametrize(
    ("error", "last", "is_said"),
    [
        (DataError("plate.csv: no column Metadata_Well"), "plate.csv: no column Metadata_Well", False),
        (RunError("9 of 10 FOVs failed"), "9 of 10 FOVs failed", True),
        (KeyboardInterrupt(), "stopped", False),
    ],
)
def test_the_log_tells_how_the_command_ended(tmp_path, error, last, is_said):
    said: list[str] = []
    with pytest.raises(type(error)), RunLog(str(tmp_path), Storage(), "encode", said.append, "logs of Ray") as log:
        raise error
    assert lines(tmp_path)[1:] == [("error", last), ("error", "logs of Ray")]
    assert said == ([f"the log of this session is {log.uri}"] if is_said else [])


def test_a_mistake_of_our_code_leaves_its_traceback_in_the_log(tmp_path):
    said: list[str] = []
    with pytest.raises(ZeroDivisionError), RunLog(str(tmp_path), Storage(), "score", said.append):
        _ = 1 / 0
    text = next((tmp_path / "logs").iterdir()).read_text()
    assert "Traceback" in text
    assert "ZeroDivisionError: division by zero" in text
    assert len(said) == 1


def test_a_log_carries_no_credentials(tmp_path):
    with RunLog(str(tmp_path), Storage(), "encode"):
        print_line(HIDDEN, "cannot read https://host/key?X-Amz-Signature=abc123&x=1 as AKIAIOSFODNN7EXAMPLE")
    assert lines(tmp_path)[1][1] == "cannot read https://host/key?X-Amz-Signature=***&x=1 as ***"


def test_a_log_that_storage_refuses_for_a_while_is_written_later_and_ends_no_command(tmp_path, monkeypatch):
    class Sick(Storage):
        is_away = True

        def write_bytes(self, uri: str, data: bytes) -> None:
            if self.is_away:
                raise StorageAwayError("timed out")
            super().write_bytes(uri, data)

    storage = Sick(StorageConfig())
    with RunLog(str(tmp_path), storage, "encode") as log:
        print_line(HIDDEN, "one")
        log._write()
        storage.is_away = False
        print_line(HIDDEN, "two")
    assert [text for _, text in lines(tmp_path)[1:]] == ["one", "two"]


def test_a_log_that_grows_too_long_keeps_its_start_and_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(log_module, "_MOST", 1000)
    with RunLog(str(tmp_path), Storage(), "encode"):
        for number in range(100):
            print_line(HIDDEN, f"line {number}")
    text = next((tmp_path / "logs").iterdir()).read_text()
    assert 1000 <= len(text) <= 1020
    assert "sdvae_ray" in text
    assert text.endswith("line 99\n")
