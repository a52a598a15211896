"""Commands that prepare the input of a run, or need no run: manifests, tables of profiles, the shelves."""

import enum
from typing import Annotated, Any

import typer
from rich.console import Console

import sdvae_ray
from sdvae_ray.cli.options import Address, AsJson, Output, console, opens_storage
from sdvae_ray.commands import init as run_files
from sdvae_ray.commands import inputs, questions
from sdvae_ray.console import waiting
from sdvae_ray.errors import ConfigError


class Format(enum.StrEnum):
    """The file format of the shards that `pack` writes."""

    parquet = "parquet"
    webdataset = "webdataset"


class Compression(enum.StrEnum):
    """The compression of the planes that `pack --crop` writes."""

    zstd = "zstd"
    none = "none"


class Level(enum.StrEnum):
    """The level of the constants that `calibrate` writes."""

    source = "source"
    plate = "plate"


Many = list[str] | None
Text = str | None
Missing = Annotated[
    Text,
    typer.Option(metavar="A,B", help="Words that mean nothing, beside blanks; default: NA, N/A, NaN, null, None, ..."),
]


@opens_storage
def manifest(
    load_data: Annotated[
        list[str],
        typer.Argument(
            metavar="LOAD_DATA...",
            help="CSV, CSV.gz or Parquet; quoted globs; folders that end in a slash; a run file; or a manifest.",
        ),
    ],
    storage: dict[str, Any],
    output: Annotated[
        Text,
        typer.Option(
            "--output", "-o", help="A file.parquet, or a folder of a file per plate; a run file names its own."
        ),
    ] = None,
    platemap: Annotated[Many, typer.Option(help="barcode_platemap.csv, or its folder; repeatable.")] = None,
    metadata: Annotated[Many, typer.Option(help="Experiment or compound table to join; repeatable.")] = None,
    rewrite: Annotated[Many, typer.Option(metavar="FROM=TO", help="Replace a path prefix; repeatable.")] = None,
    stains: Annotated[str, typer.Option(help="Stains, comma-separated.")] = "Mito,AGP,RNA,ER,DNA",
    source: Annotated[Text, typer.Option(help="Metadata_Source where load_data has none.")] = None,
    batch: Annotated[Text, typer.Option(help="Metadata_Batch where load_data has none.")] = None,
    drop_unmapped_wells: Annotated[bool, typer.Option(help="Drop wells that are not on their platemap.")] = False,
    missing: Missing = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """load_data files, platemaps and metadata tables -> a checked manifest, one row per field of view."""
    from sdvae_ray.schema import BATCH_COLUMN, SOURCE_COLUMN

    if len(load_data) == 1 and load_data[0].endswith((".yaml", ".yml")):
        _manifest_of_run(load_data[0], output, storage, address, as_json)
        return
    if output is None:
        raise ConfigError("manifest: --output is wanted: a file that ends in .parquet, or a folder")
    given = {SOURCE_COLUMN: source, BATCH_COLUMN: batch}
    words = {} if missing is None else {"missing": _names(missing)}
    inputs.make_manifest(
        load_data,
        output,
        address,
        platemaps=platemap or [],
        metadata=metadata or [],
        rewrites=[_rewrite(rule) for rule in rewrite or []],
        stains=tuple(stains.split(",")),
        defaults={key: value for key, value in given.items() if value},
        drop_unmapped_wells=drop_unmapped_wells,
        **words,
        storage=storage,
        console=console,
        as_json=as_json,
    )


def _manifest_of_run(
    file: str, output: str | None, storage: dict[str, Any], address: str | None, as_json: bool
) -> None:
    from sdvae_ray.run.run import Run

    run = Run.open(file, [f"manifest={output}"] if output else [], storage)
    inputs.manifest_of_run(run, console, address, as_json)


@opens_storage
def init(
    load_data: Annotated[list[str], typer.Argument(metavar="LOAD_DATA...", help="CSV, CSV.gz or Parquet.")],
    storage: dict[str, Any],
    output: Annotated[str, typer.Option("--output", "-o", help="The run file to write.")] = "run.yaml",
    platemap: Annotated[Many, typer.Option(help="barcode_platemap.csv, or its folder; repeatable.")] = None,
    metadata: Annotated[Many, typer.Option(help="Experiment or compound table to join; repeatable.")] = None,
    rewrite: Annotated[Many, typer.Option(metavar="FROM=TO", help="Replace a path prefix; repeatable.")] = None,
    source: Annotated[Text, typer.Option(help="Metadata_Source where load_data has none.")] = None,
    batch: Annotated[Text, typer.Option(help="Metadata_Batch where load_data has none.")] = None,
    as_json: AsJson = False,
) -> None:
    """load_data files -> a commented run file for them, and the commands that come next. Asks nothing."""
    tables: dict[str, list[str]] = {"platemap": platemap or [], "metadata": metadata or [], "rewrite": rewrite or []}
    given = {"source": source, "batch": batch}
    tables |= {name: [value] for name, value in given.items() if value}
    settings = {
        "platemaps": platemap or [],
        "metadata": metadata or [],
        "rewrites": [_rewrite(rule) for rule in rewrite or []],
        "defaults": {f"Metadata_{name.title()}": value for name, value in given.items() if value},
    }
    run_files.init(
        load_data, output, tables=tables, settings=settings, storage=storage, console=console, as_json=as_json
    )


@opens_storage
def photographs(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Folders, or WebDataset tars.")],
    output: Output,
    storage: dict[str, Any],
    name: Annotated[str, typer.Option(help="Name of the set: Metadata_Batch.")] = "photographs",
    limit: Annotated[int | None, typer.Option(min=1, help="Photographs per class, chosen by hash.")] = None,
    as_json: AsJson = False,
) -> None:
    """Photographs -> a manifest of a contrast set, for a run file like jobs/configs/photographs.yaml."""
    inputs.make_photographs(sources, output, name=name, limit=limit, storage=storage, console=console, as_json=as_json)


@opens_storage
def pack(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="From `sdvae-ray manifest` or `photographs`.")],
    output: Annotated[str, typer.Option("--output", "-o", metavar="DIR", help="Folder of the shards, or s3://...")],
    storage: dict[str, Any],
    crop: Annotated[int | None, typer.Option(min=1, help="Keep the central pixels alone, without loss.")] = None,
    compression: Annotated[
        Compression | None, typer.Option(help="Of cropped planes; none: larger, and decoded at once. Default: zstd.")
    ] = None,
    fovs: Annotated[int | None, typer.Option(min=1, help="FOVs per shard; default: 32 to 64, by their size.")] = None,
    format: Annotated[Format, typer.Option(help="Parquet for runs; WebDataset tars for other tools.")] = Format.parquet,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """A manifest's images -> shards and a manifest of them, which every command takes. Resumes: finished shards stay."""
    options: dict[str, Any] = {"crop": crop, "compression": compression and compression.value}
    options |= {"fovs_per_shard": fovs, "format": format.value}
    inputs.pack(manifest, output, address, storage=storage, console=console, as_json=as_json, **options)


