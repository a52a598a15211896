"""A run whose storage goes away for a while, or denies access: it waits, says so, and loses nothing."""

import io

import pytest
from bucket_run import bucket_run
from outage_proxy import OutageProxy
from rich.console import Console

from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.supervision import progress
from sdvae_ray.errors import StorageDeniedError
from sdvae_ray.run.run import Run

COUNT = 16
LONG = pytest.mark.slow


@pytest.mark.parametrize(
    ("kind", "seconds", "words"),
    [
        pytest.param("refused", 8, "Could not connect", marks=LONG),
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
        run = Run(bucket_run(tmp_path, s3, proxy.endpoint, COUNT))
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
        config = bucket_run(tmp_path, s3, proxy.endpoint, COUNT)
        storage = config.storage.model_copy(update={"patience_minutes": 0})
        run = Run(config.model_copy(update={"storage": storage}))
        with pytest.raises(StorageDeniedError, match="token has expired") as caught:
            encode(run, Console(quiet=True))
    assert "\n" not in str(caught.value)
    stored = Run(run.config.model_copy(update={"storage": s3.config}))
    assert stored.fovs()["error"].null_count() == stored.fovs().height
