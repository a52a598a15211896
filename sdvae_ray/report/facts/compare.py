"""Two runs side by side: the differences of their settings and of their scores, with the paper's FR if it applies.

Everything is read from run.json, scores/ and fovs/. Sides, extractors, groups and metrics are matched by name.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.floors import FLOORS
from sdvae_ray.report.facts.metrics import mean_of, metric_column, metric_columns
from sdvae_ray.report.facts.outcome import FRACTION
from sdvae_ray.report.facts.papers import Papers, papers
from sdvae_ray.report.facts.runs.settings import ABSENT, differences, settings_of
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.run.run import Run
from sdvae_ray.schema import RATES

Rows = Mapping[tuple[str, ...], Values]


def comparison(a: Run, b: Run) -> dict[str, Any]:
    """Return the comparison of two runs, JSON-ready: NaN is None, an infinite number is the text "inf" or "-inf".

    a, b        uri, digest, manifest, random_weights, synthetic; only (names that the other run lacks, by kind); reasons (why a
                row has no score); no_paper (why no printed FR applies) and departures (from the published protocol, for which no
                printed FR stands beside a row)
    settings    key, a, b, only ("a" or "b" if the other has no such key): keys of the run file, and recorded.* of run.json
    retrieval   extractor, group, side; of a and b: fraction_retrieved, mean_map, compounds_scored, paper, status
    floors      extractor, group, side; of a and b: FR (low, high), its difference from the originals' (difference_low, _high),
                and FR of every floor
    metrics     side, metric; of a and b: mean and median, each the mean over parts, unit, better, and for SSIM one_minus
    distances   extractor, group, side; of a and b: each distance, the mean over parts, and the reason for a None
    In the last four, a or b is None if that run has no such row, and `difference` is b - a. Raises DataError if a or b is not a
    run or has no scores.
    """
    runs = [ScoredRun.read(run) for run in (a, b) if run.record]
    of_paper = [papers(scored) for scored in runs]
    placed = ("extractor", "group", "side")
    fractions = [_retrieval(scored, paper.fractions) for scored, paper in zip(runs, of_paper, strict=True)]
    tables = {
        "retrieval": _matched(placed, fractions, (FRACTION, "mean_map")),
        "floors": _matched(placed, [_floors(scored) for scored in runs], ()),
        "metrics": _matched(("side", "metric"), [_metrics(scored) for scored in runs], ("mean",)),
        "distances": _matched(placed, [_distances(scored) for scored in runs], tuple(outcome.DISTANCES)),
    }
    return {
        "a": _facts(runs[0], of_paper[0]) | {"only": _only("a", "b", tables)},
        "b": _facts(runs[1], of_paper[1]) | {"only": _only("b", "a", tables)},
        "settings": list(_differences(runs)),
        **tables,
    }


# --- settings ----------------------------------------------------------------------------------------------------------------


def _differences(runs: Sequence[ScoredRun]) -> Iterator[Values]:
    for key, (a, b) in differences([settings_of(scored) for scored in runs]):
        only = "b" if a is ABSENT else "a" if b is ABSENT else None
        yield {"key": key, "a": None if a is ABSENT else a, "b": None if b is ABSENT else b, "only": only}


def _facts(scored: ScoredRun, paper: Papers) -> Values:
    record = scored.record or {}
    return {
        "uri": scored.run.output,
        "digest": record.get("digest"),
        "manifest": record.get("manifest", {}),
        "random_weights": scored.config.random_weights,
        "synthetic": scored.is_synthetic,
        "reasons": outcome.reasons(scored),
        "no_paper": paper.reasons,
        "departures": paper.departures,
    }


# --- scores ------------------------------------------------------------------------------------------------------------------


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["extractor"], row["group"], row["side"]


def _retrieval(scored: ScoredRun, printed: Mapping[tuple[str, ...], float]) -> Rows:
    return {
        _key(row): {
            FRACTION: row.get(FRACTION),
            "mean_map": row.get("mean_map"),
            "compounds_scored": row.get("compounds_scored"),
            "paper": printed.get(_key(row)),
            "status": row.get("status") or outcome.OK,
        }
        for row in outcome.retrieval_rows(scored)
    }


def _floors(scored: ScoredRun) -> Rows:
    """Return FR with its interval, its difference from the originals', and FR of every floor."""
    differences, rows = scored.scores.differences, dict[tuple[str, ...], Values]()
    if differences.height == 0:
        return rows
    ends = ("low", "high", "difference", "difference_low", "difference_high")
    for row in differences.filter(pl.col("quantity") == FRACTION).rows(named=True):
        rows[_key(row)] = {FRACTION: row["estimate"], **{name: row.get(name) for name in ends}}
    for row in scored.scores.floors.rows(named=True):
        if _key(row) in rows and row["quantity"] in FLOORS:
            rows[_key(row)][row["quantity"]] = row[FRACTION]
    for row in scored.scores.over_floor.rows(named=True):
        if _key(row) in rows:
            rows[_key(row)]["over_floor"] = row["over_floor"]
    return rows


