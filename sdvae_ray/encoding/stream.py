"""The main job: a manifest streams through the load pool and the encode pool into the tables of the run.

The driver reads one column of the manifest, subtracts what is committed, and hands out row groups; pixels never pass through it.
"""

import json
import time
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import ray
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.session import IO_CPUS, Pool, check_output_is_shared, plan_pools, quiet_ray_data, ray_session
from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.actors import FILES, EncodeActor, LoadActor, as_batch
from sdvae_ray.encoding.pending import Work, lacking, pending
from sdvae_ray.encoding.progress import shown
from sdvae_ray.encoding.sink import Ledger, RunSink
from sdvae_ray.engine.encode import auto_micro_batch
from sdvae_ray.engine.load import Loader
from sdvae_ray.engine.models import (
    check_names,
    check_same_weights,
    latent_scaling,
    pick_device,
    pick_precision,
    resolve_weights,
)
from sdvae_ray.errors import ConfigError, DataError, RunError, StorageError
from sdvae_ray.images.prepare import CropError
from sdvae_ray.run import record as provenance
from sdvae_ray.run.lease import Lease
from sdvae_ray.run.tables import read_commits, sweep
from sdvae_ray.schema import ERROR, FOV_ID, divisor_column, offset_column, uri_column
from sdvae_ray.sources.rows import read_row_group, read_text_column, row_groups
from sdvae_ray.storage import Storage
from sdvae_ray.weights import Weights

_FOVS_PER_PIECE = 64  # 8.1 M FOVs are then 127 k blocks, at 10 to 15 ms of driver time each
_RESTARTS = 16  # of one actor, and of one of its tasks: spot nodes come and go, a crash loop must end


@dataclass(frozen=True)
class Encoded:
    """What `encode` did. FOVs of the manifest, those done before, computed now, and without a usable row; seconds of streaming."""

    fovs: int
    before: int
    computed: int
    errors: int
    seconds: float


def encode(config: RunConfig, console: Console, address: str | None = None, extend: bool = False) -> Encoded:
    """Computes every FOV of the manifest that has no usable row yet; with `extend` also what a finished run lacks.

    Raises ConfigError, DataError, StorageError, WeightsError or ResourceError before anything is computed, RunError where the run
    had to be stopped or is incomplete. Whatever was committed stays.
    """
    check_names(config)
    storage = Storage(config.storage)
    keys = checked_manifest(config, storage)
    resolved = resolve_weights(config, storage)
    with Lease(config.output, storage) as lease:
        works = pending(config, keys, storage)
        total = sum(work.keys.height for work in works)
        if works:
            probe(config, works[0].keys, storage)
        with ray_session(address):
            check_output_is_shared(config)
            pools = plan_pools(config)
            record = prepare_record(config, len(keys), resolved, pools.encode, storage, extend)
            before = len(keys) - total
            if extend and record.get("extensions"):
                console.print(f"extended by {', '.join(record['extensions'][-1]['added'])}", highlight=False)
            console.print(
                f"encode: {total} of {len(keys)} FOVs to do"
                + (f" ({before} done before)" if before else "")
                + f"; load {pools.load}, encode {pools.encode}, {record['precision']}, {record['micro_batch']} passes per forward",
                highlight=False,
                soft_wrap=True,
            )
            start = time.monotonic()
            if total:
                session = uuid.uuid4().hex[:8]
                record["sessions"].append({"session": session, "started": provenance.now(), "fovs": total})
                provenance.write_record(config.output, record, storage)
                for number, work in enumerate(works):
                    _stream(config, work, pools.load, pools.encode, record, f"{session}{number or ''}", console)
                    lease.check()
        sweep(config.output, storage)
        seconds = time.monotonic() - start
        result = _summary(config, keys, before, total, seconds, storage)
        if total:
            record["sessions"][-1] |= {"ended": provenance.now(), "seconds": round(seconds, 2), "errors": result.errors}
            provenance.write_record(config.output, record, storage)
    return result


def prepare_record(
    config: RunConfig, fovs: int, resolved: Mapping[str, Weights], pool: Pool, storage: Storage, extend: bool = False
) -> provenance.Record:
    """The run's record: the one it was started with, checked to be of this run and with `extend` added to, or a new one."""
    manifest = provenance.describe_manifest(config.manifest, fovs, storage)
    weights = {name: found.record() for name, found in resolved.items()}
    record = provenance.read_record(config.output, storage)
    if record is not None:
        added = provenance.check_same_run(record, config, manifest, extend)
        check_same_weights(resolved, record["weights"])
        if added:
            return provenance.extended(record, config, weights, added, latent_scaling(config, resolved))
        return record
    micro_batch = config.encode.micro_batch
    size = auto_micro_batch(config, on_gpu=pool.gpus > 0) if micro_batch == "auto" else micro_batch
    precision = _precision_on_node(config, pool)
    return provenance.new_record(config, manifest, weights, size, precision, latent_scaling(config, resolved))


def _precision_on_node(config: RunConfig, pool: Pool) -> str:
    """`auto` is for the node that encodes to say: the driver's may have no GPU."""
    if pool.gpus == 0 or config.precision != "auto":
        return pick_precision(config.precision, pick_device(0))
    ask = ray.remote(lambda: pick_precision("auto", pick_device(pool.gpus)))
    return ray.get(ask.options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote())


