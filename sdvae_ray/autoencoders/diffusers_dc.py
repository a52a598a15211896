"""Any diffusers AutoencoderDC: the deep compression autoencoders of DC-AE and SANA, 32 x 32 or more pixels per latent.

Residual autoencoding (Chen et al. 2024, arXiv:2410.10733); deterministic, so there is no posterior.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sdvae_ray.autoencoders import _diffusers
from sdvae_ray.contracts import Checkpoint, Posterior

_F32: dict[str, Any] = {
    "latent_channels": 32,
    "encoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
    "decoder_block_types": ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3,
}
_SANA: dict[str, Any] = {
    **_F32,
    "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
    "downsample_block_type": "conv",
    "upsample_block_type": "interpolate",
    "scaling_factor": 0.41407,
}

HAS_POSTERIOR = False
SUBFOLDER = "vae"  # of a whole pipeline
latent_factors = _diffusers.latent_factors

# the configs of public models, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "f32c32": {  # SANA's
        **_SANA,
        "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
        "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
    },
    "f32c32_in": {  # DC-AE's, trained on ImageNet
        **_F32,
        "encoder_layers_per_block": (0, 4, 8, 2, 2, 2),
        "decoder_layers_per_block": (0, 5, 10, 2, 2, 2),
        "encoder_qkv_multiscales": ((),) * 6,
        "decoder_qkv_multiscales": ((),) * 6,
        "downsample_block_type": "pixel_unshuffle",
        "upsample_block_type": "pixel_shuffle",
        "decoder_norm_types": ("batch_norm",) * 3 + ("rms_norm",) * 3,
        "decoder_act_fns": ("relu",) * 3 + ("silu",) * 3,
        "scaling_factor": 0.3189,
    },
    "tiny": {
        **_SANA,
        "attention_head_dim": 8,
        "encoder_block_out_channels": (8, 8, 16, 16, 32, 32),
        "decoder_block_out_channels": (8, 8, 16, 16, 32, 32),
        "encoder_layers_per_block": (1,) * 6,
        "decoder_layers_per_block": (1,) * 6,
    },
}

_INPUT, _OUTPUT = "RGB, height and width multiples of 32", "32 x S/32 x S/32"
CHECKPOINTS = (
    Checkpoint("mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers", "Apache-2.0", _INPUT, _OUTPUT, 312_250_275),
    Checkpoint("mit-han-lab/dc-ae-f32c32-in-1.0-diffusers", "Apache-2.0", _INPUT, _OUTPUT, 323_356_460),
)


class DiffusersDC(_diffusers.DiffusersAutoencoder):
    def encode(self, rgb: Tensor) -> Posterior:
        with self._precision(rgb):
            latent = self.model.encode(self._signed(rgb)).latent
        return Posterior(mean=latent.float(), logvar=None)


def load(weights: Path | None, *, architecture: str = "f32c32", weights_seed: int = 0) -> DiffusersDC:
    """Return the autoencoder of the folder `weights`; None: random weights of `architecture`, drawn from `weights_seed`."""
    from diffusers import AutoencoderDC

    model = _diffusers.build("diffusers_dc", AutoencoderDC, ARCHITECTURES, weights, architecture, weights_seed)
    return DiffusersDC(model, "diffusers_dc", 2 ** (len(model.config["encoder_block_out_channels"]) - 1))
