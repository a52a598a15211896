"""Between floor and ceiling: every FR with its interval, over its floor, and against the originals; what the originals keep."""

from collections.abc import Mapping

import polars as pl

from sdvae_ray.report.facts.floors import ESTIMATES, FLOORS, MEANINGS
from sdvae_ray.report.facts.outcome import FRACTION, OK
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import Column, Section, Value, number, text_column, with_interval

COLUMNS = (
    Column(FRACTION, "FR", 3, unit="95 %"),
    Column("difference", "−\u00a0image", 3, unit="95 %", signed=True),
    Column("mcnemar_p", "McNemar p", 3),
    Column("over_floor", "FR over floor", 3, unit="95 %"),
    Column("map_between", "mAP, floor to ceiling", 3),
    text_column("plates", "a plate left out", in_terminal=False),
    *FLOORS.values(),
)
_CEILINGS = (
    text_column("halves", "halves of", says_once=True),
    Column("normalised_map", "normalised mAP", 3),
    Column(FRACTION, "FR", 3),
    Column("retrieved", "retrieved", 1),
    Column("kept", "kept", 1),
    Column("gained", "gained", 1),
    Column("kept_share", "share kept", 3),
)
_LEAD = (
    "FR with its interval (compounds resampled), its difference from the originals' over the same compounds with McNemar's exact "
    "p, and FR over its floor, (FR - f) / (1 - f): f is the share of controls posing as compounds, on the same plates and as far "
    "apart, that the score would retrieve. mAP stands between its floor (0) and the originals' (1). A score near its floors says "
    "nothing."
)
_BRIEF = (
    "Intervals: 95 %, compounds resampled. FR over floor: (FR - f) / (1 - f), f the share of controls posing as compounds, as far "
    "apart as theirs, that would be retrieved. mAP: 0 at that floor, 1 at the originals'. The page has more floors."
)
_CEILING_LEAD = (
    "The originals against the originals: of the compounds that one half retrieves, how many the other half retrieves too. A side "
    "that keeps as large a share changes nothing that can be seen. A half has half of a compound's wells, of the plates, or of "
    "every well's sites."
)
_ESTIMATE_LEAD = (
    "These are no floors: the compounds keep their effects. The first column is FR with the fit on the negatives, as "
    "published; the second less the third is the leak of such a fit."
)


def section(scored: ScoredRun) -> Section | None:
    """Return FR, FR over its floor, and the floors; None if nothing was scored."""
    differences, floors = scored.scores.differences, scored.scores.floors
    if differences.height == 0:
        return None
    fractions = _by_row(floors)
    over = {_key(row): row for row in scored.scores.over_floor.rows(named=True)}
    rows = []
    for row in differences.filter(pl.col("quantity") == FRACTION).rows(named=True):
        ratio = over.get(_key(row), {})
        scores = {
            FRACTION: with_interval(row, "estimate"),
            "difference": with_interval(row, "difference", "difference_"),
            "mcnemar_p": row.get("mcnemar_p"),
            "over_floor": _over_floor(ratio),
            "map_between": ratio.get("map_between"),
            "plates": _range(ratio),
        }
        where = dict(zip(("extractor", "side", "group"), _key(row), strict=True))
        rows.append({**where, **scores, **fractions.get(_key(row), {})})
    return Section(
        "floors",
        "Between floor and ceiling",
        "Floors",
        lead=_LEAD,
        tables=scored.tables_by_extractor("FR and its floors", rows, COLUMNS),
        reasons=_reasons(floors, FLOORS),
        terms={column.heading: MEANINGS[name] for name, column in FLOORS.items()},
        brief=_BRIEF,
    )


def ceilings(scored: ScoredRun) -> Section | None:
    """Return what the originals keep of themselves, by halves; None if no half was scored."""
    table = scored.scores.ceilings
    if table.height == 0:
        return None
    rows = scored.in_order(table.filter(pl.col("status") == OK).to_dicts())
    lacking = table.filter(pl.col("status") != OK).select("halves", "status").unique(maintain_order=True).rows()
    reasons = [f"halves of {halves}: {status.replace('_', ' ')}" for halves, status in lacking]
    tables = scored.tables_by_extractor("What the originals keep of themselves", rows, _CEILINGS) if rows else []
    return Section("ceilings", "Ceilings", "Ceilings", lead=_CEILING_LEAD, tables=tables, reasons=reasons)


def estimates(scored: ScoredRun) -> Section | None:
    """Return FR by the fits and negatives that show the leak of a fit; None if none was computed."""
    table = scored.scores.estimates
    if table.height == 0:
        return None
    rows = [
        {**dict(zip(("extractor", "side", "group"), key, strict=True)), **values}
        for key, values in _by_row(table).items()
    ]
    return Section(
        "estimates",
        "Estimates of the leak",
        lead=_ESTIMATE_LEAD,
        tables=scored.tables_by_extractor("FR by fit and negatives", rows, tuple(ESTIMATES.values())),
        reasons=_reasons(table, ESTIMATES),
        terms={column.heading: MEANINGS[name] for name, column in ESTIMATES.items()},
    )


def _key(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["extractor"], row["side"], row["group"]


def _by_row(table: pl.DataFrame) -> dict[tuple[str, str, str], Values]:
    fractions: dict[tuple[str, str, str], Values] = {}
    for row in table.rows(named=True):
        fractions.setdefault(_key(row), {})[row["quantity"]] = row[FRACTION]
    return fractions


def _over_floor(ratio: Values) -> Value:
    """Return FR over floor with its interval, or the reason why there is none."""
    status = ratio.get("status") or OK
    return with_interval(ratio, "over_floor") if status == OK else status.replace("_", " ")


def _range(ratio: Values) -> str | None:
    if ratio.get("plates_low") is None:
        return None
    return f"{number(ratio['plates_low'], 2)} to {number(ratio['plates_high'], 2)}"


def _reasons(floors: pl.DataFrame, shown: Mapping[str, Column]) -> list[str]:
    """Return one line per quantity and reason why it has no number."""
    if floors.height == 0:
        return []
    lacking = floors.filter((pl.col("status") != OK) & pl.col("quantity").is_in(list(shown)))
    counts = lacking.group_by("quantity", "status", maintain_order=True).agg(pl.col("side").n_unique())
    return [f"{quantity}: {status.replace('_', ' ')}, on {count} sides" for quantity, status, count in counts.rows()]
