"""The stream of Ray Data: rows of a manifest go through the pools of the stages into the tables of the run.

The driver hands out row numbers. Pixels never pass through it.
"""

import itertools
import json
import time
import warnings
from typing import Any

import polars as pl
import ray
from ray.data import ActorPoolStrategy
from ray.util.annotations import RayDeprecationWarning
from rich.console import Console

from sdvae_ray.cluster.failures import unwrapped_failures
from sdvae_ray.cluster.ordered_tasks import weighing
from sdvae_ray.cluster.pools import Pool, Pools
from sdvae_ray.cluster.session import quiet_ray_data
from sdvae_ray.encoding.actors import FILES, CompressActor, EncodeActor, LoadActor
from sdvae_ray.encoding.pending import READ, Work
from sdvae_ray.encoding.sink import RunSink
from sdvae_ray.encoding.supervision.ledger import Stage
from sdvae_ray.encoding.supervision.supervisor import Supervisor
from sdvae_ray.engine.columns import wanted_codecs
from sdvae_ray.planning.measured import measured_bytes
from sdvae_ray.planning.pieces import piece_size, rows_per_file
from sdvae_ray.run.cost import COSTS, told
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.record import Record
from sdvae_ray.run.run import Run
from sdvae_ray.run.traffic import TRAFFIC, told_traffic

_WRITE_COPIES = 4  # of the bytes of its file that a write task holds: the blocks, numpy, Arrow and the file
_RESTARTS = 16  # per actor and per task: enough for spot nodes that come and go, and a crash loop still ends


def stream(
    run: Run, work: Work, pools: Pools, record: Record, session: str, console: Console, lease: Lease
) -> tuple[dict[str, Any], float]:
    """Stream one piece of work. Return its record, and the seconds in which it waited for storage.

    The record: a stage -> `_told`; first_fov -> seconds to the first encoded FOVs; costs -> of every part
    of the work; traffic -> the requests and bytes of images and tables.
    """
    quiet_ray_data(is_watched=True)
    total = work.keys.height
    sides = wanted_codecs(run.config, work.wanted)
    stages = {name: pool for name, pool in pools.stages.items() if name != "compress" or sides}
    allowed = run.config.allowed_errors(record["manifest"]["fovs"])
    supervisor = Supervisor(run, session, allowed, {name: pool.least for name, pool in stages.items()})
    ledger = supervisor.ledger
    pieces = _pieces(work.keys, pools.load.least)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RayDeprecationWarning)  # Ray 2.60 has no other way to bound restarts
        rows = ray.data.from_items(pieces, override_num_blocks=len(pieces))
        rows = rows.map_batches(LoadActor, fn_constructor_args=(run, ledger), batch_size=1, **_actors_of(pools.load))
        if "compress" in stages:
            codecs, size = (run, ledger, sides), run.config.load.batch_fovs
            rows = rows.map_batches(
                CompressActor, fn_constructor_args=codecs, batch_size=size, **_actors_of(stages["compress"])
            )
        models = (run, record, pools.encode, ledger, work.wanted)
        size = run.config.encode.batch_fovs
        rows = rows.map_batches(EncodeActor, fn_constructor_args=models, batch_size=size, **_actors_of(pools.encode))
    sink = RunSink(run, session, rows_per_file(run.config, total), ledger)
    memory = weighing(_WRITE_COPIES * sink.rows_per_file * measured_bytes(run))
    batches = {"load": run.config.load.batch_fovs, "compress": run.config.load.batch_fovs, "encode": size}
    start = time.monotonic()
    try:
        with supervisor.watched(console, total, batches, sink.rows_per_file, lease), unwrapped_failures():
            rows.write_datasink(sink, ray_remote_args={"num_cpus": pools.write_cpus, **memory})
        seconds, counts = time.monotonic() - start, supervisor.counts()
    finally:
        supervisor.end()
    stages_told = {name: _told(stage, seconds) for name, stage in counts.stages.items()}
    measured = {"first_fov": counts.first_at, COSTS: told(counts.costs), TRAFFIC: told_traffic(counts.traffic)}
    return stages_told | measured, counts.waited


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
    size = piece_size(pending.height, loaders)
    numbered = pending.with_columns(piece=pl.int_range(pl.len()).over("row_group"))
    if READ in pending.columns:
        numbered = numbered.with_columns(pl.col("piece").first().over("row_group", READ))
    numbered = numbered.with_columns(pl.col("piece") // size)
    begins = numbered.select(pl.struct("row_group", "piece").rle_id().diff().fill_null(1) > 0).to_series().arg_true()
    groups, rows = pending["row_group"].to_list(), pending["row"].cast(pl.Int32).to_numpy()
    files = None if pending["files"].null_count() == pending.height else pending["files"]
    pieces = []
    for start, stop in itertools.pairwise([*begins, pending.height]):
        piece = {"row_group": groups[start], "rows": rows[start:stop].tobytes()}
        if files is not None and (named := files[start:stop]).null_count() < len(named):
            piece[FILES] = json.dumps([names or [] for names in named.to_list()])
        pieces.append(piece)
    return pieces
