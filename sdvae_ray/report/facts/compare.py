"""Two runs side by side: what differs in how they were made, and what their scores say, with the paper's FR where it applies.

Everything is read from run.json and scores/. Sides, extractors, groups and metrics are matched by name.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdvae_ray.report.facts import findings, outcome, published
from sdvae_ray.report.facts.findings import mean_of
from sdvae_ray.report.facts.floors import FLOORS, FRACTION
from sdvae_ray.run.record import Record
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.schema import BITS, ENTROPY

_RECORDED = ("manifest", "sdvae_ray", "python", "precision", "micro_batch", "libraries", "weights")
_ABSENT = object()
Values = dict[str, Any]
Found = Mapping[tuple[str, ...], Values]


@dataclass(frozen=True)
class _Scored:
    """A run, its record and its scores, each read once."""

    run: Run
    record: Record
    scores: Scores


def comparison(a: Run, b: Run) -> dict[str, Any]:
    """Everything that is compared, as JSON knows it: NaN is None, an infinite number is the text "inf" or "-inf".

    a, b        uri, digest, manifest, random_weights, synthetic; only (names that the other has not, by kind); reasons (why a row
                has no score); no_paper (why no printed FR applies) and departures (from the published protocol, where one does)
    settings    key, a, b, only ("a" or "b" where the other has no such key): keys of the run file, and recorded.* of run.json
    retrieval   extractor, group, side; of a and b: fraction_retrieved, mean_map, compounds_scored, paper, status
    floors      extractor, group, side; of a and b: FR (low, high), its difference from the originals' (difference_low, _high),
                and FR of every floor
    metrics     side, metric; of a and b: mean and median, each the mean over parts, unit, better, and one_minus where it is SSIM
    distances   extractor, group, side; of a and b: each distance, the mean over parts, and the reason for what is None

    A row of these has a None where that run has no such row, and a `difference`, b - a. Raises DataError where one is no run
    or has no scores.
    """
    runs = [_Scored(run, run.record, run.scores()) for run in (a, b)]
    papers = [published.papers(of.run.config, of.scores, of.run.storage) for of in runs]
    tables = {
        "retrieval": _beside(
            ("extractor", "group", "side"),
            [_retrieval(run, paper.fractions) for run, paper in zip(runs, papers, strict=True)],
            ("fraction_retrieved", "mean_map"),
        ),
        "floors": _beside(("extractor", "group", "side"), [_floors(run) for run in runs], ()),
        "metrics": _beside(("side", "metric"), [_metrics(run) for run in runs], ("mean",)),
        "distances": _beside(
            ("extractor", "group", "side"), [_distances(run) for run in runs], tuple(outcome.DISTANCES)
        ),
    }
    return {
        "a": _about(runs[0], papers[0]) | {"only": _only("a", "b", tables)},
        "b": _about(runs[1], papers[1]) | {"only": _only("b", "a", tables)},
        "settings": list(_differences(_settings(runs[0]), _settings(runs[1]))),
        **tables,
    }


# --- settings ----------------------------------------------------------------------------------------------------------------


def _settings(run: _Scored) -> Values:
    whole = run.run.config.model_dump(mode="json", exclude={"manifest", "output"})
    whole["image"]["packing"] = [list(triple) for triple in run.run.config.image.triples]
    return {**whole, "recorded": {key: run.record[key] for key in _RECORDED if key in run.record}}


def _differences(a: Any, b: Any, key: str = "") -> Iterator[Values]:
    """What one has and the other has not is one row, with all that is under it."""
    if isinstance(a, dict) and isinstance(b, dict):
        for name in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(name, _ABSENT), b.get(name, _ABSENT), f"{key}.{name}".lstrip("."))
    elif a is _ABSENT:
        yield {"key": key, "a": None, "b": b, "only": "b"}
    elif b is _ABSENT:
        yield {"key": key, "a": a, "b": None, "only": "a"}
    elif a != b:
        yield {"key": key, "a": a, "b": b, "only": None}


def _about(run: _Scored, papers: published.Papers) -> Values:
    rows = outcome.retrieval_rows(run.run.config, run.scores)
    return {
        "uri": run.run.output,
        "digest": run.record.get("digest"),
        "manifest": run.record.get("manifest", {}),
        "random_weights": run.run.config.random_weights,
        "synthetic": run.run.config.synthetic is not None,
        "reasons": outcome.reasons(run.run.config, rows),
        "no_paper": papers.reasons,
        "departures": papers.departures,
    }


# --- scores ------------------------------------------------------------------------------------------------------------------


def _retrieval(run: _Scored, papers: Mapping[tuple[str, ...], float]) -> Found:
    means = {
        (row["extractor"], row["group"], row["side"]): row.get("mean_map") for row in run.scores.summary.to_dicts()
    }
    return {
        (key := (row.extractor, row.group, row.side)): {
            "fraction_retrieved": row.fraction,
            "mean_map": means[key],
            "compounds_scored": row.scored,
            "paper": papers.get(key),
            "status": row.status,
        }
        for row in outcome.retrieval_rows(run.run.config, run.scores)
    }


def _floors(run: _Scored) -> Found:
    """FR with its interval and its difference from the originals', beside FR of every floor."""
    found: dict[tuple[str, ...], Values] = {}
    scores = run.scores
    if scores.differences.height == 0:
        return found
    ends = ("low", "high", "difference", "difference_low", "difference_high")
    for row in scores.differences.filter(pl.col("quantity") == FRACTION).rows(named=True):
        key = (row["extractor"], row["group"], row["side"])
        found[key] = {FRACTION: row["estimate"], **{name: row.get(name) for name in ends}}
    for row in scores.floors.rows(named=True):
        key = (row["extractor"], row["group"], row["side"])
        if key in found and row["quantity"] in FLOORS:
            found[key][row["quantity"]] = row[FRACTION]
    return found


