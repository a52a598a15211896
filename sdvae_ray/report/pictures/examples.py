"""Originals beside reconstructions: a few fields of view, their pixels loaded again, their stored latents decoded again.

One patch of each, chosen by hash and not by looks. What cannot be had now (weights, pixels, time) is said instead of shown.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch

from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Autoencoder, Codec
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.load import IMAGE, Batch, Loader
from sdvae_ray.engine.models import load_models, pick_device
from sdvae_ray.engine.sides import Field, Sides, UnusableOutputError
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.images.packing import Packing
from sdvae_ray.queries.decode import load_autoencoder
from sdvae_ray.randomness import generator
from sdvae_ray.report.pictures.choice import Choice
from sdvae_ray.report.pictures.draw import Pictures, Pixels, crop_of, draw
from sdvae_ray.run.record import Record
from sdvae_ray.run.run import Run
from sdvae_ray.run.tables import read_column
from sdvae_ray.schema import ERROR, FOV_ID, LATENT, latents_table, metrics_table
from sdvae_ray.sources.manifest_reader import read_row_group, read_text_column, row_groups
from sdvae_ray.storage import Storage

SECONDS = 60.0  # after which no further patch is decoded
CAPTIONS = ("ssim", "psnr")  # metrics of the patch under each reconstruction


@dataclass(frozen=True)
class Example:
    """`sides`: the pictures of a side, or the reason why there are none."""

    choice: Choice
    patch: int
    original: Pictures
    sides: dict[str, Pictures | str]


@dataclass(frozen=True)
class Examples:
    """`crop`: pixels shown of a patch, its centre. `notes`: what is not shown, and why."""

    shown: list[Example]
    crop: int
    notes: list[str]


def load_examples(
    config: RunConfig,
    record: Record | None,
    choices: Sequence[Choice],
    fovs: pl.DataFrame,
    storage: Storage,
    say: Callable[[str], None] = lambda _: None,
) -> Examples:
    """Pictures of the chosen FOVs on every side, in about a minute at most. `fovs`: fov_id and files of the usable FOVs."""
    start = time.monotonic()
    crop = crop_of(config, len(choices))
    try:
        pixels, notes = _load_pixels(config, [choice.fov_id for choice in choices], storage)
    except (SdvaeRayError, OSError) as error:
        return Examples([], crop, [f"No pictures: the pixels cannot be read now: {error}"])
    say(f"{len(pixels)} of {len(choices)} fields loaded in {time.monotonic() - start:.0f} s")
    device = pick_device(1)
    models, reasons = _models(config, record, device, storage) if pixels else ({}, {})
    made = Sides(config, Packing(config.image.stains, config.image.triples), Forward(device, "float32"))
    start = time.monotonic()
    shown: list[Example] = []
    for choice in choices:
        if choice.fov_id not in pixels:
            continue
        spent = time.monotonic() - start
        if shown and spent * (1 + 1 / len(shown)) > SECONDS:
            notes.append(
                f"{len(shown)} of {len(pixels)} fields are shown: decoding all would take more than {SECONDS:.0f} s"
            )
            break
        patch = int(generator(config.seed, "example patch", choice.fov_id).integers(config.image.patches))
        integers = pixels[choice.fov_id][patch]
        image = _unit(config, integers)
        wanted = fovs.filter(pl.col(FOV_ID) == choice.fov_id)
        sides: dict[str, Pictures | str] = {}
        for side in config.sides:
            if side in reasons:
                sides[side] = reasons[side]
            elif time.monotonic() - start > SECONDS:
                sides[side] = f"not decoded: the limit of {SECONDS:.0f} s was reached"
            else:
                sides[side] = _side(made, side, models[side], integers, wanted, patch, crop, storage)
        say(f"{choice.fov_id} decoded, {time.monotonic() - start:.0f} s")
        shown.append(Example(choice, patch, draw(config, image, image, crop), sides))
    return Examples(shown, crop, notes)


def _load_pixels(config: RunConfig, ids: Sequence[str], storage: Storage) -> tuple[dict[str, np.ndarray], list[str]]:
    """fov_id -> (P, C, S, S) integers, of the manifest's rows of these FOVs; and why others have none."""
    if not ids:
        return {}, []
    keys = read_text_column(config.manifest, FOV_ID, storage)
    sizes, _ = row_groups(config.manifest, storage)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = np.flatnonzero(pc.is_in(keys, pa.array(ids, pa.string())).to_numpy())
    at = {str(keys[int(row)]): int(row) for row in rows}
    notes = [f"{name} is not shown: it is not in {config.manifest}" for name in ids if name not in at]
    loader = Loader(config.image, config.storage)
    pixels: dict[str, np.ndarray] = {}
    for name, row in at.items():
        group = int(np.searchsorted(starts, row, side="right")) - 1
        table = read_row_group(config.manifest, group, storage).slice(row - int(starts[group]), 1)
        loaded: Batch = loader({column: np.array(table[column].to_pylist(), object) for column in table.column_names})
        if loaded[ERROR][0]:
            notes.append(f"{name} is not shown: {loaded[ERROR][0]}")
        else:
            pixels[name] = loaded[IMAGE][0]
    return pixels, notes


