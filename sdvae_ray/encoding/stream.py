"""The main job: a manifest streams through the pools of the stages into the tables of the run.

The driver reads one column of the manifest, subtracts the committed FOVs, and hands out row numbers. Pixels never pass through it.
"""

import json
import time
import uuid
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import ray
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.ordered_tasks import weighing
from sdvae_ray.cluster.session import (
    Pool,
    Pools,
    check_output_is_shared,
    plan_pools,
    quiet_ray_data,
    ray_session,
)
from sdvae_ray.console import print_line
from sdvae_ray.encoding.actors import FILES, CompressActor, EncodeActor, LoadActor
from sdvae_ray.encoding.forecast import measured_bytes, measured_seconds
from sdvae_ray.encoding.ledger import Stage
from sdvae_ray.encoding.outage import PrintedReport
from sdvae_ray.encoding.pending import READ, Work, lacking, pending
from sdvae_ray.encoding.sink import RunSink
from sdvae_ray.encoding.start import checked_manifest, prepare_record, probe
from sdvae_ray.encoding.supervisor import Supervisor
from sdvae_ray.engine.columns import wanted_codecs
from sdvae_ray.engine.models import check_names, resolve_weights
from sdvae_ray.engine.patience import Patience
from sdvae_ray.errors import RunError
from sdvae_ray.run.lease import Lease
from sdvae_ray.run.record import Record, now
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import sweep
from sdvae_ray.schema import ERROR, FOV_ID

_FOVS_PER_PIECE = 64  # 8.1 M FOVs are then 127 k blocks, and a block takes the driver 10 to 15 ms
_WRITE_COPIES = 4  # of the bytes of its file that a write task holds: the blocks, numpy, Arrow and the file
_RESTARTS = 16  # per actor and per task: enough for spot nodes that come and go, and a crash loop still ends


@dataclass(frozen=True)
class Encoded:
    """The result of `encode`.

    fovs      FOVs in the manifest
    before    FOVs that were complete before
    computed  FOVs that were computed now
    errors    FOVs that still lack a usable row
    seconds   of streaming
    """

    fovs: int
    before: int
    computed: int
    errors: int
    seconds: float


def encode(
    run: Run, console: Console, address: str | None = None, extend: bool = False, failed: str | None = None
) -> Encoded:
    """Compute every FOV of the manifest that has no usable row yet; with `extend` also the columns that a finished run lacks.

    failed: only FOVs whose error contains this text; None: those that were never tried too. address: a Ray cluster; None: the
    cluster of this job, else this machine. Raises ConfigError, DataError, StorageError, WeightsError or ResourceError before
    anything is computed, and RunError if the run was stopped or is incomplete. Committed rows stay.
    """
    check_names(run.config)
    keys = checked_manifest(run)
    resolved = resolve_weights(run.config, run.storage)
    with Lease(run.output, run.storage, lambda line: print_line(console, f"encode: {line}")) as lease:
        sweep(run.output, run.storage, run.sessions())
        works = pending(run, keys, failed)
        total = sum(work.keys.height for work in works)
        if works:
            probe(run, works[0].keys)
        with ray_session(address):
            check_output_is_shared(run.config)
            pools = plan_pools(run.config, measured_seconds(run))
            record = prepare_record(run, len(keys), resolved, pools.encode, extend)
            before = len(keys) - total
            if extend and record.get("extensions"):
                print_line(console, f"extended by {', '.join(record['extensions'][-1]['added'])}")
            to_do = f"{total} of {len(keys)} FOVs to do" + (
                f" ({before} done before)" if before and failed is None else ""
            )
            forward = f"{record['precision']}, {record['micro_batch']} passes per forward"
            print_line(console, f"encode: {to_do}; {pools}, {forward}")
            start = time.monotonic()
            if total:
                session = uuid.uuid4().hex[:8]
                record["sessions"].append({"session": session, "started": now(), "fovs": total, "stages": []})
                run.write_record(record)
                waited = 0.0
                for number, work in enumerate(works):
                    stages, waits = _stream(run, work, pools, record, f"{session}{number or ''}", console, lease)
                    record["sessions"][-1]["stages"].append(stages)
                    waited += waits
                    lease.check()
                record["sessions"][-1]["waits"] = round(waited, 1)
        seconds = time.monotonic() - start
        patience = Patience(run.config.storage.patience_minutes, PrintedReport(console))
        result = patience(lambda: _summary(run, keys, before, total, seconds, whole=failed is None))
        if total:
            record["sessions"][-1] |= {"ended": now(), "seconds": round(seconds, 2), "errors": result.errors}
            patience(lambda: run.write_record(record))
    return result


