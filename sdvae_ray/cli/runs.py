"""Commands about one run, or two: compute it, report it, and ask questions of it afterwards."""

import enum
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sdvae_ray.cli.options import Address, All, AsJson, Limit, Output, Set, opens_run, opens_storage
from sdvae_ray.commands import browse as browsing
from sdvae_ray.commands import demo as demos
from sdvae_ray.commands import export as exports
from sdvae_ray.commands import questions, runs, state
from sdvae_ray.commands import report as reports
from sdvae_ray.errors import ConfigError

if TYPE_CHECKING:
    from sdvae_ray.run.run import Run

console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120)

_IMAGE = "Or a new image: a file for each stain, or one of all; repeatable."
_MANIFEST = "Or a new image: the row --fov of a manifest that may be another run's."
_PLATE = "Normalise the new image as a well of this plate of the run; default: its row's own, if there."
_FORMATS = "Profiles: anndata, pycytominer (Parquet), csv, embedding_atlas; latents: datasets, webdataset, npz; images: ome_zarr."
_EXPORTED_SIDE = (
    "Repeatable. Default: anndata all; other profiles the originals; latents and images the run's only autoencoder."
)
_TEXT = 'Text of a treatment beside latents and in embedding_atlas: columns in braces, such as "{pert_iname} on {Cell_type}".'
Side = Annotated[str | None, typer.Option(help="Of which side; default: the originals.")]


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


@opens_storage
def conclude(
    places: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run files (YAML), or output folders of runs.")],
    storage: dict[str, Any],
    margin: Annotated[
        float | None,
        typer.Option(
            min=0.0001, max=1, help="Share of floor to originals that may be lost; of a run that declares none."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verdicts: is the phenotype kept, are the extractors equally good, which metric predicts its loss."""
    questions.conclude(places, storage, console, margin, as_json)


@opens_storage
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run file (YAML), or the output folder of a run.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other; differences are B - A.")],
    storage: dict[str, Any],
    as_json: AsJson = False,
) -> None:
    """Two scored runs side by side: settings, retrieval, metrics, distances; with the paper's printed figures where they apply."""
    questions.compare(a, b, storage, console, as_json)


@opens_storage
def published(
    places: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs of the published protocol whose seeds differ.")
    ],
    storage: dict[str, Any],
    as_json: AsJson = False,
) -> None:
    """Runs of the paper's protocol: mean and sd of FR over the seeds beside the paper's figures; or every departure by name."""
    questions.published(places, storage, console, as_json)


@opens_run
def search(
    run: "Run",
    well: Annotated[str | None, typer.Option(metavar="PLATE/WELL", help="Whose neighbours are wanted.")] = None,
    fov: Annotated[str | None, typer.Option(help="Or a fov_id, in the index over FOVs (score.fov_index).")] = None,
    patch: Annotated[
        int | None, typer.Option(min=0, help="One patch of the FOV or image, by the index of patches.")
    ] = None,
    image: Annotated[list[str] | None, typer.Option(metavar="STAIN=FILE", help=_IMAGE)] = None,
    manifest: Annotated[str | None, typer.Option(help=_MANIFEST)] = None,
    plate: Annotated[str | None, typer.Option(help=_PLATE)] = None,
    extractor: Annotated[str | None, typer.Option(help="In whose space; default: the run's first.")] = None,
    side: Side = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many.")] = 10,
    as_json: AsJson = False,
) -> None:
    """The nearest neighbours of a well, a field of view, a patch or a new image, with their treatment, in a scored run."""
    asked = questions.Asked(well, fov, patch, image or [], manifest, plate)
    questions.search(run, asked, extractor, side, count, console, as_json)


@opens_run
def browse(
    run: "Run",
    port: Annotated[int, typer.Option(min=0, max=65535, help="On this machine; 0: a free one.")] = 0,
) -> None:
    """A scored run in the browser, live: search with pictures, a new image, the map of its wells. On this machine alone."""
    browsing.browse(run, port, console)


@opens_run
def decode(
    run: "Run",
    fov: Annotated[str, typer.Option(help="fov_id: source/batch/plate/well/site.")],
    output: Output,
    side: Annotated[str | None, typer.Option(help="Which autoencoder, where the run has several.")] = None,
    as_json: AsJson = False,
) -> None:
    """The stored latents of one field of view -> its stains, as an OME-TIFF."""
    questions.decode(run, fov, side, output, console, as_json)


class Level(enum.StrEnum):
    """What the rows of an exported table are."""

    well = "well"
    fov = "fov"


@opens_run
def export(
    run: "Run",
    to: Annotated[str, typer.Option(metavar="FORMAT", help=_FORMATS)],
    output: Output,
    level: Annotated[Level | None, typer.Option(help="Rows of a table of profiles; default: well.")] = None,
    extractor: Annotated[str | None, typer.Option(help="Of a table of profiles; default: the run's first.")] = None,
    side: Annotated[list[str] | None, typer.Option(help=_EXPORTED_SIDE)] = None,
    plate: Annotated[list[str] | None, typer.Option(help="These plates alone; repeatable.")] = None,
    text: Annotated[str | None, typer.Option(metavar="TEMPLATE", help=_TEXT)] = None,
    as_json: AsJson = False,
) -> None:
    """A run in the format of another tool: profiles, latents to train on, or a plate's reconstruction (docs/export.md)."""
    options = {"level": level and level.value, "extractor": extractor, "text": text}
    exports.export(run, to, output, console, as_json, sides=side or (), plates=plate or (), **options)
