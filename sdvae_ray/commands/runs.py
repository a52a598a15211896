"""Commands that compute a run: encode, retry, score, report and all in one; check, bench and the demo.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdvae_ray.commands.first_line import begin
from sdvae_ray.console import print_line
from sdvae_ray.errors import RunError
from sdvae_ray.storage import absolute, join

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.run.run import Run
    from sdvae_ray.run.scores import Scores


def prepare(run: Run, console: Console) -> None:
    """Draw the synthetic plates that the run names, and write their manifest, if the manifest does not exist yet.

    Raises ConfigError for a name or an option that is on no shelf, before anything is drawn.
    """
    if run.config.synthetic is None or run.storage.exists(run.config.manifest):
        return
    from sdvae_ray.engine.models import check_names
    from sdvae_ray.sources.synthetic.manifest import make_screen

    check_names(run.config)
    make_screen(run.config.synthetic, run.config.manifest, console)


def check(run: Run, console: Console, address: str | None = None) -> None:
    """Take a few fields of view through every stage; raise the error that `encode` or `score` would meet."""
    begin("check", run, console)
    from sdvae_ray.encoding.check import check as check_run

    prepare(run, console)
    check_run(run, console, address)
    print_line(console, "check: this run can start")


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
    from rich.console import Console

    lines = Console(stderr=True) if as_json else console
    begin("bench", run, lines)
    from sdvae_ray.encoding.bench import bench as bench_run

    prepare(run, lines)
    measured = bench_run(run, lines, fovs, actors, address)
    if as_json:
        console.print_json(json.dumps(measured))


def encode(run: Run, console: Console, address: str | None = None, extend: bool = False) -> None:
    """Compute the fields of view that have no usable row yet; print how many, how fast and how many failed."""
    begin("encode", run, console)
    prepare(run, console)
    _encode(run, console, address, extend)


def retry(run: Run, console: Console, reason: str | None = None, address: str | None = None) -> None:
    """Compute again the FOVs that failed; reason: only those whose error contains this text."""
    begin("retry", run, console)
    _encode(run, console, address, failed=reason or "")


def _encode(run: Run, console: Console, address: str | None, extend: bool = False, failed: str | None = None) -> None:
    from sdvae_ray.encoding.encode import encode

    done = encode(run, console, address, extend, failed)
    rate = f", {done.computed / done.seconds:.2f} FOV/s" if done.computed and done.seconds else ""
    failed = f"; {done.errors} failed, each with its reason in fovs/" if done.errors else ""
    rows = f"{done.fovs} of {done.fovs} have a row{failed}"
    print_line(console, f"encode: {done.computed} FOVs in {done.seconds:.0f} s{rate}; {rows}")
    _say_quality(run, console)


def _say_quality(run: Run, console: Console) -> None:
    """Print what is wrong with the images of a run, per plate and stain; one line if nothing is."""
    from sdvae_ray.run.quality import STORED, findings, in_lines, quality_table, scaling_notes
    from sdvae_ray.schema import PLATE_KEY

    image = run.config.image
    table = quality_table(run.fovs([*PLATE_KEY, *STORED]), image.stains)
    lines = [*scaling_notes(table, image.stains, image.scaling), *in_lines(findings(table, image.stains))]
    for line in lines or [f"nothing is wrong with the images of {table.height} FOVs"]:
        print_line(console, f"quality: {line}")


def score(run: Run, console: Console, address: str | None = None, manifest: str | None = None) -> None:
    """Score the run and print the summary. address: a Ray cluster's, see `ray_session`. manifest: whose metadata counts, in place
    of the run's own. Raises RunError if nothing could be scored.
    """
    _require_scores(_score(run, console, address, manifest))
    print_line(console, f"score: the verdicts: sdvae-ray conclude {run.output}")


def _score(run: Run, console: Console, address: str | None, manifest: str | None = None) -> ScoredRun:
    begin("score", run, console)
    from sdvae_ray.report.terminal.summary import print_summary
    from sdvae_ray.scoring.score import score as score_run

    scored = _read_scored(run, console, score_run(run, console, address, manifest))
    print_summary(scored, console)
    return scored


def _require_scores(scored: ScoredRun) -> None:
    """Raise RunError if the run asks for retrieval and not one group has a score."""
    summary = scored.scores.summary
    if scored.config.score.perturbation is None or summary.height == 0:
        return
    counts = summary["compounds_scored"].to_list() if "compounds_scored" in summary.columns else []
    if not any(counts):
        reasons = sorted({status for status in summary["status"].to_list() if status != "ok"})
        raise RunError(
            f"nothing could be scored: {reasons[0] if reasons else 'no compound has replicates and negatives'}"
        )


def report(run: Run, console: Console, scored: ScoredRun | None = None) -> str:
    """Write the page and return its URI. scored: the result of `score`; None: the scores are read from storage."""
    begin("report", run, console)
    from sdvae_ray.report.page.write import write_report

    uri = write_report(scored or _read_scored(run, console))
    print_line(console, f"report: {uri}")
    return uri


def _read_scored(run: Run, console: Console, scores: Scores | None = None) -> ScoredRun:
    from sdvae_ray.report.facts.scored import ScoredRun

    return ScoredRun.read(run, scores, lambda text: print_line(console, f"report: {text}"))


def run_all(run: Run, console: Console, address: str | None = None) -> None:
    """Run encode, score and report in one Ray session; the last lines are the verdicts."""
    begin("run", run, console)
    from sdvae_ray.cluster.session import ray_session
    from sdvae_ray.report.terminal.summary import print_verdicts

    prepare(run, console)
    with ray_session(address):
        _encode(run, console, address)
        scored = _score(run, console, address)
    report(run, console, scored)
    _require_scores(scored)
    print_verdicts(scored, console)


def demo_run(output: str, overrides: Sequence[str]) -> Run:
    """Return the run of the packaged demo, with all its files under `output`."""
    from sdvae_ray.run.run import Run
    from sdvae_ray.weights import asset_path

    folder = absolute(output)
    places = {"manifest": "manifest.parquet", "output": "run", "synthetic.folder": "plates"}
    moved = [f"{key}={join(folder, name)}" for key, name in places.items()]
    return Run.open(asset_path("demo.yaml"), [*moved, *overrides])