def _models(
    config: RunConfig, record: Record | None, device: torch.device, storage: Storage
) -> tuple[dict[str, Autoencoder | Codec], dict[str, str]]:
    """The run's sides, and the reason for each that cannot be loaded now or has other weights than the run had."""
    codecs = config.model_copy(update={"autoencoders": {}, "extractors": {}, "metrics": {}})
    found: dict[str, Autoencoder | Codec] = dict(load_models(codecs, {}, device).codecs)
    reasons = {}
    for side in config.autoencoders:
        try:
            found[side] = load_autoencoder(Run(config), record, side, device)
        except (SdvaeRayError, OSError) as error:
            reasons[side] = f"its weights cannot be had now: {error}"
    return found, reasons


@torch.inference_mode()
def _side(
    sides: Sides,
    side: str,
    model: Autoencoder | Codec,
    integers: np.ndarray,
    wanted: pl.DataFrame,
    patch: int,
    crop: int,
    storage: Storage,
) -> Pictures | str:
    """One patch (C, S, S) on one side: from its stored latent where the run stored it, else made again.

    In float32 and one pass at a time, so that a full-size model stays small in memory.
    """
    config, image = sides.config, _unit(sides.config, integers)
    try:
        _, stored = read_column(config.output, latents_table(side), LATENT, wanted, storage)
        captions = _captions(config, side, wanted, patch, storage)
    except (SdvaeRayError, OSError) as error:
        return f"its tables cannot be read: {error}"
    stains = torch.from_numpy(image[None]).to(sides.forward.device)
    field = Field(str(wanted[FOV_ID][0]), stains, sides.packing.pack(stains))
    latent = torch.from_numpy(np.array(stored[0, patch])[None]) if len(stored) else None
    try:
        if side in config.codecs:
            made = sides.by_codec(cast(Codec, model), field, integers[None], None)
            how = "compressed and decompressed again: its files are not stored"
        else:
            made = sides.by_autoencoder(side, cast(Autoencoder, model), field, 1, latent)
            again = "encoded and decoded again: its latents are not stored"
            how = again if latent is None else "decoded from the stored latent"
    except UnusableOutputError as error:
        return f"not decoded: {error}"
    return draw(config, image, made.result.recon[0].cpu().numpy(), crop, captions, how)


def _unit(config: RunConfig, integers: np.ndarray) -> Pixels:
    return integers.astype(np.float32) / np.float32(2**config.image.scaling.bits - 1)


def _captions(
    config: RunConfig, side: str, wanted: pl.DataFrame, patch: int, storage: Storage
) -> list[dict[str, float]]:
    captions: list[dict[str, float]] = [{} for _ in config.image.stains]
    for metric in CAPTIONS:
        if metric in config.metrics:
            _, values = read_column(config.output, metrics_table(side), metric, wanted, storage)
            for caption, value in zip(captions, values[0, patch] if len(values) else (), strict=False):
                caption[metric] = float(value)
    return captions
