"""Any diffusers AutoencoderKL: Stable Diffusion 1.x, ft-ema, ft-mse, SDXL, SD3, FLUX.1, from a folder of config.json and weights.

Where the config says `force_upcast: true`, as SDXL's does, the model runs in float32 under an autocast to float16. Where the config
has no such key, as with Stable Diffusion 1.x, the model runs in float16, although the class's default is true.
"""

from pathlib import Path
from typing import Any

from torch import Tensor

from sdvae_ray.autoencoders import _diffusers
from sdvae_ray.contracts import Checkpoint, Posterior
from sdvae_ray.errors import ConfigError

_FULL: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
_TINY: dict[str, Any] = {
    **_FULL,
    "block_out_channels": (8, 8, 16, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
    "mid_block_add_attention": False,
}
_SIXTEEN: dict[str, Any] = {
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": True,
}
_SD3: dict[str, Any] = {**_SIXTEEN, "scaling_factor": 1.5305, "shift_factor": 0.0609}

# the configs of public models, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd1": {
        **_FULL,
        "latent_channels": 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
        "force_upcast": False,
    },
    "sdxl": {
        **_FULL,
        "latent_channels": 4,
        "sample_size": 1024,
        "scaling_factor": 0.13025,
        "force_upcast": True,
    },
    "sd3": {**_FULL, **_SD3, "sample_size": 1024},
    "flux": {**_FULL, **_SIXTEEN, "sample_size": 1024, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    "tiny": {**_TINY, "latent_channels": 4, "force_upcast": False},
    "tiny16": {**_TINY, **_SD3},
}

_INPUT, _FOUR, _MANY = "RGB, height and width multiples of 8", "4 x S/8 x S/8", "16 x S/8 x S/8"
CHECKPOINTS = (
    Checkpoint(
        "asset:demo_kl", "Apache-2.0", _INPUT, _FOUR, 2_086_215, note="the demo's, trained on synthetic images only"
    ),
    Checkpoint("CompVis/stable-diffusion-v1-4", "creativeml-openrail-m", _INPUT, _FOUR, 83_653_863, "vae"),
    Checkpoint("stabilityai/sd-vae-ft-ema", "MIT", _INPUT, _FOUR, 83_653_863, note="its decoder fine-tuned"),
    Checkpoint("stabilityai/sd-vae-ft-mse", "MIT", _INPUT, _FOUR, 83_653_863, note="its decoder fine-tuned"),
    Checkpoint(
        "stabilityai/stable-diffusion-xl-base-1.0",
        "openrail++",
        _INPUT,
        _FOUR,
        83_653_863,
        "vae",
        note="overflows in float16, runs in float32 there",
    ),
    Checkpoint(
        "stabilityai/stable-diffusion-3-medium-diffusers",
        "Stability AI community licence, see card",
        _INPUT,
        _MANY,
        83_819_683,
        "vae",
        note="gated",
    ),
    Checkpoint("black-forest-labs/FLUX.1-schnell", "Apache-2.0", _INPUT, _MANY, 83_819_683, "vae", note="may be gated"),
)


class DiffusersKL(_diffusers.DiffusersAutoencoder):
    def encode(self, rgb: Tensor) -> Posterior:
        with self._precision(rgb):
            moments = self.model.encode(self._signed(rgb)).latent_dist
        return Posterior(mean=moments.mean.float(), logvar=moments.logvar.float())


def load(
    weights: Path | None, *, architecture: str = "sd1", weights_seed: int = 0, force_upcast: bool | None = None
) -> DiffusersKL:
    """From the folder `weights`, or with random weights of `architecture` drawn from `weights_seed` where it is None.

    `force_upcast` overrules the model's config: for a copy of SDXL without the key, or for a copy of Stable Diffusion 1.x that a
    later diffusers has saved with the default. Raises ConfigError for an option, WeightsError for a folder.
    """
    from diffusers import AutoencoderKL

    if force_upcast not in (None, True, False):
        raise ConfigError(f"diffusers_kl: force_upcast is {force_upcast!r} (allowed: true, false)")
    model = _diffusers.build("diffusers_kl", AutoencoderKL, ARCHITECTURES, weights, architecture, weights_seed)
    config = model.config
    said = bool(config["force_upcast"]) and "force_upcast" not in config.get("_use_default_values", ())
    vae_scale_factor = 2 ** (len(config["block_out_channels"]) - 1)
    return DiffusersKL(model, "diffusers_kl", vae_scale_factor, said if force_upcast is None else bool(force_upcast))
