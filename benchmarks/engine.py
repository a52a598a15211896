"""The encode engine without Ray: how fast one process takes fields of view through a VAE and InceptionV3, and what the time goes to.

    python benchmarks/engine.py --threads 1                      # a CPU: float32, crops of 256 pixels
    python benchmarks/engine.py --device cuda --crop 1024        # a GPU: bfloat16, the micro-batch swept

Random weights, random pixels: speed only. Every setting is warmed up, and the median of the repeats is given, beside the rate of a
plain matrix product and of convolutions of the VAE's shapes, measured in the same run at the same precision and thread count.
Floating-point operations are counted in a pass of their own, on tensors without data. The last line printed is one JSON object.
"""

import argparse
import datetime
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import harness
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sdvae_ray.autoencoders.diffusers_kl import ARCHITECTURES
from sdvae_ray.config import ImageConfig, RunConfig, parse_run
from sdvae_ray.contracts import Autoencoder, Posterior
from sdvae_ray.errors import ConfigError, UserError
from sdvae_ray.schema import ERROR, FOV_ID
from sdvae_ray.stages.encode import Encoder
from sdvae_ray.stages.load import IMAGE, Batch
from sdvae_ray.stages.models import DTYPES, Models, load_models, pick_device, pick_precision, resolve_weights
from sdvae_ray.storage import Storage

SIDE, EXTRACTOR = "vae", "inception"
PARTS = ("copy in", "encode", "decode", "metrics", "extract", "copy out", "other")  # of an FOV's seconds
WHOLE_FIELD = 16  # patches of 256 pixels in the field of 1,024 that the throughput of a crop is also given in


class Contiguous:
    """An autoencoder given its images channel by channel, against the engine's channels_last."""

    def __init__(self, inner: Autoencoder) -> None:
        self.inner, self.stores_latents = inner, inner.stores_latents

    def encode(self, rgb: Tensor) -> Posterior:
        return self.inner.encode(rgb.contiguous())

    def decode(self, latent: Tensor) -> Tensor:
        return self.inner.decode(latent.contiguous())


def run_config(arguments: argparse.Namespace) -> RunConfig:
    raw = {
        "manifest": "unused",
        "output": "unused",
        "image": {"crop": arguments.crop, "patch": arguments.patch},
        "autoencoders": {SIDE: {"name": "diffusers_kl", "random": True, "architecture": arguments.architecture}},
        "extractors": {EXTRACTOR: {"name": "inception_v3", "random": True}},
        "precision": arguments.precision,
    }
    return parse_run(raw, where="benchmark")


def random_fields(image: ImageConfig, count: int, seed: int = 0) -> Batch:
    """Rows as the loader gives them, noise for pixels."""
    shape = (count, image.patches, len(image.stains), image.patch, image.patch)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return {
        FOV_ID: np.array([f"source/batch/plate/well/{i}" for i in range(count)], object),
        ERROR: np.full(count, "", object),
        IMAGE: pixels,
    }


def flop_per_fov(config: RunConfig) -> dict[str, int]:
    """By part, without padding: one pass through each model, times the passes of a field and the sides embedded."""
    models = load_models(config, resolve_weights(config, Storage()), torch.device("meta"))
    autoencoder, extractor = models.autoencoders[SIDE], models.extractors[EXTRACTOR]
    rgb = torch.empty(1, 3, config.image.patch, config.image.patch, device="meta")
    with torch.inference_mode():
        latent = autoencoder.encode(rgb).mean
    passes = config.image.patches * len(config.image.packing)
    return {
        "encode": passes * harness.count_flop(lambda: autoencoder.encode(rgb)),
        "decode": passes * harness.count_flop(lambda: autoencoder.decode(latent)),
        "extract": 2 * passes * harness.count_flop(lambda: extractor(rgb[None])),
    }


def build(config: RunConfig, device: torch.device, channels_last: bool) -> Models:
    models = load_models(config, resolve_weights(config, Storage()), device)
    if channels_last:
        return models
    for model in (models.autoencoders[SIDE], models.extractors[EXTRACTOR]):
        model.model.to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
    return Models({SIDE: Contiguous(models.autoencoders[SIDE])}, models.extractors, models.metrics)


