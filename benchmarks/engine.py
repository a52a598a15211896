"""Benchmark of the encode engine without Ray: the speed of one process with a VAE and InceptionV3, and the time of every part.

    python benchmarks/engine.py --threads 1                      # a CPU: float32, crops of 256 pixels
    python benchmarks/engine.py --device cuda --crop 1024        # a GPU: bfloat16, the micro-batch swept

Weights and pixels are random, so the benchmark measures speed only. Every setting is warmed up, and the table gives the median of
its repeats. Beside it stand the rates of a plain matrix product and of convolutions of the VAE's shapes, measured before and after
at the same precision and threads. The floating-point operations are counted separately, on tensors without data. The last line of
output is one JSON object.
"""

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import harness
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from sdvae_ray.autoencoders.diffusers_kl import ARCHITECTURES, ENGINES
from sdvae_ray.config import RunConfig
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import IMAGE, Batch
from sdvae_ray.engine.flop import flop_of_a_call, models_without_data
from sdvae_ray.engine.forward import DTYPES, Forward
from sdvae_ray.engine.models import load_models, pick_precision, resolve_weights
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage

SIDE, EXTRACTOR = "vae", "inception"
PARTS = ("copy in", "encode", "decode", "metrics", "extract", "copy out", "other")  # of the seconds of a FOV
WHOLE_FIELD = 16  # patches of 256 pixels in a field of 1,024 pixels: rates are also given in such fields (FOV16)


