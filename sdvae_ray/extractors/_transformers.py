"""Shared by the extractors from transformers: preparing images, pooling tokens, loading folders, random weights.

An image is resized whole to the model's square (bicubic or bilinear, antialias, clamped to [0, 1]) in floating point, where the
published preprocessors round to 8 bits after each axis; no border is cropped away. The remote code of a folder is never run here.
"""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdvae_ray.contracts import Takes
from sdvae_ray.errors import ConfigError, WeightsError, did_you_mean, one_line
from sdvae_ray.state_dicts import DAMAGE

T = TypeVar("T")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
POOLINGS = ("cls", "mean", "pooler", "projection")
INTERPOLATIONS = ("bicubic", "bilinear")
# settings of a small random network for tests; a narrow network's signal needs larger weights
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}
TAKES: dict[str, Takes] = {"pass": "rgb", "stain": "stains"}
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's codes, as preprocessor_config.json has them
# models of an image and a text, by model_type: the class of the image's half
_TOWERS = dict.fromkeys(("clip", "clip_vision_model"), "CLIPVisionModelWithProjection")
_TOWERS |= dict.fromkeys(("siglip", "siglip_vision_model"), "SiglipVisionModel")


@dataclass(frozen=True)
class Preparation:
    """The preparation of an image. size: in pixels. mean, std: three numbers on [0, 1]. interpolation: bicubic or bilinear."""

    size: int
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    interpolation: str = "bicubic"


class Vision:
    """An extractor around a vision model of transformers.

    pooling  cls         the class token
             mean        over the patch tokens, without class and register tokens; over positions if there are no tokens
             pooler      the model's own pooler_output
             projection  the image embedding that CLIP compares with a text's
    per      pass, or stain: each stain as a grey image
    """

    def __init__(self, name: str, model: Any, preparation: Preparation, pooling: str, per: str) -> None:
        _one_of(name, "pooling", pooling, POOLINGS)
        _one_of(name, "per", per, tuple(TAKES))
        _one_of(name, "interpolation", preparation.interpolation, INTERPOLATIONS)
        self.name, self.model, self.pooling = name, model.float().eval().requires_grad_(False), pooling
        self.takes: Takes = TAKES[per]
        self.size, self.interpolation = preparation.size, preparation.interpolation
        self.mean, self.std = (_three(name, key, getattr(preparation, key)) for key in ("mean", "std"))
        patch = getattr(model.config, "patch_size", None)
        self.patch = patch if isinstance(patch, int) else None
        if self.size < 1 or (self.patch and self.size % self.patch):
            multiple = f"a multiple of {self.patch}" if self.patch else "a positive number"
            raise ConfigError(f"{name}: size is {self.size} pixels (allowed: {multiple})")
        takes_other_sizes = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        other = self.size != getattr(model.config, "image_size", self.size)
        self.more = {"interpolate_pos_encoding": True} if takes_other_sizes and other else {}
        self._try()

    def to(self, device: torch.device) -> "Vision":
        self.model = self.model.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self

    def __call__(self, batch: Tensor) -> Tensor:
        """Return float32 features: (N, T, D) of passes (N, T, 3, S, S), or (N, C, D) of stains (N, C, S, S), in [0, 1]."""
        images = batch.flatten(0, 1).float()
        if self.takes == "stains":
            images = images.unsqueeze(1).expand(-1, 3, -1, -1)
        output = self.model(pixel_values=self.prepare(images), **self.more)
        return self._pool(output).float().unflatten(0, batch.shape[:2])

    def prepare(self, images: Tensor) -> Tensor:
        """Return images (M, 3, S, S), in [0, 1], resized to (M, 3, size, size) and normalised."""
        if images.shape[-2:] != (self.size, self.size):
            size = (self.size, self.size)
            images = functional.interpolate(images, size, mode=self.interpolation, antialias=True).clamp(0, 1)
        return (images - self.mean) / self.std

    def _pool(self, output: Any) -> Tensor:
        if self.pooling in ("pooler", "projection"):
            pooled = output.get("pooler_output" if self.pooling == "pooler" else "image_embeds")
            if pooled is None:
                raise self._misfit("cls, mean")
            return pooled.flatten(1)
        hidden = output.last_hidden_state
        if hidden.ndim == 4:
            if self.pooling == "cls":
                raise self._misfit("mean, pooler")
            return hidden.mean((2, 3))
        # class and register tokens come first, then the grid
        grid = (self.size // self.patch) ** 2 if self.patch else hidden.shape[1] + 1
        before = hidden.shape[1] - grid
        if before < 0 or (self.pooling == "cls" and before == 0):
            raise self._misfit("pooler" if before < 0 else "mean, pooler")
        return hidden[:, 0] if self.pooling == "cls" else hidden[:, before:].mean(1)

    def _misfit(self, allowed: str) -> ConfigError:
        kind = type(self.model).__name__
        return ConfigError(f"{self.name}: pooling: {self.pooling} does not fit a {kind} (allowed: {allowed})")

    def _try(self) -> None:
        """Embed a blank image, so that a pooling or a size that does not fit is an error before a run starts."""
        shape = (1, 1, 3, 8, 8) if self.takes == "rgb" else (1, 1, 8, 8)
        try:
            with torch.inference_mode():
                self(torch.zeros(shape))
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            kind = type(self.model).__name__
            raise WeightsError(
                f"{self.name}: a {kind} embeds no RGB image of {self.size} pixels: {one_line(error)}"
            ) from error


def pick(name: str, architecture: str, architectures: Mapping[str, T]) -> T:
    """Return the settings of an architecture. Raises ConfigError, with the nearest match, for an unknown one."""
    if architecture not in architectures:
        raise ConfigError(f"{name}: no architecture {architecture!r}{did_you_mean(architecture, architectures)}")
    return architectures[architecture]


def random_model(kind: str, settings: Mapping[str, Any], weights_seed: int, model: str = "Model") -> nn.Module:
    """Return transformers' <kind><model> with the settings of <kind>Config and with weights drawn from the seed.

    The random state of the process does not change.
    """
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights_seed)
        return getattr(transformers, f"{kind}{model}")(getattr(transformers, f"{kind}Config")(**settings))


