"""What a packing costs: one autoencoder in three packings on a real field of five stains, PSNR per stain and leakage.

    python benchmarks/packings.py --field CH1 CH2 CH3 CH4 CH5 --weights FOLDER_OF_TAEF2

CH1 to CH5 are the TIFFs of Mito, AGP, RNA, ER and DNA. The packings are the published triples, the same with RNA read back from the
second triple, and every stain alone. Every stain is scaled from its percentiles 0.1 to 99.9 of the whole field to 8 bits; float32,
by the engine of a run, without Ray. PSNR is of the squared error pooled over the patches. Leakage is the median over patches of
the correlation of a stain's error with another stain's fine detail. The last line is one JSON object.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import harness
import numpy as np
import tifffile
import torch

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Batch, Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import load_models, resolve_weights
from sdvae_ray.errors import DataError
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import ERROR, FOV_ID, column, divisor_column, metrics_table, offset_column, uri_column
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
PERCENTILES = (0.1, 99.9)
PACKINGS: dict[str, dict[str, Any]] = {
    "published": {"packing": "published"},
    "published_last": {"packing": "published", "unpack": "last"},
    "grey": {"packing": "grey"},
}


def run_of(weights: Path, crop: int) -> RunConfig:
    """The run file of the comparison: one autoencoder, three sides."""
    model = {"name": "diffusers_tiny", "source": str(weights), "store_latents": False}
    return parse_run(
        {
            "manifest": "-",
            "output": "-",
            "image": {"crop": crop, "scaling": {"method": "manifest"}},
            "autoencoders": {side: {**model, **packing} for side, packing in PACKINGS.items()},
            "metrics": ["mse", "leakage", "ssim"],
        }
    )


def scaled_field(planes: list[Path]) -> Batch:
    """One row of a manifest, with constants that scale percentiles to 0 and 255."""
    row: dict[str, Any] = {FOV_ID: "real/field/P/A01/1"}
    for stain, file in zip(STAINS, planes, strict=True):
        low, high = np.percentile(tifffile.imread(file), PERCENTILES)
        row |= {
            uri_column(stain): str(file.resolve()),
            offset_column(stain): low,
            divisor_column(stain): (high - low) / 255,
        }
    return {name: np.array([value, None], object)[:1] for name, value in row.items()}


def measure(config: RunConfig, batch: Batch) -> dict[str, dict[str, Any]]:
    """Side -> psnr and ssim per stain, and leakage (C, C), None of a stain with itself. Raises DataError for a field that fails."""
    device = torch.device("cpu")
    models = load_models(config, resolve_weights(config, Storage()), device)
    loaded = Loader(config.image, config.storage)(batch)
    out = Encoder(config, models, Forward(device, "float32"), 2)(loaded)
    if out[ERROR][0]:
        raise DataError(str(out[ERROR][0]))

    def values(side: str, metric: str) -> np.ndarray:
        return out[column(metrics_table(side), metric)][0].astype(np.float64)

    return {
        side: {
            "passes": len(config.triples(side)),
            "psnr": (-10 * np.log10(values(side, "mse").mean(0))).tolist(),
            "ssim": values(side, "ssim").mean(0).tolist(),
            "leakage": _median(values(side, "leakage")),
        }
        for side in config.autoencoders
    }


def _median(leakage: np.ndarray) -> list[list[float | None]]:
    """The median over patches of (P, C, C), without NaN."""
    kept = np.ma.masked_invalid(leakage)
    return np.ma.median(kept, 0).tolist()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--field", nargs=5, type=Path, required=True, help="the TIFFs of Mito, AGP, RNA, ER and DNA")
    parser.add_argument("--weights", type=Path, required=True, help="a folder with the two files of a TAESD")
    parser.add_argument("--crop", type=int, default=1024, help="pixels, a multiple of 256")
    options = parser.parse_args(argv)
    device = torch.device("cpu")
    head = harness.head("packings", device, {"weights": options.weights.name, "crop": options.crop})
    results = measure(run_of(options.weights, options.crop), scaled_field(options.field))
    for metric, digits in (("psnr", 1), ("ssim", 4)):
        print(f"\n| {metric} | passes | {' | '.join(STAINS)} |\n|---|---:|{'---:|' * len(STAINS)}")
        for side, numbers in results.items():
            print(
                f"| {side} | {numbers['passes']} | {' | '.join(f'{value:.{digits}f}' for value in numbers[metric])} |"
            )
    for side, numbers in results.items():
        print(
            f"\n| error of, {side} | {' | '.join(f'detail of {stain}' for stain in STAINS)} |\n|---|{'---:|' * len(STAINS)}"
        )
        for stain, row in zip(STAINS, numbers["leakage"], strict=True):
            print(f"| {stain} | {' | '.join('' if value is None else f'{value:+.2f}' for value in row)} |")
    harness.print_json({**head, "results": results})
    return 0


if __name__ == "__main__":
    sys.exit(harness.refusing_in_one_line(main)())
