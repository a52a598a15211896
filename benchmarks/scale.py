"""Benchmark of the stream itself, with stub stages: the driver's memory and seconds, and the wait for the first committed row.

    python benchmarks/scale.py                                  # 1,000, 10,000 and 100,000 rows
    python benchmarks/scale.py --rows 1000,1000000              # a quarter of an hour and more on two cores
    python benchmarks/scale.py --rows 100000 --kills 4          # driver and Ray are killed four times on the way
    python benchmarks/scale.py --rows 8126570 --parts --until-first-commit    # a manifest of a file per plate; ended there
    python benchmarks/scale.py --rows 8126570 --parts --finished              # the resume of a run whose rows are all committed

The command is `encode` as the user runs it: manifest, pending rows, pieces, Ray Data, the ledger, Parquet tables, commits. Only the
work of the load and encode actors is replaced: they read their rows of the manifest, and hand on a few bytes per FOV. Every number
of rows runs in a process of its own. Afterwards the committed rows are counted: every FOV is there once. A second `encode` then
finds nothing to do, which measures the resume. --finished commits all rows but a few itself, 4,096 in a file, and measures the
resume alone. The last line of output is one JSON object.
"""

import _thread
import argparse
import functools
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
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
from sdvae_ray.encoding.encode import encode
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.engine.files.load import Batch
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import commit, write_data
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, ERROR_CLASS, FOV_ID, KEYS, ROW, SEPARATOR, illum_column, uri_column
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.sources.manifest.reader import group_reader, iterate_row_groups
from sdvae_ray.sources.manifest.row import as_batch
from sdvae_ray.sources.manifest.writer import writing
from sdvae_ray.storage import Storage

PLATE = 3456  # fields of view of a plate
COMMITTED = 4096  # rows of a file that --finished writes
STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
CPU = torch.device("cpu")


class StubLoad:
    """In the place of LoadActor: reads its rows of the manifest, and no image."""

    def __init__(self, run: Run, ledger: Any) -> None:
        self.run, self.ledger = run, ledger
        self.read = functools.lru_cache(2)(group_reader(run.config.manifest, run.storage))
        ledger.started.remote("load", False)

    def __call__(self, work: Batch) -> Iterator[Batch]:
        for group, rows in zip(work["row_group"], work["rows"], strict=True):
            batch = as_batch(self.read(int(group)).take(pa.array(np.frombuffer(rows, np.int32))))
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


def manifest_of(folder: Path, rows: int, parts: bool) -> str:
    """Writes one small field, and a manifest of `rows` rows that all name it, unless they are there. parts: a file per plate."""
    place = folder / ("manifest" if parts else "manifest.parquet")
    if place.exists():
        return str(place)
    for stain in STAINS:
        tifffile.imwrite(folder / f"{stain}.tiff", np.full((64, 64), 1000, np.uint16))
    if not parts:
        write_manifest(fields_of(folder, 0, rows), str(place), Storage())
        return str(place)
    with writing(str(place), Storage()) as writer:
        for start in range(0, rows, PLATE):
            writer.write(fields_of(folder, start, min(start + PLATE, rows)).to_arrow())
    return str(place)


