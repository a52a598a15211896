"""Any table and any section of the report, drawn in a terminal: nothing is cut, and what is too wide stands in two tables."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as Grid

from sdvae_ray.report.facts.table import Beside, Column, Section, Table

_GAP = 2  # characters between columns


def print_section(section: Section, console: Console) -> None:
    """Print the lines, tables, reasons (yellow) and brief small print (dim) of a section."""
    for line in section.lines:
        say(console, line)
    for table in section.tables:
        print_table(table, console)
    for reason in section.reasons:
        say(console, reason, style="yellow")
    if section.brief:
        say(console, section.brief, style="dim")


def say(console: Console, text: str, style: str = "") -> None:
    """Print a text without markup, wrapped to the width of the console."""
    console.print(text, style=style, markup=False, highlight=False)


def print_table(table: Table, console: Console) -> None:
    """Print a table as one grid; on a narrow console as several, each with the leading columns of words."""
    shown = replace(table, rows=table.rows[: table.rows_in_terminal])
    texts = {column.key: [_text(shown, index, column) for index in range(len(shown.rows))] for column in table.columns}
    for number, columns in enumerate(_abreast(table.columns, texts, console.width)):
        say(console, f"\n{table.title}" if number == 0 and table.title else "", style="bold")
        grid = Grid(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False, collapse_padding=True, pad_edge=False)
        for column, width in zip(columns, _widths(columns, texts, console.width), strict=True):
            grid.add_column(
                escape(_heading(column, texts[column.key])),
                justify="right" if column.is_number else "left",
                overflow="fold",
                width=width,
            )
        for index in range(len(shown.rows)):
            grid.add_row(*(escape(texts[column.key][index]) for column in columns))
        console.print(grid)
    if more := len(table.rows) - len(shown.rows):
        say(console, f"  and {more} more")


def _text(table: Table, index: int, column: Column) -> str:
    value = table.value(index, column)
    text = column.text(value)
    if not isinstance(value, Beside) or not value.words:
        return text
    return f"{text}\n{value.words}" if value.is_below else f"{text} {value.words:>4}"


def _heading(column: Column, texts: Sequence[str]) -> str:
    """Return the heading and unit, broken into lines of the column's least width."""
    width = _least(column, texts)
    lines = [line for words in (column.head, column.unit) for line in textwrap.wrap(words, width)]
    return "\n".join(lines).replace("\u00a0", " ")


def _least(column: Column, texts: Sequence[str]) -> int:
    """Return the least width in characters: all of a number and of the words above it; a part of a longer text."""
    words = [word for text in (column.head, column.unit) for word in text.split(" ")]
    if column.is_number:
        return max(len(line) for text in (*words, *texts) for line in text.split("\n"))
    return min(column.keeps, max(len(word) for text in (*words, *texts) for word in text.split(" ")))


def _widths(columns: Sequence[Column], texts: dict[str, list[str]], room: int) -> list[int]:
    """Return the characters of each column: its longest line, less as much as is needed to fit the room. The widest column of
    words gives up characters first, down to its least width."""
    widths = []
    for column in columns:
        heading = _heading(column, texts[column.key])
        widths.append(max(len(line) for text in (heading, *texts[column.key]) for line in text.split("\n")))
    least = [_least(column, texts[column.key]) for column in columns]
    while sum(widths) + _GAP * (len(widths) - 1) > room:
        spare = [index for index in range(len(widths)) if widths[index] > least[index]]
        if not spare:
            break
        widths[max(spare, key=lambda index: widths[index])] -= 1
    return widths


def _abreast(columns: Sequence[Column], texts: dict[str, list[str]], width: int) -> Iterator[list[Column]]:
    """Yield the columns of each grid: the leading columns of words, which every grid repeats, and as many others as fit."""
    shown = [column for column in columns if column.in_terminal]
    first = next((index for index, column in enumerate(shown) if column.is_number), 0)
    lead, abreast = shown[:first], list[Column]()
    for column in shown[first:]:
        wide = sum(_least(c, texts[c.key]) + _GAP for c in (*lead, *abreast, column)) - _GAP
        if abreast and wide > width:
            yield [*lead, *abreast]
            abreast = []
        abreast.append(column)
    yield [*lead, *abreast]