class Clocked(Forward):
    """Forward passes that also measure every part in seconds of processor time, which do not grow with other load."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.core_seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def clock(self, part: str) -> Iterator[None]:
        start = time.process_time()
        with super().clock(part):
            yield
        self.core_seconds[part] += time.process_time() - start


def run_config(options: argparse.Namespace) -> RunConfig:
    """A run of one VAE and InceptionV3 with random weights. ConfigError for a crop that the patch does not divide."""
    autoencoder = {
        "name": "diffusers_kl",
        "random": True,
        "architecture": options.architecture,
        "engine": options.engine,
    }
    raw = {
        "manifest": "unused",
        "output": "unused",
        "image": {"crop": options.crop, "patch": options.patch},
        "autoencoders": {SIDE: autoencoder},
        "extractors": {EXTRACTOR: {"name": "inception_v3", "random": True}},
        "precision": options.precision,
    }
    return parse_run(raw, where="benchmark")


def random_fields(image: ImageConfig, count: int, seed: int = 0) -> Batch:
    """`count` rows in the form of the loader, with noise for pixels."""
    shape = (count, image.patches, len(image.stains), image.patch, image.patch)
    return {
        FOV_ID: np.array([f"source/batch/plate/well/{i}" for i in range(count)], object),
        ERROR: np.full(count, "", object),
        IMAGE: np.random.default_rng(seed).integers(0, 256, shape, np.uint8),
    }


def flop_per_fov(config: RunConfig) -> dict[str, int]:
    """Part -> nominal operations per FOV, of both sides."""
    flop = flop_of_a_call(config, models_without_data(config, Storage()))
    return {
        "encode": flop[f"encode {SIDE}"],
        "decode": flop[f"decode {SIDE}"],
        "extract": 2 * flop[f"extract {EXTRACTOR}"],
    }


def encode(encoder: Encoder, batch: Batch) -> None:
    """One call of the engine. Raises an error where a row failed or ran at a smaller micro-batch: its timing would be wrong."""
    out = encoder(batch)
    if failed := [error for error in out[ERROR] if error]:
        raise RuntimeError(f"the engine refused its own output: {failed[0]}")
    if out["micro_batch"].min() < encoder.micro_batch:
        raise torch.OutOfMemoryError(f"micro-batch {encoder.micro_batch} does not fit in memory")


def profiled(
    encoder: Encoder, clocked: Clocked, batch: Batch, repeats: int
) -> tuple[harness.Sample, dict[str, float], dict[str, float]]:
    """The median call, and its seconds by part: of the clock, and of the processor."""
    samples, parts = [], []
    for _ in range(repeats):
        clocked.seconds, clocked.core_seconds = defaultdict(float), defaultdict(float)
        samples.append(harness.timed(lambda: encode(encoder, batch), encoder.device))
        parts.append((clocked.seconds, clocked.core_seconds))
    middle = harness.median(samples)
    wall, core = parts[middle]
    return samples[middle], _by_part(wall, samples[middle].wall), _by_part(core, samples[middle].cpu)


def _by_part(seconds: Mapping[str, float], whole: float) -> dict[str, float]:
    named: dict[str, float] = defaultdict(float)
    for name, value in seconds.items():
        part = "metrics" if name.startswith("metric ") else name.removesuffix(f" {SIDE}").removesuffix(f" {EXTRACTOR}")
        named[part] += value
    return {**named, "other": whole - sum(named.values())}


def measure(
    encoder: Encoder, clocked: Clocked, batch: Batch, flop: dict[str, int], warmup: int, repeats: int
) -> harness.Record:
    """The measurements of one setting. On a GPU the parts are timed with profiling, and the whole call without it, since the waits
    of profiling prevent overlap.
    """
    device, fovs, image = encoder.device, len(batch[FOV_ID]), encoder.config.image
    for _ in range(warmup):
        encode(encoder, batch)
    harness.reset_peak_memory(device)
    clocked.profile = True
    whole, seconds, core_seconds = profiled(encoder, clocked, batch, repeats)
    if device.type == "cuda":
        clocked.profile = False
        whole, _, _ = profiled(encoder, clocked, batch, repeats)
    patches_per_s = image.patches * fovs / whole.wall
    return {
        "micro_batch": encoder.micro_batch,
        "padded_passes": -image.patches * len(image.triples) % encoder.micro_batch,
        "seconds_per_fov": whole.wall / fovs,
        "core_seconds_per_fov": whole.cpu / fovs,
        "patches_per_s": patches_per_s,
        "fov_per_s": fovs / whole.wall,
        "fov16_per_s": patches_per_s / WHOLE_FIELD,
        "tflops": sum(flop.values()) * fovs / whole.wall / 1e12,
        "tflops_by_part": {name: count * fovs / seconds[name] / 1e12 for name, count in flop.items()},
        "seconds": {name: value / fovs for name, value in seconds.items()},
        "core_seconds": {name: value / fovs for name, value in core_seconds.items()},
        "peak_memory_bytes": harness.peak_memory(device),
    }


def references(config: RunConfig, device: torch.device) -> dict[str, harness.Rate]:
    """The rates of one large matrix product, and of 3 x 3 convolutions at three levels of the VAE, all of the same cost."""
    on_gpu, patch = device.type == "cuda", config.image.patch
    product, count = (8192, 8) if on_gpu else (min(2048, 8 * patch), 1)
    convolutions = [(count, 128, patch), (count, 256, patch // 2), (count, 512, patch // 4)]
    return harness.reference_rates(device, DTYPES[config.precision], product, convolutions, channels_last=on_gpu)


def sweep(config: RunConfig, device: torch.device, options: argparse.Namespace) -> harness.Record:
    """The measurements of every micro-batch that a FOV can fill; on a GPU without and with cuDNN's autotuning."""
    flop, batch = flop_per_fov(config), random_fields(config.image, options.fovs)
    models = load_models(config, resolve_weights(config, Storage()), device)
    passes = config.image.patches * len(config.image.triples)
    sizes = options.micro_batch or [2**i for i in range(6 if device.type == "cuda" else 2)]
    left_out = [f"micro-batch {size}: a FOV has {passes} passes" for size in sizes if size > passes]
    reference, results = {}, []
    for autotune in (False, True) if device.type == "cuda" else (False,):
        name, measured = "cudnn_benchmark" if autotune else "plain", []
        with harness.cudnn_benchmark(autotune):
            before = references(config, device)
            for size in (size for size in sizes if size <= passes):
                print(f"micro-batch {size}, {name} ...", file=sys.stderr, flush=True)
                clocked = Clocked(device, config.precision)
                encoder = Encoder(config, models, clocked, size)
                try:
                    measured.append(measure(encoder, clocked, batch, flop, options.warmup, options.repeats))
                except torch.OutOfMemoryError as error:
                    left_out.append(str(error))
                    break
            rates = harness.faster(before, references(config, device))
        reference[name] = {what: vars(rate) for what, rate in rates.items()}
        for result in measured:
            spent = harness.Sample(result["seconds_per_fov"], result["core_seconds_per_fov"])
            shares = harness.shares(sum(flop.values()), spent, rates)
            results.append({**result, "cudnn_benchmark": autotune, **shares})
    gflop = {name: count / 1e9 for name, count in flop.items()}
    return {"gflop_per_fov": gflop, "reference": reference, "results": results, "left_out": left_out}


