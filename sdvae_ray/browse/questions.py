"""What the pages of `browse` ask of a finished run: wells by name or treatment, their neighbours, those of a new image, a table.

Answers are JSON-ready. No server here: sdvae_ray.browse.app asks.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, cast

import polars as pl

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.queries import saved_index
from sdvae_ray.queries.search import Answer, search_well
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.facts.wells import as_texts, first_fields, keys_of, well_table
from sdvae_ray.report.sections.explore import wells
from sdvae_ray.run.annotation import with_annotation
from sdvae_ray.schema import ERROR, FOV_ID, PLATE_COLUMN, WELL_COLUMN, annotation_columns

MOST_FOUND = 50
MOST_NEIGHBOURS = 100
_NUMBER, _FIELD = "number", "field"  # of a well in the page's map; its first usable field of view
_FORMULA = r"^[=+\-@\t\r]"  # a cell that starts so is a formula to a spreadsheet


class Questions:
    """The questions to one scored run. map: the section of the report that has the wells; None: the fields name no wells."""

    def __init__(self, scored: ScoredRun) -> None:
        self.scored, self.run = scored, scored.run
        self.keys = keys_of(scored)
        self.map: Section | None = wells.section(scored) if self.keys else None

    @cached_property
    def wells(self) -> pl.DataFrame:
        """Return one row per well of the run: its keys, compound, name, role, group, `number` on the map and first `field`."""
        if self.map is None:
            raise DataError(f"{self.run.output}: its fields of view name no wells")
        shown = cast(wells.Explorer, self.map.content).wells.table.select(self.keys).with_row_index(_NUMBER)
        fields = first_fields(self.scored, self.keys).rename({FOV_ID: _FIELD})
        table = well_table(self.scored, self.keys).join(shown, on=self.keys, how="left", maintain_order="left")
        return table.join(fields, on=self.keys, how="left", maintain_order="left")

    @cached_property
    def spaces(self) -> list[tuple[str, str]]:
        """Return (extractor, side) of the indices of wells, in the order of the run file."""
        present = {(name.split("/")[0], name.split("/")[1]) for name in saved_index.saved(self.run)}
        extractors = self.scored.extractors(extractor for extractor, _ in present)
        return [(name, side) for name in extractors for side in self.scored.sides(s for e, s in present if e == name)]

    @cached_property
    def plates(self) -> list[str]:
        """Return the names of the plates, sorted."""
        return self.wells[PLATE_COLUMN].unique().sort().to_list() if PLATE_COLUMN in self.keys else []

    def find(self, text: str) -> dict[str, Any]:
        """Return the wells whose PLATE/WELL or treatment contains a text, upper or lower case; MOST_FOUND at most, and how many
        there are."""
        words = text.strip().lower()
        names = [pl.concat_str(self._place_columns, separator="/"), pl.col("name"), pl.col("compound")]
        found = self.wells.filter(
            pl.any_horizontal(*(name.str.to_lowercase().str.contains(words, literal=True) for name in names))
        )
        return {
            "total": found.height if words else 0,
            "wells": [self._well(row) for row in found.head(MOST_FOUND).to_dicts()] if words else [],
        }

    def neighbours(self, well: str, extractor: str | None, side: str | None, count: int) -> dict[str, Any]:
        """Return the wells nearest to a well. well: PLATE/WELL. Raises DataError for an unknown well or index."""
        plate, _, name = well.partition("/")
        answer = search_well(self.run, well, extractor, side, _checked(count))
        own = self.wells.filter(
            pl.col(WELL_COLUMN) == name, *([pl.col(PLATE_COLUMN) == plate] if PLATE_COLUMN in self.keys else [])
        )
        return self._told(answer) | {"query": [self._well(row) for row in own.head(1).to_dicts()]}

    def nearest_to_image(
        self, files: Sequence[str], extractor: str | None, side: str | None, plate: str | None, count: int
    ) -> dict[str, Any]:
        """Return the wells nearest to a new image, normalised as a well of a plate. files: as `search --image` takes them.

        plate: None: the wells are searched by profiles that are not normalised. Raises what queries.new_image raises.
        """
        from sdvae_ray.queries.new_image import image_query, search_image

        answer = search_image(self.run, image_query(self.run, files), extractor, side, _checked(count), None, plate)
        return self._told(answer) | {"query": []}

    def csv(self, numbers: Sequence[int]) -> str:
        """Return wells of the map as CSV: Metadata_* of the wells, role, group, and normalised AP by every extractor and side.

        numbers: of the wells on the map. A text that a spreadsheet would compute has an apostrophe before it. Raises ConfigError
        for a number that no well has.
        """
        chosen = pl.DataFrame({_NUMBER: list(numbers)}, schema={_NUMBER: pl.UInt32})
        table = chosen.join(self.wells, on=_NUMBER, how="inner", maintain_order="left")
        if table.height != len(numbers):
            raise ConfigError(f"{len(numbers) - table.height} of the wells are not on the map")
        text = as_texts(self.keys)
        fovs = with_annotation(self.run, self.run.fovs()).filter(pl.col(ERROR).is_null()).with_columns(text)
        known = fovs.group_by(self.keys, maintain_order=True).agg(pl.col(annotation_columns(fovs.columns)).first())
        table = table.drop(_NUMBER, "compound").join(known, on=self.keys, how="left", maintain_order="left")
        scores = self.scored.scores.wells
        if scores.height:
            named = scores.with_columns(text, of=pl.format("normalised_ap_{}_{}", "extractor", "side"))
            wide = named.pivot("of", index=self.keys, values="normalised_ap", aggregate_function="mean")
            table = table.join(wide, on=self.keys, how="left", maintain_order="left")
        return table.with_columns(pl.col(pl.String).str.replace(_FORMULA, "'$0")).write_csv()

    @property
    def _place_columns(self) -> list[str]:
        return [name for name in (PLATE_COLUMN, WELL_COLUMN) if name in self.keys]

    def _told(self, answer: Answer) -> dict[str, Any]:
        rows = answer.neighbours
        if FOV_ID in rows.columns:  # an index of fields of view
            wells = rows.with_columns(pl.col(FOV_ID).alias("own"))
        else:
            wells = rows.with_columns(own=pl.lit(None, pl.String))
        keyed = wells.with_columns(as_texts(self.keys))
        joined = keyed.select(saved_index.SIMILARITY, "own", *self.keys).join(
            self.wells, on=self.keys, how="left", maintain_order="left"
        )
        told = [
            self._well(row | ({_FIELD: row["own"]} if row["own"] else {})) | {"similarity": row[saved_index.SIMILARITY]}
            for row in joined.to_dicts()
        ]
        return {"facts": answer.facts, "neighbours": told}

    def _well(self, row: dict[str, Any]) -> dict[str, Any]:
        place = "/".join(str(row[name]) for name in self._place_columns)
        return {"well": place, **{name: row[name] for name in ("name", "role", "group", _NUMBER, _FIELD)}}


def _checked(count: int) -> int:
    if not 1 <= count <= MOST_NEIGHBOURS:
        raise ConfigError(f"{count} neighbours: 1 to {MOST_NEIGHBOURS} are wanted")
    return count
