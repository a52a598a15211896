"""InceptionV3 with torchvision's ImageNet weights, 2048 features per RGB pass, as published.

It is not the network of TF-FID: distances on these features carry this file's name. Resize to 299 (bilinear, antialias), ImageNet
mean and standard deviation, transform_input off, the classifier removed.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint, Takes
from sdvae_ray.extractors._state import fill, keep_the_signal

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


class InceptionV3:
    takes: Takes = "rgb"

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.mean = torch.tensor(_MEAN).view(1, 3, 1, 1)
        self.std = torch.tensor(_STD).view(1, 3, 1, 1)

    def to(self, device: torch.device) -> "InceptionV3":
        self.model = self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """(N, T, 3, S, S) in [0, 1] -> (N, T, 2048) float32."""
        count, passes = batch.shape[:2]
        rgb = functional.interpolate(batch.flatten(0, 1), (SIZE, SIZE), mode="bilinear", antialias=True)
        features = self.model((rgb - self.mean) / self.std)
        return features.float().view(count, passes, -1)


def load(weights: Path | None, *, weights_seed: int = 0) -> InceptionV3:
    """From a state dict (.pth read with weights_only, or .safetensors), a file or a folder with one; None is random weights."""
    from torchvision.models import inception_v3

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        # torchvision's own initialisation takes a minute
        model = inception_v3(weights=None, transform_input=False, init_weights=False)
        if weights is None:
            keep_the_signal(model)
    if weights is not None:
        fill(model, weights, "inception_v3", "torchvision's InceptionV3", "inception_v3_google-0cc3c7bd.pth")
    model.fc = nn.Identity()
    model.AuxLogits = None
    return InceptionV3(model.eval().requires_grad_(False))
