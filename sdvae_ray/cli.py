"""sdvae-ray: the command line. Thin: arguments in, a call of `commands`, errors as one line and an exit code.

Exit codes: 0 done, 1 the run failed, 2 something that the user can mend. torch and ray are imported by what needs them.
"""

import json
import signal
import sys
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from sdvae_ray.errors import ConfigError, SdvaeRayError
from sdvae_ray.version import VERSION

app = typer.Typer(
    name="sdvae-ray",
    help="Does the phenotype survive Stable Diffusion's VAE? Cell Painting images in; latents, embeddings, retrieval scores out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 120)

RunFile = Annotated[str, typer.Argument(metavar="RUN", help="The run file (YAML).")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the run file; repeatable.")
]
Address = Annotated[
    str | None, typer.Option(help="A Ray cluster to connect to; default: the job's own, else this machine.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object in place of tables.")]
Anonymous = Annotated[bool, typer.Option(help="Unsigned S3 requests.")]
EndpointUrl = Annotated[str | None, typer.Option(help="An S3 server other than AWS.")]
Region = Annotated[str | None, typer.Option(help="AWS region.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[str, typer.Option(help="Folder for plates, run and report.")] = "demo-run",
    set: Set = None,
) -> None:
    """The whole job on this machine: synthetic plates, the packaged autoencoder, scores and a report. Nothing is downloaded."""
    from sdvae_ray import commands

    commands.run(commands.demo_config(output, set or []), console)


@app.command()
def manifest(
    load_data: Annotated[
        list[str], typer.Argument(metavar="LOAD_DATA...", help="load_data files: CSV, CSV.gz or Parquet.")
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write the manifest (Parquet).")],
    platemap: Annotated[list[str] | None, typer.Option(help="barcode_platemap.csv, or its folder; repeatable.")] = None,
    metadata: Annotated[
        list[str] | None, typer.Option(help="Experiment or compound table to join; repeatable.")
    ] = None,
    rewrite: Annotated[
        list[str] | None, typer.Option(metavar="FROM=TO", help="Replace a path prefix; repeatable.")
    ] = None,
    stains: Annotated[str, typer.Option(help="Stains, comma-separated.")] = "Mito,AGP,RNA,ER,DNA",
    source: Annotated[str | None, typer.Option(help="Metadata_Source where load_data has none.")] = None,
    batch: Annotated[str | None, typer.Option(help="Metadata_Batch where load_data has none.")] = None,
    drop_unmapped_wells: Annotated[bool, typer.Option(help="Drop wells that are not on their platemap.")] = False,
    anonymous: Anonymous = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """load_data files, platemaps and metadata tables -> a checked manifest, one row per field of view."""
    from sdvae_ray.config import StorageConfig
    from sdvae_ray.sources.manifest import build_manifest, write_manifest
    from sdvae_ray.storage import Storage, absolute

    storage = Storage(StorageConfig(anonymous=anonymous, endpoint_url=endpoint_url, region=region))
    given = {"Metadata_Source": source, "Metadata_Batch": batch}
    built = build_manifest(
        load_data,
        platemaps=platemap or [],
        metadata=metadata or [],
        rewrites=[_rewrite(rule) for rule in rewrite or []],
        stains=tuple(stains.split(",")),
        defaults={key: value for key, value in given.items() if value},
        drop_unmapped_wells=drop_unmapped_wells,
        storage=storage,
    )
    for note in built.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    write_manifest(built.table, output, storage)
    plates = built.table.select("Metadata_Source", "Metadata_Batch", "Metadata_Plate").n_unique()
    wells = built.table.select("Metadata_Source", "Metadata_Batch", "Metadata_Plate", "Metadata_Well").n_unique()
    console.print(
        f"manifest: {built.table.height} FOVs, {wells} wells, {plates} plates -> {absolute(output)}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def photographs(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="Folders, WebDataset tars, Parquet files, or folders of an LSUN LMDB."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write the manifest (Parquet).")],
    name: Annotated[str, typer.Option(help="Name of the set: Metadata_Batch.")] = "photographs",
    limit: Annotated[int | None, typer.Option(min=1, help="Photographs per class, chosen by hash.")] = None,
    column: Annotated[str | None, typer.Option(help="Parquet: the column of the encoded images.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Parquet: the column of the class.")] = None,
    anonymous: Anonymous = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Photographs -> a manifest of a contrast set, for a run file like jobs/configs/photographs.yaml."""
    from sdvae_ray.config import StorageConfig
    from sdvae_ray.sources.photographs import build_photographs, write_photographs
    from sdvae_ray.storage import Storage, absolute

    storage = Storage(StorageConfig(anonymous=anonymous, endpoint_url=endpoint_url, region=region))
    built = build_photographs(
        sources, name=name, storage=storage, limit=limit, column=column, label_column=label_column
    )
    for note in built.notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    write_photographs(built, output, storage)
    classes = built.table["Metadata_Plate"].n_unique()
    console.print(
        f"manifest: {built.table.height} photographs, {classes} classes -> {absolute(output)}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def check(run_file: RunFile, set: Set = None, address: Address = None) -> None:
    """Validate config, storage, models and resources, and take one FOV through every stage."""
    from sdvae_ray import commands

    commands.check(commands.read_run(run_file, set or []), console, address)


@app.command()
def encode(
    run_file: RunFile,
    set: Set = None,
    address: Address = None,
    extend: Annotated[
        bool, typer.Option("--extend", help="Add the run file's new autoencoders, codecs, extractors and metrics.")
    ] = False,
) -> None:
    """Images -> latents, embeddings and metrics. Resumes: only FOVs without a usable row are computed."""
    from sdvae_ray import commands

    commands.encode(commands.read_run(run_file, set or []), console, address, extend)


@app.command()
def score(
    run_file: RunFile,
    plates: Annotated[str | None, typer.Option(help="Score these alone: values of Metadata_Plate, by commas.")] = None,
    set: Set = None,
    address: Address = None,
) -> None:
    """Embeddings -> well profiles, FAISS indices and retrieval scores."""
    from sdvae_ray import commands

    chosen = [] if plates is None else [f"score.plates={json.dumps([name.strip() for name in plates.split(',')])}"]
    commands.score(commands.read_run(run_file, [*(set or []), *chosen]), console, address)


@app.command()
def report(run_file: RunFile, set: Set = None) -> None:
    """Scores -> one self-contained HTML page."""
    from sdvae_ray import commands

    commands.report(commands.read_run(run_file, set or []), console)


@app.command()
def run(run_file: RunFile, set: Set = None, address: Address = None) -> None:
    """encode, score and report."""
    from sdvae_ray import commands

    commands.run(commands.read_run(run_file, set or []), console, address)


@app.command()
def retrieve(
    profiles: Annotated[list[str], typer.Argument(metavar="PROFILES...", help="CSV, CSV.gz or Parquet; stacked.")],
    pos_sameby: Annotated[str, typer.Option(metavar="A,B", help="Columns that positives share.")],
    pos_diffby: Annotated[str, typer.Option(metavar="A,B", help="Columns in which positives differ.")] = "",
    neg_sameby: Annotated[str, typer.Option(metavar="A,B", help="Columns that negatives share.")] = "",
    neg_diffby: Annotated[str, typer.Option(metavar="A,B", help="Columns in which negatives differ.")] = "",
    reference: Annotated[str | None, typer.Option(help="Which wells are the negatives' references.")] = None,
    exclude: Annotated[str | None, typer.Option(help="Wells to leave out, such as positive controls.")] = None,
    multilabel: Annotated[str | None, typer.Option(help="A column of --pos-sameby with labels joined by |.")] = None,
    features: Annotated[
        list[str] | None, typer.Option(metavar="PREFIX", help="Only these features; repeatable.")
    ] = None,
    drop_features: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Features to leave out; repeatable.")
    ] = None,
    normalise: Annotated[
        str, typer.Option(help="A preset of normalisation first; none: as the profiles are.")
    ] = "none",
    null: Annotated[
        str | None, typer.Option(help="exchange, copairs or copairs_exact; default: exchange where it applies.")
    ] = None,
    ties: Annotated[str, typer.Option(help="average or copairs.")] = "average",
    distance: Annotated[str, typer.Option(help="cosine, abs_cosine, correlation or euclidean.")] = "cosine",
    strict: Annotated[bool, typer.Option("--strict", help="p counts draws above the observed mAP only.")] = False,
    null_size: Annotated[int, typer.Option(min=100, help="Draws of the null.")] = 10_000,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of the corrected p.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder for the tables.")] = None,
    as_json: AsJson = False,
    anonymous: Anonymous = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Score any table of profiles by copairs' four lists: average precision, p-values, intervals and floors."""
    from sdvae_ray import commands
    from sdvae_ray.config import StorageConfig

    lists = [
        tuple(name for name in given.split(",") if name) for given in (pos_sameby, pos_diffby, neg_sameby, neg_diffby)
    ]
    chosen = {
        "null": null,
        "ties": ties,
        "distance": distance,
        "strict": strict,
        "null_size": null_size,
        "threshold": threshold,
        "normalise": normalise,
        "seed": seed,
    }
    storage = StorageConfig(anonymous=anonymous, endpoint_url=endpoint_url, region=region)
    commands.retrieve(
        profiles,
        lists,
        multilabel,
        reference,
        exclude,
        (features or [], drop_features or []),
        chosen,
        output,
        storage,
        console,
        as_json,
    )


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The output of a run, or its run file (.yaml).")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other; differences are B - A.")],
    as_json: AsJson = False,
    anonymous: Anonymous = False,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
) -> None:
    """Two scored runs side by side: settings, retrieval, metrics, distances; with the paper's printed figures where they apply."""
    from sdvae_ray import commands
    from sdvae_ray.config import StorageConfig

    storage = StorageConfig(anonymous=anonymous, endpoint_url=endpoint_url, region=region)
    commands.compare(a, b, storage, console, as_json)


