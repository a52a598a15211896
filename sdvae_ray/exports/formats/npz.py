"""A folder of .npz files of latents, for numpy alone: the tensors, and a text array per column; nothing is pickled."""

import io
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.exports.contract import LATENTS, Exported, Request
from sdvae_ray.exports.latents import Batch
from sdvae_ray.exports.training_set import write_shards

SUFFIXES: tuple[str, ...] = ()
NEEDS: tuple[str, ...] = ()
TAKES = LATENTS


def export(request: Request) -> Exported:
    """Write a .npz per file of the run: `mean` (n, T, Z, s, s) and the columns of a row, each (n,)."""
    return write_shards(request, ".npz", _encoded)


def _encoded(batch: Batch) -> bytes:
    arrays: dict[str, Any] = {**batch.tensors}
    for name in batch.rows.columns:
        series = batch.rows[name]
        arrays[name] = np.array(series.fill_null("").to_list(), str) if series.dtype == pl.String else series.to_numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
