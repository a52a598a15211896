"""Shared by the autoencoders of diffusers: weights and random weights, pixels to [-1, 1] and back, and the precision."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor

from sdvae_ray.autoencoders._one_file import config_of_shapes, in_diffusers_names
from sdvae_ray.errors import ConfigError, WeightsError, did_you_mean, one_line
from sdvae_ray.state_dicts import DAMAGE, fill, read_tensors, tensor_files

SHELF_NAMES = {"AutoencoderKL": "diffusers_kl", "AutoencoderDC": "diffusers_dc", "AutoencoderTiny": "diffusers_tiny"}
FROM_SHAPES = "_from_shapes"  # key of a config that no config.json tells

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
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Return the network in eval mode without gradients, from `weights`, a folder or a file; None: with random weights.

    changes: keys of the config that overrule it. Raises ConfigError for an unknown architecture or key; WeightsError for weights
    of another network, and for tensors that are missing, unexpected, of another shape or not finite.
    """
    if changes and weights is None:
        raise ConfigError(f"{name}: config is for weights; random weights have an architecture")
    model = (
        _from_weights(name, network, weights, changes or {})
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
    return at_random(lambda: network(**architectures[architecture]), weights_seed)


def at_random(make: Callable[[], Any], weights_seed: int) -> Any:
    """Return the network that `make` builds, in eval mode without gradients, its random weights drawn from `weights_seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return make().eval().requires_grad_(False)


def config_of(weights: Path) -> dict[str, Any]:
    """Return the config of the network at `weights`: of its config.json; without one, of an AutoencoderKL under latent-diffusion
    names, as the shapes of its tensors tell it. Raises WeightsError if neither tells it.
    """
    file = weights / "config.json"
    if weights.is_dir() and file.exists():
        try:
            config = json.loads(file.read_text())
            if not isinstance(config, dict):
                raise ValueError("it is not a mapping")
        except (OSError, ValueError) as error:
            raise WeightsError(f"{file} is not the config of a model: {one_line(error)}") from error
        return config
    try:
        return {**config_of_shapes(_shapes(tensor_files(weights))), "_class_name": "AutoencoderKL", FROM_SHAPES: True}
    except DAMAGE as error:
        raise WeightsError(
            f"{weights} has no config.json, and is no checkpoint of the latent-diffusion form: {one_line(error)}"
        ) from error


def _shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor, from the headers of safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        if file.suffix != ".safetensors":
            raise ValueError(f"{file.name} is not a .safetensors file")
        with safe_open(file, "pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _from_weights(name: str, network: Any, weights: Path, changes: Mapping[str, Any]) -> Any:
    wanted = network.__name__
    try:
        config = config_of(weights)
        files = tensor_files(weights)
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}") from error
    if (kind := config.get("_class_name")) not in (None, wanted):
        hint = f" (use {SHELF_NAMES[kind]})" if kind in SHELF_NAMES else ""
        raise WeightsError(f"{name}: {weights} holds a model of class {kind}, not {wanted}{hint}")
    known = inspect.signature(network.__init__).parameters.keys() - {"self"}
    for key in changes:
        if key not in known:
            raise ConfigError(f"{name}: config has no key {key!r}{did_you_mean(key, known)}")
    whole = {key: value for key, value in {**config, **changes}.items() if key != FROM_SHAPES}

    def tensors() -> dict[str, Tensor]:
        state = read_tensors(files)
        return in_diffusers_names(state) if wanted == "AutoencoderKL" else state

    return filled(name, network, weights, whole, tensors)


def filled(
    name: str, network: Any, weights: Path, config: Mapping[str, Any], tensors: Callable[[], Mapping[str, Tensor]]
) -> Any:
    """Return the network of a config, in float32, filled with the tensors that a function reads from `weights`.

    Raises WeightsError for tensors that are missing, unexpected, of another shape or not finite, and for damaged files.
    """
    try:
        model = network.from_config(dict(config))
        fill(model, tensors())
    except (*DAMAGE, ArithmeticError) as error:
        raise WeightsError(
            f"{name}: cannot load an {network.__name__} from {weights}: {one_line(error, 300)}"
        ) from error
    return model.float()


def latent_factors(weights: Path, *, config: Mapping[str, Any] | None = None, **_others: Any) -> dict[str, float]:
    """Return scaling_factor and shift_factor, as far as the config of `weights` has them. config: keys that overrule it."""
    told = {**config_of(weights), **(config or {})}
    return {key: told[key] for key in ("scaling_factor", "shift_factor") if told.get(key) is not None}
