"""The names of identifiers, the one form of a plate, a well and a site, and the words of a table that mean "nothing".

A row is known by where it is (source, batch, plate, well, site, plate map), or by what is in the well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from sdvae_ray.schema import KEYS, METADATA, PLATE_COLUMN, SITE_COLUMN, WELL_COLUMN
from sdvae_ray.settings.values import MISSING_WORDS

PLATE_MAP = "Metadata_Plate_Map_Name"
WHERE = (*KEYS, PLATE_MAP)  # a metadata table is joined on these columns and on WHAT alone
WHAT = ("Metadata_broad_sample", "Metadata_JCP2022", "Metadata_pert_iname")
IDENTIFIERS = {name.removeprefix(METADATA).lower(): name for name in (*WHERE, *WHAT)}
# the names in platemaps and in experiment metadata
IDENTIFIERS |= {"assay_plate_barcode": PLATE_COLUMN, "well_position": WELL_COLUMN}
# rows A to Z and AA to AF, columns 1 to 48: plates of up to 1,536 wells. Any other text is no well of a plate, and stays
_WELL = r"^((?i:A[A-F]|[A-Z]))0*([1-9]|[1-3][0-9]|4[0-8])$"
_WHOLE = r"^([0-9]+)\.0+$"  # a number that a spreadsheet or pandas made a float of
_SITE = r"^0*([0-9]+)(?:\.0+)?$"


def identifier(column: str) -> str | None:
    """Return the manifest's name of an identifier: with or without Metadata_, in any case, or an alias;
    None for another column.
    """
    return IDENTIFIERS.get(column.removeprefix(METADATA).lower())


def canonical(column: str, name: str) -> pl.Expr:
    """Return an expression: the text of `column` in the one form of the identifier `name`, whatever form it has.

    A well is A01 (A1, a01, A001), and AA01 on plates of 1,536; a site is 1 (01, 1.0); a plate that is a number has no fraction
    (110000.0), and keeps the zeros before it. Any other text stays, and so does any other identifier.
    """
    text = pl.col(column)
    if name == WELL_COLUMN:
        row, number = (text.str.extract(_WELL, group) for group in (1, 2))
        return pl.coalesce(row.str.to_uppercase() + number.str.zfill(2), text)
    if name in (PLATE_COLUMN, SITE_COLUMN):
        return pl.coalesce(text.str.extract(_SITE if name == SITE_COLUMN else _WHOLE, 1), text)
    return text


def with_canonical_keys(table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Return the table with its plates, wells and sites in the one form, under the names they have, and a note per column."""
    notes = []
    changed = {}
    for column, dtype in table.schema.items():
        name = identifier(column)
        if name in (PLATE_COLUMN, WELL_COLUMN, SITE_COLUMN) and dtype == pl.String:
            value = canonical(column, str(name))
            others = table.filter(pl.col(column).ne_missing(value)).select(pl.col(column).alias("was"), now=value)
            if others.height:
                was, now = others.row(0)
                notes.append(f"{others.height} values of {column} have another form, such as {was!r} for {now!r}")
                changed[column] = value
    return table.with_columns(**changed), notes


@dataclass(frozen=True)
class WordCounts:
    """How many cells of a table mean "nothing", and how many have spaces around their text, by column.

    held: the words that such cells hold.
    """

    missing: dict[str, int] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    spaced: dict[str, int] = field(default_factory=dict)

    def __add__(self, other: "WordCounts") -> "WordCounts":
        """Return the counts of both tables together."""
        missing, spaced = Counter(self.missing), Counter(self.spaced)
        missing.update(other.missing)
        spaced.update(other.spaced)
        return WordCounts(dict(missing), self.held | other.held, dict(spaced))

    def notes(self) -> list[str]:
        """Return a note on the words and a note on the spaces, if there are any."""
        notes = []
        if self.missing:
            total = sum(self.missing.values())
            notes.append(
                f"{total} cells hold {', '.join(sorted(self.held))} and count as missing: {_listed(self.missing)}"
            )
        if self.spaced:
            total = sum(self.spaced.values())
            notes.append(f"{total} cells have spaces around their text, which are dropped: {_listed(self.spaced)}")
        return notes


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def without_words(
    table: pl.DataFrame, columns: Iterable[str], words: Sequence[str] = MISSING_WORDS
) -> tuple[pl.DataFrame, list[str]]:
    """Return the result of `counted_words`, with notes in place of the counts."""
    cleaned, counts = counted_words(table, columns, words)
    return cleaned, counts.notes()


def counted_words(
    table: pl.DataFrame, columns: Iterable[str], words: Sequence[str] = MISSING_WORDS
) -> tuple[pl.DataFrame, WordCounts]:
    """Return the table with "" for every cell of `words` or of spaces alone, and no spaces around any other text; and the counts.

    columns: of text; null stays null.
    """
    stripped = {name: pl.col(name).str.strip_chars() for name in columns}
    if not stripped:
        return table, WordCounts()
    is_word = {name: text.is_in(list(words)) for name, text in stripped.items()}
    spaced = {name: text != pl.col(name) for name, text in stripped.items()}
    counts = table.select(
        *(condition.sum().alias(f"word {name}") for name, condition in is_word.items()),
        *(condition.sum().alias(f"space {name}") for name, condition in spaced.items()),
    ).row(0, named=True)
    there = {name: count for name in stripped if (count := counts[f"word {name}"])}
    held = {word for name in there for word in table[name].str.strip_chars().unique() if word in set(words)}
    around = {name: count for name in stripped if (count := counts[f"space {name}"])}
    changed = [name for name in stripped if name in there or name in around]
    cleaned = table.with_columns(
        pl.when(is_word[name]).then(pl.lit("")).otherwise(stripped[name]).alias(name) for name in changed
    )
    return cleaned, WordCounts(there, frozenset(held), around)
