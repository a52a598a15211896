"""One field of view through one autoencoder or codec: the reconstruction, the latent as stored, and its bits."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Autoencoder, Codec, Posterior, Reconstruction
from sdvae_ray.engine import rate
from sdvae_ray.engine.columns import compresses, stores_latents
from sdvae_ray.engine.forward import Forward
from sdvae_ray.errors import ConfigError
from sdvae_ray.images.packing import Packing
from sdvae_ray.randomness import generator

CodecOutput = tuple[np.ndarray, np.ndarray]  # the result of Codec.roundtrip


class UnusableOutputError(ValueError):
    """A model gave numbers that must not be stored: not finite, or outside the range of the stored type."""


@dataclass(frozen=True)
class Field:
    """One FOV on the device: stains (P, C, S, S) and their RGB passes (P, T, 3, S, S), float32 in [0, 1]."""

    fov_id: str
    stains: Tensor
    rgb: Tensor


@dataclass(frozen=True)
class Side:
    """One side of one FOV.

    result   originals and reconstruction
    latent   (P, T, Z, s, s) float16; None where no latent is stored
    rates    every rate of schema.RATES, (P, C) float32 bits; NaN, but for `bits`, for a codec and for the identity control
    """

    result: Reconstruction
    latent: Tensor | None
    rates: dict[str, Tensor]


class Sides:
    """Makes every side of a run. With `strict` False, unusable numbers raise no error: for a row that only gives shapes."""

    def __init__(self, config: RunConfig, packing: Packing, forward: Forward) -> None:
        self.config, self.packing, self.forward = config, packing, forward
        self.top = 2**config.image.scaling.bits - 1
        self.strict = True
        self._stored = {side: stores_latents(config, side) for side in config.autoencoders}
        self._compresses = {side: compresses(config, side) for side in config.autoencoders}

    def by_codec(self, codec: Codec, field: Field, image: np.ndarray, done: CodecOutput | None) -> Side:
        """The side of a codec. image: (P, C, S, S) integers of the FOV; done: the output of the codec, or None to run it now."""
        recon, sizes = done if done is not None else codec.roundtrip(image)
        stains = torch.from_numpy(np.ascontiguousarray(recon)).to(field.stains.device).float() / self.top
        result = Reconstruction(field.stains, stains, field.rgb, self.packing.pack(stains), None)
        return Side(result, None, rate.stored_alone(torch.from_numpy(sizes * 8).float()))

    def by_autoencoder(
        self, side: str, autoencoder: Autoencoder, field: Field, micro_batch: int, stored: Tensor | None = None
    ) -> Side:
        """The side of an autoencoder. Raises UnusableOutputError.

        stored: the latent (P, T, Z, s, s) float16 of the FOV, where no wanted column needs the posterior; None: encode the FOV.
        """
        config = self.config.autoencoders[side]
        kept = self._stored[side]
        posterior = None
        if stored is not None:
            half = stored.to(field.rgb.device).flatten(0, 1)
            latent = half.float()
        else:
            posterior = self._encode(side, autoencoder, field, micro_batch)
            latent = self._sample(posterior, side, field.fov_id) if config.latent == "sample" else posterior.mean
            if config.latent_bits is not None:
                latent, _ = rate.quantise(latent, config.latent_bits)
            if kept:
                half = self._rounded(latent, side)
                latent = half.float()
        with self.forward.clock(f"decode {side}"), self.forward.autocast():
            (decoded, _) = self.forward.batched(lambda z: (autoencoder.decode(z).float(), None), latent, micro_batch)
        self.demand(torch.isfinite(decoded).all(), f"the reconstruction of {side} is not finite")
        recon_rgb = decoded.view(field.rgb.shape)
        result = Reconstruction(field.stains, self.packing.unpack(recon_rgb), field.rgb, recon_rgb, posterior)
        shape = field.rgb.shape[:2]
        return Side(result, half.view(*shape, *half.shape[1:]) if kept else None, self._rates(side, latent, field))

    def _encode(self, side: str, autoencoder: Autoencoder, field: Field, micro_batch: int) -> Posterior:
        def encode(rgb: Tensor) -> tuple[Tensor, Tensor | None]:
            posterior = autoencoder.encode(rgb)
            return posterior.mean, posterior.logvar

        with self.forward.clock(f"encode {side}"), self.forward.autocast():
            return Posterior(*self.forward.batched(encode, field.rgb.flatten(0, 1), micro_batch))

    def _sample(self, posterior: Posterior, side: str, fov_id: str) -> Tensor:
        """mean + std * noise. The noise is a function of (seed, FOV, side) and is drawn on the CPU: it is equal on every device."""
        if posterior.logvar is None:
            raise ConfigError(f"autoencoders.{side}: there is no posterior to sample from (use latent: mean)")
        noise = generator(self.config.seed, "posterior", fov_id, side).standard_normal(posterior.mean.shape, np.float32)
        return posterior.mean + (0.5 * posterior.logvar).exp() * torch.from_numpy(noise).to(posterior.mean.device)

    def _rounded(self, latent: Tensor, side: str) -> Tensor:
        half = latent.half()
        problem = f"the latent of {side} does not fit float16 (largest {latent.abs().max().item():g})"
        self.demand(torch.isfinite(half).all(), problem)
        return half

    def _rates(self, side: str, latent: Tensor, field: Field) -> dict[str, Tensor]:
        """Every rate of schema.RATES, (P, C) float32; of the identity control the bits of its pixels alone."""
        patches, count, size, _ = field.stains.shape
        if not self._compresses[side]:
            return rate.stored_alone(torch.full((patches, count), float(size**2 * self.config.image.scaling.bits)))
        width = 16 if self._stored[side] else 32
        levels = self.config.autoencoders[side].latent_bits or rate.NOMINAL_BITS
        passes = {name: bits.view(field.rgb.shape[:2]) for name, bits in rate.pass_bits(latent, width, levels).items()}
        return {name: rate.per_stain(bits, self.packing.index, count) for name, bits in passes.items()}

    def demand(self, usable: Tensor, problem: str) -> None:
        """UnusableOutputError with the text `problem` where `usable` is False, unless `strict` is off."""
        if not usable and self.strict:
            raise UnusableOutputError(problem)