def show(record: harness.Record, console: Console) -> None:
    """Prints the settings, the machine, the reference rates and a table of the results."""
    machine, settings = record["machine"], record["settings"]
    said = ", ".join(f"{key} {settings[key]}" for key in ("architecture", "engine", "precision", "crop", "threads"))
    console.print(said, end="; ")
    console.print("inception_v3 on both sides; random weights, random pixels")
    console.print(f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}, device {machine['device']}")
    gflop = ", ".join(f"{name} {value:,.1f}" for name, value in record["gflop_per_fov"].items())
    console.print(f"GFLOP per FOV of {settings['patches_per_fov']} patch(es): {gflop}")
    for name, reference in record["reference"].items():
        rates = ", ".join(f"{what} {rate['tflops']:.4g}" for what, rate in reference.items())
        console.print(f"TFLOP/s, {name}: {rates}")
    seconds = "seconds" if machine["device"] != "cpu" else "core_seconds"
    table = Table(caption="\n".join([f"parts in {seconds} per FOV", *record["left_out"]]))
    speeds = ("patches_per_s", "fov_per_s", "fov16_per_s", "tflops")
    for name in ("micro-batch", "autotune", *speeds, *(f"% of {kind}" for kind in harness.KINDS), *PARTS, "peak GiB"):
        table.add_column(name.replace("_per_", "/"), justify="right")
    for row in record["results"]:
        cells = [str(row["micro_batch"]), "on" if row["cudnn_benchmark"] else "off"]
        cells += [f"{row[name]:.4g}" for name in speeds]
        cells += [f"{100 * row[f'share_of_{kind}']:.0f}" for kind in harness.KINDS]
        cells += [f"{row[seconds][part]:.2g}" for part in PARTS]
        table.add_row(*cells, f"{row['peak_memory_bytes'] / 2**30:.2f}")
    console.print(table)


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--crop", type=int, help="pixels; default 256 on a CPU, 1024 on a GPU")
    options.add_argument("--patch", type=int, default=256, help="pixels")
    options.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="sd1")
    options.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    options.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    options.add_argument("--micro-batch", type=harness.positive_numbers, help="RGB passes of a forward: 1,2,4")
    options.add_argument("--fovs", type=int, default=1, help="fields of view in a timed call")
    options.add_argument("--repeats", type=int, default=3, help="timed calls of every setting")
    options.add_argument("--warmup", type=int, default=1, help="untimed calls of every setting")
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--engine", choices=ENGINES, default="fast", help="of the autoencoder")
    return options


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options given, or their defaults."""
    return parser().parse_args(arguments)


def settled(options: argparse.Namespace) -> torch.device:
    """The device of the options, whose crop and precision are decided for it, in place. ConfigError as `harness.device_of`."""
    device = harness.device_of(options)
    options.crop = options.crop or (1024 if device.type == "cuda" else 256)
    options.precision = pick_precision(options.precision, device)
    return device


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    device = settled(options)
    config = run_config(options)
    settings = {**vars(options), "patches_per_fov": config.image.patches}
    record = {**harness.head("engine", device, settings), "weights": "random", **sweep(config, device, options)}
    show(record, Console(width=200))
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
