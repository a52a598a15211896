"""Any diffusers AutoencoderKL: Stable Diffusion 1.x, ft-ema, ft-mse, SDXL and their kin, from a folder of config.json and weights.

Owns what Stable Diffusion does around it: input 2x - 1, output x / 2 + 0.5, clamped. Latents are unscaled.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdvae_ray.contracts import Posterior
from sdvae_ray.errors import ConfigError, WeightsError, did_you_mean

# block_out_channels, layers and latent channels of public architectures, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "sd1": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "sample_size": 512,
        "scaling_factor": 0.18215,
    },
    "tiny": {
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
        "sample_size": 64,
        "mid_block_add_attention": False,
    },
}


class DiffusersKL:
    stores_latents = True

    def __init__(self, model: Any) -> None:
        self.model = model

    def to(self, device: torch.device) -> "DiffusersKL":
        """On CUDA in channels_last. Not on a CPU: torch's group normalisation there loses its digits in that format
        (torch 2.15: errors of 0.5 for a mean of 3 and a deviation of 0.01), and dark images are just that."""
        memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = self.model.to(device, memory_format=memory_format)
        return self

    def encode(self, rgb: Tensor) -> Posterior:
        moments = self.model.encode(rgb * 2 - 1).latent_dist
        return Posterior(mean=moments.mean.float(), logvar=moments.logvar.float())

    def decode(self, latent: Tensor) -> Tensor:
        return (self.model.decode(latent).sample.float() / 2 + 0.5).clamp(0, 1)


def load(weights: Path | None, *, architecture: str = "sd1", weights_seed: int = 0) -> DiffusersKL:
    """From the folder `weights`, or with random weights of `architecture` drawn from `weights_seed` where it is None."""
    from diffusers import AutoencoderKL

    if weights is None:
        if architecture not in ARCHITECTURES:
            raise ConfigError(
                f"diffusers_kl: no architecture {architecture!r}{did_you_mean(architecture, ARCHITECTURES)}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights_seed)
            model = AutoencoderKL(**ARCHITECTURES[architecture])
    else:
        try:
            model, loading = AutoencoderKL.from_pretrained(
                str(weights),
                torch_dtype=torch.float32,
                local_files_only=True,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise WeightsError(
                f"diffusers_kl: cannot load an AutoencoderKL from {weights}: {_first_line(error)}"
            ) from error
        if missing := loading["missing_keys"]:  # diffusers would fill them at random, with a warning
            raise WeightsError(f"diffusers_kl: {weights} lacks {len(missing)} tensors, such as {sorted(missing)[0]}")
    return DiffusersKL(model.eval().requires_grad_(False))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
