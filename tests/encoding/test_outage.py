"""A run whose storage goes away for a while, or denies access: it waits, says so, and loses nothing."""

import io
from pathlib import Path
from typing import Any

import pytest
from field_files import write_fields
from outage_proxy import OutageProxy
from rich.console import Console
from run_files import small_run
from straight_line import write_manifest

from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.supervision import progress
from sdvae_ray.errors import StorageDeniedError
from sdvae_ray.run.run import Run

COUNT = 16
LONG = pytest.mark.slow


def bucket_run(folder: Path, s3: Any, endpoint: str, **storage: Any) -> RunConfig:
    """A run of FOVs and an output in a bucket, reached through an endpoint; a file has two FOVs."""
    fields = write_fields(folder / "images", count=COUNT)
    for name, values in fields.items():
        if name.startswith("uri_"):
            for row, path in enumerate(values):
                values[row] = f"{s3.prefix}/{Path(path).name}"
                s3.storage.write_bytes(values[row], Path(path).read_bytes())
    manifest = write_manifest(folder / "manifest.parquet", fields)
    s3.storage.write_bytes(f"{s3.prefix}/manifest.parquet", manifest.read_bytes())
    return small_run(
        folder,
        manifest=f"{s3.prefix}/manifest.parquet",
        output=f"{s3.prefix}/run",
        storage={**s3.config.model_dump(), "endpoint_url": endpoint, **storage},
        autoencoders={"tiny": None},
        extractors={"intensity": None},
        metrics=["mae"],
        write={"rows_per_file": 2},
        max_error_fraction=0,
        load={"batch_fovs": 1},
        encode={"batch_fovs": 1},
    )


@pytest.mark.parametrize(
    ("kind", "seconds", "words"),
    [
        ("refused", 8, "Could not connect"),
        pytest.param("expired", 6, "token has expired", marks=LONG),
        pytest.param("refused", 600, "Could not connect", marks=LONG),
        pytest.param("expired", 120, "token has expired", marks=LONG),
    ],
)
def test_a_run_waits_while_storage_is_away_and_loses_nothing(
    local_ray, tmp_path, s3, monkeypatch, kind, seconds, words
):
    monkeypatch.setattr(progress, "_LINES", 1.0)
    printed = io.StringIO()
    with OutageProxy(s3.endpoint, after=20, seconds=seconds, kind=kind) as proxy:
        run = Run(bucket_run(tmp_path, s3, proxy.endpoint))
        result = encode(run, Console(file=printed, width=400))
        assert proxy.passed > 20
        assert (result.fovs, result.computed, result.errors) == (COUNT, COUNT, 0)
        fovs = run.fovs()
        waits = run.record["sessions"][-1]["waits"]
    assert fovs.height == COUNT
    assert fovs["error"].null_count() == fovs["error_class"].null_count() == COUNT
    assert waits >= seconds / 2
    lines = [line for line in printed.getvalue().splitlines() if "storage away since" in line]
    assert lines
    assert any(words in line for line in lines)


@LONG
def test_a_run_without_patience_stops_with_one_error_and_no_row_of_it(local_ray, tmp_path, s3):
    with OutageProxy(s3.endpoint, after=20, seconds=30, kind="expired") as proxy:
        run = Run(bucket_run(tmp_path, s3, proxy.endpoint, patience_minutes=0))
        with pytest.raises(StorageDeniedError, match="token has expired") as caught:
            encode(run, Console(quiet=True))
    assert "\n" not in str(caught.value)
    stored = Run(run.config.model_copy(update={"storage": s3.config}))
    assert stored.fovs()["error"].null_count() == stored.fovs().height
