"""What stands behind a score: the ladder of positives, what nearest neighbours share, set enrichment and the linear probe."""

from collections.abc import Sequence

import polars as pl

from sdvae_ray.report.facts.outcome import OK
from sdvae_ray.report.facts.scored import ScoredRun, Values, counted_reasons
from sdvae_ray.report.facts.table import Beside, Column, Section, number, text_column

_UNIT = "extractor, side and group"
_RUNGS = {
    "any": "any positive",
    "plate": "another plate",
    "batch": "another batch",
    "source": "another source",
    "position": "another position",
}
_SHARED = {"plate": "plate", "row": "row", "column": "column", "batch": "batch", "source": "source"}
_WHY = {
    "one": "all wells have one {}",
    "same": "every compound has its wells at one {}",
    "no": "the {} of some wells is not known",
}
_LADDER = (
    "Normalised mAP with positives from anywhere, then from another plate, batch, source and well position alone; the negatives "
    "stay. What wells of one plate or position share cannot help on its rung. In small print the floor: profiles permuted within "
    "each plate. R@k: the share of a query's positives among the first k of its list, from anywhere."
)
_NEIGHBOURS = (
    "How often the nearest wells of a treated well are of its own plate, row, column, batch or source, over chance (1: no "
    "more than that); the compound's own replicates are left out. In small print the share itself, and the floor."
)
_SETS = (
    "Of the nearest compounds, those that share a target or mechanism: odds ratio (geometric mean over compounds and labels, 1/2 "
    "added to every cell, which lifts it above 1 where sets are small: read its floor) and the share of exact hypergeometric tests "
    "that are significant after correction. Probe: balanced accuracy of a ridge classifier on wells of compounds that it has not "
    "seen."
)


def stringency(scored: ScoredRun) -> Section | None:
    """Return the ladder of positives, a table per extractor and task; None if the run was scored without it."""
    table = scored.scores.stringency
    if table.height == 0:
        return None
    known = table.filter(pl.col("status") == OK)
    rungs = [name for name in _RUNGS if name in known["rung"]]
    k = middle([int(name.rpartition("_")[2]) for name in table.columns if name.startswith("recall_at_")])
    columns = [Column(name, _RUNGS[name], 3, "higher", unit="floor") for name in rungs]
    if k is not None:
        columns.append(Column("recall", f"R@{k}", 3, "higher", unit="floor"))
    tables = []
    for task in known["task"].unique(maintain_order=True):
        rows: dict[tuple[str, str, str], Values] = {}
        for row in known.filter(pl.col("task") == task).rows(named=True):
            key = row["extractor"], row["side"], row["group"]
            shown = rows.setdefault(key, dict(zip(("extractor", "side", "group"), key, strict=True)))
            shown[row["rung"]] = with_floor(row, "mean_normalised_map", "floor_normalised_map")
            if row["rung"] == "any" and k is not None:
                shown["recall"] = with_floor(row, f"recall_at_{k}", f"floor_recall_at_{k}")
        tables += scored.tables_by_extractor(task, rows.values(), columns)
    lacking = table.filter(pl.col("status") != OK).select("rung", "status").unique(maintain_order=True).rows()
    return Section(
        "stringency",
        "How far apart the positives are",
        "Stringency",
        lead=_LADDER,
        tables=tables,
        reasons=sorted({f"no rung {_RUNGS[rung]}: {in_words(status)}" for rung, status in lacking}),
        brief=_LADDER,
    )