def probe(config: RunConfig, keys: pl.DataFrame, storage: Storage) -> None:
    """Loads the first of `keys`: what would fail every FOV (the crop, the bucket, the credentials) is said before the start."""
    group, row = keys.select("row_group", "row").row(0)
    table = read_row_group(config.manifest, group, storage).slice(row, 1)
    try:
        Loader(config.image, config.storage).probe(as_batch(table))
    except CropError as error:
        raise ConfigError(f"image.crop: {error}") from error
    except StorageError:
        raise
    except (OSError, ValueError):
        return  # of this FOV alone: it will have its row with this error


def checked_manifest(config: RunConfig, storage: Storage) -> pl.DataFrame:
    """fov_id, row_group, row of every FOV; the columns that the run needs are there."""
    columns = [uri_column(stain) for stain in config.image.stains]
    if config.image.scaling.method == "manifest":
        columns += [f(stain) for stain in config.image.stains for f in (offset_column, divisor_column)]
    sizes, present = row_groups(config.manifest, storage)
    if missing := [name for name in columns if name not in present]:
        raise DataError(
            f"{config.manifest} has no column {missing[0]}: it was made for other stains, or without scaling constants"
        )
    ids = pl.DataFrame({FOV_ID: pl.Series(read_text_column(config.manifest, FOV_ID, storage))})
    if (twice := ids.filter(pl.col(FOV_ID).is_duplicated())).height:
        raise DataError(f"{config.manifest} lists {twice[FOV_ID][0]} twice")
    return ids.with_columns(
        row_group=pl.Series(np.repeat(np.arange(len(sizes)), sizes)),
        row=pl.Series(np.concatenate([np.arange(size) for size in sizes])),
    )


def _stream(
    config: RunConfig,
    work: Work,
    load: Pool,
    encoders: Pool,
    record: provenance.Record,
    session: str,
    console: Console,
) -> None:
    quiet_ray_data()
    total = work.keys.height
    ledger = ray.remote(Ledger).options(num_cpus=0).remote(_allowed_errors(config, total))
    pieces = _pieces(work.keys, load.least)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # 2.60 has no other way to bound restarts
        stream = (
            ray.data.from_items(pieces, override_num_blocks=len(pieces))
            .map_batches(
                LoadActor,
                fn_constructor_args=(config,),
                batch_size=1,
                batch_format="numpy",
                compute=ActorPoolStrategy(min_size=load.least, max_size=load.most),
                num_cpus=load.cpus,
                ray_remote_args_fn=_bounded_restarts,
            )
            .map_batches(
                EncodeActor,
                fn_constructor_args=(config, record, encoders, ledger, work.wanted),
                batch_size=config.encode.batch_fovs,
                batch_format="numpy",
                compute=ActorPoolStrategy(min_size=encoders.least, max_size=encoders.most),
                num_cpus=encoders.cpus,
                num_gpus=encoders.gpus or None,
                ray_remote_args_fn=_bounded_restarts,
            )
        )
    sink = RunSink(config, session, _rows_per_file(config, total), ledger)
    with unwrapped_failures(), shown(console, "encode", total, lambda: ray.get(ledger.counts.remote())):
        stream.write_datasink(sink, ray_remote_args={"num_cpus": IO_CPUS})


def _bounded_restarts() -> dict[str, int]:
    return {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS}


def _pieces(pending: pl.DataFrame, loaders: int) -> list[dict[str, Any]]:
    """Work for the load pool: rows of one row group each, few enough blocks for the driver, enough of them for every actor."""
    size = min(_FOVS_PER_PIECE, max(1, pending.height // (loaders * 8)))
    pieces = []
    for (group,), rows in pending.group_by("row_group", maintain_order=True):
        for part in rows.iter_slices(size):
            piece = {"row_group": group, "rows": part["row"].to_numpy().astype(np.int32).tobytes()}
            if part["files"].null_count() < part.height:
                piece[FILES] = json.dumps([files or [] for files in part["files"].to_list()])
            pieces.append(piece)
    return pieces


def _summary(
    config: RunConfig, keys: pl.DataFrame, before: int, total: int, seconds: float, storage: Storage
) -> Encoded:
    fovs, commits = read_commits(config.output, storage, [])
    missing = keys.filter(~pl.col(FOV_ID).is_in(fovs[FOV_ID].implode()))
    if missing.height:
        raise RunError(
            f"{missing.height} FOVs have no row after the run, the first of them {missing[FOV_ID][0]}; run again"
        )
    short = sum(work.keys.height for work in lacking(config, keys, fovs, commits))
    result = Encoded(len(keys), before, total, short, seconds)
    if short > _allowed_errors(config, len(keys)):
        failed = fovs.filter(pl.col(ERROR).is_not_null())[ERROR].to_list()
        why = f"the first: {failed[0]}" if failed else "they lack what was added: run again"
        raise RunError(
            f"{short} of {len(keys)} FOVs failed, more than max_error_fraction {config.max_error_fraction:g} allows; {why}"
        )
    return result


def _allowed_errors(config: RunConfig, fovs: int) -> int:
    """FOVs that may fail: the fraction of them, and one in any case unless the fraction is 0."""
    return max(1, int(config.max_error_fraction * fovs)) if config.max_error_fraction else 0


def _rows_per_file(config: RunConfig, fovs: int) -> int:
    rows = config.write.rows_per_file
    return min(256, max(1, fovs // 16)) if rows == "auto" else rows
