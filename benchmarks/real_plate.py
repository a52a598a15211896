"""The first real numbers: real autoencoders and codecs on a real plate, through a real network's features.

    python benchmarks/real_plate.py --plate BBBC013 --weights WEIGHTS --output real-plate

PLATE is the folder of BBBC013's index.csv and images; WEIGHTS has the original files of taesd, taesdxl, taesd3 and taef1, and a
folder taef2. The job is `sdvae-ray run` of jobs/configs/bbbc013.yaml, which resumes; its report lies beside the tables. The
autoencoders are the TAESD family, not Stable Diffusion's own; the plate has two stains and is no Cell Painting.

Tables: bits per pixel and stain, pooled PSNR and foreground SSIM of every side; mAP and FR of every extractor and side, with the
interval over treatments and the difference from the originals; the floors. The last line is one JSON object.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import bbbc013_manifest
import harness
import numpy as np
import polars as pl
import torch
import yaml

import sdvae_ray
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import DataError
from sdvae_ray.run.cost import of_side, recorded
from sdvae_ray.run.run import Run

RUN_FILE = Path(__file__).resolve().parents[1] / "jobs" / "configs" / "bbbc013.yaml"
FLOORS = ("posing", "posing_shuffled", "labels_within_treated", "labels_within_all")
Rows = list[dict[str, Any]]


def run_file(options: argparse.Namespace) -> Path:
    """The run file of the plate, with where things are and the sides that were asked for, written into the output."""
    raw = yaml.safe_load(RUN_FILE.read_text())
    raw |= {"manifest": str(options.output / "manifest.parquet"), "output": str(options.output / "run")}
    for shelf in ("autoencoders", "codecs"):
        asked = options.sides or list(raw[shelf])
        raw[shelf] = {name: settings for name, settings in raw[shelf].items() if name in asked}
    for settings in raw["autoencoders"].values():
        if "source" in settings:
            settings["source"] = str(options.weights / Path(settings["source"]).relative_to("weights"))
    file = options.output / "run.yaml"
    file.write_text(yaml.safe_dump(raw, sort_keys=False))
    return file


def distortion(run: Run) -> Rows:
    """One row per side: bits per pixel and stain, PSNR of the squared error pooled over patches and stains, foreground SSIM, and
    core-seconds of a field."""
    metrics, rows = run.scores().metrics.filter(pl.col("band").is_null()), []
    pixels, costs = run.config.image.patch**2, recorded(run.record)
    for side in run.config.sides:
        side_metrics = metrics.filter(pl.col("side") == side)
        means = {
            name: side_metrics.filter(pl.col("metric") == name)["mean"].drop_nulls()
            for name in side_metrics["metric"].unique()
        }
        value = {name: float(numbers.to_numpy().mean()) for name, numbers in means.items() if len(numbers)}
        rows.append(
            {
                "side": side,
                "bits": value["bits"] / pixels,
                "bits_coded": value["bits_coded"] / pixels if "bits_coded" in value else None,
                "bits_entropy": value["bits_entropy"] / pixels if "bits_entropy" in value else None,
                "psnr": -10 * float(np.log10(value["mse"])) if value["mse"] else float("inf"),
                "foreground_ssim": value["foreground_ssim"],
                "core_seconds": None if (cost := of_side(costs, side)) is None else cost.core_seconds,
            }
        )
    return rows


def retrieval(run: Run) -> Rows:
    """One row per extractor and side: mAP, FR, their intervals, and the paired difference from the originals."""
    scores, rows = run.scores(), []
    for row in scores.summary.select("extractor", "side", "mean_map", "fraction_retrieved", "status").to_dicts():
        here = (pl.col("extractor") == row["extractor"]) & (pl.col("side") == row["side"])
        for quantity in ("mean_map", "fraction_retrieved"):
            for found in scores.differences.filter(here & (pl.col("quantity") == quantity)).to_dicts():
                names = ("low", "high", "difference", "difference_low", "difference_high", "mcnemar_p")
                row |= {f"{quantity}_{name}": found[name] for name in names}
        for floor in FLOORS:
            values = scores.floors.filter(here & (pl.col("quantity") == floor))
            row[floor] = values["fraction_retrieved"][0] if values.height else None
        rows.append(row)
    extractors, sides = list(run.config.extractors), [IMAGE_SIDE, *run.config.sides]
    return sorted(rows, key=lambda row: (extractors.index(row["extractor"]), sides.index(row["side"])))


def text(value: Any, digits: int = 3) -> str:
    """A cell of a table."""
    return "" if value is None else value if isinstance(value, str) else f"{value:.{digits}f}"


def between(row: dict[str, Any], name: str) -> str:
    """A number with its interval."""
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    return text(row[name]) + (f" ({text(low, 2)} to {text(high, 2)})" if low is not None else "")


def difference(row: dict[str, Any], name: str) -> str:
    """The difference from the originals with its interval."""
    value, low, high = (row.get(f"{name}_{part}") for part in ("difference", "difference_low", "difference_high"))
    return "" if value is None else f"{value:+.3f} ({low:+.3f} to {high:+.3f})"


def print_tables(sides: Rows, rows: Rows) -> None:
    print("\n| side | bits stored | coded | by entropy | PSNR, dB | foreground SSIM | core-s a field |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in sides:
        print(f"| {row['side']} | {' | '.join(text(row[key]) for key in list(row)[1:])} |")
    for extractor in dict.fromkeys(row["extractor"] for row in rows):
        print(f"\n| {extractor} | mAP | minus the originals' | FR | minus the originals' | McNemar p | floors of FR |")
        print("|---|---:|---:|---:|---:|---:|---|")
        for row in (row for row in rows if row["extractor"] == extractor):
            cells = [between(row, "mean_map"), difference(row, "mean_map"), between(row, "fraction_retrieved")]
            cells += [difference(row, "fraction_retrieved"), text(row.get("fraction_retrieved_mcnemar_p"))]
            cells.append(", ".join(text(row[floor], 2) or "–" for floor in FLOORS))
            print(f"| {row['side']} | {' | '.join(cells)} |")
    print(f"\nFloors: {', '.join(FLOORS)}.")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plate", type=Path, required=True, help="the folder of BBBC013's index.csv and images")
    parser.add_argument("--weights", type=Path, required=True, help="the folder of the TAESD family's files")
    parser.add_argument("--output", type=Path, default=Path("real-plate"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change to the run file")
    parser.add_argument(
        "--sides", type=lambda text: text.split(","), help="these autoencoders and codecs alone: taesd,jpeg"
    )
    options = parser.parse_args(argv)
    options.output, options.weights = options.output.resolve(), options.weights.resolve()
    head = harness.head("real_plate", torch.device("cpu"), {"sides": options.sides, "set": options.set})
    options.output.mkdir(parents=True, exist_ok=True)
    bbbc013_manifest.manifest(options.plate / "index.csv").write_parquet(options.output / "manifest.parquet")
    changes = [word for change in options.set for word in ("--set", change)]
    command = [sys.executable, "-m", "sdvae_ray.cli.main", "run", str(run_file(options)), *changes]
    if code := subprocess.run(command, check=False).returncode:
        raise DataError(f"sdvae-ray run ended with exit code {code}")
    run = sdvae_ray.open(str(options.output / "run"))
    sides, rows = distortion(run), retrieval(run)
    print_tables(sides, rows)
    harness.print_json({**head, "sides": sides, "retrieval": rows})
    return 0


if __name__ == "__main__":
    sys.exit(harness.refusing_in_one_line(main)())
