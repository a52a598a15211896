"""Shared by the extractors of one file of weights: the state dict is found and fills every tensor; random weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from sdvae_ray.contracts import Takes
from sdvae_ray.errors import WeightsError, one_line
from sdvae_ray.state_dicts import DAMAGE, read_state_dict

_PATTERNS = ("*.safetensors", "*.pth", "*.pt", "*.bin")


class PassFeatures:
    """An extractor of RGB passes. model: images -> (M, D). prepare: (M, 3, S, S) in [0, 1] -> the images that the model takes."""

    takes: Takes = "rgb"

    def __init__(self, model: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        self.model, self.prepare = model, prepare

    def to(self, device: torch.device) -> "PassFeatures":
        self.model = self.model.to(device)
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """(N, T, 3, S, S) in [0, 1] -> (N, T, D) float32."""
        return self.model(self.prepare(batch.flatten(0, 1))).float().unflatten(0, batch.shape[:2])


def load_network(
    build: Callable[[], nn.Module], weights: Path | None, weights_seed: int, name: str, network: str, wanted: str
) -> nn.Module:
    """Builds a network and fills it as `fill` does, or with random weights where `weights` is None; its classifier is removed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        model = build()
        if weights is None:
            keep_the_signal(model)
    if weights is not None:
        fill(model, weights, name, network, wanted)
    model.fc = nn.Identity()
    return model.eval().requires_grad_(False)


def fill(model: nn.Module, weights: Path, name: str, network: str, wanted: str = "") -> None:
    """Loads the state dict at `weights`, a file or a folder with one, into `model`; it must have the model's tensors and no others.

    name     of the extractor, for an error
    network  the network that the file should hold, for an error
    wanted   the file to place into an empty folder, for an error
    Raises WeightsError.
    """
    try:
        model.load_state_dict(read_state_dict(_file(weights, name, wanted)))
    except DAMAGE as error:
        raise WeightsError(f"{name}: {weights} is not {network}: {one_line(error)}") from error


def keep_the_signal(model: nn.Module) -> None:
    """Draws the weights of convolutions anew (Kaiming), in place: with torch's default the signal dies out over many layers."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


def _file(weights: Path, name: str, wanted: str) -> Path:
    if not weights.is_dir():
        return weights
    files = [file for pattern in _PATTERNS for file in sorted(weights.glob(pattern))]
    if not files:
        hint = f" (wanted: {wanted})" if wanted else ""
        raise WeightsError(f"{name}: no .safetensors, .pth, .pt or .bin file in {weights}{hint}")
    return files[0]
