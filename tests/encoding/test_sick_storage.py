"""Runs whose storage answers some requests badly, lists its objects late, or is full: nothing is lost and nothing is wrong."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from bucket_run import bucket_run
from field_files import write_fields
from rich.console import Console
from run_files import PCA, small_run
from sick_proxy import Ill, SickProxy, Sometimes
from straight_line import expected_values, stored_values, write_manifest

from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.shards.pack import pack
from sdvae_ray.encoding.shards.plan import PackOptions
from sdvae_ray.errors import RunError
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR_CLASS, FOV_ID

COUNT = 12
# a full disk that grows between two calls of the same command
FULL_DISK = """
mount -t tmpfs -o size=$SMALL none "$OUTPUT" || exit 77
"$@"; echo "first: $?"
mount -o remount,size=64m "$OUTPUT"
"$@"; echo "second: $?"
cp -r "$OUTPUT/." "$COPY"
"""
LONG = pytest.mark.slow
TRANSIENT = ["reset", "cut", "truncate", "delay", 500, 503]


def healthy(config: RunConfig, s3: Any, folder: Path) -> RunConfig:
    """The same run, reached without the proxy, with the manifest of the folder."""
    return config.model_copy(update={"storage": s3.config, "manifest": str(folder / "manifest.parquet")})


@pytest.mark.parametrize(
    ("ills", "share"),
    [(TRANSIENT, 0.15), *(pytest.param([ill], 0.3, marks=LONG) for ill in TRANSIENT)],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, list) else "",
)
def test_answers_that_are_ill_now_and_then_change_no_row(local_ray, tmp_path, s3, ills, share):
    with SickProxy(s3.endpoint, Sometimes(ills, share, seed=3)) as proxy:
        config = bucket_run(tmp_path, s3, proxy.endpoint, COUNT)
        result = encode(Run(config), Console(quiet=True))
        assert sum(count for ill, count in proxy.counts.items() if ill is not None) > 5
    assert (result.fovs, result.computed, result.errors) == (COUNT, COUNT, 0)
    assert stored_values(healthy(config, s3, tmp_path)) == expected_values(healthy(config, s3, tmp_path))


@LONG
def test_an_object_that_is_absent_or_denied_costs_its_own_row(local_ray, tmp_path, s3):
    def ill_of(method: str, path: str) -> Ill:
        return (
            next((status for name, status in statuses.items() if name in path), None)
            if method in ("GET", "HEAD")
            else None
        )

    statuses: dict[str, int] = {}
    with SickProxy(s3.endpoint, ill_of) as proxy:
        config = bucket_run(tmp_path, s3, proxy.endpoint, COUNT, max_error_fraction=0.5)
        uris = pl.read_parquet(tmp_path / "manifest.parquet")["uri_ER"]
        statuses |= {Path(uris[2]).name: 404, Path(uris[7]).name: 403}
        result = encode(Run(config), Console(quiet=True))
    fovs = Run(healthy(config, s3, tmp_path)).fovs([ERROR_CLASS]).sort(FOV_ID)
    assert (result.computed, result.errors) == (COUNT, 2)
    assert sorted(fovs[ERROR_CLASS].drop_nulls()) == ["absent", "denied"]


@LONG
def test_a_request_that_is_never_answered_is_asked_again(local_ray, tmp_path, s3):
    with SickProxy(s3.endpoint, Sometimes(["hang"], 0.05, seed=5, methods=("GET",))) as proxy:
        config = bucket_run(tmp_path, s3, proxy.endpoint, COUNT)
        result = encode(Run(config), Console(quiet=True))
        assert proxy.counts["hang"] > 0
    assert (result.computed, result.errors) == (COUNT, 0)
    assert stored_values(healthy(config, s3, tmp_path)) == expected_values(healthy(config, s3, tmp_path))


@LONG
def test_a_byte_that_flips_on_the_way_from_a_shard_is_seen(local_ray, tmp_path, s3):
    plain = bucket_run(tmp_path, s3, s3.endpoint, COUNT)
    shards = f"{s3.prefix}/shards"
    pack(plain.manifest, shards, s3.storage, Console(quiet=True), PackOptions(fovs_per_shard=4))
    with SickProxy(s3.endpoint, Sometimes(["flip"], 0.3, seed=11, methods=("GET",))) as proxy:
        storage = plain.storage.model_copy(update={"endpoint_url": proxy.endpoint})
        config = plain.model_copy(update={"manifest": f"{shards}/manifest.parquet", "storage": storage})
        encode(Run(config), Console(quiet=True))
        assert proxy.counts["flip"] > 0
    assert stored_values(healthy(config, s3, tmp_path)) == expected_values(healthy(plain, s3, tmp_path))


@LONG
def test_a_listing_that_lags_gives_every_fov_once(local_ray, tmp_path, s3):
    with SickProxy(s3.endpoint, lag=600) as proxy:
        config = bucket_run(tmp_path, s3, proxy.endpoint, COUNT)
        for _ in range(2):  # the second encode sees few of the files that the first one wrote
            with pytest.raises(RunError, match="have no row after the run"):
                encode(Run(config), Console(quiet=True))
        assert proxy.counts["unlisted"] > 0
    settled = healthy(config, s3, tmp_path)
    assert Run(settled).fovs()[FOV_ID].n_unique() == Run(settled).fovs().height == COUNT
    assert stored_values(settled) == expected_values(settled)


@LONG
def test_a_full_disk_stops_a_run_and_the_same_command_ends_it_when_there_is_room(tmp_path, monkeypatch):
    config = small_run(
        tmp_path,
        manifest=str(write_manifest(tmp_path / "manifest.parquet", write_fields(tmp_path / "images", count=COUNT))),
        output=str(tmp_path / "full"),
        autoencoders=PCA,
        metrics=["mae"],
        write={"rows_per_file": 1},
    )
    (tmp_path / "run.yaml").write_text(config.model_dump_json())
    for folder in ("full", "copy"):
        (tmp_path / folder).mkdir()
    # the mount is seen by these processes alone
    namespaces = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-Urm"]
    command = [sys.executable, "-m", "sdvae_ray.cli.main", "encode", str(tmp_path / "run.yaml")]
    done = subprocess.run(
        [*namespaces, "sh", "-c", FULL_DISK, "sh", *command],
        env=os.environ
        | {"SMALL": "96k", "OUTPUT": config.output, "COPY": str(tmp_path / "copy"), "RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=500,
    )
    if done.returncode == 77:
        pytest.skip("no file system can be mounted here")
    said = done.stdout
    assert "second: 0" in said, said
    first = said.partition("first: ")[0]
    assert "first: 0" not in said
    assert "No space left" in first.splitlines()[-1]
    assert "Traceback" not in said
    copy = config.model_copy(update={"output": str(tmp_path / "copy")})
    assert stored_values(copy) == expected_values(copy)