def _stream(
    run: Run, work: Work, pools: Pools, record: Record, session: str, console: Console, lease: Lease
) -> tuple[dict[str, Any], float]:
    """Stream one piece of work. Return its record, and the seconds in which it waited for storage.

    The record: a stage -> `_told`; first_fov -> seconds to the first encoded FOVs.
    """
    quiet_ray_data(is_watched=True)
    total = work.keys.height
    sides = wanted_codecs(run.config, work.wanted)
    stages = {name: pool for name, pool in pools.stages.items() if name != "compress" or sides}
    allowed = _allowed_errors(run, record["manifest"]["fovs"])
    supervisor = Supervisor(run, session, allowed, {name: pool.least for name, pool in stages.items()})
    ledger = supervisor.ledger
    pieces = _pieces(work.keys, pools.load.least)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # Ray 2.60 has no other way to bound restarts
        stream = ray.data.from_items(pieces, override_num_blocks=len(pieces))
        stream = stream.map_batches(
            LoadActor, fn_constructor_args=(run, ledger), batch_size=1, **_actors_of(pools.load)
        )
        if "compress" in stages:
            codecs, size = (run, ledger, sides), run.config.load.batch_fovs
            stream = stream.map_batches(
                CompressActor, fn_constructor_args=codecs, batch_size=size, **_actors_of(stages["compress"])
            )
        models = (run, record, pools.encode, ledger, work.wanted)
        size = run.config.encode.batch_fovs
        stream = stream.map_batches(
            EncodeActor, fn_constructor_args=models, batch_size=size, **_actors_of(pools.encode)
        )
    sink = RunSink(run, session, _rows_per_file(run, total), ledger)
    memory = weighing(_WRITE_COPIES * sink.rows_per_file * measured_bytes(run))
    batches = {"load": run.config.load.batch_fovs, "compress": run.config.load.batch_fovs, "encode": size}
    start = time.monotonic()
    with supervisor.watched(console, total, batches, sink.rows_per_file, lease), unwrapped_failures():
        stream.write_datasink(sink, ray_remote_args={"num_cpus": pools.write_cpus, **memory})
    seconds, counts = time.monotonic() - start, supervisor.counts()
    stages_told = {name: _told(stage, seconds) for name, stage in counts.stages.items()}
    return stages_told | {"first_fov": counts.first_at}, counts.waited


def _told(stage: Stage, seconds: float) -> dict[str, Any]:
    """Return the record of a stage in a stream of `seconds`.

    busy: share of the time that its actors worked. rate: FOV/s after the start of its newest actor.
    """
    work = {"actors": stage.actors, "restarts": stage.restarts, "rows": stage.rows, "seconds": round(stage.seconds, 3)}
    busy = round(stage.seconds / seconds / max(1, stage.actors), 3)
    return {**work, "busy": busy, "rate": None if stage.rate is None else round(stage.rate, 4)}


def _actors_of(pool: Pool) -> dict[str, Any]:
    """Return the arguments of map_batches that describe a pool of actors with bounded restarts."""
    return {
        "batch_format": "numpy",
        "compute": ActorPoolStrategy(min_size=pool.least, max_size=pool.most),
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus or None,
        "ray_remote_args_fn": lambda: {"max_restarts": _RESTARTS, "max_task_retries": _RESTARTS},
    }


def _pieces(pending: pl.DataFrame, loaders: int) -> list[dict[str, Any]]:
    """Return pieces of work for the load pool; a piece has rows of one row group.

    The pieces are few enough for the driver, and enough for every actor to get some. Rows that one read of a shard brings stay in
    one piece.
    """
    size = min(_FOVS_PER_PIECE, max(1, pending.height // (loaders * 8)))
    numbered = pending.with_columns(piece=pl.int_range(pl.len()).over("row_group"))
    if READ in pending.columns:
        numbered = numbered.with_columns(pl.col("piece").first().over("row_group", READ))
    numbered = numbered.with_columns(pl.col("piece") // size)
    pieces = []
    for (group, _), part in numbered.group_by("row_group", "piece", maintain_order=True):
        piece = {"row_group": group, "rows": part["row"].to_numpy().astype(np.int32).tobytes()}
        if part["files"].null_count() < part.height:
            piece[FILES] = json.dumps([files or [] for files in part["files"].to_list()])
        pieces.append(piece)
    return pieces


def _summary(run: Run, keys: pl.DataFrame, before: int, total: int, seconds: float, whole: bool) -> Encoded:
    """Return the result of `encode`. whole: every FOV must have a row. Raises RunError if one has none, or too many have failed."""
    fovs, commits = run.present_commits()
    missing = keys.filter(~pl.col(FOV_ID).is_in(fovs[FOV_ID].implode()))
    if missing.height and whole:
        raise RunError(
            f"{missing.height} FOVs have no row after the run, the first of them {missing[FOV_ID][0]}; run again"
        )
    short = sum(work.keys.height for work in lacking(run, keys, fovs, commits))
    result = Encoded(len(keys), before, total, short, seconds)
    if short > _allowed_errors(run, len(keys)):
        failed = fovs.filter(pl.col(ERROR).is_not_null())[ERROR].to_list()
        why = f"the first: {failed[0]}" if failed else "their rows lack the added columns: run again"
        raise RunError(
            f"{short} of {len(keys)} FOVs failed, more than max_error_fraction {run.config.max_error_fraction:g} allows; {why}"
        )
    return result


def _allowed_errors(run: Run, fovs: int) -> int:
    """Return the number of FOVs that may fail: max_error_fraction of `fovs`, and at least one unless the fraction is 0."""
    return max(1, int(run.config.max_error_fraction * fovs)) if run.config.max_error_fraction else 0


def _rows_per_file(run: Run, fovs: int) -> int:
    rows = run.config.write.rows_per_file
    return min(256, max(1, fovs // 16)) if rows == "auto" else rows
