"""The parts of the docs that are made from the code while the docs are built: nothing of them is kept by hand.

A page has a line `<!-- from the code: NAME -->`, and `filled` puts Markdown in its place; PARTS has the names. A page that is a
file of the repository elsewhere, such as README.md, has a line `<!-- the file: PATH -->` alone.
"""

import enum
import inspect
import json
import os
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from typer.main import get_command

from sdvae_ray import shelves
from sdvae_ray.cli.main import app
from sdvae_ray.config import AutoencoderConfig, CodecConfig, ExtractorConfig, MetricConfig, RunConfig
from sdvae_ray.dictionary import TABLES, TableFacts
from sdvae_ray.distributions.between import DISTANCES, FACTS
from sdvae_ray.report.facts.catalogue import catalogue
from sdvae_ray.report.sections.record.reading import READ
from sdvae_ray.run.scores import SCORE_TABLES
from sdvae_ray.settings.ladder import LADDER, LadderConfig

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- from the code: (\w+) -->")
FILE = re.compile(r"<!-- the file: (\S+) -->")
# pages of the docs that are files of the repository elsewhere
ELSEWHERE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
    "sdvae_ray/assets/demo_kl/README.md": "model-card.md",
}
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#]+)")
_BETTER = {True: "higher", False: "lower", None: "neither"}
_BOUNDS = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "anything"}
_ENTRIES = {
    "autoencoders": AutoencoderConfig,
    "codecs": CodecConfig,
    "extractors": ExtractorConfig,
    "metrics": MetricConfig,
}


def filled(text: str, page: str) -> str:
    """Return the Markdown of a page with its marks replaced, and links to ELSEWHERE turned to the pages of the docs.

    page: its name in the docs, without `.md`. Raises KeyError for a name that is not in PARTS.
    """
    folder = ROOT / "docs" / Path(page).parent
    text = MARK.sub(lambda mark: PARTS[mark[1]](), text)
    if whole := FILE.search(text):
        folder, text = (ROOT / whole[1]).parent, (ROOT / whole[1]).read_text()

    def turned(link: re.Match[str]) -> str:
        target = os.path.normpath(folder / link[1])
        own = ELSEWHERE.get(os.path.relpath(target, ROOT))
        if own:
            target = str(ROOT / "docs" / own)
        return f"]({os.path.relpath(target, (ROOT / 'docs' / page).parent)}"

    return _LINK.sub(turned, text)


# Keys of a run file


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
    return f"## {heading}\n\n{lead}\n\n{_table(('key', 'allowed', 'default', 'what it is'), rows)}"


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
    words = _WORDS.get(annotation, str(annotation))
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


# Columns


def tables() -> str:
    """Return a table of columns for every table of a run that `encode` writes, and the profiles."""
    return _all_columns({name: facts for name, facts in TABLES.items() if name not in SCORE_TABLES}, "{}/")


def scores() -> str:
    """Return a table of columns for every table of scores/."""
    return _all_columns({name: TABLES[name] for name in SCORE_TABLES}, "scores/{}.parquet")


def _all_columns(facts: Mapping[str, TableFacts], form: str) -> str:
    return "\n\n".join(
        f"## `{form.format(name)}`\n\n{_capital(table.rows)}.\n\n"
        + _table(
            ("column", "type", "what it is"),
            [[f"`{column}`", kind, meaning] for column, (kind, meaning) in table.columns.items()],
        )
        for name, table in facts.items()
    )


# Metrics, distances, shelves


def metrics() -> str:
    """Return a table of the metrics, and what the module of each says of it."""
    entries = [entry for entry in catalogue() if entry["shelf"] == "metrics"]
    rows, notes = [], []
    for entry in entries:
        module = shelves.find("metrics", entry["name"])
        better = _BETTER[entry["higher_is_better"]]
        rows.append(
            [f"`{entry['name']}`", module.FORMULA, module.RANGE, entry["unit"] or "–", better, module.REFERENCE]
        )
        notes.append(f"## `{entry['name']}`\n\n{_prose(module)}")
    head = ("metric", "formula", "range", "unit", "better", "source")
    return "\n\n".join([_table(head, rows), *notes])