@opens_storage
def calibrate(
    manifest: Annotated[str, typer.Argument(metavar="MANIFEST", help="From `sdvae-ray manifest`, or of shards.")],
    output: Output,
    storage: dict[str, Any],
    by: Annotated[str, typer.Option(metavar="COLUMN", help="Whose values are the groups.")] = "Metadata_Source",
    level: Annotated[Level, typer.Option(help="Constants of every group, or of every plate.")] = Level.source,
    fovs: Annotated[int, typer.Option(min=1, help="Fields of every plate that are read, chosen by hash.")] = 8,
    low: Annotated[float, typer.Option(min=0, max=100, help="Percentile that becomes 0.")] = 0.1,
    high: Annotated[float, typer.Option(min=0, max=100, help="Percentile that becomes the largest integer.")] = 99.9,
    bits: Annotated[int, typer.Option(help="Of that integer, as image.scaling.bits: 8 or 16.")] = 8,
    threshold: Annotated[float, typer.Option(min=0, help="Robust z from which a plate stands out.")] = 5.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """A manifest -> the same with scaling constants per stain, from the percentiles of a sample; names plates that stand out."""
    if low >= high:
        raise ConfigError(f"--low {low:g} must be below --high {high:g}")
    if bits not in (8, 16):
        raise ConfigError(f"--bits {bits}: 8 or 16 is wanted")
    options: dict[str, Any] = {"by": by, "level": level.value, "fovs": fovs, "percentiles": (low, high), "bits": bits}
    options |= {"threshold": threshold, "seed": seed}
    inputs.calibrate(manifest, output, address, storage=storage, console=console, as_json=as_json, **options)


@opens_storage
def retrieve(
    profiles: Annotated[list[str], typer.Argument(metavar="PROFILES...", help="CSV, CSV.gz or Parquet; stacked.")],
    pos_sameby: Annotated[str, typer.Option(metavar="A,B", help="Columns that positives share.")],
    storage: dict[str, Any],
    pos_diffby: Annotated[str, typer.Option(metavar="A,B", help="Columns in which positives differ.")] = "",
    neg_sameby: Annotated[str, typer.Option(metavar="A,B", help="Columns that negatives share.")] = "",
    neg_diffby: Annotated[str, typer.Option(metavar="A,B", help="Columns in which negatives differ.")] = "",
    reference: Annotated[Text, typer.Option(help="Which wells are the negatives' references.")] = None,
    exclude: Annotated[Text, typer.Option(help="Wells to leave out, such as positive controls.")] = None,
    multilabel: Annotated[Text, typer.Option(help="A column of --pos-sameby with labels joined by |.")] = None,
    features: Annotated[Many, typer.Option(metavar="PREFIX", help="Only these features; repeatable.")] = None,
    drop_features: Annotated[Many, typer.Option(metavar="GLOB", help="Features to leave out; repeatable.")] = None,
    missing: Missing = None,
    normalise: Annotated[str, typer.Option(help="A preset of normalisation; none: profiles as they are.")] = "none",
    null: Annotated[Text, typer.Option(help="exchange (default, if it applies), copairs or copairs_exact.")] = None,
    ties: Annotated[str, typer.Option(help="average or copairs.")] = "average",
    distance: Annotated[str, typer.Option(help="cosine, abs_cosine, correlation or euclidean.")] = "cosine",
    strict: Annotated[bool, typer.Option("--strict", help="p counts draws above the observed mAP only.")] = False,
    null_size: Annotated[int, typer.Option(min=100, help="Draws of the null.")] = 10_000,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Of the corrected p.")] = 0.05,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    output: Annotated[Text, typer.Option("--output", "-o", help="Folder for the tables.")] = None,
    as_json: AsJson = False,
) -> None:
    """Score any table of profiles by copairs' four lists: average precision, p-values, intervals and floors."""
    lists = {"pos_sameby": pos_sameby, "pos_diffby": pos_diffby, "neg_sameby": neg_sameby, "neg_diffby": neg_diffby}
    wells: dict[str, Any] = {"multilabel": multilabel, "reference": reference, "exclude": exclude, "storage": storage}
    wells |= {"features": features or (), "drop_features": drop_features or ()}
    wells["missing"] = None if missing is None else _names(missing)
    settings: dict[str, Any] = {"null": null, "null_size": null_size, "strict": strict, "threshold": threshold}
    settings |= {"ties": ties, "distance": distance, "normalise": normalise, "seed": seed}
    names: dict[str, Any] = {key: _names(given) for key, given in lists.items()}
    lines = Console(stderr=True)
    with waiting(lines, f"retrieve: reading {len(profiles)} tables, normalising, ranking, drawing the null"):
        retrieved = sdvae_ray.retrieve(profiles, **names, **wells, **settings)
    questions.show_retrieved(retrieved, profiles, output, storage, console, as_json)


def models(as_json: AsJson = False) -> None:
    """List the shelves: autoencoders, codecs, extractors and metrics; size, licence, and whether weights are at hand."""
    inputs.list_models(console, as_json)


def _names(given: str) -> list[str]:
    return [name for name in given.split(",") if name]


def _rewrite(rule: str) -> tuple[str, str]:
    before, separator, after = rule.partition("=")
    if not separator or not before:
        raise ConfigError(
            f"--rewrite {rule}: FROM=TO is wanted, such as /home/ubuntu/bucket/=s3://cellpainting-gallery/"
        )
    return before, after
