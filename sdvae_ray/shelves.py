"""The folder is the registry: a model, codec, extractor or metric is one file on its shelf, under the file's name everywhere.

A module on a shelf offers `load(weights, **options)` (autoencoders, extractors, and metrics that have weights), `load(**options)`
(codecs) or `compute(reconstruction)` (metrics). It may set `SOURCE`, the source of its weights if the run names none. Models and
codecs list their `CHECKPOINTS`. A constant says how a module differs from the rule:

autoencoders  HAS_POSTERIOR = False; STORES_LATENTS = False if the latent is not smaller than the image
codecs        WRITES_FILES = False of a degradation, whose sizes are 0 and whose side has no rate
extractors    TAKES_LATENT = True
metrics       UNIT, HIGHER_IS_BETTER; FORMULA (x the original, y the reconstruction), RANGE and REFERENCE, which the docs print;
              BANDS, the names of a last axis; AGAINST_STAINS = True if the last axis is the stains;
              NEEDS_POSTERIOR = True if a stored latent is not enough; `pooled(values, weights=None)` if a mean over patches is
              not arithmetic: the mean of means of parts, weighted by their patches, is the mean of all
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from sdvae_ray.config import (
    AutoencoderConfig,
    CodecConfig,
    ExtractorConfig,
    MetricConfig,
    RunConfig,
    Shelf,
    ShelvedConfig,
)
from sdvae_ray.errors import ConfigError, did_you_mean

_SETTINGS: dict[Shelf, type[ShelvedConfig]] = {
    "autoencoders": AutoencoderConfig,
    "codecs": CodecConfig,
    "extractors": ExtractorConfig,
    "metrics": MetricConfig,
}


def names(shelf: Shelf) -> list[str]:
    """Return the sorted names on a shelf; no module of the shelf is imported."""
    package = importlib.import_module(f"sdvae_ray.{shelf}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find(shelf: Shelf, name: str) -> ModuleType:
    """Return the imported module of a name. Raises ConfigError, with the nearest match, for a name that is not on the shelf."""
    check_name(shelf, name)
    return importlib.import_module(f"sdvae_ray.{shelf}.{name}")


def check_name(shelf: Shelf, name: str) -> None:
    """Raise ConfigError, with the nearest match, for a name that is not on the shelf."""
    allowed = names(shelf)
    if name not in allowed:
        raise ConfigError(f"no {name!r} on the shelf of {shelf}{did_you_mean(name, allowed)}")


def summary(shelf: Shelf, name: str) -> str:
    """Return one line about an entry of a shelf: the first line of its module's docstring."""
    return (find(shelf, name).__doc__ or "").strip().partition("\n")[0]


def takes_latent(config: RunConfig, extractor: str) -> bool:
    """Return whether an extractor of a run embeds the latent of an autoencoder instead of images."""
    return getattr(find("extractors", config.extractors[extractor].name), "TAKES_LATENT", False)


def options(shelf: Shelf, name: str) -> list[str]:
    """Return the names of the options that the module's `load` takes; empty without a `load`."""
    load = getattr(find(shelf, name), "load", None)
    parameters = inspect.signature(load).parameters if load else {}
    return [key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]


def check_options(shelf: Shelf, name: str, given: Mapping[str, Any]) -> None:
    """Raise ConfigError, with the nearest match, for an option that the module's `load` does not take."""
    own, shared = options(shelf, name), _SETTINGS[shelf].model_fields
    for key in given:
        if key not in own:
            raise ConfigError(f"{shelf}: {name} has no option {key!r}{did_you_mean(key, [*own, *shared])}")
