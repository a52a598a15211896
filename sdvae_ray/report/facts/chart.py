"""Charts as values, one for every figure of the page. The page draws them as SVG and chooses nothing."""

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
    """A chart. more: words after the title, such as what could not be drawn."""

    title: str
    more: str


@dataclass(frozen=True)
class Strip:
    """Quantiles of one side's values: 5, 25, 50, 75 and 95 %."""

    side: Side
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Strips(Chart):
    """One metric: for every part (stain or RGB pass) one strip per side."""

    axis: str
    parts: Sequence[tuple[str, Sequence[Strip]]]


@dataclass(frozen=True)
class Dumbbell:
    """The fractions retrieved from one side and from the originals; None if a side was not scored. counts: text at the right."""

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
    """A compound: its mAP on the originals (x) and on a reconstruction (y), and on which of them it was retrieved."""

    name: str
    x: float
    y: float
    on_image: bool
    on_recon: bool

    @property
    def kind(self) -> str:
        """Return a key of KINDS."""
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
    """One side's values over the bands; a band without a value is None."""

    side: Side
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Curves(Chart):
    """Ratios over the named bands, one line per side."""

    x_axis: str
    y_axis: str
    bands: Sequence[str]
    curves: Sequence[Curve]


@dataclass(frozen=True)
class RatePoint:
    """One side: bits per pixel and stain, and a value at that rate with its interval (None: unknown). is_codec: its mark is a
    square; that of an autoencoder is a circle."""

    side: Side
    bits: float
    value: float
    low: float | None = None
    high: float | None = None
    is_codec: bool = False


@dataclass(frozen=True)
class RatePoints(Chart):
    """The value of every side at its rate. reference: the originals' value. ends: of the axis, whatever the values are."""

    y_axis: str
    points: Sequence[RatePoint]
    reference: float | None
    ends: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class ForestRow:
    """One side's difference from the originals, its interval as numbers (None: unknown) and in words, and its verdict.

    margin, floor  of a row of another run than its neighbours: its own margin, and its floor less its originals; None: the chart's
    """

    side: Side
    word: str
    estimate: float | None
    low: float | None
    high: float | None
    interval: str
    margin: float | None = None
    floor: float | None = None


@dataclass(frozen=True)
class Forest(Chart):
    """Differences from the originals, one row per side: 0 is the originals' normalised mAP, `ceiling`; None: one per row.

    floor   normalised mAP of controls that pose as compounds; None: unknown
    margin  differences within -margin..margin count as none; None: there is no margin
    """

    rows: Sequence[ForestRow]
    floor: float | None
    ceiling: float | None
    margin: float | None