def load_model(name: str, weights: Path, pooling: str, families: Sequence[str] = ()) -> nn.Module:
    """Return the vision model of a folder of config.json and weights, in float32; safetensors before torch's format.

    families  model types that are accepted; () accepts all
    Raises WeightsError for a folder that is not a model, or lacks a tensor that the pooling needs.
    """
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(str(weights), local_files_only=True, trust_remote_code=False)
    except (*DAMAGE, ImportError) as error:
        raise WeightsError(f"{name}: cannot read config.json in {weights}: {one_line(error)}") from error
    kind = config.model_type
    if families and kind not in families:
        raise WeightsError(f"{name}: {weights} has a model of type {kind!r} (allowed: {', '.join(families)})")
    reader = getattr(transformers, _TOWERS.get(kind, "AutoModel"))
    remote = {} if kind in _TOWERS else {"trust_remote_code": False}
    if kind in _TOWERS and hasattr(config, "vision_config"):
        tower = config.vision_config
        tower.projection_dim = getattr(config, "projection_dim", None)  # the config of the image's half may lack it
        config = tower
    try:
        with _quiet():
            model, loading = reader.from_pretrained(
                str(weights), config=config, local_files_only=True, output_loading_info=True, **remote
            )
    except (*DAMAGE, ImportError) as error:
        raise WeightsError(f"{name}: cannot load {weights}: {one_line(error)}") from error
    # transformers would fill missing tensors at random, with a warning; a pooler that is not used may be missing
    missing = sorted(key for key in loading["missing_keys"] if pooling == "pooler" or not key.startswith("pooler."))
    if missing:
        raise WeightsError(f"{name}: {weights} lacks {len(missing)} tensors, such as {missing[0]}")
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' tables of unused tensors, such as the text model's; missing tensors are checked and raised here."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def published_preparation(
    name: str, weights: Path, model: Any, size: int | None = None, interpolation: str | None = None
) -> Preparation:
    """Return the preparation of the folder's preprocessor_config.json; `size` and `interpolation` overrule it.

    A value that the file lacks is the model's image_size, ImageNet's mean and standard deviation, bicubic. Raises WeightsError for
    a file that is not a preprocessor's, ConfigError if the size or the interpolation must be given.
    """
    published: dict[str, Any] = {}
    if (file := weights / "preprocessor_config.json").exists():
        try:
            published = dict(json.loads(file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise WeightsError(f"{name}: {file} is not a preprocessor's: {one_line(error)}") from error
    cropped = published.get("do_center_crop", "crop_size" in published) and published.get("crop_size")
    size = size or _size(cropped or published.get("size")) or _size(getattr(model.config, "image_size", None))
    if size is None:
        raise ConfigError(f"{name}: {weights} does not say how large its images are: set size (pixels)")
    resample = published.get("resample", 3)
    if interpolation is None and resample not in _RESAMPLE:
        raise ConfigError(
            f"{name}: {weights} resamples by Pillow's method {resample}: set interpolation (bicubic, bilinear)"
        )
    # of values on [0, 1]: the preprocessor scales 8 bits first
    scale = 255 * published.get("rescale_factor", 1 / 255) if published.get("do_rescale", True) else 255
    mean, std = published.get("image_mean") or IMAGENET_MEAN, published.get("image_std") or IMAGENET_STD
    if not published.get("do_normalize", True):
        mean, std = (0.0,) * 3, (1.0,) * 3
    chosen = interpolation or _RESAMPLE[resample]
    return Preparation(size, [m / scale for m in mean], [s / scale for s in std], chosen)


def _size(size: Any) -> int | None:
    """Return the pixels of a published size; 224, [224, 224], {"height": 224, "width": 224}, {"shortest_edge": 224} give 224."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    if isinstance(size, list | tuple):
        size = size[0]
    return size if isinstance(size, int) else None


def _one_of(name: str, key: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: {key}: no {value!r}{did_you_mean(str(value), allowed)}")


def _three(name: str, key: str, values: Any) -> Tensor:
    numbers = list(values) if isinstance(values, list | tuple) else []
    good = len(numbers) == 3 and all(isinstance(number, int | float) for number in numbers)
    if not good or (key == "std" and min(numbers) <= 0):
        raise ConfigError(f"{name}: {key}: {values} (allowed: three numbers{' above 0' if key == 'std' else ''})")
    return torch.tensor([float(number) for number in numbers]).view(1, 3, 1, 1)