def references(config: RunConfig, device: torch.device, dtype: torch.dtype, channels_last: bool) -> harness.Record:
    """What the machine reaches on one large product, and on 3 x 3 convolutions of the VAE's three widest levels."""
    on_gpu, patch = device.type == "cuda", config.image.patch
    size = 8192 if on_gpu else min(2048, 8 * patch)
    count = 8 if on_gpu else 1
    shapes = [(count, 128, patch), (count, 256, patch // 2), (count, 512, patch // 4)]
    rates = {"x".join(map(str, shape)): harness.convolution_rate(device, dtype, shape, channels_last) for shape in shapes}
    return {
        "product": {"size": size, **vars(harness.matrix_rate(device, dtype, size))},
        "convolution_NxCxS": {name: vars(rate) for name, rate in rates.items()},
    }


@contextmanager
def cudnn_benchmark(enabled: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def encode(encoder: Encoder, batch: Batch) -> None:
    """One call of the engine; a row that failed, or that took a smaller micro-batch than asked for, would be a false timing."""
    out = encoder(batch)
    if failed := [error for error in out[ERROR] if error]:
        raise RuntimeError(f"the engine refused its own output: {failed[0]}")
    if out["micro_batch"].min() < encoder.micro_batch:
        raise torch.OutOfMemoryError(f"micro-batch {encoder.micro_batch} does not fit in memory")


def profiled(encoder: Encoder, batch: Batch, repeats: int) -> tuple[harness.Sample, dict[str, float]]:
    """The median call, and its seconds by part."""
    samples, parts = [], []
    for _ in range(repeats):
        encoder.seconds.clear()
        samples.append(harness.timed(lambda: encode(encoder, batch), encoder.device))
        parts.append({name.removesuffix(f" {SIDE}").removesuffix(f" {EXTRACTOR}"): s for name, s in encoder.seconds.items()})
    middle = harness.median(samples)
    return samples[middle], {**parts[middle], "other": samples[middle].wall - sum(parts[middle].values())}


def measure(encoder: Encoder, batch: Batch, flop: dict[str, int], warmup: int, repeats: int) -> harness.Record:
    """One setting. On a GPU the whole is timed without the profile, whose waiting costs overlap, and the parts in calls of their own."""
    device, fovs = encoder.device, len(batch[FOV_ID])
    passes = encoder.config.image.patches * encoder.packing.passes
    for _ in range(warmup):
        encode(encoder, batch)
    harness.reset_peak_memory(device)
    encoder.profile = True
    whole, parts = profiled(encoder, batch, repeats)
    if device.type == "cuda":
        encoder.profile = False
        whole, _ = profiled(encoder, batch, repeats)
    seconds = {name: value / fovs for name, value in parts.items()}
    patches = encoder.config.image.patches * fovs / whole.wall
    return {
        "micro_batch": encoder.micro_batch,
        "padded_passes": -passes % encoder.micro_batch,
        "seconds_per_fov": whole.wall / fovs,
        "core_seconds_per_fov": whole.cpu / fovs,
        "patches_per_s": patches,
        "fov_per_s": fovs / whole.wall,
        "fov16_per_s": patches / WHOLE_FIELD,
        "tflops": sum(flop.values()) * fovs / whole.wall / 1e12,
        "tflops_by_part": {name: count / seconds[name] / 1e12 for name, count in flop.items()},
        "seconds": seconds,
        "peak_memory_bytes": harness.peak_memory(device),
    }


def share_of_product(result: harness.Record, flop: dict[str, int], product: harness.Record) -> float:
    """Of the matrix rate. On a CPU both are per second of processor time, so that a loaded machine does not blur the ratio."""
    if product["core_tflops"] is None:
        return result["tflops"] / product["tflops"]
    core_seconds = result["core_seconds_per_fov"] * torch.get_num_threads()
    return sum(flop.values()) / core_seconds / 1e12 / product["core_tflops"]


def sweep(config: RunConfig, models: Models, device: torch.device, options: argparse.Namespace) -> harness.Record:
    """Every micro-batch that a field of view can fill, on a GPU without and with cuDNN's autotuning."""
    flop, batch = flop_per_fov(config), random_fields(config.image, options.fovs)
    passes = config.image.patches * len(config.image.packing)
    on_gpu = device.type == "cuda"
    sizes = options.micro_batch or [2**i for i in range(6 if on_gpu else 2)]
    left_out = [f"micro-batch {size}: a FOV has {passes} passes" for size in sizes if size > passes]
    reference, results = {}, []
    for autotune in (False, True) if on_gpu else (False,):
        with cudnn_benchmark(autotune):
            name = "cudnn_benchmark" if autotune else "plain"
            reference[name] = references(config, device, DTYPES[config.precision], options.channels_last)
            for size in (size for size in sizes if size <= passes):
                print(f"micro-batch {size}, {name} ...", file=sys.stderr, flush=True)
                encoder = Encoder(config, models, device, config.precision, size)
                try:
                    result = measure(encoder, batch, flop, options.warmup, options.repeats)
                except torch.OutOfMemoryError as error:
                    left_out.append(str(error))
                    break
                share = share_of_product(result, flop, reference[name]["product"])
                results.append({**result, "cudnn_benchmark": autotune, "share_of_product": share})
    gflop = {name: count / 1e9 for name, count in flop.items()}
    return {"gflop_per_fov": gflop, "reference": reference, "results": results, "left_out": left_out}


def show(record: harness.Record, console: Console) -> None:
    machine, settings = record["machine"], record["settings"]
    for key in ("architecture", "precision", "crop", "channels_last"):
        console.print(f"{key} {settings[key]}", end=", ")
    console.print("inception_v3 on both sides, random weights, random pixels")
    console.print(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} thread(s), torch {machine['torch']}", end="")
    console.print(f", device {machine['device']}")
    gflop = ", ".join(f"{name} {value:,.1f}" for name, value in record["gflop_per_fov"].items())
    console.print(f"GFLOP per FOV of {settings['patches_per_fov']} patch(es): {gflop}")
    for name, reference in record["reference"].items():
        rates = {f"product of side {reference['product']['size']}": reference["product"]}
        rates |= {f"convolution {shape}": rate for shape, rate in reference["convolution_NxCxS"].items()}
        console.print(f"TFLOP/s, {name}: " + ", ".join(f"{what} {rate['tflops']:.4g}" for what, rate in rates.items()))
    table = Table(caption="\n".join(record["left_out"]) or None)
    for name in ("micro-batch", "autotune", "patches/s", "FOV/s", "FOV16/s", "TFLOP/s", "% of product", *PARTS, "peak GiB"):
        table.add_column(name, justify="right")
    for row in record["results"]:
        rates = [f"{row[name]:.4g}" for name in ("patches_per_s", "fov_per_s", "fov16_per_s", "tflops")]
        share, peak = f"{100 * row['share_of_product']:.0f}", f"{row['peak_memory_bytes'] / 2**30:.2f}"
        seconds = [f"{row['seconds'][part]:.3g} s" for part in PARTS]
        table.add_row(str(row["micro_batch"]), "on" if row["cudnn_benchmark"] else "off", *rates, share, *seconds, peak)
    console.print(table)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--crop", type=int, help="pixels; default 256 on a CPU, 1024 on a GPU")
    parser.add_argument("--patch", type=int, default=256, help="pixels")
    parser.add_argument("--architecture", choices=sorted(ARCHITECTURES), default="sd1")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=("auto", *DTYPES), default="auto")
    parser.add_argument("--micro-batch", type=sizes, help="RGB passes in a forward pass, such as 1,2,4; default by device")
    parser.add_argument("--fovs", type=int, default=1, help="fields of view in a timed call")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="untimed calls of every setting")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args(arguments)


def sizes(text: str) -> list[int]:
    found = [int(size) for size in text.split(",")]
    if min(found) < 1:
        raise ValueError("a micro-batch is at least 1")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    try:
        device = torch.device("cpu") if options.device == "cpu" else pick_device(1)
        if options.device not in ("auto", device.type):
            raise ConfigError(f"--device {options.device}: torch sees none here")
        options.crop = options.crop or (1024 if device.type == "cuda" else 256)
        options.precision = pick_precision(options.precision, device)
        config = run_config(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    settings = {**vars(options), "patches_per_fov": config.image.patches, "extractor": "inception_v3"}
    record = {
        "benchmark": "engine",
        "weights": "random",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": harness.machine(device),
        "settings": settings,
        **sweep(config, build(config, device, options.channels_last), device, options),
    }
    show(record, Console(width=200))
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
