"""Benchmark of `score` at the width of JUMP: a synthetic finished run, and the seconds and memory of every stage of its scores.

    python benchmarks/score.py                                        # 10,000 and 100,000 FOVs, 37 of them in a file
    python benchmarks/score.py --fovs 1000000 --rows-per-file 65536   # a compacted run
    python benchmarks/score.py --fovs 8126570 --rows-per-file 65536 --until fovs    # fovs/ alone

The run has plates of 384 wells with 8 FOVs each, 64 control wells a plate, every compound once on each of four plates, and twelve
sources. Embeddings, metrics and QC numbers are random and small; fovs/ has the columns that `encode` writes. `score` is what the
user runs; every stage is timed in the driver, with the peak of the driver's resident set and of the largest Ray worker. Every
number of FOVs runs in a process of its own. The last line of output is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import harness
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from sdvae_ray.config import RunConfig
from sdvae_ray.run.record import new_record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.commits import COMMITS
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, ERROR_CLASS, FOV_ID, KEYS, SOURCE_DIGEST, tensor_array
from sdvae_ray.scoring import score as stages
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.storage import Storage

WELLS, CONTROLS, SITES, PLATES_PER_COMPOUND, SOURCES = 384, 64, 8, 4, 12
DEPTH, PATCHES = 16, 1  # of an embedding: two RGB passes of DEPTH features
STAGES = (
    "fields_to_score", "build_profiles", "profiles_of_site_halves", "distances", "score_side", "references", "latent_space",
    "floors_of", "tasks_of", "audits_of", "differences", "metric_distributions",
)  # fmt: skip
CPU = torch.device("cpu")


class MeasuredError(Exception):
    """The last stage that was asked for is over."""


def fields(first: int, rows: int) -> pl.DataFrame:
    """The rows of fovs/ from the number `first` on, without QC."""
    number = pl.int_range(first, first + rows, eager=True)
    well, plate = number // SITES % WELLS, number // SITES // WELLS
    source = plate % SOURCES
    compound = plate // SOURCES // PLATES_PER_COMPOUND * SOURCES * (WELLS - CONTROLS) + source * WELLS + well
    is_control = well < CONTROLS
    digits = (well % 24 + 1).cast(pl.String).str.zfill(2)
    letters = pl.Series(list("ABCDEFGHIJKLMNOP"))[(well // 24).cast(pl.UInt32)]
    table = pl.DataFrame({"plate": plate, "source": source, "well": letters + digits, "site": number % SITES + 1})
    table = table.with_columns(is_control=is_control, compound=compound)
    name = pl.when("is_control").then(pl.lit("JCP2022_033924")).otherwise(pl.format("JCP2022_C{}", "compound"))
    keys = {
        KEYS[0]: pl.format("source_{}", "source"),
        KEYS[1]: pl.format("2021_04_26_Batch{}", pl.col("plate") // 96),
        KEYS[2]: pl.format("BR{}", pl.col("plate") + 10_000_000),
        KEYS[3]: pl.col("well"),
        KEYS[4]: pl.col("site").cast(pl.String),
    }
    return table.select(
        pl.concat_str(keys.values(), separator="/").alias(FOV_ID),
        **keys,
        Metadata_broad_sample=name,
        Metadata_control_type=pl.when("is_control").then(pl.lit("negcon")),
        Metadata_JCP2022=name,
        Metadata_Microscope=pl.lit("Opera Phenix"),
        Metadata_PlateType=pl.lit("COMPOUND"),
        Metadata_Time=pl.lit("48"),
    )


def write_finished(config: RunConfig, fovs: int, rows_per_file: int) -> None:
    """Write the tables of a finished run and its run.json, file by file."""
    output, random = Path(config.output), np.random.default_rng(0)
    tables = {
        "embeddings/made/image": {"embedding": (2, DEPTH)},
        "embeddings/made/jpeg": {"embedding": (2, DEPTH)},
        "metrics/jpeg": {"mae": (PATCHES, 5), "psnr": (PATCHES, 5)},
    }
    committed = [f"{table}:{column}" for table, columns in tables.items() for column in columns]
    for table in ("fovs", *tables):
        (output / table).mkdir(parents=True)
    plates = -(-fovs // SITES // WELLS)
    shift = random.standard_normal((plates, 1, 2, DEPTH), np.float32)
    effect = 0.5 * random.standard_normal((2 * fovs // SITES + 1, 2, DEPTH), np.float32)
    for number, first in enumerate(range(0, fovs, rows_per_file)):
        rows, name = min(rows_per_file, fovs - first), f"0123abcd-{number:06d}.parquet"
        table = fields(first, rows)
        code = (table["Metadata_broad_sample"].str.extract(r"C(\d+)$").cast(pl.Int64).fill_null(-1)).to_numpy()
        treated = effect[np.where(code < 0, 0, code % len(effect))] * (code >= 0)[:, None, None]
        offset = shift[(first + np.arange(rows)) // (SITES * WELLS), 0]
        data: dict[str, dict[str, np.ndarray]] = {}
        for key, columns in tables.items():
            noise = {column: random.standard_normal((rows, *shape), np.float32) for column, shape in columns.items()}
            if key.startswith("embeddings"):
                noise = {column: (values + offset + treated).astype(np.float16) for column, values in noise.items()}
            data[key] = noise
        for key, columns in data.items():
            arrays = {FOV_ID: table[FOV_ID].to_arrow()} | {name: tensor_array(array) for name, array in columns.items()}
            pq.write_table(pa.table(arrays), output / key / name, compression="zstd", row_group_size=64)
        marked = _with_facts(table, random).replace_schema_metadata({COMMITS: json.dumps(sorted(committed))})
        pq.write_table(marked, output / "fovs" / name, compression="zstd", row_group_size=64)
    pl.DataFrame({FOV_ID: ["none"]}).write_parquet(config.manifest)
    record = new_record(config, describe_manifest(config.manifest, fovs, Storage()), {}, 8, "float32")
    Run(config).write_record(record)


def _with_facts(table: pl.DataFrame, random: np.random.Generator) -> pa.Table:
    """The rows with the other columns that `encode` writes: QC per stain, seconds, nodes, the digest of the source."""
    rows = table.height
    means = random.random((rows, 5), np.float32)
    texts = {"load_node": "node", "device": "AMD EPYC", "encode_node": "node"}
    whole = table.with_columns(
        pl.lit(None, pl.String).alias(ERROR),
        pl.lit(None, pl.String).alias(ERROR_CLASS),
        *(pl.lit(0.25, pl.Float32).alias(f"seconds_{stage}") for stage in ("load", "compress", "encode")),
        *(pl.lit(text).alias(name) for name, text in texts.items()),
        pl.Series(SOURCE_DIGEST, [part.hex() for part in _chunks(random.bytes(8 * rows), 8)]),
        pl.lit(8, pl.Int32).alias("micro_batch"),
    ).to_arrow()
    for name in ("qc_mean", "qc_saturated", "qc_zero", "qc_raw_max"):
        whole = whole.append_column(name, tensor_array(means if name == "qc_mean" else np.full_like(means, 0.5)))
    return whole.append_column("qc_raw_crc32", tensor_array(np.tile(np.arange(5, dtype=np.uint32), (rows, 1))))


def _chunks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def run_config(folder: Path, overrides: Sequence[str]) -> RunConfig:
    """A run of one codec and one extractor, whose wells are grouped by source."""
    raw: dict[str, Any] = {"manifest": str(folder / "manifest.parquet"), "output": str(folder / "run")}
    raw |= {"image": {"crop": 64, "patch": 64}, "codecs": {"jpeg": {"name": "jpeg"}}, "metrics": ["mae", "psnr"]}
    raw |= {"extractors": {"made": {"name": "intensity", "keep_patches": 0}}}
    raw["score"] = {"group": [KEYS[0]], "null_size": 1000, "floor_repeats": 0, "tasks": []}
    return Run(parse_run(raw, where="benchmark")).changed(*overrides).config


class Watch:
    """Seconds and peaks of memory by stage. workers: the peak of the resident set of the largest Ray worker of this driver."""

    def __init__(self) -> None:
        self.rows: dict[str, harness.Record] = {}
        self.most, self.ended = 0, threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while not self.ended.wait(0.5):
            self.most = max(self.most, _largest_worker())

    def stage(self, name: str, call: Callable[..., Any], last: bool) -> Callable[..., Any]:
        """The call, measured under `name`; a stage that runs several times adds its seconds up."""

        def measured(*arguments: Any, **options: Any) -> Any:
            harness.reset_peak_memory(CPU)
            self.most = 0
            start, cpu = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **options)
            finally:
                row = self.rows.setdefault(
                    name, {"seconds": 0.0, "driver_cpu": 0.0, "driver_gb": 0.0, "worker_gb": 0.0}
                )
                row["seconds"] += time.perf_counter() - start
                row["driver_cpu"] += time.process_time() - cpu
                row["driver_gb"] = max(row["driver_gb"], harness.peak_memory(CPU) / 1e9)
                row["worker_gb"] = max(row["worker_gb"], self.most / 1e9)
                if last:
                    raise MeasuredError

        return measured


def _largest_worker() -> int:
    """The largest resident set, without what it shares, of a Ray worker that this process has started, in bytes."""
    session, most = os.getsid(0), 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) != session or b"ray::" not in (folder / "cmdline").read_bytes():
                continue
            resident, shared = (int(text) for text in (folder / "statm").read_text().split()[1:3])
        except OSError:
            continue
        most = max(most, (resident - shared) * os.sysconf("SC_PAGE_SIZE"))
    return most


def measure(options: argparse.Namespace) -> harness.Record:
    """Score the run in `options.folder` in this process."""
    config, watch = run_config(options.folder, options.set), Watch()
    with ExitStack() as stack:
        for name in STAGES:
            call = watch.stage(name, getattr(stages, name), name.strip("_").startswith(options.until or "-"))
            stack.enter_context(mock.patch.object(stages, name, call))
        start = time.perf_counter()
        with suppress(MeasuredError):
            stages.score(Run(config), Console(stderr=True))
        seconds = time.perf_counter() - start
    peak = max(row["driver_gb"] for row in watch.rows.values())
    return {"seconds": seconds, "driver_gb": peak, "stages": watch.rows}


def measured(fovs: int, options: argparse.Namespace) -> harness.Record:
    """The result of `measure` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="score-", dir=options.place) as folder:
        start = time.perf_counter()
        write_finished(run_config(Path(folder), []), fovs, options.rows_per_file)
        written = time.perf_counter() - start
        command = [sys.executable, __file__, "--folder", folder, "--until", options.until]
        command += [part for text in options.set for part in ("--set", text)]
        alone = subprocess.run(command, stdout=subprocess.PIPE, check=True, start_new_session=True)
        size = sum(file.stat().st_size for file in Path(folder).rglob("*.parquet"))
    files = -(-fovs // options.rows_per_file)
    head = {"fovs": fovs, "wells": fovs // SITES, "files": files, "disk_gb": size / 1e9, "written_seconds": written}
    return head | json.loads(alone.stdout.decode().splitlines()[-1])


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--fovs", type=harness.positive_numbers, default=[10_000, 100_000], help="10000,100000")
    parser.add_argument("--rows-per-file", type=int, default=37, help="of fovs/ and of every other table")
    parser.add_argument("--until", default="", help="the beginning of the name of the last stage; all stages without")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the run file; repeatable")
    parser.add_argument("--place", type=Path, help="the folder that the run is written in")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        print(json.dumps(measure(options)))
        return 0
    asked = {name: value for name, value in vars(options).items() if name not in ("folder", "place")}
    record = harness.head("score", CPU, asked) | {"results": []}
    for fovs in options.fovs:
        result = measured(fovs, options)
        for name, row in result["stages"].items():
            numbers = ", ".join(f"{key} {value:.3g}" for key, value in row.items())
            print(f"{fovs:9} {name.strip('_'):24} {numbers}", flush=True)
        record["results"].append(result)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
