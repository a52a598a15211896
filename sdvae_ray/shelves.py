"""The folder is the registry: a model, extractor or metric is one file on its shelf, and the file's name is its name everywhere.

A shelf's module offers `load(weights, **options)` (autoencoders, extractors) or `compute(reconstruction)` (metrics), and may set
`SOURCE`, where its weights come from when the run names none.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Literal

from sdvae_ray.config import AutoencoderConfig, ExtractorConfig
from sdvae_ray.errors import ConfigError, did_you_mean

Shelf = Literal["autoencoders", "extractors", "metrics"]
SHELVES: tuple[Shelf, ...] = ("autoencoders", "extractors", "metrics")


def names(shelf: Shelf) -> list[str]:
    """Sorted names on a shelf; nothing on it is imported."""
    package = importlib.import_module(f"sdvae_ray.{shelf}")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def find(shelf: Shelf, name: str) -> ModuleType:
    """The module of that name; ConfigError with the nearest match where there is none."""
    check_name(shelf, name)
    return importlib.import_module(f"sdvae_ray.{shelf}.{name}")


def check_name(shelf: Shelf, name: str) -> None:
    allowed = names(shelf)
    if name not in allowed:
        raise ConfigError(f"no {name!r} on the shelf of {shelf}{did_you_mean(name, allowed)}")


def summary(shelf: Shelf, name: str) -> str:
    """First line of the module's docstring."""
    return (find(shelf, name).__doc__ or "").strip().partition("\n")[0]


def check_options(shelf: Shelf, name: str, options: Mapping[str, Any]) -> None:
    """ConfigError for an option that the module's `load` does not take."""
    parameters = inspect.signature(find(shelf, name).load).parameters
    own = [key for key, parameter in parameters.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    shared = (AutoencoderConfig if shelf == "autoencoders" else ExtractorConfig).model_fields
    for key in options:
        if key not in own:
            raise ConfigError(f"{shelf}: {name} has no option {key!r}{did_you_mean(key, [*own, *shared])}")
