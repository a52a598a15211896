"""Exports of a finished run: the folder `formats` is the list of formats, and a request is checked before anything is written."""

import importlib
import importlib.util
import pkgutil
from typing import cast

from sdvae_ray.errors import ConfigError, did_you_mean
from sdvae_ray.exports.contract import OPTIONS, Exported, Format, Request

_FORMATS = "sdvae_ray.exports.formats"


def names() -> list[str]:
    """Return the sorted names of the formats; no module of `formats` is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(_FORMATS).__path__))


def find(name: str) -> Format:
    """Return the format of a name, in which a dash stands for an underscore. Raises ConfigError, with the nearest match, for a name
    that is none.
    """
    module = name.replace("-", "_")
    if module not in (allowed := names()):
        raise ConfigError(f"export: no format {name!r}{did_you_mean(module, allowed)}")
    return cast(Format, importlib.import_module(f"{_FORMATS}.{module}"))


def export(name: str, request: Request) -> Exported:
    """Write a run's results in a format.

    Raises ConfigError for an unknown format, an option that the format does not take, an output that does not fit it, or a library
    that is not installed; DataError for what the run does not have.
    """
    form = find(name)
    given = {"level": request.level, "extractor": request.extractor, "side": request.sides, "plate": request.plates}
    for option in OPTIONS:
        if {**given, "text": request.text}[option] and option not in form.TAKES:
            taken = ", ".join(f"--{known}" for known in OPTIONS if known in form.TAKES)
            raise ConfigError(f"export: {name} takes no --{option} (it takes {taken})")
    if absent := [library for library in form.NEEDS if importlib.util.find_spec(library) is None]:
        raise ConfigError(f"export: {name} needs {', '.join(absent)}: pip install 'sdvae-ray[export]'")
    _check_output(name, form, request)
    return form.export(request)


def _check_output(name: str, form: Format, request: Request) -> None:
    if form.SUFFIXES and not request.output.endswith(form.SUFFIXES):
        raise ConfigError(f"export: {name} writes {' or '.join(form.SUFFIXES)}, and --output is {request.output}")
    if not form.SUFFIXES and request.run.storage.list(request.output):
        raise ConfigError(f"export: there are files in {request.output}; a folder that is empty or new is wanted")
