"""Benchmark of profiles at the size of a screen: embeddings -> stored profiles -> normalised profiles, plate by plate with Ray.

    python benchmarks/profiles.py                               # 40 plates of 384 wells, 4,096 features
    python benchmarks/profiles.py --plates 2859 --written 40    # JUMP's 1,097,830 wells: 40 plates on disk, read many times

The embeddings are random, with two FOVs per well and 64 control wells per plate. `--written` plates are written and profiled. The
normalisation is of `--plates` plates: each has a name of its own and one of the written files, so that the disk need not hold all
plates. The reads, the computation and the memory are those of `--plates` plates. Profiles smaller than `--held` GB stay in memory
(the limit of the package is 0.5). Memory is the peak of the resident set of this process and of the largest Ray worker. The last
line of output is one JSON object.
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path

import harness
import numpy as np
import polars as pl
import torch

from sdvae_ray.cluster.session import ray_session
from sdvae_ray.config import RunConfig
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import read_fovs
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, WELL_COLUMN, fov_id
from sdvae_ray.schema import ROW as ROW_JSON
from sdvae_ray.scoring.inputs.fovs import Fovs
from sdvae_ray.scoring.normalised import HELD_BYTES, normaliser_of
from sdvae_ray.scoring.profiles import FILE, ROW, Profiles, build_profiles
from sdvae_ray.storage import Storage

WELLS, CONTROLS, SITES, PASSES = 384, 64, 2, 2
CPU = torch.device("cpu")


def embedded(config: RunConfig, plates: int, depth: int) -> None:
    """Writes one file of embeddings per plate: noise with an offset per plate."""
    random = np.random.default_rng(0)
    for plate in range(plates):
        wells = [f"{'ABCDEFGHIJKLMNOP'[at // 24]}{at % 24 + 1:02d}" for at in range(WELLS)]
        rows = [
            dict(zip(KEYS, ("s", "b", f"P{plate:04d}", well, str(site)), strict=True))
            | {"Metadata_broad_sample": "" if at < CONTROLS else f"C{at}"}
            for at, well in enumerate(wells)
            for site in range(SITES)
        ]
        values = random.standard_normal((len(rows), PASSES, depth), np.float32) + random.standard_normal(
            depth, np.float32
        )
        columns = {
            FOV_ID: np.array([fov_id(row) for row in rows], object),
            ERROR: np.full(len(rows), "", object),
            ROW_JSON: np.array([json.dumps(row) for row in rows], object),
            "embeddings/made/image:embedding": values.astype(np.float16),
        }
        write_rows(config.output, f"part-{plate:05d}", columns, Storage())


def repeated(profiles: Profiles, plates: int) -> pl.DataFrame:
    """The wells of `plates` plates, which share the files of `profiles`."""
    own = profiles.wells.partition_by(FILE, maintain_order=True)
    return pl.concat(
        own[number % len(own)].select(FILE, ROW, plate=pl.lit(f"P{number:05d}"), control=pl.col(WELL_COLUMN) < "C17")
        for number in range(plates)
    )


def largest_worker() -> int:
    """The largest peak of the resident set of a Ray worker of this user, in bytes."""
    most = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if b"ray::" not in (folder / "cmdline").read_bytes():
                continue
            lines = (folder / "status").read_text().splitlines()
        except OSError:
            continue
        most = max([most, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))])
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plates", type=int, default=40)
    parser.add_argument("--written", type=int, default=40)
    parser.add_argument("--features", type=int, default=4096)
    parser.add_argument("--held", type=float, default=HELD_BYTES / 1e9)
    parser.add_argument("--normalise", default="published")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="profiles-")
    record = harness.head("profiles", CPU, vars(options))
    record |= {"wells": options.plates * WELLS, "written": min(options.written, options.plates)}
    try:
        raw = {"manifest": f"{folder}/none.parquet", "output": folder, "codecs": {"jpeg": {"name": "jpeg"}}}
        raw |= {"extractors": {"made": {"name": "intensity"}}, "metrics": [], "score": {"normalise": options.normalise}}
        config = parse_run(raw)
        embedded(config, record["written"], options.features // PASSES)
        with ray_session("local"):
            fovs = Fovs.of(read_fovs(folder, Storage()).with_columns(group=pl.lit("all")))
            start = time.perf_counter()
            profiles = build_profiles(Run(config), fovs, "made", "image", None)
            record["profile_seconds_per_plate"] = (time.perf_counter() - start) / record["written"]
            record["bytes_per_plate"] = sum(Path(uri).stat().st_size for uri in profiles.files) / record["written"]
            wells = repeated(profiles, options.plates)
            fit = wells["control"].to_numpy()
            harness.reset_peak_memory(CPU)
            before, start = harness.peak_memory(CPU), time.perf_counter()
            normaliser = normaliser_of(Run(config), [(profiles, wells)], int(options.held * 1e9))
            normalised = normaliser(fit, np.ones(len(fit), bool))
            record["normalise_seconds"] = time.perf_counter() - start
            record["driver_bytes"] = harness.peak_memory(CPU) - before
            record["driver_bytes_beyond_profiles"] = record["driver_bytes"] - normalised.features.nbytes
            record["profiles_bytes"] = normalised.features.nbytes
            record["largest_worker_bytes"] = largest_worker()
            record["fit_wells"] = int(fit.sum())
            record["components"] = normalised.features.shape[1]
            record["in_memory"] = normalised.features.dtype == np.float64
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for key, value in record.items():
        if key not in ("machine", "benchmark", "settings"):
            print(f"{key:32} {value}")
    harness.print_json(record)


if __name__ == "__main__":
    main()
