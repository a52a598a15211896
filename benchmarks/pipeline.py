"""Benchmark of the stream through Ray beside the bare engine: what Ray, loading and writing take from it.

    python benchmarks/pipeline.py                                  # a CPU: 1 and 2 encode actors of one thread
    python benchmarks/pipeline.py --codecs jpeg                    # with codecs in their pool
    python benchmarks/pipeline.py --device cuda --crop 1024 --actors 1

Four synthetic fields are written as LZW TIFFs, and the manifest names them again and again. `engine` is the Encoder in as many
processes as there are encode actors, all at the same time, on a batch that is loaded already. `ray` is `encode` as the user runs
it: its rate is of the FOVs after the start of its newest actor. Weights are random. The last line of output is one JSON object.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engine
import harness
import numpy as np
import polars as pl
import tifffile
from rich.console import Console

from sdvae_ray.cluster.session import ray_session
from sdvae_ray.config import RunConfig
from sdvae_ray.encoding.bench import bench
from sdvae_ray.engine.compress import Compressor, has_wide
from sdvae_ray.engine.encode import Encoder, auto_micro_batch
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import load_models, pick_device, pick_precision, resolve_weights
from sdvae_ray.run.run import Run
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import FOV_ID, KEYS, fov_id, illum_column, uri_column
from sdvae_ray.sources.manifest.reader import read_rows
from sdvae_ray.sources.manifest.row import as_batch
from sdvae_ray.sources.synthetic.field import render_field
from sdvae_ray.sources.synthetic.microscope import STAINS, BatchEffect

FIELDS = 4  # that are drawn


def manifest_of(folder: Path, size: int, fovs: int) -> str:
    """Writes the fields and a manifest of `fovs` rows that name them in turn; returns the manifest's path."""
    rng = np.random.default_rng(0)
    for number in range(FIELDS):
        for stain, plane in zip(STAINS, render_field(rng, size, batch=BatchEffect()), strict=True):
            tifffile.imwrite(folder / f"{number}-{stain}.tiff", plane, compression="lzw", metadata=None)
    rows = []
    for number in range(fovs):
        keys = dict(zip(KEYS, ("source", "batch", "plate", "A01", str(number)), strict=True))
        images = {uri_column(stain): str(folder / f"{number % FIELDS}-{stain}.tiff") for stain in STAINS}
        rows.append({FOV_ID: fov_id(keys), **keys, **images, **{illum_column(stain): None for stain in STAINS}})
    manifest = folder / "manifest.parquet"
    pl.DataFrame(rows, schema_overrides={illum_column(stain): pl.String for stain in STAINS}).write_parquet(manifest)
    return str(manifest)


def run_config(options: argparse.Namespace, folder: Path) -> RunConfig:
    """The run of the benchmark: one VAE, InceptionV3 on request, the default metrics, codecs on request."""
    gpus = 1 if options.device == "cuda" else 0
    raw = engine.run_config(options).model_dump(mode="json")
    raw |= {
        "manifest": manifest_of(folder, options.crop + 56, max(options.actors) * options.fovs),
        "output": str(folder / "run"),
        "codecs": {name: {"name": name} for name in options.codecs},
        "load": {"actors": 1, "cpus": 0.15},
        "compress": {"actors": 1, "cpus": 0.1},
        "encode": {"gpus": gpus, "cpus": 1 if gpus else 0.75, "batch_fovs": 4},
        "cluster": {},
    }
    raw["extractors"] = raw["extractors"] if options.inception else {}
    return parse_run(raw, where="benchmark")


def bare(raw: dict[str, Any], on_gpu: bool, fovs: int, ready: Any) -> float:
    """FOV/s of an Encoder in this process, after a warm-up. ready: a barrier that all processes wait at."""
    import torch

    torch.set_num_threads(1)
    config = parse_run(raw, where="benchmark")
    device = pick_device(1 if on_gpu else 0)
    first = pl.DataFrame({"row_group": 0, "row": range(config.encode.batch_fovs)})
    batch = Loader(config.image, config.storage, wide=has_wide(config))(
        as_batch(read_rows(config.manifest, first, Run(config).storage))
    )
    if config.codecs:
        batch = Compressor.of(config)(batch)
    models = load_models(config, resolve_weights(config, Run(config).storage), device)
    forward = Forward(device, pick_precision(config.precision, device))
    encoder = Encoder(config, models, forward, auto_micro_batch(config, on_gpu))
    calls = max(2, fovs // config.encode.batch_fovs)
    engine.encode(encoder, batch)
    ready.wait()
    start = time.perf_counter()
    for _ in range(calls):
        engine.encode(encoder, batch)
    return calls * config.encode.batch_fovs / (time.perf_counter() - start)


def bare_rate(config: RunConfig, actors: int, on_gpu: bool, fovs: int) -> float:
    """FOV/s of `actors` processes together."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(actors) as pool:
        ready = manager.Barrier(actors)
        work = [(config.model_dump(mode="json"), on_gpu, fovs, ready)] * actors
        return sum(pool.starmap(bare, work, chunksize=1))


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = engine.parser()
    parser.add_argument("--actors", type=harness.positive_numbers, default=[1, 2], help="encode actors: 1,2,4")
    parser.add_argument("--codecs", type=lambda text: text.split(","), default=[], help="jpeg,avif")
    parser.add_argument("--inception", action="store_true", help="InceptionV3 too")
    parser.set_defaults(architecture="tiny", crop=256, fovs=64, threads=1, repeats=3)
    options = parser.parse_args(arguments)
    device = engine.settled(options)
    on_gpu, console = device.type == "cuda", Console(stderr=True)
    record = harness.head("pipeline", device, vars(options)) | {"weights": "random", "steps": []}
    with tempfile.TemporaryDirectory(prefix="pipeline-") as folder:
        config = run_config(options, Path(folder))
        for actors in options.actors:
            alone, through = [], []
            for _ in range(options.repeats):  # by turns, so that other load meets both
                alone.append(bare_rate(config, actors, on_gpu, options.fovs))
                with ray_session("local"):
                    [step] = bench(Run(config), console, options.fovs, [actors])["steps"]
                through.append(step)
            rate = statistics.median(step["rate"] for step in through)
            shares = [step["rate"] / engine_rate for step, engine_rate in zip(through, alone, strict=True)]
            record["steps"].append(
                {
                    "actors": actors,
                    "engine_fov_per_s": statistics.median(alone),
                    "ray_fov_per_s": rate,
                    "share_of_engine": statistics.median(shares),
                    "shares_of_engine": shares,
                    "cold_start": statistics.median(step["cold_start"] for step in through),
                    "busy": through[-1]["busy"],
                }
            )
            last = record["steps"][-1]
            print(
                f"{actors} encode actors: engine {last['engine_fov_per_s']:.3g} FOV/s, through Ray {rate:.3g}, share "
                f"{last['share_of_engine']:.3f} ({', '.join(f'{share:.3f}' for share in shares)}), busy {last['busy']}"
            )
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
