"""The two stages as Ray actors: a Loader that reads its own rows of the manifest, an Encoder that brings its own weights."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from sdvae_ray.config import RunConfig
from sdvae_ray.pipeline.session import Pool
from sdvae_ray.schema import FOV_ID
from sdvae_ray.sources.rows import read_row_group
from sdvae_ray.stages.encode import Encoder
from sdvae_ray.stages.load import Batch, Loader
from sdvae_ray.stages.models import check_same_weights, load_models, pick_device, resolve_weights
from sdvae_ray.storage import Storage


class EncodeActor:
    """An Encoder in a Ray actor: brings the weights to its node, loads the models once, reports what it finished."""

    def __init__(self, config: RunConfig, record: Mapping[str, Any], pool: Pool, ledger: Any) -> None:
        import torch

        torch.set_num_threads(max(1, round(pool.cpus)))
        self.ledger = ledger
        device = pick_device(pool.gpus)
        resolved = resolve_weights(config, Storage(config.storage))
        check_same_weights(resolved, record["weights"])
        models = load_models(config, resolved, device)
        self.encoder = Encoder(config, models, device, record["precision"], record["micro_batch"])

    def __call__(self, batch: Batch) -> Batch:
        out = self.encoder(batch)
        self.ledger.add_encoded.remote(len(out[FOV_ID]))
        return out


class LoadActor:
    """A Loader in a Ray actor: reads its rows of the manifest itself, so that the driver hands out numbers only."""

    def __init__(self, config: RunConfig) -> None:
        self.config, storage = config, Storage(config.storage)
        self.loader = Loader(config.image, config.storage)
        self.row_group = functools.lru_cache(maxsize=2)(lambda group: read_row_group(config.manifest, group, storage))

    def __call__(self, work: Batch) -> Iterator[Batch]:
        """One piece of work -> batches small enough to stay one block each."""
        for group, rows in zip(work["row_group"], work["rows"], strict=True):
            table = self.row_group(int(group)).take(pa.array(np.frombuffer(rows, np.int32)))
            for start in range(0, len(table), self.config.load.batch_fovs):
                yield self.loader(as_batch(table.slice(start, self.config.load.batch_fovs)))


def as_batch(table: pa.Table) -> Batch:
    """Rows of a manifest as arrays of objects; null is None."""
    return {name: np.array(table[name].to_pylist(), object) for name in table.column_names}
