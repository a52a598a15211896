"""Questions to finished runs: their verdicts, comparisons, searches, pictures and exports."""

import enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdvae_ray.cli.options import AsJson, Output, console, opens_run, opens_storage
from sdvae_ray.commands import browse as browsing
from sdvae_ray.commands import export as exports
from sdvae_ray.commands import questions

if TYPE_CHECKING:
    from sdvae_ray.run.run import Run

_IMAGE = "Or a new image: a file for each stain, or one of all; repeatable."
_MANIFEST = "Or a new image: the row --fov of a manifest that may be another run's."
_PLATE = "Normalise the new image as a well of this plate of the run; default: its row's own, if there."
_FORMATS = "Profiles: anndata, pycytominer (Parquet), csv, embedding_atlas; latents: datasets, webdataset, npz; images: ome_zarr."
_EXPORTED_SIDE = (
    "Repeatable. Default: anndata all; other profiles the originals; latents and images the run's only autoencoder."
)
_TEXT = 'Text of a treatment beside latents and in embedding_atlas: columns in braces, such as "{pert_iname} on {Cell_type}".'
Side = Annotated[str | None, typer.Option(help="Of which side; default: the originals.")]


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
