"""The folder `steps` is the registry of the steps, and a step's signature is the list of its options.

A module of the folder is a step; its file's name is its name in the run file. It offers

    fit_to(source: ProfileSource, *, options...) -> Fitted

and, if it departs from the rule,

    check(**options)    raises ConfigError for options that do not go together, before a run starts
    PER = "plate"       "plate" or "batch", if that is not an option: every plate or batch needs two wells to fit on
    NO_FIT = "..."      why the step has no map for a well that it was not given; its chain is a Corrected

Every option has a default, and a type of contract.py, a Literal of texts, or a union of them.
A name that starts with an underscore is not a step.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.retrieval.normalisation import steps

ResolvedStep = tuple[str, dict[str, Any]]  # name, every option


def step_names() -> list[str]:
    """Return the sorted names of the steps; no step is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(steps.__path__) if not module.name.startswith("_"))


def find_step(name: str) -> ModuleType:
    """Return the module of a step. Raises ConfigError, with the nearest match, for an unknown name."""
    names = step_names()
    if name not in names:
        raise ConfigError(f"unknown normalisation step {name!r}{did_you_mean(str(name), names)}")
    return importlib.import_module(f"{steps.__name__}.{name}")


def checked_options(name: str, given: Any) -> dict[str, Any]:
    """Return all options of a step: the given values, checked, and the defaults of the others. Raises ConfigError, with the
    nearest match, for a wrong name or value."""
    module = find_step(name)
    if not isinstance(given, Mapping):
        raise ConfigError(f"normalisation step {name}: parameters must be a mapping, not {given!r}")
    types = get_type_hints(module.fit_to, include_extras=True)
    parameters = inspect.signature(module.fit_to).parameters.values()
    options = {option.name: option.default for option in parameters if option.kind is inspect.Parameter.KEYWORD_ONLY}
    for key, value in given.items():
        if key not in options:
            near, summary = did_you_mean(str(key), options), (module.__doc__ or "").partition("\n")[0]
            raise ConfigError(f"unknown parameter {key!r} of {name}{near}. {name}: {summary}")
        options[key] = _checked(value, types[key], f"normalisation step {name}: {key}")
    if hasattr(module, "check"):
        module.check(**options)
    return options


def has_fit(resolved: Sequence[ResolvedStep]) -> bool:
    """Return whether the fitted steps can normalise wells that were not in the fit."""
    return not any(hasattr(find_step(name), "NO_FIT") for name, _ in resolved)


def _checked(value: Any, allowed: Any, where: str) -> Any:
    """Return the value of an option whose type is `allowed`. Raises ConfigError, opening with `where`, for another value."""
    members = get_args(allowed) if get_origin(allowed) in (Union, UnionType) else (allowed,)
    words = [word for member in members if get_origin(member) is Literal for word in get_args(member)]
    number = next((get_args(member) for member in members if get_origin(member) is Annotated), None)
    if not words and number is None:
        raise TypeError(f"{where} is of the type {allowed}, and no value of a run file can be checked against it")
    if isinstance(value, str) and value in words:
        return value
    if number is None:
        raise ConfigError(f"{where} {value!r} is not known{did_you_mean(str(value), words)}")
    kind, least = number
    or_word = "".join(f", or {word!r}" for word in words)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{where} must be a number{or_word}, not {value!r}")
    if kind is int and (not isinstance(value, int) or value < least):
        raise ConfigError(f"{where} must be a whole number of at least {least:g}{or_word}, not {value!r}")
    if not least <= value < float("inf"):
        raise ConfigError(f"{where} must be a finite number of at least {least:g}{or_word}, not {value!r}")
    return value
