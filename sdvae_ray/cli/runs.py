"""Commands that compute a run, and report it."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdvae_ray.cli.options import Address, All, AsJson, Limit, Set, console, opens_run, opens_storage
from sdvae_ray.commands import demo as demos
from sdvae_ray.commands import report as reports
from sdvae_ray.commands import runs, state
from sdvae_ray.errors import ConfigError

if TYPE_CHECKING:
    from sdvae_ray.run.run import Run


def demo(
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for plates, run and report.")] = "demo-run",
    set: Set = None,
) -> None:
    """The whole job on this machine: synthetic plates, the packaged autoencoder, scores and a report. Nothing is downloaded."""
    demos.demo(output, set or [], console)


@opens_run
def check(run: "Run", limit: Limit = None, address: Address = None, as_json: AsJson = False) -> None:
    """Validate config, storage, models and resources; measure a few FOVs; forecast hours, GPU-hours and dollars."""
    runs.check(run, console, address, limit, as_json)


@opens_run
def plan(
    run: "Run",
    workers: Annotated[
        str, typer.Option(metavar="1,8,64", help="Sizes of clusters: numbers of encode actors, each with its GPU.")
    ] = "1,8,64,512",
    rates: Annotated[
        str | None, typer.Option(metavar="FILE", help="Measured rates: a check.json, a run.json or the JSON of bench.")
    ] = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Fields per source whose files are asked for their sizes; 0: none.")
    ] = 2,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Simulate every size: lost spot nodes, slow requests, the driver.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hours, requests, bytes, memory and dollars at several sizes of cluster, planned and spent. Starts nothing."""
    asked = {"workers": _numbers(workers, "--workers"), "sample": sample, "rates": rates, "simulate": simulate}
    state.plan(run, asked, console, as_json)


@opens_run
def bench(
    run: "Run",
    fovs: Annotated[int, typer.Option(min=2, help="Fields of view of a step, for every encode actor.")] = 128,
    actors: Annotated[
        str | None, typer.Option(metavar="1,2,4", help="Numbers of encode actors; default: 1, 2, 4, ... as fit.")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Measure the stream: FOV/s per GPU after warm-up, scaling, cold start, busy shares, dollars per 1,000 FOVs."""
    runs.bench(run, console, fovs, None if actors is None else _numbers(actors, "--actors"), address, as_json)


def _numbers(text: str, option: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.strip().isdecimal() and int(number) > 0 for number in numbers):
        raise ConfigError(f"{option} {text}: whole numbers above 0, such as 1,2,4, are wanted")
    return [int(number) for number in numbers]


@opens_run
def encode(
    run: "Run",
    address: Address = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add the run file's new models, codecs and metrics.")
    ] = False,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Images -> latents, embeddings and metrics. Resumes: only FOVs without a usable row are computed."""
    runs.encode(run, console, address, extend, limit, as_json)


@opens_run
def retry(
    run: "Run",
    reason: Annotated[str | None, typer.Option(help="Only fields whose error contains this text.")] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Compute the failed fields of view again, and no others."""
    runs.retry(run, console, reason, address, as_json)


@opens_run
def status(run: "Run", as_json: AsJson = False) -> None:
    """How far a run is; what failed, by reason, plate and source; its sessions; who works on it now."""
    state.status(run, console, as_json)


@opens_run
def verify(
    run: "Run",
    repair: Annotated[
        bool, typer.Option("--repair", help="Delete damaged files, so that encode computes their fields again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every file of a run's tables: what is damaged, gone or foreign. Exit code 1 unless the run is whole."""
    if not state.verify(run, console, repair, as_json):
        raise typer.Exit(1)


@opens_run
def compact(run: "Run", address: Address = None, as_json: AsJson = False) -> None:
    """Rewrite small and partial files: one row per field of view with all its columns, in files of 128 to 256 MB."""
    state.compact(run, console, address, as_json)


@opens_storage
def score(
    places: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="A run file (YAML), or the output folder of a run; several are joined."),
    ],
    storage: dict[str, Any],
    set: Set = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", help="Of several runs: the folder of the joined run, a path or s3://..."),
    ] = None,
    plates: Annotated[str | None, typer.Option(help="Score these alone: values of Metadata_Plate, by commas.")] = None,
    manifest: Annotated[
        str | None, typer.Option(help="Whose metadata counts (corrected platemaps, compounds); default: the run's own.")
    ] = None,
    address: Address = None,
    whole: All = False,
    as_json: AsJson = False,
) -> None:
    """Embeddings -> well profiles, FAISS indices and retrieval scores; of several runs with one set of settings together."""
    run = runs.opened(places, set or [], storage, output)
    if plates is not None:
        run = run.changed(f"score.plates={json.dumps([name.strip() for name in plates.split(',')])}")
    runs.score(run, console, address, manifest, whole, as_json)


@opens_storage
def report(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="A run file (YAML), or the output folder of a run; several are compared."
        ),
    ],
    storage: dict[str, Any],
    set: Set = None,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="PAGE", help="Of several runs: their page, a path or s3://..."),
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Write the charts (SVG) and pictures (PNG) of one run as files too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Scores -> one self-contained HTML page; of several runs one page that compares them."""
    if len(places) > 1:
        if figures:
            raise ConfigError("--figures is of the page of one run")
        reports.report_runs(places, set or [], storage, output, console, as_json)
        return
    if output is not None:
        raise ConfigError("--output is the page of several runs; the page of one run is in its own folder")
    reports.report(runs.opened(places, set or [], storage, None), console, figures=figures, as_json=as_json)


@opens_run
def run(run: "Run", limit: Limit = None, address: Address = None, whole: All = False, as_json: AsJson = False) -> None:
    """encode, score and report."""
    runs.run_all(run, console, address, limit, whole, as_json)
