"""InceptionV3 with torchvision's ImageNet weights, 2048 features per RGB pass, as published.

It is not the network of TF-FID: distances on these features carry this file's name. Resize to 299 (bilinear, antialias), ImageNet
mean and standard deviation, transform_input off, the classifier removed.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors._state import PassFeatures, load_network

SOURCE = "torchvision:Inception_V3_Weights.IMAGENET1K_V1"
CHECKPOINTS = (
    Checkpoint(
        source=SOURCE,
        licence="BSD-3-Clause",
        input="RGB pass, resized to 299 x 299",
        output="2048 per pass",
        parameters=21_785_568,
        note="ImageNet; the published features; without the two classifiers",
    ),
)
SIZE = 299  # pixels
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's ImageNet transforms


def prepare(rgb: Tensor) -> Tensor:
    """Return RGB images (M, 3, S, S), in [0, 1], resized to (M, 3, 299, 299) and normalised."""
    mean, std = _statistics(rgb.device)
    return (functional.interpolate(rgb, (SIZE, SIZE), mode="bilinear", antialias=True) - mean) / std


@cache
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, (1, 3, 1, 1), on the device. They are cached: a copy on every call would wait for it."""
    mean, std = (torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in (_MEAN, _STD))
    return mean, std


def load(weights: Path | None, *, weights_seed: int = 0) -> PassFeatures:
    """Return the extractor of a state dict (.pth read with weights_only, or .safetensors), a file or its folder; None: random
    weights.
    """
    from torchvision.models import inception_v3

    # torchvision's own initialisation takes a minute
    build = partial(inception_v3, weights=None, transform_input=False, init_weights=False)
    names = ("inception_v3", "torchvision's InceptionV3", "inception_v3_google-0cc3c7bd.pth")
    model: Any = load_network(build, weights, weights_seed, *names)
    model.AuxLogits = None
    return PassFeatures(model, prepare)
