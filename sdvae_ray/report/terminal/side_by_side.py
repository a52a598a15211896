"""Two runs side by side in a terminal, 100 columns or more: what `sdvae_ray.report.facts.compare` found, printed."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from sdvae_ray.report.facts import published
from sdvae_ray.report.facts.compare import Values
from sdvae_ray.report.facts.findings import NONE, RANDOM, MetricHead, count, number
from sdvae_ray.report.facts.floors import FLOORS, FRACTION
from sdvae_ray.report.facts.outcome import DISTANCES
from sdvae_ray.report.terminal.tables import number_column, plain_table, say, text_column

_KEY = 44  # characters of a key in a line


def print_comparison(found: Mapping[str, Any], console: Console) -> None:
    """What `comparison` gives, as tables; the difference is always B - A."""
    for run in "ab":
        about = found[run]
        kind = "synthetic plates, " if about["synthetic"] else ""
        say(console, f"{run.upper()}  {about['uri']}: {kind}{about['manifest'].get('fovs', NONE)} FOVs", style="bold")
    for run, names in _lines(found, lambda about: [", ".join(about["random_weights"])]):
        text = f"{run}: random weights: {names}. Their numbers test the machinery and say nothing about images."
        say(console, text, style="yellow")
    manifests = [found[run]["manifest"].get("sha256") for run in "ab"]
    if manifests[0] != manifests[1]:
        text = "The manifests differ: FR, metrics and distances are of different data, and a difference is not one of settings."
        say(console, text, style="yellow")
    _print_settings(found["settings"], console)
    _print_retrieval(found, console)
    _print_floors(found, console)
    _print_metrics(found, console)
    _print_distances(found, console)
    for run, names in _lines(found, lambda about: [f"{k}: {', '.join(v)}" for k, v in about["only"].items() if v]):
        say(console, f"only in {run}: {names} (matched by name)", style="yellow")


def _lines(found: Mapping[str, Any], of: Callable[[Values], list[str]]) -> Iterator[tuple[str, str]]:
    """(run, line), with the run "A and B" where both have it."""
    a, b = ([line for line in of(found[run]) if line] for run in "ab")
    for line in dict.fromkeys([*a, *b]):
        yield ("A and B" if line in a and line in b else "A" if line in a else "B"), line


def _print_settings(rows: Sequence[Values], console: Console) -> None:
    if not rows:
        say(console, "The settings, versions and weights are the same.")
        return
    table = plain_table("What differs")
    widest = min(max(len(row["key"]) for row in rows), _KEY)
    table.add_column("key", overflow="fold", min_width=widest, max_width=widest)
    for name in ("A", "B"):
        text_column(table, name)
    for row in rows:
        texts = (NONE if row["only"] == other else _said(row[run]) for run, other in ("ab", "ba"))
        table.add_row(escape(row["key"]), *(escape(text) for text in texts))
    console.print(table)
    say(console, "As run.json has them, – not given; a score section changed after `encode` is not in it.", style="dim")


def _said(value: Any) -> str:
    """A value of a run file in short; of a model's settings those that are set, of a hash its beginning."""
    if isinstance(value, dict):
        return ", ".join(
            f"{key} {_said(each)}" for key, each in value.items() if each is not None and each is not False
        )
    text = value if isinstance(value, str) else json.dumps(value).replace('"', "")
    return re.sub(r"\b[0-9a-f]{64}\b", lambda found: found[0][:12], text)


def _print_retrieval(found: Mapping[str, Any], console: Console) -> None:
    for extractor, rows in _by_extractor(found["retrieval"]):
        table = plain_table(f"Retrieval by {_label(found, extractor)}")
        text_column(table, "group")
        text_column(table, "side")
        for heading in ("FR ↑\nA", "\nB", "\nB - A", "\npaper", "mAP ↑\nA", "\nB", "\nB - A", "scored\nA", "\nB"):
            number_column(table, heading)
        for row in rows:
            texts = [*_three(row, "fraction_retrieved", 3), _paper(row), *_three(row, "mean_map", 3)]
            texts += [count((row[run] or {}).get("compounds_scored")) for run in "ab"]
            table.add_row(escape(row["group"]), escape(_label(found, row["side"])), *texts)
        console.print(table)
    for run, line in _lines(found, lambda about: about["reasons"]):
        say(console, f"{run}: {line}", style="yellow")
    what = "FR: share of compounds told from controls. scored: compounds. – not scored, or not in that run."
    say(console, what if found["retrieval"] else "No retrieval: nothing was scored.", style="dim")
    if any((row[run] or {}).get("paper") is not None for row in found["retrieval"] for run in "ab"):
        what = f"FR as printed ({published.CITATION}), {published.DATA}, {published.COMPOUNDS} compounds a group"
        say(console, f"paper: {what}, aggregated as the run is; of reconstructions the mean of 3 runs.", style="dim")
    for run, line in _lines(found, lambda about: about["no_paper"]):
        say(console, f"{run}: {line}.", style="dim")
    for run, line in _lines(found, lambda about: ["; ".join(about["departures"])]):
        say(console, f"{run} is not the published protocol: {line}.", style="yellow")


