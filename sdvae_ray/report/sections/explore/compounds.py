"""Which compounds are lost or gained? One row per compound that the originals or a side retrieve, one column per side."""

from collections.abc import Sequence

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.report.facts.conclude.study import Study, rule_of
from sdvae_ray.report.facts.conclude.verdicts import fates
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import KEY, NONE, Beside, Column, Row, Section, Table, Value, text_column

ROWS = 2_000  # of the page's table: what is lost comes first, what is kept by every side last
FATES = ("lost", "gained", "weakened", "undecided", "kept")  # the first of them that a side has is the compound's
_NOTE = (
    "Numbers are normalised mAP: 1 is perfect, 0 is what chance gives. Lost: it falls significantly, and the side does not "
    "retrieve it. Weakened: it falls, and is still retrieved. Undecided: not retrieved, and the fall may be chance. Gained: the "
    "side alone retrieves it."
)

Place = tuple[str, str, str]  # extractor, group, compound


def section(scored: ScoredRun) -> Section | None:
    """Return the table of compounds; None if neither the originals nor a side retrieves one."""
    cells = {**_fates(scored), **_gained(scored)}
    places: dict[Place, dict[str, Beside]] = {}
    for (*place, side), cell in cells.items():
        places.setdefault((place[0], place[1], place[2]), {})[side] = cell
    if not places:
        return None
    ordered = _in_order(scored, places)
    rows, sides = _rows(scored, places, ordered[:ROWS]), scored.sides(side for *_, side in cells)
    columns = [
        text_column("compound", "compound", keeps=20),
        text_column("fate", "worst fate"),
        text_column("extractor", "by"),
        Column(IMAGE_SIDE, "originals", 2),
        *(scored.side_column(side, 2) for side in sides),
    ]
    worst = [_worst(places[place]) for place in ordered]
    counts = [f"{worst.count(fate)} {fate}" for fate in FATES if fate in worst]
    lead = f"Compounds by the worst that a side does to them, for every extractor: {', '.join(counts)}."
    if len(ordered) > ROWS:
        lead += f" The table has {ROWS:,} of {len(ordered):,}: those that are lost come first."
    table = Table("", columns, rows, [_NOTE], has_tools=True)
    title = "Which compounds are lost or gained?"
    return Section("compounds", title, "Compounds", lead=lead, tables=[table], template="compounds.html")


def _fates(scored: ScoredRun) -> dict[tuple[str, str, str, str], Beside]:
    """Return (extractor, group, compound, side) -> the side's normalised mAP and the fate, of what the originals retrieve."""
    compounds = fates(Study((scored,)), rule_of(scored))
    return {
        (compound.extractor, compound.group, compound.compound, compound.side): Beside(
            compound.reconstruction, compound.fate
        )
        for compound in compounds
    }


def _gained(scored: ScoredRun) -> dict[tuple[str, str, str, str], Beside]:
    """Return the same of compounds that a side retrieves and the originals do not."""
    table = scored.scores.compounds
    if table.height == 0:
        return {}
    key = ["extractor", "group", "compound"]
    retrieved = pl.col("retrieved").cast(pl.Boolean)
    missed = table.filter((pl.col("side") == IMAGE_SIDE) & ~retrieved).select(key)
    sides = table.filter((pl.col("side") != IMAGE_SIDE) & retrieved)
    rows = sides.join(missed, on=key, how="inner", maintain_order="left").select(*key, "side", "normalised_map")
    return {
        (extractor, group, name, side): Beside(value, "gained") for extractor, group, name, side, value in rows.rows()
    }


def _worst(cells: dict[str, Beside]) -> str:
    return min((cell.words for cell in cells.values()), key=FATES.index)


def _in_order(scored: ScoredRun, places: dict[Place, dict[str, Beside]]) -> list[Place]:
    """Return the compounds from the worst fate down, by more sides before fewer; extractors in the run file's order."""
    extractors = scored.extractors(place[0] for place in places)

    def rank(place: Place) -> tuple[int, int, int, str, str]:
        worst = _worst(places[place])
        sides = sum(cell.words == worst for cell in places[place].values())
        return FATES.index(worst), -sides, extractors.index(place[0]), place[1], place[2]

    return sorted(places, key=rank)


def _rows(scored: ScoredRun, places: dict[Place, dict[str, Beside]], shown: Sequence[Place]) -> list[Row]:
    names = scored.treatments()
    table = scored.scores.compounds
    originals = table.filter(pl.col("side") == IMAGE_SIDE).select("extractor", "group", "compound", "normalised_map")
    image = {(extractor, group, name): value for extractor, group, name, value in originals.iter_rows()}
    sides = scored.sides(side for cells in places.values() for side in cells)
    many = len({group for _, group, _ in places}) > 1
    rows: list[Row] = []
    for place in shown:
        extractor, group, compound = place
        cells: dict[str, Value] = {side: places[place].get(side, NONE) for side in sides}
        head: dict[str, Value] = {
            KEY: compound,
            "compound": names.get(compound, compound),
            "fate": _worst(places[place]),
            "extractor": scored.by(extractor, group) if many else scored.label(extractor),
            IMAGE_SIDE: image.get(place),
        }
        rows.append({**head, **cells})
    return rows
