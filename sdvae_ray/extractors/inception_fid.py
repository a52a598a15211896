"""The network of TF-FID (InceptionV3 of 2015-12-05), 2048 features per RGB pass: the FID of the literature.

Images are rounded to 8 bits, as the reference takes them, resized to 299 as TensorFlow 1 resizes (bilinear, corners not aligned, no
half-pixel centres, no antialias) and scaled to (x - 128) / 128. The network differs from torchvision's: its average pools leave the
padding out, its last block has a max pool, and it has 1008 classes.

Its weights are one file that torch-fidelity and pytorch-fid publish; it is not fetched: place it on this machine, or under an s3://
prefix, and set `source` to it.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors._state import PassFeatures, load_network

SIZE = 299  # pixels
FILE = "weights-inception-2015-12-05-6726825d.pth"
WANTED = (
    f"{FILE} of github.com/toshas/torch-fidelity, or the same bytes as pt_inception-2015-12-05-6726825d.pth "
    "of github.com/mseitzer/pytorch-fid"
)
CHECKPOINTS = (
    Checkpoint(
        source=FILE,
        licence="Apache-2.0",
        input="RGB pass of 8 bits, resized to 299 x 299 as TensorFlow 1 does",
        output="2048 per pass",
        parameters=21_785_568,
        note=f"a file to place by hand: {WANTED}; without the classifier",
    ),
)


def prepare(rgb: Tensor) -> Tensor:
    """Return RGB images (M, 3, S, S), in [0, 1], as 8-bit levels, resized to (M, 3, 299, 299), on about [-1, 1]."""
    return (resize((rgb.float().clamp(0, 1) * 255).round(), SIZE) - 128) / 128


def resize(images: Tensor, size: int) -> Tensor:
    """Return images (M, 3, H, W) float32 resized to (M, 3, size, size), as TensorFlow 1's resize_bilinear, align_corners=False.

    Output i lies at input i * H / size, between the pixel at the floor of that position and the next pixel; the last pixel is its
    own neighbour.
    """
    low, high, fraction = _neighbours(images.shape[3], size, images.device)
    left, right = images[:, :, :, low], images[:, :, :, high]
    images = left + (right - left) * fraction
    low, high, fraction = _neighbours(images.shape[2], size, images.device)
    top, bottom = images[:, :, low], images[:, :, high]
    return top + (bottom - top) * fraction[:, None]


def _neighbours(before: int, after: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the first and the second input pixel of every output pixel of an axis, and the second one's weight, all (after,)."""
    position = torch.arange(after, dtype=torch.float32, device=device) * (before / after)
    low = position.long()
    return low, (low + 1).clamp_max(before - 1), position - low


def build() -> nn.Module:
    """Return the network with its classifier, untrained; its tensors have the names of the published file."""
    from torchvision.models import inception

    def chain(x: Tensor, *layers: nn.Module) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    def average(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)

    class A(inception.InceptionA):
        def _forward(self, x: Tensor) -> list[Tensor]:
            fives = chain(x, self.branch5x5_1, self.branch5x5_2)
            threes = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2, self.branch3x3dbl_3)
            return [self.branch1x1(x), fives, threes, self.branch_pool(average(x))]

    class C(inception.InceptionC):
        def _forward(self, x: Tensor) -> list[Tensor]:
            once = chain(x, self.branch7x7_1, self.branch7x7_2, self.branch7x7_3)
            names = ("branch7x7dbl_1", "branch7x7dbl_2", "branch7x7dbl_3", "branch7x7dbl_4", "branch7x7dbl_5")
            twice = chain(x, *(getattr(self, name) for name in names))
            return [self.branch1x1(x), once, twice, self.branch_pool(average(x))]

    class E(inception.InceptionE):
        pool = staticmethod(average)

        def _forward(self, x: Tensor) -> list[Tensor]:
            once = self.branch3x3_1(x)
            twice = chain(x, self.branch3x3dbl_1, self.branch3x3dbl_2)
            split = [self.branch3x3_2a(once), self.branch3x3_2b(once)]
            split += [self.branch3x3dbl_3a(twice), self.branch3x3dbl_3b(twice)]
            return [self.branch1x1(x), *split, self.branch_pool(self.pool(x))]

    class Last(E):
        @staticmethod
        def pool(x: Tensor) -> Tensor:
            return functional.max_pool2d(x, 3, stride=1, padding=1)

    basic, auxiliary = inception.BasicConv2d, inception.InceptionAux
    blocks = [basic, A, inception.InceptionB, C, inception.InceptionD, E, auxiliary]
    model = inception.Inception3(num_classes=1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
    model.Mixed_7c = Last(2048)
    return model


def load(weights: Path | None, *, weights_seed: int = 0) -> PassFeatures:
    """Return the extractor of the published state dict (.pth read with weights_only, or .safetensors); None: random weights.
    weights: that file, or a folder with it."""
    model = load_network(build, weights, weights_seed, "inception_fid", "the InceptionV3 of TF-FID", WANTED)
    return PassFeatures(model, prepare)
