"""Stage two, the engine: patches in; latents, metrics and embeddings of every side out. Knows nothing of Ray.

One FOV at a time goes to the device and stays there until its numbers come back. Forward passes have one shape (the last of a
FOV is padded), and never mix FOVs, so that no result depends on the batch, the worker or the order.
"""

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor

from sdvae_ray.config import IMAGE_SIDE, AutoencoderConfig, RunConfig
from sdvae_ray.contracts import Autoencoder, Extractor, Posterior, Reconstruction
from sdvae_ray.errors import ConfigError
from sdvae_ray.images.packing import Packing
from sdvae_ray.randomness import generator
from sdvae_ray.schema import ERROR, FOV_ID, column, embeddings_table, latents_table, metrics_table
from sdvae_ray.stages.load import IMAGE, Batch
from sdvae_ray.stages.models import DTYPES, Models

Row = dict[str, np.ndarray]


class UnusableOutputError(ValueError):
    """A model gave numbers that must not be stored: not finite, or outside of the stored type's range."""


def auto_micro_batch(config: RunConfig, on_gpu: bool) -> int:
    """RGB passes per forward pass: a whole FOV on a GPU, the pixels of two 256 x 256 passes on a CPU."""
    passes = config.image.patches * len(config.image.packing)
    return passes if on_gpu else max(1, min(passes, 2 * 256**2 // config.image.patch**2))


class Encoder:
    """Callable on a batch from the loader: adds, per row, the columns `<table>:<column>` of every table but fovs, and

    seconds_encode  (n,) float32, device synchronised
    device          text
    encode_node     text
    micro_batch     (n,) int32, as used: lower than the run's where memory ran out

    A row with `error` is passed through with zeros; a row whose numbers cannot be stored gets an `error` here.
    """

    def __init__(
        self,
        config: RunConfig,
        models: Models,
        device: torch.device,
        precision: str,
        micro_batch: int,
        profile: bool = False,
    ) -> None:
        self.config, self.models, self.device = config, models, device
        self.dtype = DTYPES[precision]
        self.micro_batch = micro_batch
        self.packing = Packing(config.image.stains, config.image.packing)
        self.top = 2**config.image.scaling.bits - 1
        self.profile = profile
        self.seconds: dict[str, float] = defaultdict(float)
        self._template: Row | None = None
        self._shapes_only = False
        for name, autoencoder in config.autoencoders.items():
            self._check_packing(name, autoencoder)

    def _check_packing(self, name: str, autoencoder: AutoencoderConfig) -> None:
        if autoencoder.latent == "sample" and autoencoder.name in ("patch_pca", "identity"):
            raise ConfigError(
                f"autoencoders.{name}: {autoencoder.name} has no posterior to sample from (use latent: mean)"
            )

    def __call__(self, batch: Mapping[str, np.ndarray]) -> Batch:
        count = len(batch[FOV_ID])
        out: Batch = {key: np.asarray(values) for key, values in batch.items() if key != IMAGE}
        errors = np.array(batch[ERROR], object)
        seconds, micro_batches = np.zeros(count, np.float32), np.full(count, self.micro_batch, np.int32)
        rows: list[Row | None] = [None] * count
        for row in range(count):
            if errors[row]:
                continue
            start = time.perf_counter()
            try:
                rows[row], micro_batches[row] = self._with_less_memory(batch[IMAGE][row], str(batch[FOV_ID][row]))
            except UnusableOutputError as error:
                errors[row] = str(error)
            seconds[row] = time.perf_counter() - start
        blank = self._blank(next((row for row in rows if row is not None), None))
        for name in blank:
            out[name] = np.stack([blank[name] if row is None else row[name] for row in rows])
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            **out,
            ERROR: errors,
            "seconds_encode": seconds,
            "device": np.full(count, device, object),
            "encode_node": np.full(count, socket.gethostname(), object),
            "micro_batch": micro_batches,
        }

    def _with_less_memory(self, image: np.ndarray, fov_id: str) -> tuple[Row, int]:
        """The FOV's row and the micro-batch that it was done at: halved until it fits the device's memory."""
        size = self.micro_batch
        while True:
            try:
                return self.encode_fov(image, fov_id, size), size
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                torch.cuda.empty_cache()
                size = max(1, size // 2)

    @torch.inference_mode()
    def encode_fov(self, image: np.ndarray, fov_id: str, micro_batch: int) -> Row:
        """(P, C, S, S) integers -> the FOV's row of every table, keyed `<table>:<column>`. Raises UnusableOutputError."""
        with self._clock("copy in"):
            pixels = torch.from_numpy(np.array(image)).to(self.device)
            stains = pixels.float() / self.top
            rgb = self.packing.pack(stains)
        tensors: dict[str, Tensor] = {}
        for name, extractor in self.models.extractors.items():
            if extractor.takes != "posterior":
                given = rgb if extractor.takes == "rgb" else stains
                self._embed(tensors, name, IMAGE_SIDE, extractor, given, fov_id, micro_batch)
        for side, autoencoder in self.models.autoencoders.items():
            result = self._reconstruct(tensors, side, autoencoder, stains, rgb, fov_id, micro_batch)
            with self._clock("metrics"):
                for name, metric in self.models.metrics.items():
                    tensors[column(metrics_table(side), name)] = metric(result)
            for name, extractor in self.models.extractors.items():
                given = self._given(extractor, result)
                self._embed(tensors, name, side, extractor, given, fov_id, micro_batch)
        with self._clock("copy out"):
            return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}

    def _reconstruct(
        self,
        tensors: dict[str, Tensor],
        side: str,
        autoencoder: Autoencoder,
        stains: Tensor,
        rgb: Tensor,
        fov_id: str,
        micro_batch: int,
    ) -> Reconstruction:
        config = self.config.autoencoders[side]
        passes = rgb.flatten(0, 1)
        with self._clock(f"encode {side}"), self._autocast():
            mean, logvar = self._micro_batched(lambda x: _pair(autoencoder.encode(x)), passes, micro_batch)
        posterior = Posterior(mean, logvar)
        latent = self._sample(posterior, side, fov_id) if config.latent == "sample" else mean
        stored = config.store_latents if config.store_latents is not None else autoencoder.stores_latents
        if stored:
            half = latent.half()
            self._demand(
                torch.isfinite(half).all(),
                f"the latent of {side} does not fit float16 (largest {latent.abs().max().item():g})",
            )
            tensors[column(latents_table(side), "latent")] = half.view(*rgb.shape[:2], *half.shape[1:])
            latent = half.float()
        with self._clock(f"decode {side}"), self._autocast():
            (decoded, _) = self._micro_batched(lambda z: (autoencoder.decode(z).float(), None), latent, micro_batch)
        self._demand(torch.isfinite(decoded).all(), f"the reconstruction of {side} is not finite")
        recon_rgb = decoded.view(rgb.shape)
        return Reconstruction(stains, self.packing.unpack(recon_rgb), rgb, recon_rgb, posterior)

    def _sample(self, posterior: Posterior, side: str, fov_id: str) -> Tensor:
        """mean + std * noise; the noise is a function of (seed, FOV, side), drawn on the CPU, so that any device gives the same."""
        if posterior.logvar is None:
            raise ConfigError(f"autoencoders.{side}: there is no posterior to sample from (use latent: mean)")
        noise = generator(self.config.seed, "posterior", fov_id, side).standard_normal(posterior.mean.shape, np.float32)
        return posterior.mean + (0.5 * posterior.logvar).exp() * torch.from_numpy(noise).to(self.device)

    def _given(self, extractor: Extractor, result: Reconstruction) -> Tensor:
        if extractor.takes == "rgb":
            return result.recon_rgb
        if extractor.takes == "stains":
            return result.recon
        assert result.posterior is not None
        return result.posterior.mean.view(*result.image_rgb.shape[:2], *result.posterior.mean.shape[1:])

    def _embed(
        self,
        tensors: dict[str, Tensor],
        name: str,
        side: str,
        extractor: Extractor,
        given: Tensor,
        fov_id: str,
        micro_batch: int,
    ) -> None:
        """Adds `embedding` (G, D), the mean over patches, and `patches` (k, G, D), a hashed choice of them; float16."""
        patches = max(1, micro_batch // given.shape[1])  # patches per forward pass
        with self._clock(f"extract {name}"), self._autocast():
            features, _ = self._micro_batched(lambda x: (extractor(x).float(), None), given, patches)
        kept = min(self.config.extractors[name].keep_patches, len(features))
        chosen = np.sort(generator(self.config.seed, "patches", fov_id).permutation(len(features))[:kept])
        table = embeddings_table(name, side)
        embedding, chosen_features = features.mean(0).half(), features[torch.from_numpy(chosen)].half()
        finite = torch.isfinite(embedding).all() and torch.isfinite(chosen_features).all()
        self._demand(finite, f"the embedding of {name} of {side} is not finite in float16")
        tensors[column(table, "embedding")] = embedding
        if kept:
            tensors[column(table, "patches")] = chosen_features

    def _micro_batched(
        self, forward: Callable[[Tensor], tuple[Tensor, Tensor | None]], inputs: Tensor, size: int
    ) -> tuple[Tensor, Tensor | None]:
        """`forward` over slices of exactly `size`, the last padded with zeros; its outputs joined and trimmed."""
        firsts, seconds = [], []
        for start in range(0, len(inputs), size):
            part = inputs[start : start + size]
            real = len(part)
            if real < size:
                part = torch.cat([part, part.new_zeros(size - real, *part.shape[1:])])
            if part.ndim == 4 and self.device.type == "cuda":
                part = part.contiguous(memory_format=torch.channels_last)
            first, second = forward(part)
            firsts.append(first[:real])
            if second is not None:
                seconds.append(second[:real])
        return torch.cat(firsts), torch.cat(seconds) if seconds else None

    def _autocast(self) -> AbstractContextManager[object]:
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)

    @contextmanager
    def _clock(self, part: str) -> Iterator[None]:
        """Seconds per part, the device synchronised; only when profiling, since waiting costs overlap."""
        if not self.profile:
            yield
            return
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[part] += time.perf_counter() - start

    def _demand(self, usable: Tensor, problem: str) -> None:
        if not usable and not self._shapes_only:
            raise UnusableOutputError(problem)

    def _blank(self, row: Row | None) -> Row:
        """Zeros of every column's shape, from a row that was computed; from a black image while there was none."""
        if self._template is None:
            if row is None:
                image = self.config.image
                dtype = np.uint8 if image.scaling.bits == 8 else np.uint16
                black = np.zeros((image.patches, len(image.stains), image.patch, image.patch), dtype)
                self._shapes_only = True
                row = self.encode_fov(black, "", self.micro_batch)
                self._shapes_only = False
            self._template = {name: np.zeros_like(values) for name, values in row.items()}
        return self._template


def _pair(posterior: Posterior) -> tuple[Tensor, Tensor | None]:
    return posterior.mean, posterior.logvar