def _print_floors(found: Mapping[str, Any], console: Console) -> None:
    """FR with its interval, its difference from the originals', and its floors; A above B."""
    shown = ("half_same", "half_other", "posing_position", "posing_shuffled", "labels_within_treated")
    for extractor, rows in _by_extractor(found["floors"]):
        table = plain_table(f"FR by {_label(found, extractor)} with its floors, A above B")
        text_column(table, "group")
        text_column(table, "side")
        for heading in ("FR\ninterval", "- image\ninterval", *(FLOORS[name][0] for name in shown)):
            number_column(table, heading)
        for row in rows:
            both = [row[run] or {} for run in "ab"]
            texts = [_ended(each, FRACTION, "low", "high") for each in both]
            apart = [_ended(each, "difference", "difference_low", "difference_high") for each in both]
            cells = ["\n".join(number(each.get(name), 3) for each in both) for name in shown]
            names = (escape(row["group"]), escape(_label(found, row["side"])))
            table.add_row(*names, "\n".join(texts), "\n".join(apart), *cells)
        console.print(table)


def _ended(values: Values, name: str, low: str, high: str) -> str:
    if values.get(name) is None:
        return NONE
    ends = "" if values.get(low) is None else f" {number(values[low], 2)} to {number(values[high], 2)}"
    return f"{number(values[name], 3)}{ends}"


def _paper(row: Values) -> str:
    values = {run: (row[run] or {}).get("paper") for run in "ab"}
    if values["a"] == values["b"]:
        return number(values["a"], 4)
    return "\n".join(f"{run.upper()} {number(value, 4)}" for run, value in values.items() if value is not None)


def _print_metrics(found: Mapping[str, Any], console: Console) -> None:
    table = plain_table("Metrics, mean over patches and stains")
    for name in ("side", "metric", "unit"):
        text_column(table, name)
    for heading in ("A", "B", "B - A"):
        number_column(table, heading)
    table.add_column("", no_wrap=True)
    for row in found["metrics"]:
        head = MetricHead(row["metric"], **{key: (row["a"] or row["b"])[key] for key in ("unit", "better")})
        texts = (_label(found, row["side"]), f"{head.name} {head.arrow}".strip(), head.unit)
        table.add_row(*map(escape, texts), *_three(row, "mean"), _beside_mean(row))
    if table.row_count:
        console.print(table)
        say(console, "ssim is SSIM; 1 - SSIM is what the authors plot under that name.", style="dim")


def _beside_mean(row: Values) -> str:
    runs = [row[run] or {} for run in "ab"]
    if any("one_minus" in values for values in runs):
        return "1 - SSIM: " + " | ".join(number(_float(values.get("one_minus"))) for values in runs)
    if any(values.get("mean") in ("inf", "-inf") for values in runs):
        return "median: " + " | ".join(number(_float(values.get("median"))) for values in runs)
    return ""


def _print_distances(found: Mapping[str, Any], console: Console) -> None:
    for extractor, rows in _by_extractor(found["distances"]):
        shown = [name for name in DISTANCES if any(name in (row[run] or {}) for row in rows for run in "ab")]
        table = plain_table(f"Distances from the originals' patches by {_label(found, extractor)}, mean over parts")
        for name in ("group", "side", ""):
            table.add_column(name, overflow="fold")
        for name in shown:
            number_column(table, DISTANCES[name])
        for row in rows:
            columns = [_three(row, name) for name in shown]
            lead = [escape(row["group"]), escape(_label(found, row["side"]))]
            for at, what in enumerate(("A", "B", "B - A")):
                table.add_row(*(lead if at == 0 else ["", ""]), what, *(column[at] for column in columns))
        console.print(table)
        for run in "ab":
            for why in dict.fromkeys(row[run].get("reason") for row in rows if row[run]):
                if why:
                    say(console, f"{run.upper()}, {extractor}: {why}", style="yellow")


def _by_extractor(rows: Sequence[Values]) -> list[tuple[str, list[Values]]]:
    return [(name, list(here)) for name, here in itertools.groupby(rows, key=lambda row: str(row["extractor"]))]


def _label(found: Mapping[str, Any], name: str) -> str:
    runs = [run.upper() for run in "ab" if name in found[run]["random_weights"]]
    return f"{name} {RANDOM}" if len(runs) == 2 else f"{name} (random weights in {runs[0]})" if runs else name


def _three(row: Values, name: str, digits: int | None = None) -> list[str]:
    """A, B and the signed difference."""
    a, b = (_float((row[run] or {}).get(name)) for run in "ab")
    difference = _float(row["difference"][name])
    sign = "+" if difference is not None and difference > 0 else ""
    return [number(a, digits), number(b, digits), sign + number(difference, digits)]


def _float(value: float | str | None) -> float | None:
    return None if value is None else float(value)
