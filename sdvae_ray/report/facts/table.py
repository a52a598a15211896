"""A table as the facts of a run give it: columns that know their heading, digits, direction and unit, and rows by key.

Two renderers draw any table: sdvae_ray.report.page in HTML, sdvae_ray.report.terminal in a terminal. Neither computes a number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NONE = "–"  # printed for a missing number
BLOCK, REASON, KEY = "block", "reason", "key"  # keys of a row beside its columns
_AT_THE_RIGHT = 5  # characters
_ARROWS = {"higher": "↑", "lower": "↓"}


@dataclass(frozen=True)
class Side:
    """The image side, an autoencoder or a codec: the text that names it, and the number of its colour, 0 for the originals."""

    text: str
    colour: int


@dataclass(frozen=True)
class Beside:
    """A number and words that belong to it: its interval, or whether a compound was retrieved."""

    value: float | None
    words: str

    @property
    def is_below(self) -> bool:
        """Return whether the words are printed below the number, because they are too long for its right."""
        return len(self.words) > _AT_THE_RIGHT


Value = float | str | Side | Beside | None
Row = Mapping[str, Value]


@dataclass(frozen=True)
class Column:
    """One column of a table.

    key          of the value in a row
    heading      words above the column, without an arrow
    digits       decimals of a number; None: about four significant digits, and none of an int
    better       "higher", "lower", or "" if no direction is better
    unit         words in small print below the heading
    signed       a number above 0 has a plus sign
    is_number    values are aligned at the right
    says_once    a value that equals the one above it is left out
    in_terminal  False: only the page has the column, since a terminal is narrow
    colour       of the side that the column is about
    keeps        characters of a word that a narrow terminal does not break
    """

    key: str
    heading: str
    digits: int | None = None
    better: str = ""
    unit: str = ""
    signed: bool = False
    is_number: bool = True
    says_once: bool = False
    in_terminal: bool = True
    keeps: int = 10
    colour: int | None = None

    @property
    def head(self) -> str:
        """Return the heading with its arrow, which no line break separates from the last word."""
        return f"{self.heading}\u00a0{_ARROWS[self.better]}" if self.better else self.heading

    def text(self, value: Value) -> str:
        """Return the text of a value. For a Beside this is the number alone, without its words."""
        if isinstance(value, Beside):
            value = value.value
        if isinstance(value, Side):
            return value.text
        if isinstance(value, str):
            return value
        if isinstance(value, int) and self.digits is None:
            return f"{value:,}"
        plus = "+" if self.signed and value is not None and value > 0 else ""
        return plus + number(value, self.digits)


@dataclass(frozen=True)
class Table:
    """Rows by key under their columns. notes: small print below the table, on the page.

    has_tools: the page offers to search the rows and to filter them by the words beside their numbers.

    A row may have three more keys. block: a row whose block differs from that of the row above begins a new block of rows. reason:
    why values of the row are missing; the page prints it in their place. key: the compound of the row, which the page's pictures
    and wells know too.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    rows_in_terminal: int | None = None  # None: all
    has_tools: bool = False

    def starts_block(self, index: int) -> bool:
        """Return whether row `index` begins a new block; False for the first row."""
        return index > 0 and self.rows[index].get(BLOCK) != self.rows[index - 1].get(BLOCK)

    def value(self, index: int, column: Column) -> Value:
        """Return the value of a column in row `index`; "" if `says_once` leaves it out."""
        value, above = self.rows[index].get(column.key), self.rows[index - 1].get(column.key) if index else None
        return "" if column.says_once and value == above and not self.starts_block(index) else value


def text_column(key: str, heading: str, **settings: Any) -> Column:
    """Return a column of words."""
    return Column(key, heading, is_number=False, **settings)


SIDE = text_column("side", "side")


@dataclass(frozen=True)
class Section:
    """One part of the report; some sections are printed in the terminal too.

    link      words of the page's navigation; "" leaves the section out of it
    lead      a paragraph above all on the page
    lines     sentences, above the tables on the page
    tables    on the page and in the terminal
    reasons   lines on both: why something has no number
    legend    sides whose colours the charts have
    charts    drawn on the page, see sdvae_ray.report.facts.chart
    terms     word -> its meaning, a list on the page
    notes     small print on the page, below all
    brief     small print in a terminal, below all
    template  of sdvae_ray/report/page/templates; `content` is for a template of the section's own
    """

    anchor: str
    title: str
    link: str = ""
    lead: str = ""
    lines: Sequence[str] = ()
    tables: Sequence[Table] = ()
    reasons: Sequence[str] = ()
    legend: Sequence[Side] = ()
    charts: Sequence[object] = ()
    terms: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    brief: str = ""
    template: str = "section.html"
    content: object = None


def number(value: float | None, digits: int | None = None) -> str:
    """Return a number as text with `digits` decimals, or about four significant digits; None and NaN give NONE, infinity "inf"."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if digits is not None:
        return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero
    size = abs(value)
    if size < 1e-9:
        return "0"
    if size < 1e-4:
        return f"{value:.1e}"
    return f"{value:,.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 2 else 4}f}"


def with_interval(values: Mapping[str, Any], name: str, ends: str = "") -> Beside | None:
    """Return a number and its interval, `0.20 to 0.50`, from the keys `<ends>low` and `<ends>high`; None without the number."""
    if values.get(name) is None:
        return None
    low, high = values.get(f"{ends}low"), values.get(f"{ends}high")
    return Beside(values[name], "" if low is None else f"{number(low, 2)} to {number(high, 2)}")
