"""One field of view through one autoencoder or codec: the reconstruction, the latent as stored, and its bits."""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Autoencoder, Posterior, Reconstruction, Shared
from sdvae_ray.engine import latent_file, rate
from sdvae_ray.engine.columns import compresses, stores_latents
from sdvae_ray.engine.compress import Compressed
from sdvae_ray.engine.forward import Forward, Lap
from sdvae_ray.engine.shared import MeasuredShared
from sdvae_ray.engine.transfer import Check, upload
from sdvae_ray.errors import ConfigError
from sdvae_ray.images.packing import Packing
from sdvae_ray.randomness import generator


@dataclass(frozen=True)
class Field:
    """One FOV on the device: stains (P, C, S, S) and the RGB passes of image.packing (P, T, 3, S, S), float32 in [0, 1].

    posteriors: what autoencoders made of it, and at what cost, so that sides that differ in their latent alone encode it once.
    known: what metrics computed of it alone.
    """

    fov_id: str
    stains: Tensor
    rgb: Tensor
    known: Shared = field(default_factory=Shared)
    posteriors: dict[tuple[object, ...], tuple[Posterior, Lap]] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One side of one FOV.

    result   originals and reconstruction
    latent   (P, T, Z, s, s) float16, of the T passes of the side's own packing; None if no latent is stored
    rates    the rates that the device computes, (P, C) float32 bits; NaN where they do not apply
    checks   conditions under which the numbers are usable
    logvar   (P, T, Z, s, s) float16, of the posterior; None if it is not stored
    decoded  (P, T, Z, s, s) float32, the latent of which the reconstruction is; None for a codec
    charged  the same latent in the type in which it is charged, of which the host writes a file; None for a codec and the identity
    """

    result: Reconstruction
    latent: Tensor | None
    rates: dict[str, Tensor]
    checks: tuple[Check, ...] = ()
    logvar: Tensor | None = None
    decoded: Tensor | None = None
    charged: Tensor | None = None


class Sides:
    """Computes every side of a run. Nothing here waits for the device: the checks of a side tell later whether its numbers are
    usable.
    """

    def __init__(self, config: RunConfig, forward: Forward) -> None:
        self.config, self.forward = config, forward
        stains = config.image.stains
        self.packing = Packing(stains, config.image.triples)
        self._packings = {
            side: Packing(stains, config.triples(side), settings.unpack)
            for side, settings in config.autoencoders.items()
        }
        self._stored = {side: stores_latents(config, side) for side in config.autoencoders}
        self._compresses = {side: compresses(config, side) for side in config.autoencoders}

    def by_codec(self, field: Field, compressed: Compressed) -> Side:
        """Return the side of a codec. The patches of a field share the bits of a stain equally; without a file they are NaN."""
        stains = upload(compressed.pixels, field.stains.device).float() / np.iinfo(compressed.pixels.dtype).max
        sizes = np.where(compressed.sizes > 0, compressed.sizes, np.nan)
        bits = upload(sizes * 8 / len(stains), field.stains.device).float().expand(len(stains), -1)
        result = Reconstruction(
            field.stains, stains, field.rgb, self.packing.pack(stains), None, field.known, MeasuredShared(self.forward)
        )
        return Side(result, None, rate.without_latent(bits, is_file=True))

    def by_autoencoder(
        self, side: str, autoencoder: Autoencoder, field: Field, micro_batch: int, stored: Tensor | None = None
    ) -> Side:
        """Return the side of an autoencoder.

        The autoencoder sees the passes of its own packing. Where these are not the passes of image.packing, the latter are packed
        of the reconstructed stains. stored: the latent (P, T, Z, s, s) float16 of the FOV, if no wanted column needs the posterior;
        None: encode the FOV.
        """
        config = self.config.autoencoders[side]
        kept, packing = self._stored[side], self._packings[side]
        shares_passes = packing.index == self.packing.index
        posterior = None
        checks: list[Check] = []
        if stored is not None:
            half = stored.to(field.stains.device).flatten(0, 1)
            latent = half.float()
        else:
            key = (id(autoencoder), str(packing.index), micro_batch)
            if key not in field.posteriors:
                rgb = field.rgb if shares_passes else packing.pack(field.stains)
                posterior = self._encode(side, autoencoder, rgb, micro_batch)
                field.posteriors[key] = posterior, self.forward.laps[-1]
            else:  # what encoding costs is told of every side as if it were alone
                self.forward.laps.append(replace(field.posteriors[key][1], part=f"encode {side}"))
            posterior, _ = field.posteriors[key]
            latent = self._sample(posterior, side, field.fov_id) if config.latent == "sample" else posterior.mean
            if config.latent_bits is not None:
                latent, _ = rate.quantise(latent, config.latent_bits)
            if kept:
                half = latent.half()
                problem = f"the latent of {side} does not fit float16 (largest {{}})"
                checks.append(Check(torch.isfinite(half).all(), problem, latent.abs().max()))
                latent = half.float()
        with self.forward.clock(f"decode {side}"), self.forward.autocast():
            (decoded, _) = self.forward.batched(lambda z: (autoencoder.decode(z).float(), None), latent, micro_batch)
        checks.append(Check(torch.isfinite(decoded).all(), f"the reconstruction of {side} is not finite"))
        shape = (len(field.stains), packing.passes)
        decoded_rgb = decoded.unflatten(0, shape)
        recon = packing.unpack(decoded_rgb)
        recon_rgb = decoded_rgb if shares_passes else self.packing.pack(recon)
        result = Reconstruction(
            field.stains, recon, field.rgb, recon_rgb, posterior, field.known, MeasuredShared(self.forward)
        )
        stored_latent = half.view(*shape, *half.shape[1:]) if kept else None
        logvar = None
        if config.store_logvar and posterior is not None and posterior.logvar is not None:
            logvar = posterior.logvar.half().view(*shape, *latent.shape[1:])
            checks.append(Check(torch.isfinite(logvar).all(), f"the variance of {side} does not fit float16"))
        rates = self._rates(side, latent, field)
        decoded_latent = latent.unflatten(0, shape)
        charged = None
        if self._compresses[side]:
            charged = decoded_latent if stored_latent is None else stored_latent
        return Side(result, stored_latent, rates, tuple(checks), logvar, decoded_latent, charged)

    def coded(self, side: str, latent: np.ndarray) -> np.ndarray:
        """Return the bits of the files of a latent, (P, C) float32; the patches of a field share them equally. latent: the charged
        latent, (P, T, Z, s, s), on the host.
        """
        packing, patches = self._packings[side], len(latent)
        files = latent_file.encode(latent, self.config.autoencoders[side].latent_bits)
        bits = 8 / patches * np.array([len(file) for file in files])
        by_pass = torch.from_numpy(np.broadcast_to(bits, (patches, packing.passes)).copy())
        return rate.per_stain(by_pass, packing.index, len(self.config.image.stains)).numpy()

    def _encode(self, side: str, autoencoder: Autoencoder, rgb: Tensor, micro_batch: int) -> Posterior:
        def encode(images: Tensor) -> tuple[Tensor, Tensor | None]:
            posterior = autoencoder.encode(images)
            return posterior.mean, posterior.logvar

        with self.forward.clock(f"encode {side}"), self.forward.autocast():
            return Posterior(*self.forward.batched(encode, rgb.flatten(0, 1), micro_batch))

    def _sample(self, posterior: Posterior, side: str, fov_id: str) -> Tensor:
        """Return mean + std * noise. The noise is a function of (seed, FOV, side), drawn on the CPU: it is
        equal on every device. At float16 it is rounded to float16, as diffusers draws it.
        """
        if posterior.logvar is None:
            raise ConfigError(f"autoencoders.{side}: there is no posterior to sample from (use latent: mean)")
        noise = generator(self.config.seed, "posterior", fov_id, side).standard_normal(posterior.mean.shape, np.float32)
        if self.config.precision == "float16":
            noise = noise.astype(np.float16)
        return posterior.mean + (0.5 * posterior.logvar).exp() * upload(noise, posterior.mean.device)

    def _rates(self, side: str, latent: Tensor, field: Field) -> dict[str, Tensor]:
        """Return the rates that the device computes, (P, C) float32. For the identity control all except the bits of its pixels
        are NaN.
        """
        patches, count, size, _ = field.stains.shape
        if not self._compresses[side]:
            bits = float(size**2 * self.config.image.scaling.bits)
            return rate.without_latent(torch.full((patches, count), bits, device=latent.device), is_file=False)
        width = 16 if self._stored[side] else 32
        levels = self.config.autoencoders[side].latent_bits or rate.NOMINAL_BITS
        packing = self._packings[side]
        return {
            name: rate.per_stain(bits.view(patches, packing.passes), packing.index, count)
            for name, bits in rate.pass_bits(latent, width, levels).items()
        }
