"""From the run file to loaded models: names looked up on the shelves, weights resolved, everything checked before it is used."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdvae_ray import shelves, weights
from sdvae_ray.config import RunConfig, ShelfConfig
from sdvae_ray.contracts import Autoencoder, Extractor, Metric
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.shelves import Shelf
from sdvae_ray.storage import Storage

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Models:
    """Everything that the engine holds, on one device, by the names that the run gives them."""

    autoencoders: dict[str, Autoencoder]
    extractors: dict[str, Extractor]
    metrics: dict[str, Metric]


def check_names(config: RunConfig) -> None:
    """Every model, option and metric of the run is on a shelf; ConfigError with the nearest match where one is not."""
    for shelf, models in _shelves(config):
        for name, model in models.items():
            shelves.check_name(shelf, model.name)
            shelves.check_options(shelf, model.name, model.options)
            if model.random and "weights_seed" not in _options(shelf, model.name):
                raise ConfigError(f"{shelf}.{name}: {model.name} has no weights that could be random")
    for metric in config.metrics:
        shelves.check_name("metrics", metric)


def resolve_weights(config: RunConfig, storage: Storage) -> dict[str, weights.Weights]:
    """Brings the weights of every autoencoder and extractor to this machine; keyed `<shelf>.<name>`."""
    return {
        f"{shelf}.{name}": weights.resolve(model, getattr(shelves.find(shelf, model.name), "SOURCE", None), storage)
        for shelf, models in _shelves(config)
        for name, model in models.items()
    }


def load_models(config: RunConfig, resolved: Mapping[str, weights.Weights], device: torch.device) -> Models:
    """Builds every model on `device`, in eval mode, without gradients."""
    loaded: dict[str, dict[str, Any]] = {"autoencoders": {}, "extractors": {}}
    for shelf, models in _shelves(config):
        for name, model in models.items():
            found = resolved[f"{shelf}.{name}"]
            module = shelves.find(shelf, model.name)
            path = Path(found.path) if found.path else None
            if path is None and not found.random and "weights_seed" in _options(shelf, model.name):
                raise WeightsError(
                    f"{shelf}.{name}: {model.name} needs a source (a folder, s3://..., a hub id), or random: true"
                )
            loaded[shelf][name] = module.load(path, **model.options).to(device)
    metrics = {name: shelves.find("metrics", name).compute for name in config.metrics}
    return Models(loaded["autoencoders"], loaded["extractors"], metrics)


def check_same_weights(resolved: Mapping[str, weights.Weights], recorded: Mapping[str, dict[str, Any]]) -> None:
    """WeightsError where a node has found other bytes than the run was started with."""
    for name, found in resolved.items():
        if name in recorded and found.files != recorded[name]["files"]:
            raise WeightsError(f"{name}: the weights at {found.source} are not those that this run was started with")


def pick_device(gpus: float) -> torch.device:
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def pick_precision(precision: str, device: torch.device) -> str:
    """auto: bfloat16 where the device multiplies in it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _shelves(config: RunConfig) -> list[tuple[Shelf, dict[str, ShelfConfig]]]:
    return [("autoencoders", dict(config.autoencoders)), ("extractors", dict(config.extractors))]


def _options(shelf: Shelf, name: str) -> set[str]:
    return set(inspect.signature(shelves.find(shelf, name).load).parameters)
