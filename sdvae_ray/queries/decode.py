"""Stored latents of one field of view -> its stains again, by the run's own weights at the run's precision; and as OME-TIFF.

The decoded pixels are the run's scaled integers, as its metrics saw them, and not the counts of a camera.
"""

import hashlib
import io
import json
import uuid
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.contracts import Autoencoder
from sdvae_ray.engine.columns import compresses, stores_latents
from sdvae_ray.engine.encode import auto_micro_batch
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import autoencoder_engines, check_same_weights, load_models, pick_device, resolve_weights
from sdvae_ray.engine.sides import Field, Sides
from sdvae_ray.engine.transfer import UnusableOutputError, demand
from sdvae_ray.errors import ConfigError, DataError, RunError, did_you_mean, nearest_or_first
from sdvae_ray.images.prepare import untile
from sdvae_ray.queries.recorded import recorded
from sdvae_ray.run.record import Record
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID, LATENT, latents_table
from sdvae_ray.version import VERSION

Facts = dict[str, Any]

_COMPARED = 10_000  # fov_ids compared letter by letter with an unknown one: a run may have millions


class Decoder:
    """One autoencoder of a run, whose weights are loaded once for all fields of view that it decodes.

    side: None: the only autoencoder whose latents are stored. Raises ConfigError for a side that cannot be decoded.
    """

    def __init__(self, run: Run, side: str | None) -> None:
        self.run = run
        self.side = checked_side(run, side)
        self.record = recorded(run, {self.side})

    @cached_property
    def _device(self) -> torch.device:
        return pick_device(1)

    @cached_property
    def _autoencoder(self) -> Autoencoder:
        return load_autoencoder(self.run, self.record, self.side, self._device)

    def row(self, fov_id: str) -> pl.DataFrame:
        """Return the row of a usable field of view, which `stains` and `patches` take. Raises DataError for another one."""
        return _committed(self.run, self.record, fov_id)

    def stains(self, row: pl.DataFrame) -> tuple[np.ndarray, Facts]:
        """Return the decoded stains (C, crop, crop) uint8 or uint16, in the original's orientation, and the facts about them.

        row: one row of `run.fovs`, with `files`, micro_batch, device and the column of the policies. A pixel x in [0, 1]
        becomes the nearest integer to x * (2^bits - 1).
        """
        patches, facts = self.patches(row)
        image = self.run.config.image
        if image.transpose:
            patches = patches.transpose(2, 3)
        top = 2**image.scaling.bits - 1
        levels = np.rint(np.clip(patches.numpy(), 0, 1) * np.float32(top))
        return untile(levels.astype(np.uint8 if image.scaling.bits == 8 else np.uint16)), facts

    @torch.inference_mode()
    def patches(self, row: pl.DataFrame) -> tuple[Tensor, Facts]:
        """Return the reconstruction that the run scored, (P, C, S, S) float32 in [0, 1] on the CPU, and the facts about it.

        The bits are those that were scored if the device and the libraries are the same; else forward passes are rounded
        differently. Raises DataError for a FOV without a latent, WeightsError for other weights, RunError for numbers that are not
        usable.
        """
        fov_id = row[FOV_ID][0]
        _, stored = self.run.read(latents_table(self.side), LATENT, row)
        if len(stored) == 0:
            raise DataError(f"{fov_id} has no latent of {self.side} yet: `sdvae-ray encode --extend` adds it")
        autoencoder, precision = self._autoencoder, self.record["precision"]
        micro_batch, name = _micro_batch(self.run, self.record, row, self._device)
        image = self.run.config.image
        shape = (len(stored[0]), len(image.stains), image.patch, image.patch)
        blank = torch.zeros(
            shape, device=self._device
        )  # by_autoencoder asks a field for its shape; its pixels play no part
        sides = Sides(self.run.config, Forward(self._device, precision))
        field = Field(fov_id, blank, sides.packing.pack(blank))
        latent = torch.from_numpy(np.array(stored[0]))
        try:
            decoded = sides.by_autoencoder(self.side, autoencoder, field, micro_batch, latent)
            demand(decoded.checks)
        except UnusableOutputError as error:
            raise RunError(f"{fov_id}: {error} on {name} at {precision}") from error
        arithmetic = {"precision": precision, "micro_batch": micro_batch, "device": name}
        return decoded.result.recon.cpu(), _facts(self.run, self.record, row.row(0, named=True), self.side) | arithmetic


def decode_fov(run: Run, fov_id: str, side: str | None) -> tuple[np.ndarray, Facts]:
    """Return the decoded stains of one field of view and the facts about them, see `Decoder.stains`.

    Raises what Decoder raises, and DataError for an unknown or failed FOV.
    """
    decoder = Decoder(run, side)
    return decoder.stains(decoder.row(fov_id))


def checked_side(run: Run, side: str | None) -> str:
    """Return the side whose stored latents can be decoded; None: the run's only one. Raises ConfigError, with the reason, if the
    side has no stored latents, or if several sides have and none is named."""
    allowed = [name for name in run.config.autoencoders if stores_latents(run.config, name)]
    if side is None:
        if not allowed:
            raise ConfigError("this run stores no latents to decode: no autoencoder of it has store_latents")
        if len(allowed) > 1:
            raise ConfigError(f"--side is wanted, this run has several (allowed: {', '.join(sorted(allowed))})")
        return allowed[0]
    tail = f" (allowed: {', '.join(sorted(allowed)) or 'none, this run stores no latents'})"
    if side == IMAGE_SIDE:
        raise ConfigError(f"--side {side}: that is the originals, which no autoencoder encoded{tail}")
    if side in run.config.codecs:
        raise ConfigError(f"--side {side}: that is a codec, of which the run keeps sizes and no files{tail}")
    if side not in run.config.autoencoders:
        raise ConfigError(f"--side {side}: this run has no such side{did_you_mean(side, allowed) if allowed else tail}")
    if side not in allowed:
        what = "no smaller than the image" if not compresses(run.config, side) else "left out by store_latents: false"
        raise ConfigError(f"--side {side}: its latents are not stored, being {what}{tail}")
    return side


