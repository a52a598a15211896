"""Any diffusers AutoencoderKL: Stable Diffusion 1.x, ft-ema, ft-mse, SDXL, SD3, FLUX.1, from a folder or one file.

A folder has config.json and weights. A file, such as vae-ft-mse-840000-ema-pruned.safetensors, may have the names of the
latent-diffusion code, and may be a whole Stable Diffusion checkpoint; its config is told by the shapes of its tensors.

Where the config says `force_upcast: true`, as SDXL's does, the model runs in float32 under an autocast to float16. Where the config
has no such key, as with Stable Diffusion 1.x, the model runs in float16, although the class's default is true.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdvae_ray.autoencoders import _diffusers
from sdvae_ray.autoencoders._kl.inference import KLInference, unsupported
from sdvae_ray.autoencoders._kl.plan import Plan
from sdvae_ray.autoencoders._one_file import LARGEST_GROUPS
from sdvae_ray.contracts import Checkpoint, Posterior
from sdvae_ray.errors import ConfigError
from sdvae_ray.precision import own_precision

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


SUBFOLDER = "vae"  # of a whole pipeline
ENGINES = ("fast", "diffusers")
latent_factors = _diffusers.latent_factors


class DiffusersKL(_diffusers.DiffusersAutoencoder):
    """An AutoencoderKL, computed by one of two engines. `fast`: the inference form (`_kl/inference.py`), built from diffusers'
    weights at the first use of a precision and device. `diffusers`: the forward of diffusers, which is the reference.
    """

    def __init__(self, model: Any, vae_scale_factor: int, force_upcast: bool, engine: str) -> None:
        super().__init__(model, "diffusers_kl", vae_scale_factor, force_upcast)
        self.engine = engine
        self._device = torch.device("cpu")
        self._forms: dict[tuple[torch.device, torch.dtype], KLInference] = {}

    def to(self, device: torch.device) -> "DiffusersKL":
        """Move the model. With the fast engine diffusers' own weights stay where they are: the inference forms are copies."""
        self._device = device
        return self if self.engine == "fast" and device.type != "meta" else super().to(device)

    def encode(self, rgb: Tensor) -> Posterior:
        with self._precision(rgb):
            if self._is_fast():
                mean, logvar = self._in_form(KLInference.encode, self._signed(rgb))
            else:
                moments = self.model.encode(self._signed(rgb)).latent_dist
                mean, logvar = moments.mean, moments.logvar
        return Posterior(mean=mean.float(), logvar=logvar.float())

    def decode(self, latent: Tensor) -> Tensor:
        if not self._is_fast():
            return super().decode(latent)
        with self._precision(latent):
            return (self._in_form(KLInference.decode, latent.float()) / 2 + 0.5).clamp(0, 1)

    def _is_fast(self) -> bool:
        return self.engine == "fast" and self._device.type != "meta"

    def _in_form(self, step: Callable[[KLInference, Tensor], Any], values: Tensor) -> Any:
        """Return the result of a step of the inference form for this device and for the precision of the
        autocast around the call.
        """
        with own_precision(values.device) as dtype:
            if (values.device, dtype) not in self._forms:
                self._forms[values.device, dtype] = KLInference(
                    self.model, Plan.of(values.device, dtype), values.device
                )
            return step(self._forms[values.device, dtype], values)


def load(
    weights: Path | None,
    *,
    architecture: str = "sd1",
    weights_seed: int = 0,
    force_upcast: bool | None = None,
    engine: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> DiffusersKL:
    """Return the autoencoder of `weights`, a folder or a file; None: random weights of `architecture`, drawn from `weights_seed`.

    force_upcast: overrules the model's config, for a copy of SDXL without the key, or for a copy of Stable Diffusion 1.x that a
    later diffusers has saved with the default. engine: one of ENGINES; None: `fast` if the model has an inference form, as every
    public one has, else `diffusers`. config: keys that overrule the model's config, such as norm_num_groups of a checkpoint that
    comes without a config.json. Raises ConfigError for an option that is not allowed, WeightsError for weights that are not those
    of the model.
    """
    from diffusers import AutoencoderKL

    if force_upcast not in (None, True, False):
        raise ConfigError(f"diffusers_kl: force_upcast is {force_upcast!r} (allowed: true, false)")
    model = _diffusers.build("diffusers_kl", AutoencoderKL, ARCHITECTURES, weights, architecture, weights_seed, config)
    own = model.config
    chosen = _engine(own, engine)
    said = bool(own["force_upcast"]) and "force_upcast" not in own.get("_use_default_values", ())
    vae_scale_factor = 2 ** (len(own["block_out_channels"]) - 1)
    upcast = said if force_upcast is None else bool(force_upcast)
    autoencoder = DiffusersKL(model, vae_scale_factor, upcast, chosen)
    if weights is not None and _diffusers.FROM_SHAPES in _diffusers.config_of(weights):
        autoencoder.scaling_factor = (config or {}).get(
            "scaling_factor"
        )  # the class's default is of Stable Diffusion 1.x alone
    return autoencoder


def assumed(weights: Path, *, config: Mapping[str, Any] | None = None, **_others: Any) -> str | None:
    """Return what is assumed of weights without a config.json, for their user; None if nothing is."""
    told = _diffusers.config_of(weights)
    if _diffusers.FROM_SHAPES not in told:
        return None
    given = config or {}
    is_plain = told["norm_num_groups"] == LARGEST_GROUPS or "norm_num_groups" in given
    groups = (
        ""
        if is_plain
        else f"norm_num_groups {told['norm_num_groups']} is assumed (config: {{norm_num_groups: n}} changes it); "
    )
    factor = "" if "scaling_factor" in given else "; the scaling factor of its latents is unknown"
    return f"no config.json: {groups}the rest is told by the shapes of its tensors{factor}"


def engine_of(
    weights: Path | None,
    *,
    architecture: str = "sd1",
    engine: str | None = None,
    config: Mapping[str, Any] | None = None,
    **_others: Any,
) -> str:
    """Return the engine that `load` chooses for the same arguments; no tensors are read. Raises ConfigError as `load` does."""
    if weights is None:
        return _engine(ARCHITECTURES.get(architecture, {}), engine)
    return _engine({**_diffusers.config_of(weights), **(config or {})}, engine)


def _engine(config: Mapping[str, Any], asked: str | None) -> str:
    if asked not in (None, *ENGINES):
        raise ConfigError(f"diffusers_kl: engine is {asked!r} (allowed: {', '.join(ENGINES)})")
    problem = unsupported(config)
    if asked == "fast" and problem:
        raise ConfigError(f"diffusers_kl: there is no fast engine for this model: {problem} (use engine: diffusers)")
    return asked or ("diffusers" if problem else "fast")
