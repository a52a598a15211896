"""Any vision model of transformers, by id or folder: class token, mean of patches or its own pooling, per RGB pass or stain.

Image size, mean, standard deviation and interpolation are those of the folder's preprocessor_config.json if it has one, else
the model's image_size, ImageNet's and bicubic; each can be set. Of CLIP and SigLIP the image's half is used.
Remote code is never run.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors._transformers import (
    TINY,
    Preparation,
    Vision,
    load_model,
    pick,
    published_preparation,
    random_model,
)

CHECKPOINTS = (
    Checkpoint(
        source="google/vit-base-patch16-224-in21k",
        licence="Apache-2.0",
        input="RGB pass or stain, 224 x 224",
        output="768 per pass or stain",
        parameters=86_389_248,
        note="one of many: any id or folder that transformers' AutoModel loads",
    ),
    Checkpoint(
        source="microsoft/resnet-50",
        licence="Apache-2.0",
        input="RGB pass or stain, 224 x 224",
        output="2048 per pass or stain",
        parameters=23_508_032,
        note="pooling: mean",
    ),
)
ARCHITECTURES: dict[str, dict[str, Any]] = {"tiny": {**TINY, "intermediate_size": 64, "image_size": 64}}


def load(
    weights: Path | None,
    *,
    pooling: str = "cls",
    per: str = "pass",
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    interpolation: str | None = None,
    architecture: str = "tiny",
    weights_seed: int = 0,
) -> Vision:
    """Return the extractor of a folder of config.json and weights; None: a random ViT of `architecture`.

    pooling        cls, mean, pooler, or projection (CLIP)
    per            pass, or stain: each stain as a grey image
    size           pixels; None: as the folder says
    mean, std      of the three channels, on [0, 1]; None: as the folder says
    interpolation  bicubic or bilinear, antialias; None: as the folder says
    """
    if weights is None:
        settings = pick("hf_vision", architecture, ARCHITECTURES)
        model = random_model("ViT", settings, weights_seed)
        preparation = Preparation(size or settings["image_size"], interpolation=interpolation or "bicubic")
    else:
        model = load_model("hf_vision", weights, pooling)
        preparation = published_preparation("hf_vision", weights, model, size, interpolation)
    given: dict[str, Any] = {key: value for key, value in (("mean", mean), ("std", std)) if value is not None}
    preparation = replace(preparation, **given)
    return Vision("hf_vision", model, preparation, pooling, per)
