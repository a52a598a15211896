"""The stages as Ray actors: LoadActor reads its own rows of the manifest, CompressActor runs codecs, EncodeActor holds the models.

EncodeActor imports torch when it starts, so that the processes of the load pool never hold torch.
"""

import functools
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import ray

from sdvae_ray.cluster.pools import Pool
from sdvae_ray.encoding.supervision.outage import patience_of
from sdvae_ray.engine.compress import SECONDS, Compressor, has_wide
from sdvae_ray.engine.files.illumination import machine_folder
from sdvae_ray.engine.files.load import Batch, Loader
from sdvae_ray.engine.files.patience import Patience
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import session_writes
from sdvae_ray.run.stored.tables import read_file_column
from sdvae_ray.schema import FOV_ID, LATENT, PIXELS, SHARD, SOURCE_DIGEST, latents_table
from sdvae_ray.sources.manifest.reader import group_reader
from sdvae_ray.sources.manifest.row import as_batch
from sdvae_ray.sources.manifest.scan import source_digests

FILES = "files_json"  # column between the stages, where a run is extended: the files that already commit a FOV, as JSON


class EncodeActor:
    """An Encoder in a Ray actor: it brings the weights to its node, loads the models once, and counts its FOVs in the ledger.

    record: run.json of the run, which gives the precision and the micro-batch. pool: the CPUs and GPUs of one actor. ledger: the
    handle of a Ledger actor. wanted: the columns `<table>:<column>` to compute; None: all columns of the run. Latents that the run
    has stored already are decoded, not encoded again. Raises WeightsError if this node has other weights than the record.
    """

    def __init__(
        self, run: Run, record: Mapping[str, Any], pool: Pool, ledger: Any, wanted: Collection[str] | None = None
    ) -> None:
        import torch

        from sdvae_ray.engine.encode import Encoder
        from sdvae_ray.engine.forward import Forward
        from sdvae_ray.engine.models import (
            autoencoder_engines,
            check_same_weights,
            load_models,
            pick_device,
            resolve_weights,
        )

        torch.set_num_threads(max(1, round(pool.cpus)))
        self.ledger = ledger
        patience = patience_of(run, ledger, "encode")
        device = pick_device(pool.gpus)
        resolved = patience(lambda: resolve_weights(run.config, run.storage))
        check_same_weights(resolved, record["weights"])
        models = load_models(run.config, resolved, device, autoencoder_engines(run.config, resolved, record))
        self.encoder = Encoder(run.config, models, Forward(device, record["precision"]), record["micro_batch"], wanted)
        self.latents = functools.lru_cache(maxsize=2 * max(1, len(run.config.autoencoders)))(
            lambda side, file: patience(lambda: latents_of_file(run, side, file))
        )
        _report_start(ledger, "encode")

    def __call__(self, batch: Batch) -> Batch:
        """Return the columns that `Encoder` computes for a batch of the loader."""
        files = batch.pop(FILES, None)
        out = self.encoder(batch, None if files is None else self._stored(batch[FOV_ID], files))
        self.ledger.add_rows.remote("encode", len(out[FOV_ID]), float(out["seconds_encode"].sum()), self.encoder.costs)
        self.encoder.costs = {}
        return out

    def _stored(self, fov_ids: np.ndarray, files: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
        """Return fov_id -> side -> the latent (P, T, Z, s, s) float16 that one of the files of the FOV holds."""
        stored: dict[str, dict[str, np.ndarray]] = {}
        for side in self.encoder.decodes_only:
            for fov, names in zip(fov_ids, files, strict=True):
                for name in json.loads(names):
                    latents = self.latents(side, name)
                    if fov in latents:
                        stored.setdefault(fov, {})[side] = latents[fov]
        return stored


class CompressActor:
    """A Compressor in a Ray actor. ledger: the handle of a Ledger actor. sides: the codecs to run; None: all codecs of the run."""

    def __init__(self, run: Run, ledger: Any, sides: Collection[str] | None = None) -> None:
        self.compressor = Compressor.of(run.config, sides)
        self.ledger = ledger
        _report_start(ledger, "compress")

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch of the loader with the columns that `Compressor` adds."""
        out = self.compressor(batch)
        self.ledger.add_rows.remote("compress", len(out[FOV_ID]), float(out[SECONDS].sum()), self.compressor.costs)
        self.compressor.costs = {}
        return out


class LoadActor:
    """A Loader in a Ray actor: it reads its rows of the manifest, so that the driver hands out row numbers only."""

    def __init__(self, run: Run, ledger: Any) -> None:
        self.ledger = ledger
        self.batch_fovs, self.image = run.config.load.batch_fovs, run.config.image
        patience = patience_of(run, ledger, "load")
        self.loader = Loader(run.config.image, run.config.storage, machine_folder(), patience, has_wide(run.config))
        read_group = patience(lambda: group_reader(run.config.manifest, run.storage))
        self.row_group = functools.lru_cache(maxsize=2)(lambda group: patience(lambda: read_group(group)))
        _report_start(ledger, "load")

    def __call__(self, work: Batch) -> Iterator[Batch]:
        """Yield batches of the loader for pieces of work (row_group, rows as int32 bytes), each small enough to stay one block."""
        for group, rows in zip(work["row_group"], work["rows"], strict=True):
            table = self.row_group(int(group)).take(pa.array(np.frombuffer(rows, np.int32)))
            if SHARD in table.column_names:
                self.loader.shards.expect(table.to_pylist())
            starts = range(0, len(table), self.batch_fovs)
            batches = (as_batch(table.slice(start, self.batch_fovs)) for start in starts)
            digests = source_digests(_located(table), self.image).to_numpy()
            for start, batch in zip(starts, self.loader.stream(batches), strict=True):
                batch[SOURCE_DIGEST] = digests[start : start + self.batch_fovs]
                if FILES in work:
                    names = json.loads(work[FILES][0])[start : start + self.batch_fovs]
                    batch[FILES] = np.array([json.dumps(files) for files in names], object)
                self.ledger.add_rows.remote("load", len(batch[FOV_ID]), float(batch["seconds_load"].sum()))
                self.ledger.add_traffic.remote(self.loader.taken_traffic())
                yield batch


def _located(table: pa.Table) -> pl.DataFrame:
    """Return the rows of a manifest without the pixels that they may carry."""
    return pl.DataFrame(table.select([name for name in table.column_names if name != PIXELS]))


def _report_start(ledger: Any, stage: str) -> None:
    """Tell the ledger that this actor is ready, for the first time or after a dead one; outside a stream do nothing."""
    if ledger is not None:
        context = ray.get_runtime_context()
        ledger.started.remote(stage, context.was_current_actor_reconstructed, context.current_actor)


def writes_before(run: Run, session: str) -> dict[str, tuple[int, int]]:
    """Return name of a write -> (rows, errors) of a session's writes, in an actor that replaces a dead one; else nothing."""
    if not ray.get_runtime_context().was_current_actor_reconstructed:
        return {}
    patience = Patience(run.config.storage.patience_minutes)  # the actor may have died in an outage
    return patience(lambda: session_writes(run.output, run.storage, session))


def latents_of_file(run: Run, side: str, file: str) -> dict[str, np.ndarray]:
    """Return fov_id -> latent (P, T, Z, s, s) float16, of one file of the latents table of `side`; empty
    if the file is missing.
    """
    try:
        ids, values = read_file_column(run.output, latents_table(side), LATENT, file, run.storage)
    except FileNotFoundError:
        return {}
    return dict(zip(ids, values, strict=True))
