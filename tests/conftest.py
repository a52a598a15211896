"""What the tests share: real data where it is at hand, an S3 server on loopback, small files and small runs."""

import functools
import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_files import merged

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import FOV_ID, KEYS, fov_id, illum_column, uri_column
from sdvae_ray.storage import Storage

# each is read when its library is first imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # small images: more threads only wait for each other on a busy machine
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # else the other process of tests starves the workers

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
REGION = "us-east-1"
BUCKET = "plates"

Batch = dict[str, np.ndarray]


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


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine, started once for all tests that need one and ended after the last of them."""
    from sdvae_ray.cluster.session import ray_session

    with ray_session("local"):
        yield


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives a file's tests to one process, and all files that need Ray to the same one: starting Ray takes seconds."""
    from xdist.scheduler import LoadScopeScheduling

    @functools.cache
    def unit_of(file: str) -> str:
        return "ray" if "local_ray" in (config.rootpath / file).read_text() else file

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
    """write_tiff(path, pixels, compression="lzw", **options) -> the path as text, its folder made."""
    import tifffile

    def write(path: Path, pixels: np.ndarray, compression: str | None = "lzw", **options: Any) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, pixels, compression=compression, **options)
        return str(path)

    return write


@pytest.fixture
def write_illumination() -> Callable[..., str]:
    """write_illumination(path, function) -> the path as text; CellProfiler's .npy."""

    def write(path: Path, function: np.ndarray) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, function)
        return str(path)

    return write


@pytest.fixture
def write_fields(
    tmp_path: Path, write_tiff: Callable[..., str], write_illumination: Callable[..., str]
) -> Callable[..., Batch]:
    """write_fields(count=3, size=136, ...) -> FOVs as LZW TIFFs, and their rows of a manifest as columns of objects.

    Wells A01, A02, ...; smooth blobs over a dim background, so that no stain is noise only; all from `seed`. The
    illumination functions are null unless `illumination`.
    """

    def write(
        count: int = 3,
        size: int = 136,
        stains: tuple[str, ...] = STAINS,
        seed: int = 0,
        illumination: bool = False,
        folder: Path | None = None,
    ) -> Batch:
        root = folder or tmp_path / "images"
        rows = []
        for number in range(1, count + 1):
            keys = dict(zip(KEYS, ("source_1", "batch 1", "P1", f"A{number:02d}", "1"), strict=True))
            row: dict[str, Any] = {FOV_ID: fov_id(keys), **keys, "Metadata_broad_sample": f"BRD-{number}"}
            for stain in stains:
                pixels = blobs(np.random.default_rng([seed, number, stains.index(stain)]), size)
                name = f"{keys['Metadata_Well']}-{stain}.tiff"
                row[uri_column(stain)] = write_tiff(root / "P1__2021-05-02-Measurement 1" / name, pixels)
                function = 0.5 + np.hypot(*np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]) / 2
                path = root / "illum" / "P1" / f"P1_Illum{stain}.npy"
                row[illum_column(stain)] = write_illumination(path, function) if illumination else None
            rows.append(row)
        return {name: np.array([row[name] for row in rows], object) for name in rows[0]}

    return write


def blobs(random: np.random.Generator, size: int) -> np.ndarray:
    """(size, size) uint16: a dozen bright discs with soft edges over a dim background with shot noise."""
    y, x = np.mgrid[:size, :size]
    image = np.full((size, size), 2000.0)
    for _ in range(12):
        cy, cx, radius = *random.uniform(0, size, 2), random.uniform(size / 16, size / 6)
        image += random.uniform(5e3, 2e4) / (1 + np.exp((np.hypot(y - cy, x - cx) - radius) / 2))
    return np.clip(random.poisson(image), 0, 65535).astype(np.uint16)


@pytest.fixture
def small_run_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """small_run_config(**changes) -> a run of 128-pixel crops in 64-pixel patches (P 4, C 5, T 2), of small models.

    `changes` are keys of the run file, laid over the defaults section by section; None drops a key, such as a model.
    Autoencoders: `tiny` (random weights) and `identity`; extractors: `latent` and `intensity`.
    """

    def make(**changes: Any) -> RunConfig:
        raw: dict[str, Any] = {
            "manifest": str(tmp_path / "manifest.parquet"),
            "output": str(tmp_path / "run"),
            "image": {"crop": 128, "patch": 64},
            "autoencoders": {
                "tiny": {"name": "diffusers_kl", "random": True, "architecture": "tiny"},
                "identity": {"name": "identity"},
            },
            "extractors": {"latent": {"name": "latent"}, "intensity": {"name": "intensity", "keep_patches": 2}},
        }
        return parse_run(merged(raw, changes))

    return make


@pytest.fixture(scope="session")
def full_size_vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vae/`: Stable Diffusion 1.x, 83.65 M parameters at random, as diffusers saves it."""
    import torch
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(14)
        model = AutoencoderKL(  # vae/config.json of CompVis/stable-diffusion-v1-4
            act_fn="silu",
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            in_channels=3,
            latent_channels=4,
            layers_per_block=2,
            norm_num_groups=32,
            out_channels=3,
            sample_size=512,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    assert sum(weight.numel() for weight in model.parameters()) == 83_653_863
    folder = tmp_path_factory.mktemp("stable-diffusion")
    model.save_pretrained(folder / "vae")
    return folder
