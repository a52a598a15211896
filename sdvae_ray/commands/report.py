"""The command `report`: the page of one scored run, or one page that compares several.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdvae_ray.commands.first_line import begin, give, lines_of
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.run.run import Run
    from sdvae_ray.run.scores import Scores


def report(
    run: Run, console: Console, scored: ScoredRun | None = None, figures: bool = False, as_json: bool = False
) -> str:
    """Write the page and return its URI. scored: the result of `score`; None: the scores are read from storage. figures: write
    the page's charts and pictures as files too."""
    lines = lines_of(console, as_json)
    begin("report", run, lines)
    from sdvae_ray.report.page.write import FIGURES, write_report

    if scored is None:
        with waiting(lines, "report: reading the scores and the fields of view"):
            scored = read_scored(run, lines)
    with waiting(lines, "report: drawing the page: tables, and originals beside reconstructions"):
        uri = write_report(scored, figures)
    print_line(lines, f"report: {uri}")
    answer = {"output": run.output, "report": uri}
    if figures:
        answer["figures"] = run.uri(FIGURES)
        print_line(lines, f"report: its charts (SVG) and pictures (PNG): {answer['figures']}")
    give(answer, console, as_json)
    return uri


def report_runs(
    places: Sequence[str],
    overrides: Sequence[str],
    storage: Mapping[str, Any],
    output: str | None,
    console: Console,
    as_json: bool = False,
) -> None:
    """Write one page that compares several scored runs to `output`. places, overrides, storage: as `Run.open` takes them.

    Raises ConfigError without an output, and for a run that is named twice; DataError for a run that was not scored.
    """
    if output is None:
        raise ConfigError(
            f"{len(places)} runs are compared on a page of their own: --output names it, such as page.html"
        )
    if not output.endswith(".html"):
        raise ConfigError(f"--output {output}: the name of a page is wanted, such as page.html")
    lines = lines_of(console, as_json)
    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.report.page.write import render_runs
    from sdvae_ray.run.run import Run
    from sdvae_ray.storage import Storage, absolute

    with waiting(lines, f"report: reading the scores of {len(places)} runs"):
        runs = [ScoredRun.read(Run.open(place, overrides, storage)) for place in places]
    with waiting(lines, "report: drawing the page"):
        page = render_runs(runs)
    uri = absolute(output)
    Storage.of(storage).write_bytes(uri, page.encode())
    print_line(lines, f"report: {uri}")
    give({"runs": [run.run.output for run in runs], "report": uri}, console, as_json)


def read_scored(run: Run, console: Console, scores: Scores | None = None) -> ScoredRun:
    """Return a run with its scores, which may be in memory already; slow parts of its report say so on the console."""
    from sdvae_ray.report.facts.scored import ScoredRun

    return ScoredRun.read(run, scores, lambda text: print_line(console, f"report: {text}"))
