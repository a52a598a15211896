"""One finished run through Ray, for the tests that ask about it or change a copy."""

import shutil
from pathlib import Path

import pytest
from field_files import write_fields
from rich.console import Console
from run_files import PCA, small_run
from straight_line import BROKEN, FOVS, write_manifest

from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.encode import Encoded, encode
from sdvae_ray.run.run import Run


@pytest.fixture(scope="session")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """Of eleven FOVs, one of them with a truncated TIFF; not encoded. The pools are of the size that Ray's CPUs give."""
    folder = tmp_path_factory.mktemp("first")
    fields = write_fields(folder / "images", count=FOVS)
    broken = Path(fields["uri_ER"][BROKEN])
    broken.write_bytes(broken.read_bytes()[:-2000])
    manifest = write_manifest(folder / "manifest.parquet", fields)
    return small_run(
        folder,
        manifest=str(manifest),
        max_error_fraction=0.2,
        write={"rows_per_file": 3},
        autoencoders=PCA,
        load=None,
        encode=None,
    )


@pytest.fixture
def config(first_run: RunConfig, tmp_path: Path) -> RunConfig:
    """That run, with an output of the test's own."""
    return first_run.model_copy(update={"output": str(tmp_path / "run")})


@pytest.fixture(scope="session")
def first_encoded(local_ray: None, first_run: RunConfig) -> Encoded:
    """What `encode` said of that run."""
    return encode(Run(first_run), Console(quiet=True))


@pytest.fixture
def encoded(first_encoded: Encoded, first_run: RunConfig, config: RunConfig) -> RunConfig:
    """A copy of the encoded run, which the test may change; its pixels are the shared ones."""
    shutil.copytree(first_run.output, config.output)
    return config
