"""CLIP: the image embedding that is compared with a text's, 512 numbers per RGB pass or per stain as a grey image.

224 x 224 (any multiple of the patch), bicubic, CLIP's mean and standard deviation; the embedding is not scaled to unit length.
"""

from pathlib import Path
from typing import Any

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors._transformers import (
    CLIP_MEAN,
    CLIP_STD,
    TINY,
    Preparation,
    Vision,
    load_model,
    pick,
    random_model,
)

SOURCE = "openai/clip-vit-base-patch32"
_INPUT, _NOTE = "RGB pass or stain, 224 x 224", "the image's half of the model, with its projection"
CHECKPOINTS = (
    Checkpoint("openai/clip-vit-base-patch32", "MIT", _INPUT, "512 per pass or stain", 87_849_216, note=_NOTE),
    Checkpoint("openai/clip-vit-base-patch16", "MIT", _INPUT, "512 per pass or stain", 86_192_640, note=_NOTE),
    Checkpoint("openai/clip-vit-large-patch14", "MIT", _INPUT, "768 per pass or stain", 303_966_208, note=_NOTE),
)
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_TINY = {**TINY, "intermediate_size": 64, "initializer_range": 0.02, "initializer_factor": 8.0}
# of the public checkpoints, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "b32": {**_BASE, "patch_size": 32, "projection_dim": 512},
    "b16": {**_BASE, "patch_size": 16, "projection_dim": 512},
    "l14": {**_LARGE, "patch_size": 14, "projection_dim": 768},
    "tiny": {**_TINY, "patch_size": 32, "projection_dim": 16},
}


def load(
    weights: Path | None, *, per: str = "pass", size: int = 224, architecture: str = "b32", weights_seed: int = 0
) -> Vision:
    """Return the extractor of a folder of config.json and weights of a CLIP or of its image half; None: random weights.

    per   pass, or stain: each stain as a grey image
    size  pixels, a multiple of the patch
    """
    if weights is None:
        settings = pick("clip", architecture, ARCHITECTURES)
        model = random_model("CLIPVision", settings, weights_seed, "ModelWithProjection")
    else:
        model = load_model("clip", weights, "projection", ("clip", "clip_vision_model"))
    return Vision("clip", model, Preparation(size, CLIP_MEAN, CLIP_STD), "projection", per)
