"""Stage two, the engine: takes patches, gives latents, metrics and embeddings of every side. It knows nothing of Ray.

One FOV at a time goes to the device and stays there until its numbers come back. All forward passes have one shape (the last
pass of a FOV is padded), and a pass never mixes FOVs. No result therefore depends on the batch, the worker or the order.
"""

import socket
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.contracts import Extractor
from sdvae_ray.engine.columns import kept_patches, needs_posterior, run_columns, side_columns, wanted_codecs
from sdvae_ray.engine.compress import SECONDS, Compressed, taken, without_pixels
from sdvae_ray.engine.files.load import IMAGE, Batch
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import Models
from sdvae_ray.engine.on_device import Fov, Launched, charged, inputs_of
from sdvae_ray.engine.shared import MeasuredShared
from sdvae_ray.engine.sides import Field, Side, Sides
from sdvae_ray.engine.transfer import Check, Clock, Download, UnusableOutputError, upload, uploads
from sdvae_ray.errors import ConfigError
from sdvae_ray.run.cost import Cost, Costs, added
from sdvae_ray.schema import (
    CODED,
    EMBEDDING,
    ERROR,
    FOV_ID,
    LATENT,
    LOGVAR,
    PATCHES,
    column,
    embeddings_table,
    latents_table,
    metrics_table,
)

_CODERS = 2  # threads that write files of latents while the device computes the next fields

Row = dict[str, np.ndarray]
Latents = Mapping[str, np.ndarray]  # side -> (P, T, Z, s, s) float16