def distances() -> str:
    """Return a table of the distances between the originals' patches and a side's."""
    of = {number: name for name, numbers in DISTANCES.items() for number in numbers} | {"kid_paired": "kid"}
    rows = [
        [f"`{number}`", f"`{of[number]}`", fact.formula, fact.range, _BETTER[fact.higher_is_better], fact.reference]
        for number, fact in FACTS.items()
    ]
    return _table(("column", "name in score.distributions.metrics", "formula", "range", "better", "source"), rows)


def models() -> str:
    """Return, for every autoencoder, codec and extractor, what it is, its options and its known weights."""
    parts = []
    for entry in catalogue():
        shelf, name = entry["shelf"], entry["name"]
        if shelf == "metrics":
            continue
        own = _options(shelf, name)
        said = inspect.getdoc(shelves.find(shelf, name).load) or ""
        options = f"{_table(('option', 'default'), own)}\n\n{said}" if own else "No options of its own."
        weights = [
            [_weights(known), known["licence"], known["input"], known["output"], known["note"] or "–"]
            for known in entry["checkpoints"]
        ]
        head = ("weights", "licence", "input", "output", "note")
        parts.append(f"## {shelf[:-1]} `{name}`\n\n{entry['summary']}\n\n{options}\n\n{_table(head, weights)}")
    return "\n\n".join(parts)


def _weights(known: Mapping[str, Any]) -> str:
    return ", ".join(f"`{part}`" for part in (known["source"], known["subfolder"]) if part) or "none needed"


def _options(shelf: Any, name: str) -> list[list[str]]:
    load = getattr(shelves.find(shelf, name), "load", None)
    parameters = inspect.signature(load).parameters.values() if load else ()
    return [
        [f"`{each.name}`", "needed" if each.default is each.empty else f"`{each.default}`"]
        for each in parameters
        if each.kind is each.KEYWORD_ONLY
    ]


def _prose(module: types.ModuleType) -> str:
    return (inspect.getdoc(module) or "").strip()


# The report, the notebook


def terms() -> str:
    """Return the sentences of the report's "How to read the numbers"."""
    return _table(("term", "what it is"), [[f"**{term}**", sentence] for term, sentence in READ.items()])


def notebook() -> str:
    """Return the cells of the notebook: its words, and its code in blocks."""
    cells = json.loads((Path(__file__).parent / "notebook.ipynb").read_text())["cells"]
    texts = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for text, kind in texts)


# Commands


def commands() -> str:
    """Return, for every command, what it does, its usage and its options."""
    group = get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())  # type: ignore[attr-defined]


def _command(name: str, command: Any) -> str:
    arguments = [each.metavar or each.name.upper() for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join(["sdvae-ray", name, *arguments, "[OPTIONS]"])
    rows = [[_names(each), _metavar(each), _shown(each), each.help or ""] for each in options]
    told = f"## `{name}`\n\n{command.help}\n\n```text\n{usage}\n```\n\n"
    return told + _table(("option", "value", "default", "what it is"), rows)


def _names(option: Any) -> str:
    return ", ".join(f"`{each}`" for each in sorted((*option.opts, *option.secondary_opts), key=len))


def _metavar(option: Any) -> str:
    kind = option.type_descriptor.annotation
    if option.is_flag:
        return "–"
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{each.value}`" for each in kind)
    least = "" if option.min is None else f" ≥ {option.min:g}"
    most = "" if option.max is None else f", ≤ {option.max:g}"
    return (option.metavar or _WORDS.get(kind, option.name)) + least + most


def _shown(option: Any) -> str:
    value = getattr(option.default, "value", option.default)
    if option.required:
        return "needed"
    return "–" if value in (None, "", False) else f"`{value}`"


# Markdown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in lines)


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (keys, tables, scores, metrics, distances, models, terms, notebook, commands)
}