@app.command()
def search(
    run_file: RunFile,
    well: Annotated[str | None, typer.Option(metavar="PLATE/WELL", help="Whose neighbours are wanted.")] = None,
    fov: Annotated[str | None, typer.Option(help="Or a fov_id, in the index over FOVs (score.fov_index).")] = None,
    patch: Annotated[
        int | None, typer.Option(min=0, help="One patch of the FOV or image, in the index over patches.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="STAIN=FILE", help="Or a new image: a file for each stain, or one of all; repeatable."),
    ] = None,
    manifest: Annotated[
        str | None, typer.Option(help="Or a new image: the row --fov of a manifest that may be another run's.")
    ] = None,
    plate: Annotated[
        str | None,
        typer.Option(
            help="Normalise the new image as a well of this plate of the run; default: its row's own, if there."
        ),
    ] = None,
    extractor: Annotated[str | None, typer.Option(help="In whose space; default: the run's first.")] = None,
    side: Annotated[str | None, typer.Option(help="Of which side; default: the originals.")] = None,
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many.")] = 10,
    as_json: AsJson = False,
    set: Set = None,
) -> None:
    """The wells nearest to one, or the FOVs, or what is nearest to a new image, with their treatment, in a scored run."""
    from sdvae_ray import commands

    asked = commands.Asked(well, fov, patch, image or [], manifest, plate)
    commands.search(commands.read_run(run_file, set or []), asked, extractor, side, count, console, as_json)


@app.command()
def decode(
    run_file: RunFile,
    fov: Annotated[str, typer.Option(help="fov_id: source/batch/plate/well/site.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Where to write the OME-TIFF.")],
    side: Annotated[str | None, typer.Option(help="Which autoencoder, where the run has several.")] = None,
    set: Set = None,
) -> None:
    """The stored latents of one field of view -> its stains, as an OME-TIFF."""
    from sdvae_ray import commands

    commands.decode(commands.read_run(run_file, set or []), fov, side, output, console)


@app.command()
def models(as_json: AsJson = False) -> None:
    """What is on the shelves: autoencoders, codecs, extractors and metrics; size, licence, and whether weights are at hand."""
    from sdvae_ray import commands

    commands.list_models(console, as_json)


def _rewrite(rule: str) -> tuple[str, str]:
    before, separator, after = rule.partition("=")
    if not separator or not before:
        raise ConfigError(
            f"--rewrite {rule}: FROM=TO is wanted, such as /home/ubuntu/bucket/=s3://cellpainting-gallery/"
        )
    return before, after


def _stopped(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits with its code; a SIGTERM unwinds as Ctrl-C does, so that what is held is let go."""
    signal.signal(signal.SIGTERM, _stopped)
    errors = Console(stderr=True)
    try:
        app(args=arguments, standalone_mode=False)
        code = 0
    except SdvaeRayError as error:
        errors.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = error.exit_code
    except typer.Abort:
        code = 130
    except KeyboardInterrupt:
        errors.print("stopped; the same command goes on where it left off", highlight=False)
        code = 130
    except Exception as error:
        if not hasattr(
            error, "format_message"
        ):  # a wrong option or argument: typer carries a click of its own, unnamed
            raise
        errors.print(f"error: {error.format_message()}", style="red", highlight=False, markup=False, soft_wrap=True)
        code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
