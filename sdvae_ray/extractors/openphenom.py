"""OpenPhenom, a channel-agnostic masked autoencoder for microscopy: 384 features per stain from all stains at once.

Stains of 256 x 256 (other sizes are resized, bilinear, antialias), at most 11. Its own input layer divides by 255 and normalises
each image of a stain to mean 0 and variance 1 (eps 1e-5), so it is given 0 to 255; `published_range: true` gives it [0, 1], as the
paper did, where eps outweighs the variance and brightness is not normalised away. Its weights are not for commercial use.

The model is Python code of its own repository, which runs here only if the run file says `remote_code: true`; that code wants
the package timm. The random form is a network of the same shape only, our own, and says nothing of OpenPhenom.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.contracts import Checkpoint, Takes
from sdvae_ray.errors import ConfigError, WeightsError, one_line
from sdvae_ray.extractors._transformers import pick
from sdvae_ray.state_dicts import DAMAGE

SOURCE = "recursionpharma/OpenPhenom"
CHECKPOINTS = (
    Checkpoint(
        source=SOURCE,
        licence="non-commercial (see its card)",
        input="all stains of a patch, 256 x 256, at most 11",
        output="384 per stain",
        note="remote_code: true; trained on images of JUMP, so not blind to them",
    ),
)
SIZE, PATCH, MOST_STAINS = 256, 16, 11
ARCHITECTURES = {"small": (384, 12, 6), "tiny": (32, 2, 2)}  # width, blocks, heads


class OpenPhenom:
    takes: Takes = "stains"

    def __init__(self, model: Any, published_range: bool) -> None:
        self.model = model
        self.top = 1.0 if published_range else 255.0

    def to(self, device: torch.device) -> "OpenPhenom":
        self.model = self.model.to(device)
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """Return the features (N, C, D) float32, D = 384, of stains (N, C, S, S) in [0, 1]. Raises ConfigError for too many
        stains.
        """
        count, stains = batch.shape[:2]
        if stains > MOST_STAINS:
            raise ConfigError(f"openphenom: {stains} stains (allowed: at most {MOST_STAINS})")
        images = batch.float()
        if images.shape[-2:] != (SIZE, SIZE):
            images = functional.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        return self.model.predict(images * self.top).float().view(count, stains, -1)


class Block(nn.Module):
    """A transformer block: attention and an MLP, both after a layer norm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens (N, L, width) after the block; tokens: (N, L, width)."""
        qkv = self.qkv(self.before_attention(tokens)).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.before_mlp(tokens))


class ChannelAgnosticViT(nn.Module):
    """A ViT with one patch embedding and one table of positions for all stains, one class token, and attention over all tokens."""

    positions: Tensor

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, PATCH, PATCH)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.register_buffer("positions", sincos(SIZE // PATCH, width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def predict(self, images: Tensor) -> Tensor:
        """Return the mean over each stain's tokens, (N, C * width), of images (N, C, 256, 256) in 0..255."""
        count, stains = images.shape[:2]
        normal = functional.instance_norm(images / 255, eps=1e-5)
        tokens = self.embed(normal.flatten(0, 1).unsqueeze(1)).flatten(2).transpose(1, 2) + self.positions
        tokens = tokens.reshape(count, -1, tokens.shape[2])
        tokens = torch.cat([self.class_token.expand(count, -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens))[:, 1:]
        return tokens.unflatten(1, (stains, -1)).mean(2).flatten(1)


def sincos(size: int, width: int) -> Tensor:
    """Return (size^2, width) sines and cosines of row and column, at width / 4 wavelengths from 2 pi to 20,000 pi
    (Vaswani et al. 2017, for two axes).
    """
    rates = 10_000.0 ** -(torch.arange(width // 4) / (width // 4))
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    angles = [axis.flatten()[:, None] * rates for axis in (row, column)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], 1)


def load(
    weights: Path | None,
    *,
    remote_code: bool = False,
    published_range: bool = False,
    architecture: str = "small",
    weights_seed: int = 0,
) -> OpenPhenom:
    """Return the extractor of a folder of OpenPhenom's files; None: a random network of the same shape, small or tiny.

    remote_code      True: the Python code in the folder may run on every node
    published_range  True: the model's input is [0, 1] instead of 0..255
    Raises ConfigError for an option, and if the code may not run; WeightsError for a folder that does not hold the model.
    """
    if weights is None:
        shape = pick("openphenom", architecture, ARCHITECTURES)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights_seed)
            model: Any = ChannelAgnosticViT(*shape)
    elif remote_code is not True:
        raise ConfigError(
            "openphenom: the model is Python code of its own repository: set remote_code: true to let it run, or random: true"
        )
    else:
        model = _remote(weights)
    return OpenPhenom(model.eval().requires_grad_(False), published_range)


def _remote(weights: Path) -> Any:
    from transformers import AutoModel

    try:
        loaded = AutoModel.from_pretrained(
            str(weights), local_files_only=True, trust_remote_code=True, output_loading_info=True
        )
    except (*DAMAGE, ImportError) as error:
        raise WeightsError(f"openphenom: cannot load {weights}: {one_line(error)}") from error
    # a class with its own from_pretrained may return the model alone, having checked the tensors itself
    model, report = loaded if isinstance(loaded, tuple) else (loaded, {"missing_keys": []})
    if missing := sorted(report["missing_keys"]):
        raise WeightsError(f"openphenom: {weights} lacks {len(missing)} tensors, such as {missing[0]}")
    if not hasattr(model, "predict"):
        raise WeightsError(f"openphenom: {weights} has a {type(model).__name__}, which has no predict")
    model.return_channelwise_embeddings = True
    return model
