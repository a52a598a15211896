"""A run with its record, scores and fields of view, each read once; every fact of the report is taken from it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.report.facts.table import BLOCK, SIDE, Column, Side, Table, text_column
from sdvae_ray.run.annotation import with_annotation
from sdvae_ray.run.cost import Costs, recorded
from sdvae_ray.run.quality import STORED, Quality, quality_of
from sdvae_ray.run.record import Record
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.schema import ERROR, FOV_ID, KEYS
from sdvae_ray.sources.synthetic.microscope import PIXEL_MICROMETRES

RANDOM = "(random weights)"
PHENOTYPE, STRENGTH, TRUTH = "Metadata_phenotype", "Metadata_strength", "Metadata_truth"
TREATMENT = "Metadata_pert_iname"  # the name of a compound, as the gallery's metadata has it
GROUP = text_column("group", "group")
_COLOURS = 11  # of the page's style sheet, beside the originals'

Values = dict[str, Any]


@dataclass(frozen=True)
class ScoredRun:
    """A scored run. record: None if run.json is gone.

    fovs  one row per field of view that was tried: fov_id, error, files, and as far as the run has them the keys, the
          perturbation, the known truth, the columns of score.control, score.exclude and score.group, and the QC columns as
          arrays over the stains
    say   a function that prints the progress of a slow part of the report
    """

    run: Run
    record: Record | None
    scores: Scores
    fovs: pl.DataFrame
    say: Callable[[str], None] = lambda _: None

    @classmethod
    def read(cls, run: Run, scores: Scores | None = None, say: Callable[[str], None] = lambda _: None) -> Self:
        """Read a scored run. scores: if they are in memory already. say: prints progress. Raises DataError if
        it was not scored.
        """
        score = run.config.score
        expressions = f"{score.control} {score.exclude or ''}"
        words = re.findall(r"\w+", expressions)  # the columns of an expression are among its words
        asked = [
            *KEYS,
            score.perturbation or FOV_ID,
            PHENOTYPE,
            STRENGTH,
            TRUTH,
            TREATMENT,
            *words,
            *score.group,
            *STORED,
        ]
        fovs = with_annotation(run, run.fovs(asked))
        return cls(run, run.find_record(), scores or run.scores(), fovs, say)

    @property
    def config(self) -> RunConfig:
        """Return the configuration of the run."""
        return self.run.config

    @cached_property
    def costs(self) -> Costs:
        """Return what the parts of the work cost, as the run measured them."""
        return recorded(self.record)

    @property
    def usable(self) -> pl.DataFrame:
        """Return the fields of view without an error."""
        return self.fovs.filter(pl.col(ERROR).is_null())

    @cached_property
    def quality(self) -> Quality:
        """Return the quality of the images."""
        return quality_of(self.fovs, self.config.image.stains)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Return (fov_id, reason) of every field of view without a usable row, sorted."""
        return sorted(self.fovs.filter(pl.col(ERROR).is_not_null()).select(FOV_ID, ERROR).iter_rows())

    @property
    def is_synthetic(self) -> bool:
        """Return whether the images are drawn."""
        return self.config.synthetic is not None

    @property
    def pixel_micrometres(self) -> float | None:
        """Return the width of a pixel in micrometres; None where the run does not know it."""
        if self.config.image.pixel_um is not None:
            return self.config.image.pixel_um
        return PIXEL_MICROMETRES if self.is_synthetic and self.config.image.resize is None else None

    @property
    def patches(self) -> int:
        """Return the number of patches of all usable fields of view."""
        image = self.config.image
        if image.policies is None:
            return self.usable.height * image.patches
        counts = self.usable[image.policies.column].value_counts()
        return sum(count * image.every_policy[value].patches for value, count in counts.iter_rows())

    # --- names ---------------------------------------------------------------------------------------------------------------

    def label(self, name: str) -> str:
        """Return the name of a side or extractor, marked if its weights are random."""
        return f"{name} {RANDOM}" if name in self.config.random_weights else name

    def side(self, name: str) -> Side:
        """Return the side with its label and colour."""
        sides = self.config.sides
        known = 1 + sides.index(name) % _COLOURS if name in sides else _COLOURS
        return Side(self.label(name), 0 if name == IMAGE_SIDE else known)

    def side_column(self, name: str, digits: int | None = None) -> Column:
        """Return a column of numbers about one side."""
        side = self.side(name)
        return Column(name, side.text, digits, colour=side.colour)

    def sides(self, names: Iterable[str]) -> list[str]:
        """Return the distinct names: the originals, then the run file's order, then sides that the run file does not have."""
        return in_order_of(names, [IMAGE_SIDE, *self.config.sides])

    def extractors(self, names: Iterable[str]) -> list[str]:
        """Return the distinct names: the run file's order, then extractors that the run file does not have."""
        return in_order_of(names, list(self.config.extractors))

    def by(self, extractor: str, group: str) -> str:
        """Return the extractor's label and, unless all wells are one group, the group."""
        return self.label(extractor) + ("" if group == "all" else f", {group}")

    def treatments(self) -> dict[str, str]:
        """Return compound -> its name in words: the known phenotype and strength, or the treatment's name, with the compound."""
        compound = self.config.score.perturbation
        if compound is None or compound not in self.fovs.columns:
            return {}
        words = [
            pl.concat_str(PHENOTYPE, STRENGTH, separator=" ")
            if {PHENOTYPE, STRENGTH} <= set(self.fovs.columns)
            else None,
            pl.col(TREATMENT) if TREATMENT in self.fovs.columns else None,
        ]
        name = pl.coalesce([word for word in words if word is not None] or [pl.lit(None, pl.String)])
        known = (
            self.fovs.select(compound=compound, name=name)
            .drop_nulls()
            .unique("compound", keep="first", maintain_order=True)
        )
        return {compound: f"{name} ({compound})" for compound, name in known.iter_rows() if name not in ("", compound)}

    # --- rows ----------------------------------------------------------------------------------------------------------------

    def in_order(self, rows: Iterable[Mapping[str, Any]]) -> list[Values]:
        """Return rows that have extractor, group and side, sorted by these three in the order of the run file."""
        listed = [dict(row) for row in rows]
        extractors = self.extractors(row["extractor"] for row in listed)
        sides = self.sides(row["side"] for row in listed)
        return sorted(
            listed, key=lambda row: (extractors.index(row["extractor"]), row["group"], sides.index(row["side"]))
        )

    def tables_by_extractor(
        self, title: str, rows: Iterable[Mapping[str, Any]], columns: Sequence[Column]
    ) -> list[Table]:
        """Return one table per extractor, `<title> by <extractor>`; the group is a column, or in the title if
        there is only one.
        """
        ordered = self.in_order(rows)
        many = len({row["group"] for row in ordered}) > 1
        tables = []
        for extractor in self.extractors(row["extractor"] for row in ordered):
            here = [{BLOCK: row["group"], **row} for row in ordered if row["extractor"] == extractor]
            by = self.label(extractor) if many else self.by(extractor, here[0]["group"])
            shown = [row | {"side": self.side(row["side"])} for row in here]
            tables.append(Table(f"{title} by {by}", [SIDE, *([GROUP] if many else []), *columns], shown))
        return tables


def in_order_of(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """Return the distinct names in the order of `known`, then the unknown ones sorted."""
    distinct = set(names)
    return [name for name in known if name in distinct] + sorted(distinct - set(known))


def counted_reasons(reasons: Iterable[str], unit: str) -> list[str]:
    """Return one line per distinct reason, with the number of times that it occurs: `<reason> (<count> of <unit>)`."""
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[reason] = counts.get(reason, 0) + 1
    return [f"{reason} ({count} of {unit})" for reason, count in counts.items()]
