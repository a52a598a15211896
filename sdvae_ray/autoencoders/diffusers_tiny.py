"""Any diffusers AutoencoderTiny: TAESD, TAESDXL, TAESD3, TAEF1, the small students of the large autoencoders.

They are distilled to share the latents of their teachers, as scaled for the diffusion model, so that their own factor is 1; there
is no posterior. Latents are not rounded to bytes, as the class's own forward rounds them: the engine decides how to store them. The
class takes and gives [-1, 1], as the other autoencoders do, and maps to TAESD's own [0, 1] inside.

A folder has config.json and weights, or two files in the original names, such as taesd_encoder.safetensors and
taesd_decoder.safetensors.
"""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from sdvae_ray.autoencoders import _diffusers
from sdvae_ray.contracts import Checkpoint, Posterior
from sdvae_ray.errors import WeightsError, one_line
from sdvae_ray.state_dicts import DAMAGE, read_state_dict

HAS_POSTERIOR = False
SUBFOLDER = "vae"  # of a whole pipeline
_HALVES = ("encoder", "decoder")

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

    if weights is not None and (files := _halves(weights)):
        model = _original(weights, files)
    else:
        model = _diffusers.build("diffusers_tiny", AutoencoderTiny, ARCHITECTURES, weights, architecture, weights_seed)
    return DiffusersTiny(model, "diffusers_tiny", 2 ** (len(model.config["encoder_block_out_channels"]) - 1))


def latent_factors(weights: Path, **options: Any) -> dict[str, float]:
    """Return scaling_factor and shift_factor of the config of `weights`; the latents of the original files have the factor 1."""
    return {"scaling_factor": 1.0} if _halves(weights) else _diffusers.latent_factors(weights, **options)


def _halves(weights: Path) -> list[Path]:
    """Return the files of encoder and decoder of a folder in the original names; empty if it is no such folder."""
    if not weights.is_dir() or (weights / "config.json").exists():
        return []
    files = [sorted(weights.glob(f"*{half}.safetensors")) for half in _HALVES]
    return [paths[0] for paths in files] if all(len(paths) == 1 for paths in files) else []


def _original(weights: Path, files: list[Path]) -> Any:
    from diffusers import AutoencoderTiny

    def tensors() -> dict[str, Tensor]:
        encoder, decoder = map(read_state_dict, files)
        state = {f"encoder.layers.{name}": tensor for name, tensor in encoder.items()}
        for name, tensor in decoder.items():
            number, _, rest = name.partition(
                "."
            )  # the original's first layer is the clamp of the latent, which has no number here
            state[f"decoder.layers.{int(number) - 1}.{rest}"] = tensor
        return state

    try:
        with safe_open(files[1], "pt") as decoder:
            channels = decoder.get_slice("1.weight").get_shape()[1]
    except DAMAGE as error:
        raise WeightsError(f"diffusers_tiny: {files[1]} is not the decoder of a TAESD: {one_line(error)}") from error
    config = {"latent_channels": channels}
    return _diffusers.filled("diffusers_tiny", AutoencoderTiny, weights, config, tensors).eval().requires_grad_(False)