def auto_micro_batch(config: RunConfig, on_gpu: bool) -> int:
    """Return the number of RGB passes in one forward pass: a whole FOV on a GPU; on a CPU, the pixels of
    two passes of 256 x 256. Of the policy with the fewest patches, so that its FOVs are not padded to the size of others.
    """
    passes = config.image.fewest_patches * len(config.image.triples)
    return passes if on_gpu else max(1, min(passes, 2 * 256**2 // config.image.patch**2))


class Encoder:
    """The models of a run, called on a batch of the loader; of the Compressor if the run has codecs.

    The call adds the columns `<table>:<column>` of every table except fovs, and these columns:
    seconds_encode  (n,) float32, device synchronised
    device          text
    encode_node     text
    micro_batch     (n,) int32, as used: lower than the run's micro-batch if memory ran out
    A row that has an `error` gets zeros. A row whose numbers cannot be stored gets an `error` here.

    wanted: the columns to compute; None: all columns of the run. decodes_only: the autoencoders whose wanted columns can all be
    computed from a stored latent. costs: what the parts of the work have cost so far. Raises ConfigError if image.patch does not
    fit an autoencoder.
    """

    def __init__(
        self,
        config: RunConfig,
        models: Models,
        forward: Forward,
        micro_batch: int,
        wanted: Collection[str] | None = None,
    ) -> None:
        self.config, self.models, self.forward, self.micro_batch = config, models, forward, micro_batch
        self.device = forward.device
        self.wanted = run_columns(config) if wanted is None else frozenset(wanted)
        self.sides = Sides(config, forward)
        self.top = 2**config.image.scaling.bits - 1
        self._of = {side: self.wanted & side_columns(config, side) for side in config.sides}
        self.decodes_only = [
            side for side in config.autoencoders if self._of[side] and not needs_posterior(config, side, self.wanted)
        ]
        self.codecs = wanted_codecs(config, self.wanted)
        self._templates: dict[int, Row] = {}  # patches of a FOV -> a row of zeros
        self.costs: Costs = {}
        self._coders = ThreadPoolExecutor(_CODERS)
        for name, autoencoder in models.autoencoders.items():
            factor = getattr(autoencoder, "vae_scale_factor", 1)
            if config.image.patch % factor:
                raise ConfigError(
                    f"autoencoders.{name} takes sides that are multiples of {factor}; image.patch is {config.image.patch}"
                )

    def __call__(self, batch: Mapping[str, np.ndarray], latents: Mapping[str, Latents] | None = None) -> Batch:
        """Return the batch with the added columns. latents: fov_id -> side -> stored latent, for the sides in `decodes_only`; a
        FOV without a stored latent is encoded again."""
        count = len(batch[FOV_ID])
        out = without_pixels({key: np.asarray(values) for key, values in batch.items()})
        errors = np.array(batch[ERROR], object)
        seconds, micro_batches = np.zeros(count, np.float32), np.full(count, self.micro_batch, np.int32)
        rows: list[Row | None] = [None] * count
        usable = [row for row in range(count) if not errors[row]]
        launched: dict[int, Launched] = {}
        for row, image in zip(usable, uploads([batch[IMAGE][row] for row in usable], self.device), strict=True):
            fov_id = str(batch[FOV_ID][row])
            fov = Fov(fov_id, image, (latents or {}).get(fov_id, {}), taken(batch, self.codecs, row))
            launched[row], micro_batches[row] = self._with_less_memory(fov)
        coded: dict[int, Future[tuple[Row, Costs]]] = {}
        for row, fov_on_device in launched.items():
            try:
                coded[row] = self._coders.submit(self._with_coded_bits, fov_on_device.columns.wait())
            except UnusableOutputError as error:
                errors[row] = str(error)
            seconds[row] = fov_on_device.clock.seconds()
            self.costs = added([self.costs, fov_on_device.costs()])
        for row, columns in coded.items():
            rows[row], cost = columns.result()
            self.costs = added([self.costs, cost])
        blank = self._blank(next((row for row in rows if row is not None), None), batch[IMAGE].shape[1])
        for name in blank:
            out[name] = np.stack([blank[name] if row is None else row[name] for row in rows])
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        if self.config.codecs:  # also where no codec is wanted now: files of one run have equal columns
            out.setdefault(SECONDS, np.zeros(count, np.float32))
        return {
            **out,
            ERROR: errors,
            "seconds_encode": seconds,
            "device": np.full(count, device, object),
            "encode_node": np.full(count, socket.gethostname(), object),
            "micro_batch": micro_batches,
        }

    def _with_less_memory(self, fov: Fov) -> tuple[Launched, int]:
        """Return a FOV on its way, and its micro-batch, which is halved until the FOV fits the memory of the device."""
        size = self.micro_batch
        while True:
            clock = Clock(self.device)
            try:
                tensors, checks = self._compute(fov, size)
                with self.forward.clock("copy out"):
                    columns = Download(tensors, checks)
                return Launched(columns, clock.stopped(), self.forward.taken_laps()), size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                self.forward.taken_laps()
                size = max(1, size // 2)

    @torch.inference_mode()
    def _compute(self, fov: Fov, micro_batch: int) -> tuple[dict[str, Tensor], list[Check]]:
        """Return the columns of a FOV on the device, by `<table>:<column>`, and the checks of their numbers."""
        with self.forward.clock("copy in"):
            stains = fov.image.float() / self.top
            field = Field(fov.fov_id, stains, self.sides.packing.pack(stains), MeasuredShared(self.forward))
        tensors: dict[str, Tensor] = {}
        checks: list[Check] = []
        for name, extractor in self.models.extractors.items():
            pixels = field.rgb if extractor.takes == "rgb" else field.stains
            checks += self._embed(tensors, name, IMAGE_SIDE, extractor, pixels, fov.fov_id, micro_batch)
        for side, autoencoder in self.models.autoencoders.items():
            if self._of[side]:
                stored = fov.latents.get(side) if side in self.decodes_only else None
                latent = None if stored is None else upload(stored, self.device)
                output = self.sides.by_autoencoder(side, autoencoder, field, micro_batch, latent)
                checks += self._measure(tensors, side, output, fov.fov_id, micro_batch)
        for side in self.codecs:
            checks += self._measure(
                tensors, side, self.sides.by_codec(field, fov.compressed[side]), fov.fov_id, micro_batch
            )
        return tensors, checks

    def _add(self, tensors: dict[str, Tensor], name: str, values: Tensor) -> None:
        if name in self.wanted:
            tensors[name] = values

    def _measure(
        self, tensors: dict[str, Tensor], side: str, output: Side, fov_id: str, micro_batch: int
    ) -> list[Check]:
        """Add the wanted columns of one side: its latent, bits, metrics and embeddings. Return the checks of their numbers."""
        result, checks = output.result, list(output.checks)
        if output.latent is not None:
            self._add(tensors, column(latents_table(side), LATENT), output.latent)
        if output.logvar is not None:
            self._add(tensors, column(latents_table(side), LOGVAR), output.logvar)
        for name, bits in output.rates.items():
            self._add(tensors, column(metrics_table(side), name), bits)
        if output.charged is not None and column(metrics_table(side), CODED) in self.wanted:
            tensors[charged(side)] = output.charged
        for name, metric in self.models.metrics.items():
            if column(metrics_table(side), name) in self.wanted:
                with self.forward.clock(f"metric {name}"):
                    tensors[column(metrics_table(side), name)] = metric(result)
        for name, extractor in self.models.extractors.items():
            if (inputs := inputs_of(extractor, output)) is not None:
                checks += self._embed(tensors, name, side, extractor, inputs, fov_id, micro_batch)
        return checks

    def _embed(
        self,
        tensors: dict[str, Tensor],
        name: str,
        side: str,
        extractor: Extractor,
        inputs: Tensor,
        fov_id: str,
        micro_batch: int,
    ) -> list[Check]:
        """Add `embedding` (G, D), the mean over patches, and `patches` (k, G, D), the embeddings of k patches; both float16.

        inputs: (P, ...), the extractor's input for every patch. Return the checks of these numbers.
        """
        table, settings = embeddings_table(name, side), self.config.extractors[name]
        if not self.wanted & {column(table, EMBEDDING), column(table, PATCHES)}:
            return []
        patches = max(1, micro_batch // inputs.shape[1])  # patches per forward pass
        with self.forward.clock(f"extract {name}"), self.forward.autocast():
            features, _ = self.forward.batched(lambda x: (extractor(x).float(), None), inputs, patches)
        mean = features.half().mean(0) if settings.half_mean else features.mean(0).half()
        chosen = upload(kept_patches(self.config, name, fov_id, len(inputs)), self.device)
        chosen_features = features.index_select(0, chosen).half()
        self._add(tensors, column(table, EMBEDDING), mean)
        self._add(tensors, column(table, PATCHES), chosen_features)
        finite = torch.isfinite(mean).all() & torch.isfinite(chosen_features).all()
        return [Check(finite, f"the embedding of {name} of {side} is not finite in float16")]

    def _with_coded_bits(self, row: Row) -> tuple[Row, Costs]:
        """Return the columns of a FOV with `bits_coded` in place of the latents that are charged, and what that cost."""
        coding: list[Costs] = []
        for side in self.models.autoencoders:
            if (latent := row.pop(charged(side), None)) is not None:
                start = time.thread_time()
                row[column(metrics_table(side), CODED)] = self.sides.coded(side, latent)
                coding.append({f"code {side}": Cost(1, time.thread_time() - start)})
        return row, added(coding)

    def _blank(self, row: Row | None, patches: int) -> Row:
        """Return a row of zeros with the shapes of every column, taken from a computed row, or from a black image of `patches`
        patches if `row` is None.
        """
        if patches not in self._templates:
            if row is None:
                image = self.config.image
                dtype = np.uint8 if image.scaling.bits == 8 else np.uint16
                black = np.zeros((patches, len(image.stains), image.patch, image.patch), dtype)
                nothing = Compressed(black, np.zeros(len(image.stains), np.int64))
                fov = Fov("", upload(black, self.device), {}, dict.fromkeys(self.codecs, nothing))
                row, _ = self._with_coded_bits(Download(*self._compute(fov, self.micro_batch)).wait(strict=False))
                self.forward.taken_laps()
            self._templates[patches] = {name: np.zeros_like(values) for name, values in row.items()}
        return self._templates[patches]