def neighbours(scored: ScoredRun) -> Section | None:
    """Return what nearest neighbours share, a table per extractor; None if the run was scored without it."""
    table = scored.scores.neighbours
    if table.height == 0:
        return None
    k = max(table["k"].to_list())
    here = table.filter((pl.col("k") == k) & pl.col("shared").is_in(list(_SHARED)))
    known = here.filter(pl.col("status") == OK)
    columns = [
        Column(name, f"same {word}", 2, unit="share, floor")
        for name, word in _SHARED.items()
        if name in known["shared"]
    ]
    rows: dict[tuple[str, str, str], Values] = {}
    for row in known.rows(named=True):
        key = row["extractor"], row["side"], row["group"]
        shown = rows.setdefault(key, dict(zip(("extractor", "side", "group"), key, strict=True)))
        words = f"{number(row['share'], 2)}, {number(row['floor_over_chance'], 2)}"
        shown[row["shared"]] = Beside(row["over_chance"], words)
    reasons = sorted(
        {
            f"no share of a {row['shared']}: {in_words(row['status'])}"
            for row in here.rows(named=True)
            if row["status"] != OK
        }
    )
    tables = scored.tables_by_extractor(f"The {k} nearest wells, over chance,", rows.values(), columns) if rows else []
    return Section(
        "neighbours",
        "What neighbours share",
        "Neighbours",
        lead=_NEIGHBOURS,
        tables=tables,
        reasons=reasons,
        brief=_NEIGHBOURS,
    )


def sets(scored: ScoredRun) -> Section | None:
    """Return set enrichment and the linear probe, a table per extractor; None if the run has no targets."""
    enrichment, probes = scored.scores.enrichment, scored.scores.probes
    if enrichment.height == 0 and probes.height == 0:
        return None
    rows: dict[tuple[str, ...], Values] = {}
    lacking: list[str] = []
    names = ("extractor", "side", "group", "column")
    k = middle(enrichment["k"].drop_nulls().unique().to_list()) if enrichment.height else None
    for what, table in (("enrichment", enrichment), ("probe", probes)):
        if table.height == 0:
            continue
        wanted = (
            table
            if what == "probe"
            else table.filter(pl.col("label").is_null() & (pl.col("k").is_null() | (pl.col("k") == k)))
        )
        for row in wanted.rows(named=True):
            if row["status"].startswith("not scored"):
                lacking.append(f"{what} of {row['column']} {row['status']}")
                continue
            key = tuple(str(row[name]) for name in names)
            shown = rows.setdefault(key, dict(zip(names, key, strict=True)))
            if what == "enrichment":
                shown["odds_ratio"] = with_floor(row, "odds_ratio", "floor_odds_ratio")
                shown["enriched"] = (
                    in_words(row["status"]) if row["status"] != OK else with_floor(row, "enriched", "floor_enriched")
                )
            else:
                shown["probe"] = with_floor(row, "balanced_accuracy", "floor_balanced_accuracy")
                shown |= {"chance": row["chance"], "compounds": row["compounds"]}
    columns = (
        text_column("column", "label"),
        Column("odds_ratio", f"odds ratio, {k} nearest", 2, "higher", unit="floor"),
        Column("enriched", "tests significant", 3, "higher", unit="floor"),
        Column("probe", "probe", 3, "higher", unit="floor"),
        Column("chance", "chance", 3),
        Column("compounds", "compounds", 0),
    )
    tables = scored.tables_by_extractor("Targets", rows.values(), columns) if rows else []
    reasons = counted_reasons(lacking, _UNIT)
    return Section(
        "sets",
        "Targets and mechanisms",
        "Targets",
        lead=_SETS,
        tables=tables,
        reasons=reasons,
        brief=_SETS if tables else "",
    )


def middle(values: Sequence[int]) -> int | None:
    """Return the middle one of the values of k; None without one."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def with_floor(row: Values, name: str, floor: str) -> Beside | None:
    """Return a number with its floor in words; None without the number."""
    if row.get(name) is None:
        return None
    return Beside(row[name], number(row.get(floor), 3))


def in_words(status: str) -> str:
    """Return the words of a status such as one_batch; another status without its underscores."""
    kind, _, what = status.partition("_")
    return _WHY[kind].format(what) if kind in _WHY and what else status.replace("_", " ")
