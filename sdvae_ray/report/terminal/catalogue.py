"""The shelves in a terminal: one line about each module, then its checkpoints, grouped by input and output."""

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sdvae_ray.config import SHELVES
from sdvae_ray.report.facts.catalogue import Entry, catalogue
from sdvae_ray.report.facts.table import NONE

NO_WEIGHTS = "none needed"
_STEP = 2  # columns that each level is indented by
_HEADS = ("weights", "params", "at hand", "licence")
_LICENCE = 21  # columns that the licence keeps on a narrow terminal
_SOURCE = 24  # and the least that the weights' source does
_BETTER = {True: "higher is better", False: "lower is better", None: "neither higher nor lower is better"}


def print_catalogue(console: Console) -> None:
    """Print the catalogue of the shelves as indented tables, one for every shelf."""
    entries = catalogue()
    for number, shelf in enumerate(SHELVES):
        if number:
            console.print()
        console.print(Text(shelf, style="bold"))
        here = [entry for entry in entries if entry["shelf"] == shelf]
        names = max(len(entry["name"]) for entry in here)
        widths = _widths([_cells(checkpoint) for entry in here for checkpoint in entry["checkpoints"]], console.width)
        if widths:
            _indented(console, 3, _row(_HEADS, widths, "dim"))
        for entry in here:
            _indented(console, 1, _row((Text(entry["name"], style="bold"), entry["summary"]), [names]))
            if shelf == "metrics":
                _indented(console, 2, Text(_metric_words(entry), style="dim"))
            for what, group in groupby(entry["checkpoints"], _input_and_output):
                _indented(console, 2, Text(what))
                for checkpoint in group:
                    _indented(console, 3, _row(_cells(checkpoint), widths))
                    if checkpoint["note"]:
                        _indented(console, 4, Text(checkpoint["note"], style="dim"))


def parameters_text(count: int | None) -> str:
    """Return a number of parameters as text, 83653863 -> 83.7 M; NONE for an unknown number."""
    if count is None:
        return NONE
    if count < 10_000:
        return f"{count:,}"
    return f"{count / 1e6:,.1f} M"


def _input_and_output(checkpoint: Entry) -> str:
    return f"{checkpoint['input']} → {checkpoint['output']}"


def _cells(checkpoint: Entry) -> tuple[str, str, str, str]:
    place = [part for part in (checkpoint["source"], checkpoint["subfolder"]) if part]
    here = {True: "yes", False: "no", None: NONE}[checkpoint["at_hand"]]
    return (", ".join(place) or NO_WEIGHTS, parameters_text(checkpoint["parameters"]), here, checkpoint["licence"])


def _metric_words(entry: Entry) -> str:
    weights_of_its_own = "its weights are a folder or file to name as `source`" if entry["takes_weights"] else ""
    bands = f"bands {', '.join(entry['bands'])}" if entry["bands"] else ""
    return "; ".join(filter(None, (entry["unit"], _BETTER[entry["higher_is_better"]], bands, weights_of_its_own)))


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """Return the widths of all columns except the last, the same in the whole shelf. The licence keeps some room, and the first
    column folds if it must."""
    columns = zip(_HEADS, *rows, strict=True) if rows else ()
    widths = [max(map(len, column)) for column in columns][:-1]
    if widths:
        room = available - 3 * _STEP - sum(widths[1:]) - 2 * len(widths) - _LICENCE
        widths[0] = max(_SOURCE, min(widths[0], room))
    return widths


def _row(cells: Sequence[str | Text], widths: Sequence[int], style: str = "") -> Table:
    """Return one line; its last cell wraps in the width that is left. style: the style of the whole line."""
    table = Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    for at in range(len(cells)):
        number = len(cells) == len(_HEADS) and _HEADS[at] == "params"
        width = widths[at] if at < len(widths) else None
        table.add_column(width=width, justify="right" if number else "left", overflow="fold", style=style)
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))
    return table


def _indented(console: Console, level: int, what: Text | Table) -> None:
    console.print(Padding(what, (0, 0, 0, level * _STEP), expand=False))
