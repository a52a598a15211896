"""Reads a YAML file and `--set` overrides into a RunConfig. A mistake is one line: where, what, and the nearest allowed name."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.errors import ConfigError, did_you_mean, one_line
from sdvae_ray.settings.ladder import LADDER, LadderConfig, with_ladder
from sdvae_ray.settings.values import Section


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run file at `path` as a RunConfig, after `--set key.key=value` overrides (values are YAML).

    Raises ConfigError, one line, for a file that cannot be read, an unknown key or a value that is not allowed.
    """
    try:
        raw = _with_null_keys(yaml.safe_load(Path(path).read_text()))
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the run file {path}: it is not text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error, None)}") from error
    except (RecursionError, _TooLargeError) as error:
        raise ConfigError(f"{path} is no run file: its values nest too deep, or repeat each other too often") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} is not a run file: a YAML mapping with manifest, output, autoencoders, ... is wanted"
        )
    for given in overrides:
        override(raw, given)
    return parse_run(raw, where=str(path))


def parse_run(raw: dict[str, Any], where: str = "run file") -> RunConfig:
    """Return a mapping as a checked RunConfig; the sides of its `ladder` stand in its autoencoders and codecs. Raises ConfigError,
    one line that begins with `where`.
    """
    if LADDER not in raw:
        return _parsed(RunConfig, raw, where)
    asked = raw[LADDER]
    plain = {key: value for key, value in raw.items() if key != LADDER}
    if asked is False or asked is None:
        return _parsed(RunConfig, plain, where)
    ladder = _parsed(LadderConfig, {} if asked is True else _mapping(asked, where), f"{where}: {LADDER}")
    return _parsed(RunConfig, with_ladder(plain, ladder, where), where)


def _mapping(asked: Any, where: str) -> dict[str, Any]:
    if not isinstance(asked, dict):
        raise ConfigError(
            f"{where}: {LADDER}: true, false, or a mapping of codecs, latent_bits, blur and noise, got {asked!r}"
        )
    return asked


def parse_storage(keys: Mapping[str, Any] | None) -> StorageConfig:
    """Return keys of `storage:` as a checked StorageConfig. Raises ConfigError, one line that begins with `storage`."""
    return _parsed(StorageConfig, dict(keys or {}), "storage")


def _parsed(section: type[Section], raw: dict[str, Any], where: str) -> Any:
    _refuse_credentials(raw, where, "")
    try:
        return section.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error, section)}") from error


def _refuse_credentials(node: Any, where: str, path: str) -> None:
    """Raise ConfigError for a URL with a user name or a password, which run.json and the report would publish."""
    if isinstance(node, str) and _CREDENTIALS.match(node):
        raise ConfigError(
            f"{where}: {path.lstrip('.')}: a URL with a user name or a password is refused, for run.json and the report would "
            "publish it (credentials come from the environment, or by storage.profile)"
        )
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            _refuse_credentials(value, where, f"{path}.{key}")


class _TooLargeError(Exception): ...


class _Budget:
    """The values that a run file may have: aliases of YAML can make a small file as large as one likes."""

    def __init__(self) -> None:
        self.left = 100_000

    def spend(self) -> None:
        """Count one value. Raises _TooLargeError if there are too many."""
        self.left -= 1
        if self.left < 0:
            raise _TooLargeError


def _with_null_keys(node: Any, budget: _Budget | None = None) -> Any:
    """Restore the keys named null: YAML reads the key of `null: exchange` as None. Raises _TooLargeError as the budget does."""
    budget = budget or _Budget()
    budget.spend()
    if isinstance(node, dict):
        return {"null" if key is None else key: _with_null_keys(value, budget) for key, value in node.items()}
    return [_with_null_keys(value, budget) for value in node] if isinstance(node, list) else node


def override(raw: dict[str, Any], given: str) -> None:
    """Set one `key.key=value` in the mapping of a run file, in place; the value is YAML. Raises ConfigError for any other text."""
    key, separator, value = given.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {given}: key=value is wanted, such as encode.batch_fovs=16")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {given}: {parent} is a value, not a section")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {given}: the value is not YAML") from error


_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")
_UNION_TAGS = ("function-", "tuple[", "literal[", "constrained-")  # parts that pydantic adds to the path of a problem


def _first_problem(error: ValidationError, section: type[Section]) -> str:
    """Return the first problem as one line: where, what, and for an unknown key the nearest allowed key."""
    problems = error.errors(include_url=False)
    first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    start = _path(first)
    branches = [p for p in problems if _path(p)[: len(start)] == start]  # a union has a problem per branch
    problem = max(branches, key=lambda p: len(_path(p)))  # of the branch that got furthest
    where = _path(problem)
    path = ".".join(str(part) for part in where)
    others = len({tuple(_path(p)) for p in problems} - {tuple(_path(p)) for p in branches})
    more = f" (and {others} more)" if others else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}{did_you_mean(str(where[-1]), _allowed_keys(section, where[:-1]))}{more}"
    if problem["type"] == "missing":
        return f"{path} is missing{more}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) or not path else f", got {problem['input']!r}"
    return f"{path + ': ' if path else ''}{message}{given}{more}"


def _path(problem: Any) -> list[Any]:
    return [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith(_UNION_TAGS))]


def _allowed_keys(section: type[Section], path: Sequence[Any]) -> list[str]:
    """Return the keys that are allowed under a path of keys in a section."""
    model: Any = section
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = getattr(annotation, "__args__", (annotation,))
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)
