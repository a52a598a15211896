"""Any diffusers AutoencoderTiny: TAESD, TAESDXL, TAESD3, TAEF1, the small students of the large autoencoders.

They are distilled to share the latents of their teachers, as scaled for the diffusion model, so that their own factor is 1; there
is no posterior. Latents are not rounded to bytes, as the class's own forward rounds them: the engine decides how to store them. The
class takes and gives [-1, 1], as the other autoencoders do, and maps to TAESD's own [0, 1] inside.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sdvae_ray.autoencoders import _diffusers
from sdvae_ray.contracts import Checkpoint, Posterior

HAS_POSTERIOR = False

# the configs of public models, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "taesd": {"latent_channels": 4},
    "taesd3": {"latent_channels": 16},
    "tiny": {
        "latent_channels": 4,
        "encoder_block_out_channels": (8, 8, 8, 8),
        "decoder_block_out_channels": (8, 8, 8, 8),
        "num_encoder_blocks": (1, 1, 1, 1),
        "num_decoder_blocks": (1, 1, 1, 1),
    },
}

_INPUT, _FOUR, _MANY = "RGB, height and width multiples of 8", "4 x S/8 x S/8", "16 x S/8 x S/8"
CHECKPOINTS = (
    Checkpoint("madebyollin/taesd", "MIT", _INPUT, _FOUR, 2_445_063, note="latents of Stable Diffusion 1.x and 2.x"),
    Checkpoint("madebyollin/taesdxl", "MIT", _INPUT, _FOUR, 2_445_063, note="latents of SDXL"),
    Checkpoint("madebyollin/taesd3", "MIT", _INPUT, _MANY, 2_458_899, note="latents of SD3"),
    Checkpoint("madebyollin/taef1", "MIT", _INPUT, _MANY, 2_458_899, note="latents of FLUX.1"),
)


class DiffusersTiny(_diffusers.DiffusersAutoencoder):
    def encode(self, rgb: Tensor) -> Posterior:
        with self._precision(rgb):
            latent = self.model.encode(self._signed(rgb)).latents
        return Posterior(mean=latent.float(), logvar=None)


def load(weights: Path | None, *, architecture: str = "taesd", weights_seed: int = 0) -> DiffusersTiny:
    """Return the autoencoder of the folder `weights`; None: random weights of `architecture`, drawn from `weights_seed`."""
    from diffusers import AutoencoderTiny

    model = _diffusers.build("diffusers_tiny", AutoencoderTiny, ARCHITECTURES, weights, architecture, weights_seed)
    return DiffusersTiny(model, "diffusers_tiny", 2 ** (len(model.config["encoder_block_out_channels"]) - 1))
