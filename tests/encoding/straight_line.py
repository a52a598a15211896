"""What a run must hold, computed in this process without Ray: the loader and the engine, called one after the other."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import polars as pl
import torch

from sdvae_ray.cluster.pools import Pool
from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.start import checked_manifest, prepare_record
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Batch, Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import Models, load_models, resolve_weights
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import read_column, write_rows
from sdvae_ray.schema import ERROR, FOV_ID

FOVS = 11  # of the run that the tests of the stream share
BROKEN = 5  # its row whose ER file is cut short
CPU = torch.device("cpu")
Values = dict[str, dict[str, bytes]]  # `<table>:<column>` -> fov_id -> bytes of the value


def write_manifest(path: Path, fields: Batch) -> Path:
    """Row groups of four; every third FOV alone has a Metadata_moa."""
    table = pl.DataFrame(
        {name: values.tolist() for name, values in fields.items()}, schema=dict.fromkeys(fields, pl.String)
    )
    moa = pl.Series([None if i % 3 else f"moa {i}" for i in range(table.height)], dtype=pl.String)
    table.with_columns(Metadata_moa=moa).write_parquet(path, row_group_size=4)
    return path


def loaded(config: RunConfig) -> Batch:
    """Every FOV of the manifest through the loader and the codecs."""
    table = pl.read_parquet(config.manifest)
    batch = {name: np.array(table[name].to_list(), object) for name in table.columns}
    return Compressor.of(config)(Loader(config.image, config.storage)(batch))


def engine(config: RunConfig, models: Models | None = None, wanted: Collection[str] | None = None) -> Encoder:
    """The engine of a run on this machine's CPU."""
    models = models or load_models(config, resolve_weights(config, Run(config).storage), CPU)
    return Encoder(config, models, Forward(CPU, "float32"), 8, wanted)


def expected_values(config: RunConfig) -> Values:
    """The columns of every FOV that can be read."""
    columns = engine(config)(loaded(config))
    usable = np.flatnonzero(columns[ERROR] == "")
    return {
        name: {columns[FOV_ID][row]: np.ascontiguousarray(columns[name][row]).tobytes() for row in usable}
        for name in run_columns(config)
    }


def stored_values(config: RunConfig) -> Values:
    """The same of what a run has written."""
    run = Run(config)
    fovs, values = run.fovs(), {}
    for name in run_columns(config):
        table, _, column = name.rpartition(":")
        ids, rows = read_column(config.output, table, column, fovs, run.storage)
        values[name] = {fov: np.ascontiguousarray(row).tobytes() for fov, row in zip(ids, rows, strict=True)}
    return values


def write_finished_run(config: RunConfig, files: int = 1) -> None:
    """A run of every FOV of the manifest, with its record and `files` files: `first`, `first-1`, ..."""
    run = Run(config)
    columns = engine(config)(loaded(config))
    record = prepare_record(run, checked_manifest(run), resolve_weights(config, run.storage), Pool(1, 1, 1.0))
    for number, rows in enumerate(np.array_split(np.arange(len(columns[FOV_ID])), files)):
        part = {name: values[rows] for name, values in columns.items()}
        write_rows(config.output, f"first-{number}" if number else "first", part, run.storage, config.random_weights)
    run.write_record(record)
