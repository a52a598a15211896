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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keys_of_a_run import WORDS, keys
from markdown_tables import capital, table
from typer.main import get_command

from sdvae_ray import shelves
from sdvae_ray.cli.main import app
from sdvae_ray.dictionary import TABLES, TableFacts
from sdvae_ray.distributions.between import DISTANCES, FACTS
from sdvae_ray.report.facts.catalogue import catalogue
from sdvae_ray.report.sections.record.reading import READ
from sdvae_ray.run.scores import SCORE_TABLES

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- from the code: (\w+) -->")
FILE = re.compile(r"<!-- the file: (\S+) -->")
# pages of the docs that are files of the repository elsewhere
ELSEWHERE = {
    "README.md": "readme.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
    "sdvae_ray/assets/demo_kl/README.md": "model-card.md",
    "sdvae_ray/assets/real_field/README.md": "real-field.md",
}
_LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#]+)")
_BETTER = {True: "higher", False: "lower", None: "neither"}


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


# Columns


def tables() -> str:
    """Return a table of columns for every table of a run that `encode` writes, and the profiles."""
    return _all_columns({name: facts for name, facts in TABLES.items() if name not in SCORE_TABLES}, "{}/")


def scores() -> str:
    """Return a table of columns for every table of scores/."""
    return _all_columns({name: TABLES[name] for name in SCORE_TABLES}, "scores/{}.parquet")


def _all_columns(facts: Mapping[str, TableFacts], form: str) -> str:
    return "\n\n".join(
        f"## `{form.format(name)}`\n\n{capital(of.rows)}.\n\n"
        + table(
            ("column", "type", "what it is"),
            [[f"`{column}`", kind, meaning] for column, (kind, meaning) in of.columns.items()],
        )
        for name, of in facts.items()
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
    return "\n\n".join([table(head, rows), *notes])


def distances() -> str:
    """Return a table of the distances between the originals' patches and a side's."""
    of = {number: name for name, numbers in DISTANCES.items() for number in numbers} | {"kid_paired": "kid"}
    rows = [
        [f"`{number}`", f"`{of[number]}`", fact.formula, fact.range, _BETTER[fact.higher_is_better], fact.reference]
        for number, fact in FACTS.items()
    ]
    return table(("column", "name in score.distributions.metrics", "formula", "range", "better", "source"), rows)


def models() -> str:
    """Return, for every autoencoder, codec and extractor, what it is, its options and its known weights."""
    parts = []
    for entry in catalogue():
        shelf, name = entry["shelf"], entry["name"]
        if shelf == "metrics":
            continue
        own = _options(shelf, name)
        said = inspect.getdoc(shelves.find(shelf, name).load) or ""
        options = f"{table(('option', 'default'), own)}\n\n{said}" if own else "No options of its own."
        weights = [
            [_weights(known), known["licence"], known["input"], known["output"], known["note"] or "–"]
            for known in entry["checkpoints"]
        ]
        head = ("weights", "licence", "input", "output", "note")
        parts.append(f"## {shelf[:-1]} `{name}`\n\n{entry['summary']}\n\n{options}\n\n{table(head, weights)}")
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
    return table(("term", "what it is"), [[f"**{term}**", sentence] for term, sentence in READ.items()])


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
    return told + table(("option", "value", "default", "what it is"), rows)


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
    return (option.metavar or WORDS.get(kind, option.name)) + least + most


def _shown(option: Any) -> str:
    value = getattr(option.default, "value", option.default)
    if option.required:
        return "needed"
    return "–" if value in (None, "", False) else f"`{value}`"


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (keys, tables, scores, metrics, distances, models, terms, notebook, commands)
}
