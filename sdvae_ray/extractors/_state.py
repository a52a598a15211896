"""Shared by the extractors whose weights are one file: finding the state dict, filling every tensor; random weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdvae_ray import state_dicts
from sdvae_ray.contracts import Takes
from sdvae_ray.errors import WeightsError, one_line
from sdvae_ray.precision import own_precision
from sdvae_ray.state_dicts import DAMAGE, read_tensors, tensor_files


class PassFeatures:
    """An extractor of RGB passes. model: images -> (M, D). prepare: (M, 3, S, S) in [0, 1] -> the images that the model takes.

    The model runs in channels_last, which is faster on CPUs and GPUs, on a copy of its weights in the type of the precision, with
    batch normalisation folded into the convolutions.
    """

    takes: Takes = "rgb"

    def __init__(self, model: nn.Module, prepare: Callable[[Tensor], Tensor]) -> None:
        self.model, self.prepare = model, prepare
        self._copies: dict[torch.dtype, nn.Module] = {}

    def to(self, device: torch.device) -> "PassFeatures":
        self.model = self.model.to(device)
        self._copies.clear()
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the features (N, T, D) float32 of RGB passes (N, T, 3, S, S) in [0, 1]."""
        with own_precision(batch.device) as dtype:
            if dtype not in self._copies:
                own: Any = _folded(copy.deepcopy(self.model))  # nn.Module.to has no type for memory_format
                self._copies[dtype] = own.to(dtype, memory_format=torch.channels_last)
            images = self.prepare(batch.flatten(0, 1).float()).to(dtype, memory_format=torch.channels_last)
            return self._copies[dtype](images).float().unflatten(0, batch.shape[:2])


def load_network(
    build: Callable[[], nn.Module],
    weights: Path | None,
    weights_seed: int,
    name: str,
    network: str,
    wanted: str,
    renamed: Callable[[str], str] = str,
) -> nn.Module:
    """Return the network of `build` without its classifier, filled from `weights` (see `fill`); None: random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        model = build()
        if weights is None:
            keep_the_signal(model)
    if weights is not None:
        fill(model, weights, name, network, wanted, renamed)
    model.fc = nn.Identity()
    return model.eval().requires_grad_(False)


def _folded(model: nn.Module) -> nn.Module:
    """Fold every normalisation `bn` behind a convolution `conv` into its weights, in place: the same function for inference."""
    for block in model.modules():
        if isinstance(convolution := getattr(block, "conv", None), nn.Conv2d) and isinstance(block.bn, nn.BatchNorm2d):
            block.conv = fuse_conv_bn_eval(convolution, block.bn).requires_grad_(False)
            block.bn = nn.Identity()
    return model


def fill(
    model: nn.Module, weights: Path, name: str, network: str, wanted: str = "", renamed: Callable[[str], str] = str
) -> None:
    """Load the state dict at `weights`, a file or a folder with one, into `model`.

    name     of the extractor, for an error
    network  the network that the file should hold, for an error
    wanted   the file to place into an empty folder, for an error
    renamed  the name of a tensor in the file -> its name in the model
    Raises WeightsError if the file is missing, or has not exactly the tensors of the model, or numbers that are not finite.
    """
    try:
        state = read_tensors(tensor_files(weights))
        state_dicts.fill(model, {renamed(tensor): values for tensor, values in state.items()})
    except WeightsError as error:
        raise WeightsError(f"{name}: {error}" + (f" (wanted: {wanted})" if wanted else "")) from error
    except DAMAGE as error:
        raise WeightsError(f"{name}: {weights} is not {network}: {one_line(error)}") from error


def keep_the_signal(model: nn.Module) -> None:
    """Draw the weights of convolutions anew (Kaiming), in place: with torch's default the signal dies out over many layers."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
