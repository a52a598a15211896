"""Benchmark of the stream itself, with stub stages: the driver's memory and seconds, and the wait for the first committed row.

    python benchmarks/scale.py                                  # 1,000, 10,000 and 100,000 rows
    python benchmarks/scale.py --rows 1000,1000000              # a quarter of an hour and more on two cores
    python benchmarks/scale.py --rows 100000 --kills 4          # driver and Ray are killed four times on the way

The command is `encode` as the user runs it: manifest, pending rows, pieces, Ray Data, the ledger, Parquet tables, commits. Only the
work of the load and encode actors is replaced: they read their rows of the manifest, and hand on a few bytes per FOV. Every number
of rows runs in a process of its own. Afterwards the committed rows are counted: every FOV is there once. A second `encode` then
finds nothing to do, which measures the resume. The last line of output is one JSON object.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import harness
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as arrow_dataset
import tifffile
import torch
from rich.console import Console

from sdvae_ray.encoding import stream
from sdvae_ray.encoding.actors import as_batch
from sdvae_ray.encoding.encode import encode
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.engine.load import Batch
from sdvae_ray.run.run import Run
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, ERROR_CLASS, FOV_ID, KEYS, ROW, illum_column, uri_column
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.sources.manifest.reader import read_row_group
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
CPU = torch.device("cpu")


class StubLoad:
    """In the place of LoadActor: reads its rows of the manifest, and no image."""

    def __init__(self, run: Run, ledger: Any) -> None:
        self.run, self.ledger = run, ledger
        ledger.started.remote("load", False)

    def __call__(self, work: Batch) -> Iterator[Batch]:
        for group, rows in zip(work["row_group"], work["rows"], strict=True):
            table = read_row_group(self.run.config.manifest, int(group), self.run.storage)
            batch = as_batch(table.take(pa.array(np.frombuffer(rows, np.int32))))
            facts = [dict(zip(KEYS, row, strict=True)) for row in zip(*(batch[key] for key in KEYS), strict=True)]
            count = len(facts)
            self.ledger.add_rows.remote("load", count, 0.0)
            yield {
                FOV_ID: batch[FOV_ID],
                ROW: np.array([json.dumps(fact) for fact in facts], object),
                ERROR: np.full(count, "", object),
                ERROR_CLASS: np.full(count, "", object),
                "seconds_load": np.zeros(count, np.float32),
            }


class StubEncode:
    """In the place of EncodeActor: one number for every column of the run."""

    def __init__(self, run: Run, record: Any, pool: Any, ledger: Any, wanted: Any) -> None:
        self.columns, self.ledger = sorted(wanted), ledger
        ledger.started.remote("encode", False)

    def __call__(self, batch: Batch) -> Batch:
        count = len(batch[FOV_ID])
        self.ledger.add_rows.remote("encode", count, 0.0)
        return {**batch, **{name: np.zeros((count, 1), np.float32) for name in self.columns}}


def manifest_of(folder: Path, rows: int) -> str:
    """Writes one small field, and a manifest of `rows` rows that all name it, unless they are there."""
    if (folder / "manifest.parquet").exists():
        return str(folder / "manifest.parquet")
    for stain in STAINS:
        tifffile.imwrite(folder / f"{stain}.tiff", np.full((64, 64), 1000, np.uint16))
    number = pl.int_range(rows, eager=True)
    keys = {
        KEYS[0]: pl.lit("source"),
        KEYS[1]: pl.lit("batch"),
        KEYS[2]: pl.format("P{}", number // 3456),
        KEYS[3]: pl.format("W{}", number // 9 % 384),
        KEYS[4]: (number % 9).cast(pl.String),
    }
    table = pl.select(**keys).with_columns(pl.concat_str(KEYS, separator="/").alias(FOV_ID))
    images = {uri_column(stain): pl.lit(str(folder / f"{stain}.tiff")) for stain in STAINS}
    table = table.with_columns(**images, **{illum_column(stain): pl.lit(None, pl.String) for stain in STAINS})
    write_manifest(table.select(FOV_ID, pl.exclude(FOV_ID)), str(folder / "manifest.parquet"), Storage())
    return str(folder / "manifest.parquet")


def run_config(folder: Path, rows: int) -> Any:
    """A run with the smallest image and one autoencoder, whose rows hold one number per column."""
    raw = {"manifest": manifest_of(folder, rows), "output": str(folder / "run"), "metrics": ["mae"]}
    raw |= {"image": {"crop": 64, "patch": 64}, "autoencoders": {"pca": {"name": "patch_pca"}}, "extractors": {}}
    raw |= {"load": {"actors": 1, "cpus": 0.15}, "encode": {"actors": 1, "cpus": 0.5, "gpus": 0, "batch_fovs": 64}}
    return parse_run(raw, where="benchmark")


def first_commit(output: Path, start: float, seconds: list[float], ended: threading.Event) -> None:
    """Adds the seconds until there is a file in fovs/."""
    while not ended.wait(0.1):
        if (output / "fovs").is_dir() and any((output / "fovs").glob("*.parquet")):
            seconds.append(time.monotonic() - start)
            return


def measure(folder: Path, rows: int) -> harness.Record:
    """One run of stub stages in this process, to its end, and the resume after it."""
    config, console = run_config(folder, rows), Console(stderr=True)
    output, seconds, ended = Path(config.output), [], threading.Event()
    watch = threading.Thread(target=first_commit, args=(output, time.monotonic(), seconds, ended))
    watch.start()
    with mock.patch.multiple(stream, LoadActor=StubLoad, EncodeActor=StubEncode):
        whole = harness.timed(lambda: encode(Run(config), console), CPU)
    ended.set()
    watch.join()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    fovs = arrow_dataset.dataset(output / "fovs")
    ids = pl.from_arrow(fovs.to_table(columns=[FOV_ID]))
    assert ids.height == ids.n_unique() == rows, "a FOV is missing, or there twice"
    assert run_columns(config), "the run writes no column"
    again = harness.timed(lambda: encode(Run(config), console), CPU)
    session = Run(config).record["sessions"][-1]
    return {
        "rows": rows,
        "rows_of_the_last_session": session["fovs"],
        "files": len(fovs.files),
        "seconds": whole.wall,
        "driver_cpu_seconds": whole.cpu,
        "driver_cpu_seconds_per_1000_rows": 1000 * whole.cpu / rows,
        "fov_per_s": session["stages"][0]["encode"]["rate"],
        "first_commit_seconds": seconds[0],
        "driver_peak_bytes": peak,
        "resume_seconds": again.wall,
    }


def killed(command: list[str], output: Path, files: int) -> None:
    """Starts the command, and kills it with everything that it has started once so many more files are committed."""
    there = len(list((output / "fovs").glob("*.parquet")))
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((output / "fovs").glob("*.parquet"))) < there + files:
        assert process.poll() is None, "the run was over before it was killed"
        time.sleep(0.05)
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == process.pid:
                os.kill(int(entry.name), signal.SIGKILL)
    process.wait()


def measured(rows: int, kills: int) -> harness.Record:
    """The result of `measure` in a process of its own, after some processes that were killed in the middle."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        command = [sys.executable, __file__, "--rows", str(rows), "--folder", folder]
        run_config(Path(folder), rows)  # the manifest
        for _ in range(kills):
            killed(command, Path(folder) / "run", files=max(1, rows // 256 // (kills + 1)))
        alone = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(alone.stdout.decode().splitlines()[-1]) | {"kills": kills}


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=harness.positive_numbers, default=[1000, 10_000, 100_000], help="1000,10000")
    parser.add_argument("--kills", type=int, default=0, help="how often driver and Ray are killed on the way")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        print(json.dumps(measure(options.folder, options.rows[0])))
        return 0
    asked = {"rows": options.rows, "kills": options.kills}
    record = harness.head("scale", CPU, asked) | {"stages": "stubs", "results": []}
    for rows in options.rows:
        result = measured(rows, options.kills)
        print(", ".join(f"{key} {value:.4g}" for key, value in result.items() if value is not None), flush=True)
        record["results"].append(result)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
