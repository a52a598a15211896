"""Shared by the autoencoders of diffusers: folders and random weights, pixels to [-1, 1] and back, and the precision."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from sdvae_ray.errors import ConfigError, WeightsError, did_you_mean, one_line

SHELF_NAMES = {"AutoencoderKL": "diffusers_kl", "AutoencoderDC": "diffusers_dc", "AutoencoderTiny": "diffusers_tiny"}

Self = TypeVar("Self", bound="DiffusersAutoencoder")


class DiffusersAutoencoder:
    """An autoencoder by the convention of diffusers: input 2x - 1, output x / 2 + 0.5, clamped. Latents are unscaled.

    scaling_factor, shift_factor  from the model's config, for training on stored latents: (latent - shift) * scaling; None
                                  if the config has none
    force_upcast                  the model overflows in float16: under an autocast to float16 it runs in float32
    vae_scale_factor              pixels per latent, along height and along width
    """

    def __init__(self, model: Any, name: str, vae_scale_factor: int, force_upcast: bool = False) -> None:
        self.model, self.name, self.vae_scale_factor, self.force_upcast = model, name, vae_scale_factor, force_upcast
        self.scaling_factor: float | None = model.config.get("scaling_factor")
        self.shift_factor: float | None = model.config.get("shift_factor")

    def to(self: Self, device: torch.device) -> Self:
        """Move the model; on CUDA in channels_last. On a CPU, torch's group normalisation loses digits in that format (torch 2.15:
        errors of 0.5 for a mean of 3 and a deviation of 0.01), and dark images have such means and deviations."""
        memory_format = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = self.model.to(device, memory_format=memory_format)
        return self

    def decode(self, latent: Tensor) -> Tensor:
        with self._precision(latent):
            return (self.model.decode(latent.float()).sample.float() / 2 + 0.5).clamp(0, 1)

    def _signed(self, rgb: Tensor) -> Tensor:
        """Return rgb (M, 3, S, S), in [0, 1], mapped to [-1, 1]. Raises ConfigError if S is not a multiple of
        `vae_scale_factor`.
        """
        if any(size % self.vae_scale_factor for size in rgb.shape[-2:]):
            raise ConfigError(
                f"{self.name}: patches of {rgb.shape[-2]} x {rgb.shape[-1]} pixels (allowed: multiples of {self.vae_scale_factor})"
            )
        return rgb.float() * 2 - 1

    def _precision(self, values: Tensor) -> AbstractContextManager[object]:
        """Return a context that switches an autocast to float16 off if the model overflows in float16. bfloat16 has float32's
        range and stays, as in diffusers' own pipelines, which upcast only float16 models."""
        device = values.device.type
        if not self.force_upcast or device == "meta":  # no data, no precision: for counting operations
            return nullcontext()
        half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16
        return torch.autocast(device, enabled=False) if half else nullcontext()


def build(
    name: str,
    network: Callable[..., Any],
    architectures: Mapping[str, Mapping[str, Any]],
    weights: Path | None,
    architecture: str,
    weights_seed: int,
) -> Any:
    """Return the network in eval mode without gradients, from the folder `weights`; None: with random weights.

    Raises ConfigError for an unknown architecture; WeightsError for a folder of another network, or one that lacks tensors.
    """
    model = (
        _from_folder(name, network, weights)
        if weights is not None
        else _at_random(name, network, architectures, architecture, weights_seed)
    )
    return model.eval().requires_grad_(False)


def _at_random(
    name: str,
    network: Callable[..., Any],
    architectures: Mapping[str, Mapping[str, Any]],
    architecture: str,
    weights_seed: int,
) -> Any:
    if architecture not in architectures:
        raise ConfigError(f"{name}: no architecture {architecture!r}{did_you_mean(architecture, architectures)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return network(**architectures[architecture])


def _from_folder(name: str, network: Any, weights: Path) -> Any:
    wanted, kind = network.__name__, _class_name(weights)
    if kind not in (None, wanted):
        hint = f" (use {SHELF_NAMES[kind]})" if kind in SHELF_NAMES else ""
        raise WeightsError(f"{name}: {weights} holds a model of class {kind}, not {wanted}{hint}")
    try:
        model, loading = network.from_pretrained(
            str(weights),
            torch_dtype=torch.float32,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{name}: cannot load an {wanted} from {weights}: {one_line(error, 300)}") from error
    if missing := loading["missing_keys"]:  # diffusers would fill them at random, with a warning
        raise WeightsError(f"{name}: {weights} lacks {len(missing)} tensors, such as {sorted(missing)[0]}")
    return model


def _class_name(weights: Path) -> str | None:
    """Return the class that config.json names; None if it names none or cannot be read, which diffusers then explains."""
    try:
        config = json.loads((weights / "config.json").read_text())
    except (OSError, ValueError):
        return None
    name = config.get("_class_name") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None