def load_autoencoder(run: Run, record: Record | None, side: str, device: torch.device) -> Autoencoder:
    """Return one autoencoder of a run. Raises WeightsError if its weights are missing, or differ from those of the run's record."""
    alone = run.config.model_copy(
        update={"autoencoders": {side: run.config.autoencoders[side]}, "codecs": {}, "extractors": {}, "metrics": {}}
    )
    resolved = resolve_weights(alone, run.storage)
    check_same_weights(resolved, record["weights"] if record else {})
    return load_models(alone, resolved, device, autoencoder_engines(alone, resolved, record)).autoencoders[side]


def ome_tiff(stains: np.ndarray, names: Sequence[str], facts: Facts) -> bytes:
    """Return stains (C, Y, X) uint8 or uint16 as one deflated OME-TIFF: a channel per stain, `facts` as JSON in its Description.

    The same stains and facts give the same bytes.
    """
    import tifffile

    description = json.dumps(facts, indent=1)
    digest = hashlib.sha256(np.ascontiguousarray(stains).tobytes() + description.encode())
    own = str(uuid.UUID(bytes=digest.digest()[:16], version=4))  # tifffile's own holds the time
    creator, buffer = f"sdvae-ray {VERSION}", io.BytesIO()
    metadata: dict[str, Any] = {"axes": "CYX", "Name": str(facts.get("fov_id", "")), "Description": description}
    metadata |= {"Channel": {"Name": list(names)}, "Creator": creator, "UUID": own}
    options: dict[str, Any] = {"ome": True, "photometric": "minisblack", "compression": "zlib", "software": creator}
    tifffile.imwrite(buffer, stains, metadata=metadata, **options)
    return buffer.getvalue()


def _committed(run: Run, record: Record, fov_id: str) -> pl.DataFrame:
    """Return the row of fovs, with `files`, of a usable FOV. Raises DataError for an unknown or failed FOV."""
    fovs = run.fovs(["micro_batch", "device", *run.config.image.policy_columns])
    if fovs.height == 0:
        raise DataError(f"{run.output} has no fields of view yet: `sdvae-ray encode` computes them")
    row = fovs.filter(pl.col(FOV_ID) == fov_id)
    if row.height == 0:
        total = record["manifest"]["fovs"]
        tail = f"; {fovs.height} of {total} are encoded, `sdvae-ray encode` goes on" if fovs.height < total else ""
        raise DataError(f"no field of view {fov_id!r} in {run.output}{_nearest(fov_id, fovs[FOV_ID])}{tail}")
    if row[ERROR][0] is not None:
        raise DataError(f"{fov_id} has nothing to decode, it failed: {' '.join(row[ERROR][0].split())}")
    return row


def _nearest(fov_id: str, known: pl.Series) -> str:
    """Return the tail of an error: the nearest of the known FOVs that share most parts of the key."""
    parts, names = fov_id.split("/"), known.to_list()
    shared = [sum(a == b for a, b in zip(parts, name.split("/"), strict=False)) for name in names]
    most = max(shared)
    rivals = [name for name, count in zip(names, shared, strict=True) if count == most][:_COMPARED]
    return nearest_or_first(fov_id, rivals)


def _micro_batch(run: Run, record: Record, row: pl.DataFrame, device: torch.device) -> tuple[int, str]:
    """Return (RGB passes per forward pass, name of the device): the run's number on a device of that name, else a number that
    fits.
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    used = int(row["micro_batch"][0]) if "micro_batch" in row.columns else int(record["micro_batch"])
    same = "device" in row.columns and row["device"][0] == name
    return (used if same else min(used, auto_micro_batch(run.config, on_gpu=False))), name


def _facts(run: Run, record: Record, row: Mapping[str, Any], side: str) -> Facts:
    """Return the facts about a decoded picture: its model, weights, crop and scaling."""
    model, weights = run.config.autoencoders[side], record["weights"].get(f"autoencoders.{side}", {})
    scaling, image = run.config.image.scaling, run.config.image
    top, policy = 2**scaling.bits - 1, image.policy_of(row)
    constants = ("0", f"{policy.divisor:g}")
    before = f", after a resize to {image.resize}" if image.resize else ""
    if policy.zoom is not None:
        before = f", resampled to {image.pixel_um:g} micrometres"
    offset, divisor = constants if scaling.method == "divide" else ("offset", "divisor")
    of = "" if scaling.method == "divide" else ", offset and divisor per stain from the manifest"
    return {
        "fov_id": row[FOV_ID],
        "side": side,
        "autoencoder": model.name,
        "source": "random weights" if model.random else weights.get("source"),
        "subfolder": record["config"]["autoencoders"][side]["subfolder"],
        "revision": weights.get("revision"),
        "random_weights": model.random,
        "latent": model.latent,
        "latent_bits": model.latent_bits,
        "packing": [list(triple) for triple in run.config.triples(side)],
        "unpack": model.unpack,
        "stains": list(image.stains),
        "crop": f"{policy.crop} pixels, centre{before}",
        "scaling": f"scaled integers 0 to {top}, not raw camera counts: "
        f"clip((pixel / illumination - {offset}) / {divisor}, 0, {top}){of}; encoded and decoded as fractions of {top}",
        "sdvae_ray": VERSION,
    }