def _metrics(scored: ScoredRun) -> Rows:
    """Return the metrics that are one number per part, then the rates per pixel and stain."""
    config, plain = scored.config, scored.scores.metrics.filter(pl.col("band").is_null())
    names = [*(column.key for column in metric_columns(scored)), *RATES]
    rows: dict[tuple[str, ...], Values] = {}
    for side, name in itertools.product(scored.sides(plain["side"]), names):
        if plain.filter((pl.col("side") == side) & (pl.col("metric") == name)).height:
            column, per = metric_column(config, name), config.image.patch**2 if name in RATES else 1
            means = {key: mean_of(plain, side, name, key) for key in ("mean", "median")}
            row: Values = {key: None if value is None else value / per for key, value in means.items()}
            row |= {"unit": "per pixel and stain" if name in RATES else column.unit, "better": column.better}
            if name in config.metrics and config.metrics[name].name == "ssim" and row["mean"] is not None:
                row["one_minus"] = 1 - row["mean"]
            rows[side, name] = row
    return rows


def _distances(scored: ScoredRun) -> Rows:
    rows: dict[tuple[str, str, str], Values] = {}
    for name in outcome.DISTANCES:
        for extractor, side, group, value in outcome.mean_distances(scored, name):
            rows.setdefault((extractor, group, side), {})[name] = value
    table = scored.scores.distributions
    if "reason" in table.columns:
        groups = table.filter(pl.col("by") == "group").group_by("extractor", "slice", "side")
        for extractor, group, side, reasons in groups.agg(pl.col("reason").drop_nulls().unique().sort()).rows():
            rows.setdefault((extractor, group, side), {})["reason"] = "; ".join(reasons) or None
    ordered = scored.in_order({"extractor": key[0], "group": key[1], "side": key[2]} for key in rows)
    return {_key(row): rows[_key(row)] for row in ordered}


def _matched(names: Sequence[str], runs: Sequence[Rows], numbers: Sequence[str]) -> list[Values]:
    """Return one row per key of either run, in the order of the first run, then of the second."""
    keys = [*runs[0], *runs[1]]
    ranks = [{value: rank for rank, value in enumerate(dict.fromkeys(part))} for part in zip(*keys, strict=True)]
    matched = []
    for key in sorted(set(keys), key=lambda key: [rank[value] for rank, value in zip(ranks, key, strict=True)]):
        a, b = (rows.get(key) for rows in runs)
        matched.append(
            {
                **dict(zip(names, key, strict=True)),
                "a": a and {name: _plain(value) for name, value in a.items()},
                "b": b and {name: _plain(value) for name, value in b.items()},
                "difference": {name: _difference((a or {}).get(name), (b or {}).get(name)) for name in numbers},
            }
        )
    return matched


def _difference(a: float | None, b: float | None) -> float | str | None:
    if a is None or b is None:
        return None
    return 0.0 if a == b else _plain(b - a)


def _plain(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return None if math.isnan(value) else "inf" if value > 0 else "-inf"


def _only(run: str, other: str, tables: Mapping[str, list[Values]]) -> dict[str, list[str]]:
    rows = [row for table in tables.values() for row in table]

    def names(kind: str, where: str) -> dict[str, None]:
        return dict.fromkeys(row[kind] for row in rows if kind in row and row[where] is not None)

    kinds = ("extractor", "group", "side", "metric")
    return {f"{kind}s": [name for name in names(kind, run) if name not in names(kind, other)] for kind in kinds}
