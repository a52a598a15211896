"""Originals and their reconstructions: a few fields of view, their pixels loaded again, their stored latents decoded again.

One patch of each field, chosen by hash and not by looks among those that are not nearly empty. If weights, pixels or time are
lacking, a reason takes the place of the pictures.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import torch

from sdvae_ray.contracts import Autoencoder, Codec
from sdvae_ray.engine.compress import Compressed, compress, load_codecs
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import pick_device
from sdvae_ray.engine.sides import Field, Sides
from sdvae_ray.engine.transfer import UnusableOutputError, demand
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.queries.decode import load_autoencoder
from sdvae_ray.randomness import generator
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.pictures.choice import Choice
from sdvae_ray.report.pictures.draw import Pictures, Pixels, crop_of, draw
from sdvae_ray.report.pictures.pixels import load_pixels, on_unit
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, LATENT, latents_table, metrics_table

SECONDS = 60.0  # after which no further patch is decoded
_LEAST_SPREAD = 0.5  # of a patch that is shown, as a share of the median patch's
CAPTIONS = ("ssim", "psnr")  # metrics of the patch under each reconstruction


@dataclass(frozen=True)
class Example:
    """A patch of a chosen FOV. patches: of the FOV. sides: side -> its pictures, or the reason why it has none."""

    choice: Choice
    patch: int
    patches: int
    original: Pictures
    sides: dict[str, Pictures | str]


@dataclass(frozen=True)
class Examples:
    """The examples of the report. crop: pixels shown of a patch, its centre. notes: what is not shown, and why."""

    shown: list[Example]
    crop: int
    notes: list[str]


def load_examples(scored: ScoredRun, choices: Sequence[Choice]) -> Examples:
    """Return pictures of the chosen FOVs on every side, in about a minute at most."""
    start, config = time.monotonic(), scored.config
    crop = crop_of(config, len(choices))
    try:
        pixels, notes = load_pixels(scored.run, [choice.fov_id for choice in choices])
    except (SdvaeRayError, OSError) as error:
        return Examples([], crop, [f"No pictures: the pixels cannot be read now: {error}"])
    scored.say(f"{len(pixels)} of {len(choices)} fields loaded in {time.monotonic() - start:.0f} s")
    device = pick_device(1)
    models, reasons = _models(scored, device) if pixels else ({}, {})
    sides = Sides(config, Forward(device, "float32"))
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
        number = _patch_of(config.seed, choice.fov_id, pixels[choice.fov_id])
        patch = _Patch(scored.run, scored.usable.filter(pl.col(FOV_ID) == choice.fov_id), number, pixels[choice.fov_id])
        pictures: dict[str, Pictures | str] = {}
        for side in config.sides:
            if side in reasons:
                pictures[side] = reasons[side]
            elif time.monotonic() - start > SECONDS:
                pictures[side] = f"not decoded: the limit of {SECONDS:.0f} s was reached"
            else:
                pictures[side] = _side(sides, side, models[side], patch, crop)
        scored.say(f"{choice.fov_id} decoded, {time.monotonic() - start:.0f} s")
        shown.append(Example(choice, number, len(patch.pixels), draw(config, patch.image, patch.image, crop), pictures))
    return Examples(shown, crop, notes)


def _patch_of(seed: int, fov_id: str, pixels: np.ndarray) -> int:
    """Return the number of the patch that is shown, chosen by hash among those that are not nearly empty: their pixels spread half
    as much as those of the field's median patch. pixels: (P, C, S, S)."""
    spreads = pixels.std((2, 3)).mean(1)
    full = np.flatnonzero(spreads >= _LEAST_SPREAD * np.median(spreads))
    return int(full[generator(seed, "example patch", fov_id).integers(len(full))])


class _Patch:
    """One patch of a FOV.

    fov     the row of the FOV, with fov_id and files
    number  of the patch
    pixels  (P, C, S, S) integers of the whole FOV
    image   (C, S, S), the patch on [0, 1]
    """

    def __init__(self, run: Run, fov: pl.DataFrame, number: int, pixels: np.ndarray) -> None:
        self.run, self.fov, self.number, self.pixels = run, fov, number, pixels
        self.image: Pixels = on_unit(run.config, pixels[number])

    def stored(self, table: str, column: str) -> np.ndarray | None:
        """Return the patch's value of a column; None if the run has not stored it."""
        values = self.run.read(table, column, self.fov).values
        return values[0, self.number] if len(values) else None


def _models(scored: ScoredRun, device: torch.device) -> tuple[dict[str, Autoencoder | Codec], dict[str, str]]:
    """Return the run's sides, and the reason for every side that cannot be loaded or has other weights than the run had."""
    models: dict[str, Autoencoder | Codec] = dict(load_codecs(scored.config))
    reasons = {}
    for side in scored.config.autoencoders:
        try:
            models[side] = load_autoencoder(scored.run, scored.record, side, device)
        except (SdvaeRayError, OSError) as error:
            reasons[side] = f"its weights cannot be had now: {error}"
    return models, reasons


@torch.inference_mode()
def _side(sides: Sides, side: str, model: Autoencoder | Codec, patch: _Patch, crop: int) -> Pictures | str:
    """Return one patch on one side: decoded from its stored latent, or computed again if the run stored none. It is computed in
    float32, one pass at a time, so that a full-size model needs little memory. A text is why there is no picture."""
    try:
        stored, captions = patch.stored(latents_table(side), LATENT), _captions(side, patch)
    except (SdvaeRayError, OSError) as error:
        return f"its tables cannot be read: {error}"
    stains = torch.from_numpy(patch.image[None]).to(sides.forward.device)
    field = Field(str(patch.fov[FOV_ID][0]), stains, sides.packing.pack(stains))
    if side in sides.config.codecs and sides.config.is_wide(side):
        return "it is of 16 bits, which a picture does not show"
    try:
        if side in sides.config.codecs:
            whole = compress(cast(Codec, model), patch.pixels, sides.config.image.transpose)
            result = sides.by_codec(field, Compressed(whole.pixels[patch.number][None], whole.sizes)).result
            how = "compressed and decompressed again: its files are not stored"
        else:
            latent = None if stored is None else torch.from_numpy(np.array(stored)[None])
            output = sides.by_autoencoder(side, cast(Autoencoder, model), field, 1, latent)
            demand(output.checks)
            result = output.result
            again = "encoded and decoded again: its latents are not stored"
            how = again if latent is None else "decoded from the stored latent"
    except UnusableOutputError as error:
        return f"not decoded: {error}"
    return draw(sides.config, patch.image, result.recon[0].cpu().numpy(), crop, captions, how)


def _captions(side: str, patch: _Patch) -> list[dict[str, float]]:
    """Return the stored metrics of the patch, one mapping per stain."""
    config = patch.run.config
    captions: list[dict[str, float]] = [{} for _ in config.image.stains]
    for metric in CAPTIONS:
        if metric in config.metrics:
            values = patch.stored(metrics_table(side), metric)
            for caption, value in zip(captions, () if values is None else values, strict=False):
                caption[metric] = float(value)
    return captions
