"""Before the launch: one FOV passes through every stage on a node of the cluster; its bytes and seconds are measured."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import ray
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.session import Pool, check_output_is_shared, plan_pools, ray_session
from sdvae_ray.console import print_line
from sdvae_ray.encoding.actors import EncodeActor, as_batch
from sdvae_ray.encoding.start import checked_manifest, prepare_record, probe
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.load import Batch, Loader
from sdvae_ray.engine.models import check_names, resolve_weights
from sdvae_ray.errors import ConfigError, RunError, did_you_mean
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, METADATA, SEPARATOR
from sdvae_ray.selection import select
from sdvae_ray.sources.manifest_reader import read_row_group, row_groups
from sdvae_ray.storage import join

_FOLDER = "_check"  # under the output; removed at the end


@dataclass(frozen=True)
class Checked:
    """The cost of one FOV.

    fovs     number of FOVs in the manifest
    seconds  stage -> seconds, without the loading of the models
    stored   table -> bytes
    columns  column of a data table -> its dtype and shape per FOV
    """

    fov_id: str
    fovs: int
    seconds: dict[str, float]
    stored: dict[str, int]
    columns: dict[str, str]
    device: str


def check(run: Run, console: Console, address: str | None = None) -> Checked:
    """Validates names, manifest, storage, weights, resources and the section `score`; then runs one FOV through every stage.

    Prints the result of every step to `console`. Raises the error that `encode` or `score` would raise, and RunError where the
    FOV itself fails.
    """
    check_names(run.config)
    keys = checked_manifest(run)
    _check_score(run, [name for name in row_groups(run.config.manifest, run.storage)[1] if name.startswith(METADATA)])
    print_line(console, f"manifest  {len(keys)} FOVs")
    resolved = resolve_weights(run.config, run.storage)
    probe(run, keys)
    with ray_session(address):
        check_output_is_shared(run.config)
        pools = plan_pools(run.config)
        print_line(console, f"pools     {pools}")
        record = prepare_record(run, len(keys), resolved, pools.encode)
        for name, weights in record["weights"].items():
            print_line(console, f"weights   {name}: {_origin(weights)}")
        task = _one_fov.options(num_cpus=pools.encode.cpus, num_gpus=pools.encode.gpus)
        first = keys.select(FOV_ID, "row_group", "row").head(1)
        with unwrapped_failures():
            checked = ray.get(task.remote(run, record, pools.encode, first, len(keys)))
    forward = f"{record['precision']}; {record['micro_batch']} passes per forward"
    print_line(console, f"device    {checked.device}; {forward}")
    for stage, seconds in checked.seconds.items():
        print_line(console, f"{stage:9} {seconds:.2f} s per FOV")
    for table, size in checked.stored.items():
        print_line(console, f"stored    {table}: {size / 1e3:.1f} kB per FOV")
    total = sum(checked.stored.values())
    print_line(console, f"stored    {total / 1e6:.2f} MB per FOV, {total * len(keys) / 1e9:.2f} GB for the manifest")
    return checked


def _check_score(run: Run, metadata: list[str]) -> None:
    """ConfigError where the section `score` has a wrong step, expression or column. metadata: the Metadata_* columns that exist."""
    settings = run.config.score
    resolve_steps(settings.normalise)
    retrieval = settings.perturbation is not None
    for key, expression in (("control", settings.control), ("exclude", settings.exclude)):
        if expression and retrieval:
            select(expression, metadata, f"score.{key}")
    named = {"perturbation": [settings.perturbation], "group": settings.group, "target": [settings.target]}
    for key, columns in {**named, "distributions.by": settings.distributions.by}.items():
        for column in columns:
            if column is not None and column not in metadata:
                raise ConfigError(f"score.{key}: there is no column {column!r}{did_you_mean(column, metadata)}")


@ray.remote
def _one_fov(run: Run, record: Mapping[str, Any], pool: Pool, key: pl.DataFrame, fovs: int) -> Checked:
    group, row = key.select("row_group", "row").row(0)
    batch = as_batch(read_row_group(run.config.manifest, group, run.storage).slice(row, 1))
    actor = EncodeActor(run, record, pool, None)
    loaded = Loader(run.config.image, run.config.storage)(batch)
    if loaded[ERROR][0]:
        raise RunError(f"the first FOV of the manifest cannot be read: {loaded[ERROR][0]}")
    compressed = Compressor.of(run.config)(loaded) if run.config.codecs else loaded
    encoded = actor.encoder(compressed)
    if encoded[ERROR][0]:
        raise RunError(f"the first FOV of the manifest cannot be encoded: {encoded[ERROR][0]}")
    stored, seconds = _write_and_remove(run, encoded)
    return Checked(
        fov_id=str(encoded[FOV_ID][0]),
        fovs=fovs,
        seconds={
            name.removeprefix("seconds_"): float(encoded[name][0]) for name in encoded if name.startswith("seconds_")
        }
        | {"write": seconds},
        stored=stored,
        columns={name: f"{values.dtype}{values.shape[1:]}" for name, values in encoded.items() if SEPARATOR in name},
        device=str(encoded["device"][0]),
    )


def _write_and_remove(run: Run, columns: Batch) -> tuple[dict[str, int], float]:
    """Writes one row and deletes it again: the bytes per table, and the seconds of the writing."""
    folder, storage = run.uri(_FOLDER), run.storage
    start = time.perf_counter()
    write_rows(folder, "check", columns, storage)
    seconds = time.perf_counter() - start
    names = storage.list(folder)
    sizes = {name.removesuffix("/check.parquet"): len(storage.read_bytes(join(folder, name))) for name in names}
    storage.delete_folder(folder)
    return sizes, seconds


def _origin(weights: Mapping[str, Any]) -> str:
    if weights["random"]:
        return "random weights"
    if not weights["source"]:
        return "none needed"
    return f"{weights['source']} at {weights['revision']}" if weights["revision"] else str(weights["source"])