def _metrics(run: _Scored) -> Found:
    """Metrics that are one number per part, then bits per pixel and stain."""
    config, plain = run.run.config, run.scores.metrics.filter(pl.col("band").is_null())
    pixels = config.image.patch**2
    names = [*(head.name for head in findings.metric_heads(config, plain)), BITS, ENTROPY]
    found: dict[tuple[str, ...], Values] = {}
    for side, name in itertools.product(findings.sides(config, plain["side"]), names):
        per = pixels if name in (BITS, ENTROPY) else 1
        if plain.filter((pl.col("side") == side) & (pl.col("metric") == name)).height:
            values = {
                "mean": mean_of(plain, side, name),
                "median": mean_of(plain.with_columns(mean="median"), side, name),
            }
            found[side, name] = {key: None if value is None else value / per for key, value in values.items()}
            head = findings.metric_head(config, name)
            unit = head.unit if per == 1 else "per pixel and stain"
            found[side, name] |= {"unit": unit, "better": head.better}
            if name in config.metrics and config.metrics[name].name == "ssim" and values["mean"] is not None:
                found[side, name]["one_minus"] = 1 - values["mean"]
    return found


def _distances(run: _Scored) -> Found:
    found: dict[tuple[str, ...], Values] = {}
    for name in outcome.DISTANCES:
        for extractor, side, group, value in outcome.mean_distances(run.scores, name):
            found.setdefault((extractor, group, side), {})[name] = value
    table = run.scores.distributions
    if "reason" in table.columns:
        rows = table.filter(pl.col("by") == "group").group_by("extractor", "slice", "side")
        for *key, reasons in rows.agg(pl.col("reason").drop_nulls().unique().sort()).rows():
            found.setdefault(tuple(key), {})["reason"] = "; ".join(reasons) or None
    extractors = findings.extractors(run.run.config, (key[0] for key in found))
    sides = findings.sides(run.run.config, (key[2] for key in found))
    return {key: found[key] for key in sorted(found, key=lambda k: (extractors.index(k[0]), k[1], sides.index(k[2])))}


def _beside(names: Sequence[str], found: Sequence[Found], numbers: Sequence[str]) -> list[Values]:
    """One row per key of either, in the order of the first, then of the second."""
    every = [*found[0], *found[1]]
    ranks = [{value: at for at, value in enumerate(dict.fromkeys(key))} for key in zip(*every, strict=True)]
    rows = []
    for key in sorted(set(every), key=lambda key: [rank[value] for rank, value in zip(ranks, key, strict=True)]):
        a, b = (each.get(key) for each in found)
        rows.append(
            {
                **dict(zip(names, key, strict=True)),
                "a": a and {name: _plain(value) for name, value in a.items()},
                "b": b and {name: _plain(value) for name, value in b.items()},
                "difference": {name: _difference((a or {}).get(name), (b or {}).get(name)) for name in numbers},
            }
        )
    return rows


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
