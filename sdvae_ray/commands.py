"""What the commands do, in order; the command line and the jobs call these. Nothing heavy is imported until one runs."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.errors import ConfigError
from sdvae_ray.runfile import load_run
from sdvae_ray.storage import Storage, absolute, is_remote, join

if TYPE_CHECKING:
    from sdvae_ray.queries.search import Found
    from sdvae_ray.run.scores import Scores


def read_run(path: str, overrides: list[str]) -> RunConfig:
    """The run file with its paths made absolute. In a submitted job a relative output is refused: it would be lost."""
    config = load_run(path, overrides)
    expanded = os.path.expanduser(config.output)
    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    if in_job and not is_remote(config.output) and not os.path.isabs(expanded):
        raise ConfigError(
            f"output: {config.output} is relative, and a submitted job runs in a temporary folder; "
            f"an absolute path or s3://... is wanted"
        )
    return config.model_copy(update={"manifest": absolute(config.manifest), "output": absolute(config.output)})


def prepare(config: RunConfig, console: Console) -> None:
    """Draws the synthetic plates that the run names, and their manifest, where the manifest does not exist yet."""
    if config.synthetic is None or Storage(config.storage).exists(config.manifest):
        return
    from sdvae_ray.sources.screen import make_screen

    make_screen(config.synthetic, config.manifest, console)


def encode(config: RunConfig, console: Console, address: str | None = None, extend: bool = False) -> None:
    from sdvae_ray.encoding.stream import encode as stream

    prepare(config, console)
    done = stream(config, console, address, extend)
    rate = f", {done.computed / done.seconds:.2f} FOV/s" if done.computed and done.seconds else ""
    failed = f"; {done.errors} failed, each with its reason in fovs/" if done.errors else ""
    console.print(
        f"encode: {done.computed} FOVs in {done.seconds:.0f} s{rate}; {done.fovs} of {done.fovs} have a row{failed}",
        highlight=False,
        soft_wrap=True,
    )


def score(config: RunConfig, console: Console, address: str | None = None) -> "Scores":
    from sdvae_ray.report.terminal.summary import print_summary
    from sdvae_ray.run.record import read_record
    from sdvae_ray.scoring.score import score as grade

    scores = grade(config, console, address)
    print_summary(config, scores, read_record(config.output, Storage(config.storage)) or {}, console)
    return scores


def report(config: RunConfig, console: Console, scores: "Scores | None" = None) -> str:
    from sdvae_ray.report.page.write import write_report
    from sdvae_ray.run.scores import read_scores

    storage = Storage(config.storage)
    uri = write_report(config, scores or read_scores(config.output, storage), storage, console)
    console.print(f"report: {uri}", highlight=False, soft_wrap=True)
    return uri


def run(config: RunConfig, console: Console, address: str | None = None) -> None:
    """encode, score and report in one Ray session."""
    from sdvae_ray.cluster.session import ray_session

    prepare(config, console)
    with ray_session(address):
        encode(config, console, address)
        scores = score(config, console, address)
    report(config, console, scores)


def check(config: RunConfig, console: Console, address: str | None = None) -> None:
    from sdvae_ray.encoding.check import check as check_run

    prepare(config, console)
    check_run(config, console, address)
    console.print("check: this run can start")


def demo_config(output: str, overrides: list[str]) -> RunConfig:
    """The packaged demo with everything under `output`."""
    folder = absolute(output)
    run_file = Path(__file__).parent / "assets" / "demo.yaml"
    places = {"manifest": "manifest.parquet", "output": "run", "synthetic.folder": "plates"}
    return read_run(str(run_file), [f"{key}={join(folder, name)}" for key, name in places.items()] + overrides)


def list_models(console: Console, as_json: bool = False) -> None:
    from sdvae_ray.report.facts.catalogue import catalogue, print_catalogue

    if as_json:
        console.print_json(json.dumps(catalogue()))
    else:
        print_catalogue(console)


def retrieve(
    profiles: Sequence[str],
    lists: Sequence[tuple[str, ...]],
    multilabel: str | None,
    reference: str | None,
    exclude: str | None,
    features: tuple[Sequence[str], Sequence[str]],
    chosen: Mapping[str, Any],
    output: str | None,
    storage_config: StorageConfig,
    console: Console,
    as_json: bool = False,
) -> None:
    """`features`: prefixes to keep and globs to drop; `chosen`: the fields of stages.lists.Settings."""
    from sdvae_ray.queries.copairs_lists import Lists, checked_settings
    from sdvae_ray.queries.retrieve import retrieve as score_table
    from sdvae_ray.report.terminal.retrieval_summary import print_retrieved
    from sdvae_ray.run.tables import write_table
    from sdvae_ray.sources.profiles import read_profiles

    storage, settings = Storage(storage_config), checked_settings(chosen)
    table = read_profiles(profiles, storage, *features)
    found = score_table(table, Lists(lists[0], lists[1], lists[2], lists[3], multilabel), reference, exclude, settings)
    if output is not None:
        for name, frame in (("groups", found.groups), ("wells", found.wells), ("floors", found.floors)):
            if frame is not None:
                write_table(join(absolute(output), f"{name}.parquet"), frame.to_arrow(), storage)
        text = json.dumps({"profiles": list(profiles), **found.summary}, indent=1)
        storage.write_bytes(join(absolute(output), "retrieve.json"), text.encode() + b"\n")
    if as_json:
        console.print_json(json.dumps({"profiles": list(profiles), **found.summary}))
    else:
        print_retrieved(found, console)


def compare(a: str, b: str, storage: StorageConfig, console: Console, as_json: bool = False) -> None:
    from sdvae_ray.report.facts.compare import comparison
    from sdvae_ray.report.terminal.side_by_side import print_comparison

    found = comparison(a, b, storage)
    if as_json:
        console.print_json(json.dumps(found, allow_nan=False))
    else:
        print_comparison(found, console)


class Asked(NamedTuple):
    """Whose neighbours `search` is asked for: a well, a FOV or a patch of the run, or a new image."""

    well: str | None = None  # PLATE/WELL
    fov: str | None = None
    patch: int | None = None
    images: Sequence[str] = ()  # STAIN=FILE, or one file
    manifest: str | None = None
    plate: str | None = None  # of the run, as whose well a new image is normalised


def search(
    config: RunConfig,
    asked: Asked,
    extractor: str | None,
    side: str | None,
    count: int,
    console: Console,
    as_json: bool = False,
) -> None:
    from sdvae_ray.report.terminal.neighbours import print_neighbours

    found, about = _found(config, asked, extractor, side, count, Storage(config.storage))
    if as_json:
        console.print_json(json.dumps({**about, "neighbours": found.to_dicts()}))
    else:
        print_neighbours(config, found, about, console)
        if note := about.get("note"):
            console.print(f"note: {note}", highlight=False, soft_wrap=True)


def _found(
    config: RunConfig, asked: Asked, extractor: str | None, side: str | None, count: int, storage: Storage
) -> "Found":
    """What `asked` names, searched for where it is kept. ConfigError where it names nothing, or more than one thing."""
    from sdvae_ray.queries.search import search_fov, search_patch, search_well

    of_run = asked.fov if asked.manifest is None else None
    named = [asked.well is not None, of_run is not None, bool(asked.images), asked.manifest is not None]
    if sum(named) != 1:
        raise ConfigError(
            "search: one of --well PLATE/WELL, --fov ID, --image STAIN=FILE and --manifest FILE is wanted"
        )
    if asked.patch is not None and asked.well is not None:
        raise ConfigError("search: --patch is of a FOV or an image, not of a well")
    if asked.plate is not None and (sum(named[2:]) == 0 or asked.patch is not None):
        raise ConfigError("search: --plate is of a new image (--image, --manifest), and of a whole one")
    if asked.well is not None:
        return search_well(config, asked.well, extractor, side, count, storage)
    if of_run is not None and asked.patch is not None:
        return search_patch(config, of_run, asked.patch, extractor, side, count, storage)
    if of_run is not None:
        return search_fov(config, of_run, extractor, side, count, storage)
    from sdvae_ray.queries.new_image import image_query, manifest_query, search_image

    if asked.images:
        query = image_query(config, asked.images, storage)
    else:
        query = manifest_query(config, str(asked.manifest), asked.fov, storage)
    return search_image(config, query, extractor, side, count, storage, asked.patch, asked.plate)


def decode(config: RunConfig, fov_id: str, side: str | None, output: str, console: Console) -> None:
    from sdvae_ray.queries.decode import decode_fov, ome_tiff

    storage = Storage(config.storage)
    stains, facts = decode_fov(config, fov_id, side, storage)
    uri = absolute(output)
    storage.write_bytes(uri, ome_tiff(stains, config.image.stains, facts))
    random = ", random weights" if facts["random_weights"] else ""
    shape = " x ".join(str(size) for size in stains.shape)
    console.print(
        f"decode: {fov_id} by {facts['side']}{random}, {shape} {stains.dtype} -> {uri}", highlight=False, soft_wrap=True
    )
