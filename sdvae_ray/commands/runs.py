"""Commands that compute a run: encode, retry, score and all in one; check and bench.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdvae_ray.commands.first_line import begin, give, lines_of
from sdvae_ray.commands.report import read_scored, report
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError, RunError

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.run.run import Run


def opened(places: Sequence[str], overrides: Sequence[str], storage: Mapping[str, Any], output: str | None) -> Run:
    """Return the run at one place, or the run that joins several.

    places, overrides, storage: as `Run.open` takes them. output: the folder of a joined run. Raises ConfigError as `join_runs`, and
    for several places without `output`, or one with it.
    """
    from sdvae_ray.run.joined import join_runs
    from sdvae_ray.run.run import Run
    from sdvae_ray.storage import absolute

    runs = [Run.open(place, overrides, storage) for place in places]
    if len(runs) == 1:
        if output is not None:
            raise ConfigError(
                "--output is the folder of a joined run, of several runs; one run is scored in its own folder"
            )
        return runs[0]
    if output is None:
        raise ConfigError(f"{len(runs)} runs are joined in a folder of their own: --output names it")
    return join_runs(runs, absolute(output))


def prepare(run: Run, console: Console, address: str | None = None) -> None:
    """Write the manifest of a run, if it does not exist yet, from the load_data files or the synthetic plates that the run names.

    Raises ConfigError for a name or an option that is on no shelf, before anything is drawn or read.
    """
    load_data, synthetic = run.config.load_data, run.config.synthetic
    if load_data is None and synthetic is None:
        return
    from sdvae_ray.sources.manifest.reader import manifest_exists

    if manifest_exists(run.config.manifest, run.storage):
        return
    from sdvae_ray.engine.models import check_names

    check_names(run.config)
    if load_data is not None:
        from sdvae_ray.commands.inputs import manifest_of_run

        manifest_of_run(run, console, address)
    elif synthetic is not None:
        from sdvae_ray.sources.synthetic.manifest import make_screen

        make_screen(synthetic, run.config.manifest, console)


def check(
    run: Run, console: Console, address: str | None = None, limit: int | None = None, as_json: bool = False
) -> None:
    """Take a few fields of view through every stage; raise the error that `encode` or `score` would meet.

    limit: of a trial; the forecast is of so many FOVs.
    """
    lines = lines_of(console, as_json)
    begin("check", run, lines)
    from sdvae_ray.encoding.check import check as check_run

    prepare(run, lines, address)
    checked = check_run(run, lines, address, limit)
    print_line(lines, "check: this run can start")
    told = {
        name: getattr(checked, name)
        for name in ("fovs", "measured", "warm", "seconds", "stored", "failed", "device", "fields")
    }
    give(told, console, as_json)


def bench(
    run: Run,
    console: Console,
    fovs: int,
    actors: Sequence[int] | None,
    address: str | None = None,
    as_json: bool = False,
) -> None:
    """Measure the stream of a run on the cluster at hand; print one line per step, or one JSON object.

    fovs: FOVs of a step for every encode actor. actors: numbers of encode actors; None: 1, 2, 4, ... as many as fit.
    """
    lines = lines_of(console, as_json)
    begin("bench", run, lines)
    from sdvae_ray.encoding.bench import bench as bench_run

    prepare(run, lines, address)
    give(bench_run(run, lines, fovs, actors, address), console, as_json)


def encode(
    run: Run,
    console: Console,
    address: str | None = None,
    extend: bool = False,
    limit: int | None = None,
    as_json: bool = False,
) -> None:
    """Compute the fields of view that have no usable row yet; print how many, how fast and how many failed.

    limit: a trial of so many FOVs, spread over the manifest.
    """
    lines = lines_of(console, as_json)
    begin("encode", run, lines)
    _refuse_joined(run, "encode")
    prepare(run, lines, address)
    give(_encode(run, lines, address, extend, limit=limit), console, as_json)


def retry(
    run: Run, console: Console, reason: str | None = None, address: str | None = None, as_json: bool = False
) -> None:
    """Compute again the FOVs that failed; reason: only those whose error contains this text."""
    lines = lines_of(console, as_json)
    begin("retry", run, lines)
    _refuse_joined(run, "retry")
    give(_encode(run, lines, address, failed=reason or ""), console, as_json)


def _refuse_joined(run: Run, command: str) -> None:
    from sdvae_ray.run.joined import refuse_joined

    refuse_joined(run, command)


def _encode(
    run: Run,
    console: Console,
    address: str | None,
    extend: bool = False,
    failed: str | None = None,
    limit: int | None = None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from sdvae_ray.encoding.encode import encode

    done = encode(run, console, address, extend, failed, limit)
    rate = f", {done.computed / done.seconds:.2f} FOV/s" if done.computed and done.seconds else ""
    failed = f"; {done.errors} failed, each with its reason in fovs/" if done.errors else ""
    rows = f"{done.fovs} of {done.fovs} have a row{failed}"
    print_line(console, f"encode: {done.computed} FOVs in {done.seconds:.0f} s{rate}; {rows}")
    _say_quality(run, console)
    return {"output": run.output, **asdict(done)}


def _say_quality(run: Run, console: Console) -> None:
    """Print what is wrong with the images of a run, per plate and stain; one line if nothing is."""
    from sdvae_ray.run.quality import STORED, in_lines, quality_of, scaling_notes
    from sdvae_ray.schema import PLATE_KEY

    image = run.config.image
    with waiting(console, "quality: reading the QC numbers of all fields"):
        quality = quality_of(run.fovs([*PLATE_KEY, *STORED]), image.stains)
    lines = [*scaling_notes(quality.largest, image), *in_lines(quality.wrong)]
    for line in lines or [f"nothing is wrong with the images of {quality.fovs} FOVs"]:
        print_line(console, f"quality: {line}")


def score(
    run: Run,
    console: Console,
    address: str | None = None,
    manifest: str | None = None,
    whole: bool = False,
    as_json: bool = False,
) -> None:
    """Score the run; print the verdicts and the first table of the summary, or the whole summary. Raises RunError if nothing could
    be scored.

    address: a Ray cluster's, see `ray_session`. manifest: whose metadata counts, in place of the run's own.
    """
    from sdvae_ray.report.terminal.summary import print_verdicts

    lines = lines_of(console, as_json)
    scored = _score(run, lines, address, manifest, whole)
    _require_scores(scored)
    print_verdicts(scored, lines)
    more = "" if whole else "; all tables: --all, or `sdvae-ray report`"
    print_line(lines, f"score: the verdicts with their intervals: sdvae-ray conclude {run.output}{more}")
    give(lambda: _answers(scored), console, as_json)


def _score(
    run: Run, console: Console, address: str | None, manifest: str | None = None, whole: bool = False
) -> ScoredRun:
    begin("score", run, console)
    from sdvae_ray.report.terminal.summary import print_summary
    from sdvae_ray.scoring.score import score as score_run

    scored = read_scored(run, console, score_run(run, console, address, manifest))
    print_summary(scored, console, whole)
    return scored


def _answers(scored: ScoredRun) -> dict[str, Any]:
    """Return the summary of the scores and the verdicts, JSON-ready; a number that does not exist is None."""
    from polars import selectors

    from sdvae_ray.report.facts.conclude.answers import conclusion
    from sdvae_ray.report.facts.conclude.study import rule_of

    summary = scored.scores.summary.with_columns(selectors.float().fill_nan(None))
    return {
        "output": scored.run.output,
        "summary": summary.to_dicts(),
        "conclusion": conclusion([scored], [rule_of(scored)]),
    }


def _require_scores(scored: ScoredRun) -> None:
    """Raise RunError if the run asks for retrieval and not one group has a score."""
    if (reason := _why_nothing(scored)) is not None:
        raise RunError(f"nothing could be scored: {reason}")


def _why_nothing(scored: ScoredRun) -> str | None:
    """Return why not one group of a run that asks for retrieval has a score; None if one has, or none was asked for."""
    summary = scored.scores.summary
    if scored.config.score.perturbation is None or summary.height == 0:
        return None
    if "compounds_scored" in summary.columns and any(summary["compounds_scored"].to_list()):
        return None
    reasons = sorted({status for status in summary["status"].to_list() if status != "ok"})
    return reasons[0] if reasons else "no compound has replicates and negatives"


def run_all(
    run: Run,
    console: Console,
    address: str | None = None,
    limit: int | None = None,
    whole: bool = False,
    as_json: bool = False,
) -> None:
    """Run encode, score and report in one Ray session; the last lines are the verdicts.

    limit: a trial of so many FOVs. whole: print all tables of the summary; else the first.
    """
    lines = lines_of(console, as_json)
    begin("run", run, lines)
    from sdvae_ray.cluster.session import ray_session
    from sdvae_ray.report.terminal.summary import print_verdicts

    prepare(run, lines, address)
    with ray_session(address, lines):
        encoded = _encode(run, lines, address, limit=limit)
        scored = _score(run, lines, address, whole=whole)
    page = report(run, lines, scored)
    if limit is None:
        _require_scores(scored)
    elif (reason := _why_nothing(scored)) is not None:
        print_line(
            lines, f"note: nothing could be scored of this trial: {reason}; the same line without --limit goes on"
        )
    print_verdicts(scored, lines)
    give(lambda: {"encoded": encoded, **_answers(scored), "report": page}, console, as_json)
