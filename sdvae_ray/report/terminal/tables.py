"""Tables and lines of a terminal, as every summary prints them."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def plain_table(title: str) -> Table:
    return Table(
        title="\n" + escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
        collapse_padding=True,
        pad_edge=False,
    )


def text_column(table: Table, name: str) -> None:
    table.add_column(name, overflow="fold", min_width=9)


def number_column(table: Table, name: str) -> None:
    table.add_column(name, justify="right", no_wrap=True)


def say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, highlight=False)
