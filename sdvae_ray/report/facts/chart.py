"""Charts as values: what each figure of the page shows. The page draws them as SVG and chooses nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from sdvae_ray.report.facts.table import Side

KINDS = {
    "both": "retrieved from both",
    "lost": "lost: from the originals only",
    "gained": "gained: from the reconstruction only",
    "neither": "from neither",
}


@dataclass(frozen=True)
class Chart:
    """`more`: words beside the title, such as what could not be drawn."""

    title: str
    more: str


@dataclass(frozen=True)
class Strip:
    """Quantiles of one side's values: 5, 25, 50, 75 and 95 %."""

    side: Side
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Strips(Chart):
    """One metric: per part (stain or RGB pass) a strip per side."""

    axis: str
    parts: Sequence[tuple[str, Sequence[Strip]]]


@dataclass(frozen=True)
class Dumbbell:
    """Fraction retrieved of one side beside the originals'; None where it was not scored. `counts`: text at the right."""

    extractor: str
    group: str
    side: Side
    image: float | None
    recon: float | None
    counts: str


@dataclass(frozen=True)
class Dumbbells(Chart):
    axis: str
    rows: Sequence[Dumbbell]


@dataclass(frozen=True)
class Point:
    """A compound: its mAP on the originals (x) and on a reconstruction (y), and whether each retrieved it."""

    name: str
    x: float
    y: float
    on_image: bool
    on_recon: bool

    @property
    def kind(self) -> str:
        """A key of KINDS."""
        if self.on_image:
            return "both" if self.on_recon else "lost"
        return "gained" if self.on_recon else "neither"


@dataclass(frozen=True)
class Scatter(Chart):
    x_axis: str
    y_axis: str
    points: Sequence[Point]


@dataclass(frozen=True)
class Curve:
    """One side's values over the bands; None where there is none."""

    side: Side
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Curves(Chart):
    """Ratios over the named bands, a line per side."""

    x_axis: str
    y_axis: str
    bands: Sequence[str]
    curves: Sequence[Curve]


@dataclass(frozen=True)
class RatePoint:
    """One side: bits per pixel and stain, and a value at that rate."""

    side: Side
    bits: float
    value: float


@dataclass(frozen=True)
class RatePoints(Chart):
    """Each side at its rate; `reference`: the originals' value."""

    y_axis: str
    points: Sequence[RatePoint]
    reference: float | None
