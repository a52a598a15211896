"""DINOv3: the class token of a self-supervised ViT with registers and rotary positions, per RGB pass or per stain as a grey image.

224 x 224 (any multiple of 16), bilinear, ImageNet mean and standard deviation. Its weights are gated: accept the licence on the hub
first.
"""

from pathlib import Path
from typing import Any

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors._transformers import TINY, Preparation, Vision, load_model, pick, random_model

SOURCE = "facebook/dinov3-vits16-pretrain-lvd1689m"
_LICENCE, _INPUT, _NOTE = "DINOv3 License", "RGB pass or stain, 224 x 224", "gated: accept the licence on the hub"
CHECKPOINTS = tuple(
    Checkpoint(source, _LICENCE, _INPUT, f"{width} per pass or stain", parameters, note=_NOTE)
    for source, width, parameters in (
        (SOURCE, 384, 21_596_544),
        ("facebook/dinov3-vitb16-pretrain-lvd1689m", 768, 85_660_416),
        ("facebook/dinov3-vitl16-pretrain-lvd1689m", 1024, 303_129_600),
    )
)
# of the public checkpoints, for random weights without a download
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "tiny": TINY,
}


def load(
    weights: Path | None, *, per: str = "pass", size: int = 224, architecture: str = "small", weights_seed: int = 0
) -> Vision:
    """Return the extractor of a folder of config.json and weights of any DINOv3 ViT; None: random weights.

    per   pass, or stain: each stain as a grey image
    size  pixels, a multiple of 16
    """
    if weights is None:
        settings = pick("dinov3", architecture, ARCHITECTURES)
        config = {"intermediate_size": 4 * settings["hidden_size"], "num_register_tokens": 4, **settings}
        model = random_model("DINOv3ViT", config, weights_seed)
    else:
        model = load_model("dinov3", weights, "cls", ("dinov3_vit",))
    return Vision("dinov3", model, Preparation(size, interpolation="bilinear"), "cls", per)
