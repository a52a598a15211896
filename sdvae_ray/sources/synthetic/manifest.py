"""Draws a run's synthetic plates, and makes their manifest from the written files as from real data."""

import os
import time

from rich.console import Console

from sdvae_ray.config import SyntheticConfig
from sdvae_ray.console import print_line
from sdvae_ray.sources.manifest.manifest import build_manifest, write_manifest
from sdvae_ray.sources.synthetic.screen import write_screen
from sdvae_ray.storage import Storage, absolute


def make_screen(config: SyntheticConfig, manifest: str, console: Console) -> None:
    """Draw the plates into the folder and write their manifest; the plates are local in every run."""
    start = time.monotonic()
    storage = Storage()
    design = config.model_dump(exclude={"folder"})
    files = write_screen(absolute(config.folder), **design, workers=os.cpu_count() or 1)
    built = build_manifest(
        [str(path) for path in files.load_data],
        platemaps=[str(files.barcode_platemap)],
        metadata=[str(files.compound_metadata), str(files.experiment_metadata)],
        rewrites=files.rewrites,
        storage=storage,
    )
    write_manifest(built.table, manifest, storage)
    drawn = f"{built.table.height} fields of {config.size} pixels, {config.plates} plates, seed {config.seed}"
    print_line(console, f"synthetic plates: {drawn}, in {time.monotonic() - start:.0f} s -> {files.root}")
