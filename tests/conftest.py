"""What the tests share: real data where it is at hand, an S3 server on loopback, small files and small runs."""

import functools
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import field_files
import pytest
from field_files import STAINS, Batch
from forked_workers import forked_workers
from run_files import small_run

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.storage import Storage

# each is read when its library is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small images: more threads only wait for each other on a busy machine
os.environ.setdefault("POLARS_MAX_THREADS", "1")  # small tables: the same
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else the other process of tests starves the workers

REGION = "us-east-1"
BUCKET = "plates"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the repository; its tests are skipped where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not (folder / "data").is_dir():
        pytest.skip(f"the real data is not at {folder}")
    return folder


@pytest.fixture(scope="session")
def real_field(shared: Path) -> dict[str, Path]:
    """The five TIFFs of one field of cpg0016 (1080 x 1080, LZW, 16 bit), by stain."""
    folder = shared / "data/images/cpg0016_source4_BR00117035_A01"
    if not folder.is_dir():
        pytest.skip(f"the real field is not at {folder}")
    return {stain: folder / f"r01c01f01p01-ch{number}sk1fk1fl1.tiff" for number, stain in enumerate(STAINS, 1)}


_RAY = ExitStack()  # ends the Ray of this process, if there is one


def _start_ray() -> None:
    from ray import is_initialized

    from sdvae_ray.cluster.session import ray_session

    if not is_initialized():
        folder = _RAY.enter_context(tempfile.TemporaryDirectory())
        _RAY.enter_context(forked_workers(Path(folder)))
        _RAY.enter_context(ray_session("local"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine, started once for all tests of a process that need one."""
    _start_ray()
    yield
    _RAY.close()


@functools.cache
def _needs_ray(file: Path) -> bool:
    return "local_ray" in file.read_text()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Starts Ray again for a test that needs one, if it was ended after the files before."""
    if "local_ray" in getattr(item, "fixturenames", ()):
        _start_ray()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends Ray before a file that needs none: an idle Ray takes a fifteenth of a core. Files that need one come in a row."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # else the files come by name
    if is_worker and nextitem is not None and _needs_ray(item.path) and not _needs_ray(nextitem.path):
        _RAY.close()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a file's tests to one process, and the files that need Ray in two parts: starting Ray takes seconds."""
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def unit_of(file: str) -> str:
        if not _needs_ray(config.rootpath / file):
            return file
        return "ray: the stream" if Path(file).parts[1] in ("encoding", "cluster") else "ray: the rest"

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid.split("::")[0])

    return ByFile(config, log)


@dataclass(frozen=True)
class S3:
    """An S3 server on loopback with one bucket, open to everyone, as the gallery's is.

    endpoint  its URL
    bucket    its name
    config    unsigned requests to it
    prefix    s3:// URI that no other test writes under
    """

    endpoint: str
    bucket: str
    config: StorageConfig
    prefix: str

    @property
    def storage(self) -> Storage:
        return Storage(self.config)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """URL of a moto server on a free port of loopback, with the bucket `plates`."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line per request otherwise
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id="test", aws_secret_access_key="test"
    )
    client.create_bucket(Bucket=BUCKET)
    everything = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    everyone = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": everything}
    client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps({"Version": "2012-10-17", "Statement": [everyone]}))
    yield endpoint
    server.stop()


@pytest.fixture
def s3(s3_server: str) -> S3:
    """The loopback S3 server, with a prefix of the test's own."""
    config = StorageConfig(anonymous=True, endpoint_url=s3_server, region=REGION)
    return S3(s3_server, BUCKET, config, f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}")


@pytest.fixture
def write_tiff() -> Callable[..., str]:
    """field_files.write_tiff."""
    return field_files.write_tiff


@pytest.fixture
def write_illumination() -> Callable[..., str]:
    """field_files.write_illumination."""
    return field_files.write_illumination


@pytest.fixture
def write_fields(tmp_path: Path) -> Callable[..., Batch]:
    """field_files.write_fields(folder, ...), under the test's own folder `images` unless `folder` is given."""

    def write(count: int = 3, *arguments: Any, folder: Path | None = None, **options: Any) -> Batch:
        return field_files.write_fields(folder or tmp_path / "images", count, *arguments, **options)

    return write


@pytest.fixture
def small_run_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """small_run_config(**changes) -> run_files.small_run in the test's own folder."""
    return functools.partial(small_run, tmp_path)