def fields_of(folder: Path, start: int, stop: int) -> pl.DataFrame:
    """Rows of a manifest: 384 wells of 9 sites on a plate."""
    number = pl.int_range(start, stop, eager=True)
    keys = {
        KEYS[0]: pl.lit("source"),
        KEYS[1]: pl.lit("batch"),
        KEYS[2]: pl.format("P{}", (number // PLATE).cast(pl.String).str.zfill(5)),
        KEYS[3]: pl.format("W{}", number // 9 % 384),
        KEYS[4]: (number % 9).cast(pl.String),
    }
    table = pl.select(**keys).with_columns(pl.concat_str(KEYS, separator="/").alias(FOV_ID))
    images = {uri_column(stain): pl.lit(str(folder / f"{stain}.tiff")) for stain in STAINS}
    table = table.with_columns(**images, **{illum_column(stain): pl.lit(None, pl.String) for stain in STAINS})
    return table.select(FOV_ID, pl.exclude(FOV_ID))


def run_config(folder: Path, rows: int, parts: bool) -> Any:
    """A run with the smallest image and one autoencoder, whose rows hold one number per column."""
    raw = {"manifest": manifest_of(folder, rows, parts), "output": str(folder / "run"), "metrics": ["mae"]}
    raw |= {"image": {"crop": 64, "patch": 64}, "autoencoders": {"pca": {"name": "patch_pca"}}, "extractors": {}}
    raw |= {"load": {"actors": 1, "cpus": 0.15}, "encode": {"actors": 1, "cpus": 0.5, "gpus": 0, "batch_fovs": 64}}
    return parse_run(raw, where="benchmark")


def first_commit(output: Path, start: float, seconds: list[float], ended: threading.Event) -> None:
    """Adds the seconds until there is a file in fovs/."""
    while not ended.wait(0.1):
        if (output / "fovs").is_dir() and any((output / "fovs").glob("*.parquet")):
            seconds.append(time.monotonic() - start)
            return


def peak() -> int:
    """Bytes: the largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def until_first_commit(folder: Path, rows: int, parts: bool) -> harness.Record:
    """The start of a run of stub stages, which is ended at its first commit."""
    config, console = run_config(folder, rows, parts), Console(stderr=True)
    seconds, ended = list[float](), threading.Event()

    def look() -> None:
        first_commit(Path(config.output), start, seconds, ended)
        _thread.interrupt_main()

    start = time.monotonic()
    threading.Thread(target=look, daemon=True).start()
    with mock.patch.multiple(stream, LoadActor=StubLoad, EncodeActor=StubEncode), suppress(KeyboardInterrupt):
        encode(Run(config), console)
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": rows,
        "first_commit_seconds": seconds[0],
        "driver_cpu_seconds": cpu.ru_utime + cpu.ru_stime,
        "driver_peak_bytes": peak(),
    }


def resume_of_finished(folder: Path, rows: int, parts: bool) -> harness.Record:
    """The resume of a run of stub stages, of which all rows are committed."""
    config, console = run_config(folder, rows, parts), Console(stderr=True)
    run = Run(config)
    with mock.patch.multiple(stream, LoadActor=StubLoad, EncodeActor=StubEncode):
        encode(run, console, limit=64)  # the record, and a session
    done = set(run.fovs([])[FOV_ID])
    tables: dict[str, list[str]] = {}
    for name in sorted(run_columns(config)):
        table, _, column = name.rpartition(SEPARATOR)
        tables.setdefault(table, []).append(column)
    waiting, number = list[pa.Table](), 0
    for group in iterate_row_groups(config.manifest, run.storage, [FOV_ID, *KEYS]):
        waiting.append(group.filter(pa.array([name not in done for name in group[FOV_ID].to_pylist()])))
        if sum(map(len, waiting)) >= COMMITTED:
            number = _commit(run, pa.concat_tables(waiting), tables, number)
            waiting = []
    if waiting and sum(map(len, waiting)):
        _commit(run, pa.concat_tables(waiting), tables, number)
    alone = subprocess.run(
        [sys.executable, __file__, "--rows", str(rows), "--folder", str(folder), "--again", *["--parts"] * parts],
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(alone.stdout.decode().splitlines()[-1])


def _commit(run: Run, rows: pa.Table, tables: Mapping[str, Sequence[str]], number: int) -> int:
    name = f"{run.record['sessions'][-1]['session']}-finished-{number:06d}"
    ids = np.array(rows[FOV_ID].to_pylist(), object)
    for table, columns in tables.items():
        zeros = {column: np.zeros((len(rows), 1), np.float32) for column in columns}
        write_data(run.output, table, name, {FOV_ID: ids, **zeros}, run.storage)
    nulls = pa.nulls(len(rows), pa.string())
    fovs = rows.append_column(ERROR, nulls).append_column(ERROR_CLASS, nulls)
    fovs = fovs.append_column("seconds_load", pa.array(np.zeros(len(rows), np.float32)))
    commit(
        run.output,
        name,
        fovs,
        [f"{table}{SEPARATOR}{c}" for table, columns in tables.items() for c in columns],
        run.storage,
    )
    return number + 1


def again(folder: Path, rows: int, parts: bool) -> harness.Record:
    """One more `encode` of a run that is complete."""
    config = run_config(folder, rows, parts)
    sample = harness.timed(lambda: encode(Run(config), Console(stderr=True)), CPU)
    return {"rows": rows, "resume_seconds": sample.wall, "driver_cpu_seconds": sample.cpu, "driver_peak_bytes": peak()}


def measure(folder: Path, rows: int, parts: bool) -> harness.Record:
    """One run of stub stages in this process, to its end, and the resume after it."""
    config, console = run_config(folder, rows, parts), Console(stderr=True)
    output, seconds, ended = Path(config.output), [], threading.Event()
    watch = threading.Thread(target=first_commit, args=(output, time.monotonic(), seconds, ended))
    watch.start()
    with mock.patch.multiple(stream, LoadActor=StubLoad, EncodeActor=StubEncode):
        whole = harness.timed(lambda: encode(Run(config), console), CPU)
    ended.set()
    watch.join()
    most = peak()
    fovs = arrow_dataset.dataset(output / "fovs")
    ids = pl.from_arrow(fovs.to_table(columns=[FOV_ID]))
    assert ids.height == ids.n_unique() == rows, "a FOV is missing, or there twice"
    assert run_columns(config), "the run writes no column"
    resumed = harness.timed(lambda: encode(Run(config), console), CPU)
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
        "driver_peak_bytes": most,
        "resume_seconds": resumed.wall,
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


def measured(rows: int, kills: int, parts: bool, how: str | None) -> harness.Record:
    """The result of one way to measure in a process of its own, after some processes that were killed in the middle."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        command = [sys.executable, __file__, "--rows", str(rows), "--folder", folder, *["--parts"] * parts]
        run_config(Path(folder), rows, parts)  # the manifest
        for _ in range(kills):
            killed(command, Path(folder) / "run", files=max(1, rows // 256 // (kills + 1)))
        alone = subprocess.run([*command, *([f"--{how}"] if how else [])], stdout=subprocess.PIPE, check=True)
    return json.loads(alone.stdout.decode().splitlines()[-1]) | {"kills": kills}


WAYS = {"until-first-commit": until_first_commit, "finished": resume_of_finished, "again": again}


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=harness.positive_numbers, default=[1000, 10_000, 100_000], help="1000,10000")
    parser.add_argument("--kills", type=int, default=0, help="how often driver and Ray are killed on the way")
    parser.add_argument("--parts", action="store_true", help="a manifest of a file per plate, in place of one file")
    ways = parser.add_mutually_exclusive_group()
    for way, what in {
        "until-first-commit": "the start alone",
        "finished": "the resume alone",
        "again": argparse.SUPPRESS,
    }.items():
        ways.add_argument(f"--{way}", dest="way", action="store_const", const=way, help=what)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.folder:
        measure_it = WAYS.get(options.way, measure)
        print(json.dumps(measure_it(options.folder, options.rows[0], options.parts)))
        return 0
    asked = {"rows": options.rows, "kills": options.kills, "parts": options.parts, "way": options.way}
    record = harness.head("scale", CPU, asked) | {"stages": "stubs", "results": []}
    for rows in options.rows:
        result = measured(rows, options.kills, options.parts, options.way)
        print(", ".join(f"{key} {value:.4g}" for key, value in result.items() if value is not None), flush=True)
        record["results"].append(result)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
