"""Benchmark of whole fields through three programs, same models, batch and card: what one would run instead of this project.

published   a plain loop in the form of the published one: diffusers under autocast, a field after a field, results fetched at once
competent   what a good engineer would write in a day: a DataLoader with pinned memory, weights in the type, NHWC, torch.compile of
            both networks, results to Parquet
engine      this project's engine, without Ray

    python benchmarks/paper_loop.py --architecture tiny --crop 128 --patch 64     # a CPU
    python benchmarks/paper_loop.py --device cuda --crop 1024                     # a GPU

All compute latents, every default metric, and InceptionV3 features of both sides. Weights and pixels are random. The last line
of output is one JSON object.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import engine
import harness
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Posterior, Reconstruction
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import IMAGE, Batch
from sdvae_ray.engine.forward import DTYPES, Forward
from sdvae_ray.engine.models import Models, load_models, resolve_weights
from sdvae_ray.images.packing import Packing
from sdvae_ray.storage import Storage

Program = Callable[[Batch], Any]


def loaded(options: argparse.Namespace, device: torch.device, name: str) -> Models:
    """The models of the run; name: `fast` or `diffusers`, the engine of the autoencoder."""
    config = engine.run_config(argparse.Namespace(**{**vars(options), "engine": name}))
    return load_models(config, resolve_weights(config, Storage()), device)


def results(
    models: Models, packing: Packing, stains: Tensor, rgb: Tensor, mean: Tensor, logvar: Tensor, decoded: Tensor
) -> dict[str, Tensor]:
    """The latent and every metric of one field, on the device."""
    recon_rgb = (decoded.float() / 2 + 0.5).clamp(0, 1).view(rgb.shape)
    posterior = Posterior(mean.float(), logvar.float())
    pair = Reconstruction(stains, packing.unpack(recon_rgb), rgb, recon_rgb, posterior)
    return {"latent": mean.half(), **{name: metric(pair) for name, metric in models.metrics.items()}}


def published(config: RunConfig, options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> Program:
    """The plain loop. The autocast of the published loop is kept, as its float32 would be slower still."""
    models, packing = loaded(options, device, "diffusers"), Packing(config.image.stains, config.image.triples)
    network: Any = models.autoencoders[engine.SIDE]
    inception = models.extractors[engine.EXTRACTOR]

    @torch.inference_mode()
    def run(batch: Batch) -> list[dict[str, np.ndarray]]:
        rows = []
        for image in batch[IMAGE]:
            stains = torch.from_numpy(image).to(device).float() / 255
            rgb = packing.pack(stains)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                posterior = network.model.encode(rgb.flatten(0, 1) * 2 - 1).latent_dist
                decoded = network.model.decode(posterior.mean).sample
                features = inception(rgb)
                row = results(models, packing, stains, rgb, posterior.mean, posterior.logvar, decoded)
                recon = (decoded.float() / 2 + 0.5).clamp(0, 1).view(rgb.shape)
                row |= {"features": features.mean(0), "recon_features": inception(recon).mean(0)}
            rows.append({name: value.float().cpu().numpy() for name, value in row.items()})
        return rows

    return run


def competent(
    config: RunConfig, options: argparse.Namespace, device: torch.device, dtype: torch.dtype, compiled: bool
) -> Program:
    """The good engineer's program."""
    models, packing = loaded(options, device, "diffusers"), Packing(config.image.stains, config.image.triples)
    autoencoder: Any = models.autoencoders[engine.SIDE]
    network = autoencoder.model.to(dtype=dtype, memory_format=torch.channels_last)
    inception = models.extractors[engine.EXTRACTOR]
    encoder, decoder = network.encoder, network.decoder
    if compiled:
        encoder, decoder = torch.compile(encoder), torch.compile(decoder)

    @torch.inference_mode()
    def run(batch: Batch) -> bytes:
        fields = DataLoader(
            [torch.from_numpy(image) for image in batch[IMAGE]], batch_size=None, pin_memory=device.type == "cuda"
        )
        rows = []
        for image in fields:
            stains = image.to(device, non_blocking=True).float() / 255
            rgb = packing.pack(stains)
            pixels = (rgb.flatten(0, 1) * 2 - 1).to(dtype, memory_format=torch.channels_last)
            moments = encoder(pixels)
            mean, logvar = (network.quant_conv(moments) if network.quant_conv else moments).chunk(2, dim=1)
            latent = network.post_quant_conv(mean) if network.post_quant_conv else mean
            decoded = decoder(latent).float()
            row = results(models, packing, stains, rgb, mean, logvar, decoded)
            recon = (decoded / 2 + 0.5).clamp(0, 1).view(rgb.shape)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                row |= {"features": inception(rgb).mean(0), "recon_features": inception(recon).mean(0)}
            rows.append({name: value.to("cpu", non_blocking=True) for name, value in row.items()})
        harness.synchronise(device)
        columns = {name: pa.array([row[name].float().numpy().ravel() for row in rows]) for name in rows[0]}
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file)
        return file.getvalue()

    return run


def ours(
    config: RunConfig, options: argparse.Namespace, device: torch.device, precision: str, micro_batch: int
) -> Program:
    """The engine; rows are numpy arrays as the write stage takes them."""
    encoder = Encoder(config, loaded(options, device, "fast"), Forward(device, precision), micro_batch)
    return lambda batch: engine.encode(encoder, batch)


def measure(config: RunConfig, device: torch.device, options: argparse.Namespace) -> list[harness.Record]:
    """FOV/s of every program, and its ratio to the published loop."""
    dtype, batch = DTYPES[config.precision], engine.random_fields(config.image, options.fovs)
    passes = config.image.patches * len(config.image.triples)
    programs: dict[str, Callable[[], Program]] = {
        "published": lambda: published(config, options, device, dtype),
        "competent, not compiled": lambda: competent(config, options, device, dtype, compiled=False),
        "engine": lambda: ours(config, options, device, config.precision, options.micro_batch or passes),
    }
    if options.compile:
        programs["competent"] = lambda: competent(config, options, device, dtype, compiled=True)
    records: list[harness.Record] = []
    for name, build in programs.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        harness.reset_peak_memory(device)
        program, start = build(), time.monotonic()
        program(batch)
        cold = time.monotonic() - start
        samples = [harness.timed(lambda: program(batch), device) for _ in range(options.repeats)]  # noqa: B023
        seconds = samples[harness.median(samples)].wall
        record = {"program": name, "fov_per_s": options.fovs / seconds, "first_call_seconds": cold}
        records.append({**record, "peak_memory_bytes": harness.peak_memory(device)})
    for record in records:
        record["times_published"] = record["fov_per_s"] / records[0]["fov_per_s"]
    return records


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = engine.parser()
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=False, help="torch.compile: minutes, once"
    )
    options = parser.parse_args(arguments)
    device = engine.settled(options)
    options.micro_batch = options.micro_batch[0] if options.micro_batch else None
    records = measure(engine.run_config(options), device, options)
    show(records)
    harness.print_json({**harness.head("paper_loop", device, vars(options)), "weights": "random", "programs": records})
    return 0


def show(records: Sequence[harness.Record]) -> None:
    """Prints a line per program."""
    for record in records:
        print(
            f"{record['program']:25} {record['fov_per_s']:8.3f} FOV/s  {record['times_published']:6.2f} x published  "
            f"first call {record['first_call_seconds']:.1f} s, peak {record['peak_memory_bytes'] / 2**30:.1f} GiB"
        )


if __name__ == "__main__":
    sys.exit(main())
