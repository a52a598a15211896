"""The keys of a run file as tables in Markdown: what each allows, its default and its meaning, from the pydantic models."""

import inspect
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from markdown_tables import table
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sdvae_ray.config import AutoencoderConfig, CodecConfig, ExtractorConfig, MetricConfig, RunConfig
from sdvae_ray.settings.ladder import LADDER, LadderConfig

_BOUNDS = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
_ENTRIES = {
    "autoencoders": AutoencoderConfig,
    "codecs": CodecConfig,
    "extractors": ExtractorConfig,
    "metrics": MetricConfig,
}


def keys() -> str:
    """Return a table of keys for every section of a run file, its entries of the shelves and `ladder` among them."""
    parts = [_section("The whole file", "", RunConfig)]
    for name, field in RunConfig.model_fields.items():
        if name in _ENTRIES:
            parts.append(_section(f"`{name}`: an entry", f"{name}.NAME.", _ENTRIES[name]))
        elif model := _model(field.annotation):
            parts.extend(_sections(name, model))
    parts.append(_section(f"`{LADDER}`", f"{LADDER}.", LadderConfig))
    return "\n\n".join(parts)


def _sections(path: str, model: type[BaseModel]) -> list[str]:
    parts = [_section(f"`{path}`", f"{path}.", model)]
    for name, field in model.model_fields.items():
        if inner := _model(field.annotation):
            parts.extend(_sections(f"{path}.{name}", inner))
    return parts


def _section(heading: str, prefix: str, model: type[BaseModel]) -> str:
    rows = [
        [f"`{prefix}{name}`", _allowed(field), _default(field), field.description or _summary(field.annotation)]
        for name, field in model.model_fields.items()
    ]
    lead = _first_line(model)
    return f"## {heading}\n\n{lead}\n\n{table(('key', 'allowed', 'default', 'what it is'), rows)}"


def _allowed(field: FieldInfo) -> str:
    return _words(field.annotation, field.metadata)


def _words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return the values that an annotation allows, in words."""
    origin, args = get_origin(annotation), get_args(annotation)
    bounds = ", ".join(_bound(each) for each in metadata if _bound(each))
    if origin is Annotated:
        inner = [*getattr(args[1], "metadata", []), *args[1:]] if len(args) > 1 else []
        return _words(args[0], [*inner, *metadata])
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_words(each, metadata) for each in args))
    if origin is tuple and args[-1] is not Ellipsis:
        return f"[{', '.join(_words(each) for each in args)}]"
    if origin is tuple:
        return f"list of {_words(args[0])}"
    if origin is dict:
        return f"mapping: {_words(args[0])} to {_words(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a section"
    words = WORDS.get(annotation, str(annotation))
    return f"{words} {bounds}" if bounds and annotation in (int, float) else words


def _bound(constraint: Any) -> str:
    kind = type(constraint)
    return f"{_BOUNDS[kind]} {getattr(constraint, kind.__name__.lower())}" if kind in _BOUNDS else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "needed"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _model(annotation: Any) -> type[BaseModel] | None:
    """Return the section that an annotation holds, alone or beside null or in a mapping; None without one."""
    candidates = [annotation, *get_args(annotation)]
    return next((each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)), None)


def _summary(annotation: Any) -> str:
    model = _model(annotation)
    return _first_line(model) if model else ""


def _first_line(model: type[BaseModel]) -> str:
    return (inspect.getdoc(model) or "").partition("\n\n")[0].replace("\n", " ")
