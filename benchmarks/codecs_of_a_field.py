"""Benchmark of the codecs on the stains of one field: bits per pixel, error, and MB/s of a core.

    python benchmarks/codecs_of_a_field.py --field Mito.tiff AGP.tiff RNA.tiff ER.tiff DNA.tiff

Every stain is one image, as in a run: at 16 bits as the file has it, and at 8 bits between the 0.1 and the 99.9 percentile of the
stain. MB are those of the raw pixels, seconds are processor time of one thread, and a number is of all stains together, the fastest
of the repeats. Without --field the stains are noise over soft discs, and the record says so. The last line is one JSON object.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray import shelves
from sdvae_ray.codecs.lossless import FORMATS
from sdvae_ray.images.decode import decode_planes

LOSSY: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg q80": ("jpeg", {"quality": 80}),
    "jpegxl d1": ("jpegxl", {"distance": 1.0}),
    "avif q70": ("avif", {"quality": 70}),
}


def codecs() -> dict[str, tuple[str, dict[str, Any]]]:
    """Row -> (module of the shelf, options): every lossless format, the fast JPEG XL, and some lossy codecs."""
    exact = {f"lossless {name}": ("lossless", {"format": name}) for name in FORMATS}
    return {**exact, "lossless jpegxl, effort 1": ("lossless", {"format": "jpegxl", "effort": 1}), **LOSSY}


def synthetic(size: int) -> np.ndarray:
    """(5, size, size) uint16: soft discs on a dark ground, with shot noise."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size]
    planes = []
    for _ in range(5):
        light = np.full((size, size), 150.0)
        for _ in range(size // 16):
            near = (y - random.uniform(0, size)) ** 2 + (x - random.uniform(0, size)) ** 2
            light += random.uniform(200, 3000) * np.exp(-near / random.uniform(30, 300))
        planes.append(random.poisson(light).clip(0, 65535))
    return np.array(planes, np.uint16)


def eight_bits(stains: np.ndarray) -> np.ndarray:
    """(C, S, S) uint8 between the 0.1 and the 99.9 percentile of each stain."""
    low, high = np.percentile(stains, (0.1, 99.9), axis=(1, 2), keepdims=True)
    return np.rint((stains - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)


def fastest(call: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """(seconds of processor time, what the call returns)."""
    spent = []
    for _ in range(repeats):
        start = time.process_time()
        result = call()
        spent.append(time.process_time() - start)
    return min(spent), result


def measure(codec: Any, stains: np.ndarray, repeats: int) -> dict[str, float | bool | None]:
    """One row: bits per pixel, PSNR in dB of full scale (None if exact), MB/s to encode and to decode."""
    encoding, files = fastest(lambda: [codec.encode(plane) for plane in stains], repeats)
    decoding, planes = fastest(lambda: [codec.decode(data, stains.dtype) for data in files], repeats)
    mse = float(np.square(np.stack(planes).astype(float) - stains).mean())
    return {
        "bits": 8 * sum(map(len, files)) / stains.size,
        "exact": mse == 0,
        "psnr": None if mse == 0 else 10 * np.log10(np.iinfo(stains.dtype).max ** 2 / mse),
        "encode": stains.nbytes / 1e6 / max(encoding, 1e-9),
        "decode": stains.nbytes / 1e6 / max(decoding, 1e-9),
    }


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--field", type=Path, nargs="+", help="16-bit TIFFs of the stains of one field")
    options.add_argument("--crop", type=int, default=1024, help="pixels of the central square")
    options.add_argument("--repeats", type=int, default=3)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    if options.field:
        planes = [decode_planes(path.read_bytes(), [0], str(path))[0] for path in options.field]
        top, left = ((size - options.crop) // 2 for size in planes[0].shape)
        stains = np.stack(planes)[:, top : top + options.crop, left : left + options.crop]
    else:
        stains = synthetic(options.crop)
    settings = {"field": "synthetic" if options.field is None else "given", "crop": options.crop}
    record = harness.head("codecs", torch.device("cpu"), settings | {"repeats": options.repeats})
    record["results"] = []
    for pixels in (stains, eight_bits(stains)):
        for name, (module, codec_options) in codecs().items():
            row = measure(shelves.find("codecs", module).load(**codec_options), pixels, options.repeats)
            record["results"].append({"codec": name, "depth": 8 * pixels.itemsize, **row})
    table = Table(caption=f"{settings['field']} field; MB/s of raw pixels per core")
    for name in ("codec", "depth", "bits/pixel", "PSNR dB", "encode MB/s", "decode MB/s"):
        table.add_column(name, justify="left" if name == "codec" else "right")
    for row in record["results"]:
        psnr = "exact" if row["exact"] else f"{row['psnr']:.1f}"
        numbers = (f"{row['bits']:.3f}", psnr, f"{row['encode']:.1f}", f"{row['decode']:.1f}")
        table.add_row(row["codec"], str(row["depth"]), *numbers)
    Console().print(table)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
