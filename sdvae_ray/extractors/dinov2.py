"""DINOv2: the class token of a self-supervised ViT, per RGB pass or per stain as a grey image.

224 x 224 (any multiple of 14), bicubic, ImageNet mean and standard deviation. The image is resized whole; the published
preprocessing resizes to 256 and keeps the middle 224.
"""

from pathlib import Path
from typing import Any

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors._transformers import TINY, Preparation, Vision, load_model, pick, random_model

SOURCE = "facebook/dinov2-base"
_INPUT = "RGB pass or stain, 224 x 224"
CHECKPOINTS = (
    Checkpoint("facebook/dinov2-small", "Apache-2.0", _INPUT, "384 per pass or stain", 22_056_576),
    Checkpoint("facebook/dinov2-base", "Apache-2.0", _INPUT, "768 per pass or stain", 86_580_480),
    Checkpoint("facebook/dinov2-large", "Apache-2.0", _INPUT, "1024 per pass or stain", 304_368_640),
)
# of the public checkpoints, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "image_size": 518},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "image_size": 518},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518},
    "tiny": {**TINY, "image_size": 56},
}


def load(
    weights: Path | None, *, per: str = "pass", size: int = 224, architecture: str = "base", weights_seed: int = 0
) -> Vision:
    """Return the extractor of a folder of config.json and weights of any DINOv2, with or without registers; None: random weights.

    per   pass, or stain: each stain as a grey image
    size  pixels, a multiple of 14
    """
    if weights is None:
        settings = {"patch_size": 14, **pick("dinov2", architecture, ARCHITECTURES)}
        model = random_model("Dinov2", settings, weights_seed)
    else:
        model = load_model("dinov2", weights, "cls", ("dinov2", "dinov2_with_registers"))
    return Vision("dinov2", model, Preparation(size), "cls", per)
