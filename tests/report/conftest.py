"""A small scored run for the tests of the report."""

import shutil
from pathlib import Path

import pytest
from report_run import run_config, write_run

from sdvae_ray.config import RunConfig


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("report")
    config = run_config(folder)
    write_run(folder, config)
    return config


@pytest.fixture
def run(made: RunConfig, tmp_path: Path) -> RunConfig:
    """A copy of the run whose output the test may change; its pixels are the shared ones."""
    shutil.copytree(made.output, tmp_path / "run")
    return made.model_copy(update={"output": str(tmp_path / "run")})
