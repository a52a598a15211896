"""Loads the models of a run file: finds names on the shelves, resolves weights, and checks all of them before use."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sdvae_ray import shelves, weights
from sdvae_ray.config import RunConfig, ShelfConfig
from sdvae_ray.contracts import Autoencoder, Extractor, Metric
from sdvae_ray.engine.columns import stores_latents
from sdvae_ray.engine.compress import load_codecs
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.shelves import Shelf
from sdvae_ray.storage import Storage


@dataclass(frozen=True)
class Models:
    """The autoencoders, extractors and metrics of a run on one device, by their names in the run file.
    Codecs are not among them.
    """

    autoencoders: dict[str, Autoencoder]
    extractors: dict[str, Extractor]
    metrics: dict[str, Metric]


def check_names(config: RunConfig) -> None:
    """Check that every model, codec, metric and option of the run is on its shelf. Raises ConfigError with the nearest match."""
    for shelf, models in _shelves(config):
        for name, model in models.items():
            shelves.check_name(shelf, model.name)
            shelves.check_options(shelf, model.name, model.options)
            if model.random and "weights_seed" not in shelves.options(shelf, model.name):
                raise ConfigError(f"{shelf}.{name}: {model.name} has no weights that could be random")
            asks = "remote_code" in shelves.options(shelf, model.name)
            if asks and not model.random and model.options.get("remote_code") is not True:
                raise ConfigError(
                    f"{shelf}.{name}: {model.name} is Python code that comes with its weights; remote_code: true lets it run"
                )
            if model.source and shelf == "metrics" and not _has_weights(shelf, model.name):
                raise ConfigError(f"{shelf}.{name}: {model.name} takes no source: it has no weights")
    for name, autoencoder in config.autoencoders.items():
        has_posterior = getattr(shelves.find("autoencoders", autoencoder.name), "HAS_POSTERIOR", True)
        if autoencoder.latent == "sample" and not has_posterior:
            raise ConfigError(
                f"autoencoders.{name}: {autoencoder.name} has no posterior to sample from (use latent: mean)"
            )
        if autoencoder.store_logvar and not (has_posterior and stores_latents(config, name)):
            why = "has no posterior" if not has_posterior else "stores no latents"
            raise ConfigError(f"autoencoders.{name}: {autoencoder.name} {why}, so there is no store_logvar")
    for codec in config.codecs.values():
        shelves.check_name("codecs", codec.name)
        shelves.check_options("codecs", codec.name, codec.options)
    load_codecs(config)


def resolve_weights(config: RunConfig, storage: Storage) -> dict[str, weights.Weights]:
    """Return `<shelf>.<name>` -> weights on this machine, for every autoencoder, extractor and metric with weights. Raises
    WeightsError for weights that are not there."""
    resolved = {}
    for shelf, models in _shelves(config):
        for name, model in models.items():
            if _has_weights(shelf, model.name):
                module = shelves.find(shelf, model.name)
                model_weights = weights.resolve(
                    model, getattr(module, "SOURCE", None), storage, getattr(module, "SUBFOLDER", None)
                )
                if model_weights.path and hasattr(module, "assumed"):
                    model_weights = replace(
                        model_weights, assumed=module.assumed(Path(model_weights.path), **model.options)
                    )
                resolved[f"{shelf}.{name}"] = model_weights
    return resolved


def latent_scaling(config: RunConfig, resolved: Mapping[str, weights.Weights]) -> dict[str, dict[str, float]]:
    """Return autoencoder -> its scaling_factor and shift_factor, as far as the config of the model has them.

    The stored latents are unscaled. A diffusion model sees (latent - shift_factor) * scaling_factor.
    """
    factors: dict[str, dict[str, float]] = {}
    for name, model in config.autoencoders.items():
        path, module = resolved[f"autoencoders.{name}"].path, shelves.find("autoencoders", model.name)
        if path and hasattr(module, "latent_factors"):
            told = module.latent_factors(Path(path), **model.options)
            factors[name] = {key: value for key, value in told.items() if value is not None}
    return factors


def autoencoder_engines(
    config: RunConfig, resolved: Mapping[str, weights.Weights], record: Mapping[str, Any] | None
) -> dict[str, str]:
    """Return autoencoder -> the engine that computes it, for autoencoders with a choice of engines.

    record: run.json of an earlier start of the run; its engines stay. If it names no engine, the run had diffusers' forward.
    """
    engines = {}
    for name, model in config.autoencoders.items():
        if "engine" in shelves.options("autoencoders", model.name):
            if record is not None and name in record["config"]["autoencoders"]:
                engines[name] = record.get("engines", {}).get(name, "diffusers")
            else:
                path = resolved[f"autoencoders.{name}"].path
                module = shelves.find("autoencoders", model.name)
                engines[name] = module.engine_of(Path(path) if path else None, **model.options)
    return engines


def load_models(
    config: RunConfig,
    resolved: Mapping[str, weights.Weights],
    device: torch.device,
    engines: Mapping[str, str] | None = None,
) -> Models:
    """Return every model on `device`, in eval mode, without gradients.

    Entries of a shelf with the same weights and options are one object. resolved: the result of `resolve_weights`. engines:
    autoencoder -> its engine, the result of `autoencoder_engines`; None: as the run file says. Raises WeightsError if a model has
    neither a source nor `random: true`.
    """
    loaded: dict[str, dict[str, Any]] = {"autoencoders": {}, "extractors": {}, "metrics": {}}
    objects: dict[str, Any] = {}
    for shelf, models in _shelves(config):
        for name, model in models.items():
            module = shelves.find(shelf, model.name)
            if not _has_weights(shelf, model.name):
                loaded[shelf][name] = module.compute
                continue
            resolved_weights = resolved[f"{shelf}.{name}"]
            path = Path(resolved_weights.path) if resolved_weights.path else None
            if path is None and not resolved_weights.random and "weights_seed" in shelves.options(shelf, model.name):
                notes = [checkpoint.note for checkpoint in getattr(module, "CHECKPOINTS", ()) if checkpoint.note][:1]
                known = f" ({notes[0]})" if notes else ""
                raise WeightsError(
                    f"{shelf}.{name}: {model.name} needs a source (a folder, s3://..., a hub id), or random: true{known}"
                )
            engine = (engines or {}).get(name) if shelf == "autoencoders" else None
            options = model.options | ({} if engine is None else {"engine": engine})
            same = repr((shelf, model.name, path, sorted(options.items())))
            if same not in objects:
                objects[same] = module.load(path, **options).to(device)
            loaded[shelf][name] = objects[same]
    return Models(loaded["autoencoders"], loaded["extractors"], loaded["metrics"])


def check_same_weights(resolved: Mapping[str, weights.Weights], recorded: Mapping[str, dict[str, Any]]) -> None:
    """Raise WeightsError if the weights of this node have other bytes than the weights in run.json (`recorded`)."""
    for name, here in resolved.items():
        if name in recorded and here.files != recorded[name]["files"]:
            raise WeightsError(f"{name}: the weights at {here.source} are not those that this run was started with")


def pick_device(gpus: float) -> torch.device:
    """Return the GPU if an actor has one (`gpus` above 0) and CUDA works, else the CPU."""
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")


def pick_precision(precision: str, device: torch.device) -> str:
    """Return the precision, with `auto` decided: bfloat16 on a GPU that supports it, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def _shelves(config: RunConfig) -> list[tuple[Shelf, dict[str, ShelfConfig]]]:
    return [
        ("autoencoders", dict(config.autoencoders)),
        ("extractors", dict(config.extractors)),
        ("metrics", dict(config.metrics)),
    ]


def _has_weights(shelf: Shelf, name: str) -> bool:
    """Return whether an entry of a shelf has weights to load. Most metrics are a formula and have none."""
    return shelf != "metrics" or hasattr(shelves.find(shelf, name), "load")
