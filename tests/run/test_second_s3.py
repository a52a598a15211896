"""On a second S3 server: wrong keys are told as such, and the lease holds as well as it can without conditional writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3rver

START = """
import json, sys, time
from sdvae_ray.config import StorageConfig
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.storage import Storage
storage, place = Storage(StorageConfig(endpoint_url=sys.argv[1], region="us-east-1")), "s3://plates/run"
said = []
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3rver.running(tmp_path_factory.mktemp("s3rver")) as url:
        yield url


def ended(endpoint: str, program: str, key: str = s3rver.KEY) -> dict[str, str]:
    """What a program left in its dictionary `told`."""
    process = s3rver.python(f"{START}told = {{}}\n{program}\nprint(json.dumps(told))", endpoint, key=key)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_what_is_written_is_read_back_and_listed(endpoint):
    told = ended(
        endpoint,
        """
storage.write_bytes(f"{place}/a b/c%25.bin", bytes(range(256)))
told["same"] = storage.read_bytes(f"{place}/a b/c%25.bin") == bytes(range(256))
told["range"] = storage.read_range(f"{place}/a b/c%25.bin", 10, 20) == bytes(range(10, 20))
told["listed"] = storage.list(place)
storage.delete(f"{place}/a b/c%25.bin")
told["exists"] = storage.exists(f"{place}/a b/c%25.bin")
""",
    )
    assert told == {"same": True, "range": True, "listed": ["a b/c%25.bin"], "exists": False}


@pytest.mark.parametrize("action", ["read_bytes(uri)", "write_bytes(uri, b'1')", "list(uri)"])
def test_an_unknown_key_is_denied_in_one_line(endpoint, action):
    told = ended(
        endpoint,
        f"""
uri = "s3://plates/x.bin"
try:
    storage.{action}
except SdvaeRayError as error:
    told = {{"kind": type(error).__name__, "line": str(error)}}
""",
        key="UNKNOWN",
    )
    assert told["kind"] == "StorageDeniedError"
    assert "s3://plates/x.bin" in told["line"]
    assert "\n" not in told["line"]


def test_without_conditional_writes_a_living_driver_is_respected_and_the_user_is_told(endpoint):
    told = ended(
        endpoint,
        """
with Lease(place, storage, said.append) as first:
    try:
        with Lease(place, storage):
            told["second"] = "got in"
    except SdvaeRayError as error:
        told["second"] = str(error)
    first.check()
    told["lost"] = first.lost
told["said"], told["left"] = said, storage.exists(f"{place}/_lease.json")
""",
    )
    assert "is writing to s3://plates/run" in told["second"]
    assert (told["lost"], told["left"]) == (False, False)
    assert told["said"] == [
        "note: storage ignores If-None-Match: two drivers that start within two seconds may not see each other"
    ]


def test_the_program_is_where_the_makefile_puts_it():
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    assert f"--prefix {s3rver.PROGRAM.relative_to(Path(__file__).resolve().parents[2]).parts[0]} s3rver@" in makefile
