"""Benchmark of the load stage without Ray: megabytes of pixels per core-second, beside reading the same files and unpacking them.

    python benchmarks/ingest.py                     # synthetic fields of five stains, 1,080 x 1,080 uint16
    python benchmarks/ingest.py --field CH1 CH2 ...  # the TIFFs of a real field, its pixels written again in both kinds

The fields are written as LZW and as uncompressed TIFFs into a temporary folder, so the files come from the page cache. `raw` reads
the files and unpacks them with imagecodecs.tiff_decode (LZW) or numpy.frombuffer (uncompressed), and does nothing else. `loader`
is the load stage: it reads, decodes, corrects, scales, takes the QC numbers and cuts patches. A megabyte is 10^6 bytes of uint16
pixels before the crop. Seconds are of the processor, over all threads, the median of the repeats; raw and loader take turns. The
last line of output is one JSON object.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import harness
import imagecodecs
import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.files import load
from sdvae_ray.engine.files.load import ERROR, FOV_ID, Batch, Loader
from sdvae_ray.engine.files.quality import QC, RAW_QC
from sdvae_ray.schema import illum_column, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.synthetic.field import render_field
from sdvae_ray.sources.synthetic.microscope import STAINS, BatchEffect, correction

KINDS = {"lzw": "lzw", "uncompressed": None}
PARTS = {"decode": "decode_planes", "scale": "scale_plane", "tile": "tile"}  # part -> its function in engine/files/load
GOALS = {"lzw": 150, "uncompressed": 1000}  # MB per core-second


def fields(options: argparse.Namespace) -> np.ndarray:
    """(n, 5, size, size) uint16: the real field, `--fovs` times, or synthetic ones."""
    if options.field:
        return np.stack([np.stack([tifffile.imread(file) for file in options.field])] * options.fovs)
    rng = np.random.default_rng(0)
    return np.stack([render_field(rng, options.size, batch=BatchEffect()) for _ in range(options.fovs)])


def write(pixels: np.ndarray, folder: Path, kind: str) -> Batch:
    """Writes the fields as TIFFs, as the synthetic screens do, with illumination functions; returns the rows of a manifest."""
    batch = {FOV_ID: np.array([f"source/batch/plate/A01/{number}" for number in range(len(pixels))], object)}
    functions = correction(pixels.shape[-1], BatchEffect())
    for place, stain in enumerate(STAINS):
        files = [folder / f"{kind}-{number}-{stain}.tiff" for number in range(len(pixels))]
        for file, field in zip(files, pixels, strict=True):
            tifffile.imwrite(file, field[place], compression=KINDS[kind], metadata=None, software=False)
        function = folder / f"Illum{stain}.npy"
        np.save(function, functions[place])
        batch[uri_column(stain)] = np.array(list(map(str, files)), object)
        batch[illum_column(stain)] = np.array([str(function)] * len(pixels), object)
    return batch


def raw(batch: Batch, kind: str, size: int) -> None:
    """Reads every file of a batch and unpacks it, one plane after the other."""
    for stain in STAINS:
        for file in batch[uri_column(stain)]:
            data = Path(file).read_bytes()
            if kind == "lzw":
                imagecodecs.tiff_decode(data)
            else:
                np.frombuffer(data, np.uint16, size * size, len(data) - 2 * size * size)  # the header comes first


@contextmanager
def clocked(seconds: dict[str, float]) -> Iterator[None]:
    """A block in which the parts of the loader add their processor seconds to `seconds`."""

    def clock(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            start = time.thread_time()
            try:
                return call(*arguments)
            finally:
                seconds[part] += time.thread_time() - start

        return timed

    parts = {name: clock(part, getattr(load, name)) for part, name in PARTS.items()}
    qc = [mock.patch.dict(of, {name: clock("QC", of[name]) for name in of}) for of in (QC, RAW_QC)]
    with mock.patch.multiple(load, **parts), qc[0], qc[1]:
        yield


def measure(batch: Batch, kind: str, image: ImageConfig, pixels: np.ndarray, repeats: int) -> harness.Record:
    """The core-seconds per FOV of raw and of the loader, and of the parts of the loader, which are timed in calls of their own."""
    cpu, loader = torch.device("cpu"), Loader(image, StorageConfig())
    failed = [error for error in loader(batch)[ERROR] if error]
    assert not failed, failed[0]
    samples: dict[str, list[float]] = defaultdict(list)
    parts: list[dict[str, float]] = []
    for _ in range(repeats):
        samples["raw"].append(harness.timed(lambda: raw(batch, kind, pixels.shape[-1]), cpu).cpu)
        samples["loader"].append(harness.timed(lambda: loader(batch), cpu).cpu)
        seconds: dict[str, float] = defaultdict(float)
        with clocked(seconds):
            loader(batch)
        parts.append(seconds)
    spent = {name: statistics.median(values) for name, values in samples.items()}
    megabytes = pixels.nbytes / 1e6
    return {
        "kind": kind,
        "illumination": illum_column(STAINS[0]) in batch,
        "core_ms_per_fov": {name: 1e3 * value / len(pixels) for name, value in spent.items()},
        "mb_per_core_s": {name: megabytes / value for name, value in spent.items()},
        "share_of_raw": spent["raw"] / spent["loader"],
        "goal_mb_per_core_s": GOALS[kind],
        "parts_core_ms_per_fov": {
            part: 1e3 * statistics.median(run[part] for run in parts) / len(pixels) for part in (*PARTS, "QC")
        },
    }


def show(record: harness.Record, console: Console) -> None:
    """Prints the machine and a table of the results."""
    machine = record["machine"]
    console.print(f"{machine['cpu']}, {machine['cores']} cores, load {machine['load_average']}")
    table = Table(caption="core-ms per FOV; MB of pixels per core-second")
    for name in (
        "files",
        "illumination",
        "raw ms",
        "loader ms",
        *PARTS,
        "QC",
        "raw MB/s",
        "loader MB/s",
        "goal",
        "of raw",
    ):
        table.add_column(name, justify="right")
    for row in record["results"]:
        spent = [*row["core_ms_per_fov"].values(), *row["parts_core_ms_per_fov"].values()]
        rates = [*row["mb_per_core_s"].values(), row["goal_mb_per_core_s"]]
        cells = [f"{value:.1f}" for value in spent] + [f"{value:,.0f}" for value in rates]
        table.add_row(row["kind"], "yes" if row["illumination"] else "no", *cells, f"{100 * row['share_of_raw']:.0f} %")
    console.print(table)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--fovs", type=int, default=4, help="fields of view in a batch")
    options.add_argument("--size", type=int, default=1080, help="pixels, height and width of a synthetic field")
    options.add_argument("--crop", type=int, default=1024, help="pixels")
    options.add_argument(
        "--field", nargs=len(STAINS), type=Path, help="TIFFs of a real field, in the order of the stains"
    )
    options.add_argument("--repeats", type=int, default=9, help="timed calls of every setting")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    pixels, image = fields(options), ImageConfig(crop=options.crop)
    settings = {"fovs": options.fovs, "size": pixels.shape[-1], "crop": options.crop, "repeats": options.repeats}
    record = harness.head("ingest", torch.device("cpu"), {**settings, "real": bool(options.field)})
    record["results"] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in KINDS:
            batch = write(pixels, Path(folder), kind)
            plain = {name: values for name, values in batch.items() if not name.startswith("illum_")}
            for rows in (plain, batch):
                record["results"].append(measure(rows, kind, image, pixels, options.repeats))
    show(record, Console())
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
