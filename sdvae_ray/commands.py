"""The commands, one function each; the command line and the jobs call them. Nothing heavy is imported until one runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sdvae_ray.console import print_line
from sdvae_ray.errors import ConfigError, RunError
from sdvae_ray.storage import Storage, absolute, join

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.queries.retrieve import Retrieved
    from sdvae_ray.queries.search import Answer
    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.run.run import Run
    from sdvae_ray.run.scores import Scores


def prepare(run: Run, console: Console) -> None:
    """Draw the synthetic plates that the run names, and write their manifest, if the manifest does not exist yet."""
    if run.config.synthetic is None or run.storage.exists(run.config.manifest):
        return
    from sdvae_ray.sources.synthetic.manifest import make_screen

    make_screen(run.config.synthetic, run.config.manifest, console)


def _begin(command: str, run: Run, console: Console) -> None:
    """Print the first line of a command, before the imports, which take seconds."""
    print_line(console, f"{command}: {run.output}; starting")


def retry(run: Run, console: Console, reason: str | None = None, address: str | None = None) -> None:
    """Compute again the FOVs that failed; reason: only those whose error contains this text."""
    _begin("retry", run, console)
    _encode(run, console, address, failed=reason or "")


def status(run: Run, console: Console, as_json: bool = False) -> None:
    """Print how far a run is, what failed and why, its sessions and its driver, as lines or as JSON."""
    from sdvae_ray.report.terminal.status import print_status
    from sdvae_ray.run.status import status as status_of

    state = status_of(run)
    if as_json:
        console.print_json(json.dumps(state))
    else:
        print_status(state, console)


def verify(run: Run, console: Console, repair: bool = False, as_json: bool = False) -> bool:
    """Read every file of a run's tables, and print what is wrong. Return whether the run is whole.

    repair: delete the damaged files, so that `encode` computes their FOVs again.
    """
    from dataclasses import asdict

    from sdvae_ray.report.terminal.status import print_verified
    from sdvae_ray.run.verify import verify as verify_run

    def say(line: str) -> None:
        if not as_json:
            print_line(console, f"verify: {line}")

    verified = verify_run(run, say, repair)
    if as_json:
        console.print_json(json.dumps({**asdict(verified), "whole": verified.is_whole}))
    else:
        print_verified(asdict(verified), console)
    return verified.is_whole


def compact(run: Run, console: Console, address: str | None = None) -> None:
    """Give every FOV one row with all its columns, in large files; print how many files there were and are."""
    _begin("compact", run, console)
    from sdvae_ray.encoding.compact import compact as compact_run

    done = compact_run(run, console, address)
    if done.deleted:
        print_line(
            console,
            f"compact: {done.fovs} FOVs in {done.after} files of each table, {done.before} before; one row per FOV",
        )
    else:
        print_line(
            console, f"compact: nothing to do: {done.fovs} FOVs, one row per FOV, in {done.after} files of each table"
        )


def encode(run: Run, console: Console, address: str | None = None, extend: bool = False) -> None:
    """Compute the fields of view that have no usable row yet; print how many, how fast and how many failed."""
    _begin("encode", run, console)
    prepare(run, console)
    _encode(run, console, address, extend)


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
    from sdvae_ray.engine.quality import QC, RAW_QC
    from sdvae_ray.run.quality import findings, in_lines, quality_table, scaling_notes
    from sdvae_ray.schema import PLATE_KEY

    image = run.config.image
    table = quality_table(run.fovs([*PLATE_KEY, *QC, *RAW_QC]), image.stains)
    lines = [*scaling_notes(table, image.stains, image.scaling), *in_lines(findings(table, image.stains))]
    for line in lines or [f"nothing is wrong with the images of {table.height} FOVs"]:
        print_line(console, f"quality: {line}")


def score(run: Run, console: Console, address: str | None = None, manifest: str | None = None) -> None:
    """Score the run and print the summary. address: a Ray cluster's, see `ray_session`. manifest: whose metadata counts, in place
    of the run's own. Raises RunError if nothing could be scored.
    """
    _require_scores(_score(run, console, address, manifest))


def _score(run: Run, console: Console, address: str | None, manifest: str | None = None) -> ScoredRun:
    _begin("score", run, console)
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
    _begin("report", run, console)
    from sdvae_ray.report.page.write import write_report

    uri = write_report(scored or _read_scored(run, console))
    print_line(console, f"report: {uri}")
    return uri


def _read_scored(run: Run, console: Console, scores: Scores | None = None) -> ScoredRun:
    from sdvae_ray.report.facts.scored import ScoredRun

    return ScoredRun.read(run, scores, lambda text: print_line(console, f"report: {text}"))


def run_all(run: Run, console: Console, address: str | None = None) -> None:
    """Run encode, score and report in one Ray session."""
    _begin("run", run, console)
    from sdvae_ray.cluster.session import ray_session

    prepare(run, console)
    with ray_session(address):
        _encode(run, console, address)
        scored = _score(run, console, address)
    report(run, console, scored)
    _require_scores(scored)


def check(run: Run, console: Console, address: str | None = None) -> None:
    """Take a few fields of view through every stage; raise the error that `encode` or `score` would meet."""
    _begin("check", run, console)
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
    _begin("bench", run, lines)
    from sdvae_ray.encoding.bench import bench as bench_run

    prepare(run, lines)
    measured = bench_run(run, lines, fovs, actors, address)
    if as_json:
        console.print_json(json.dumps(measured))


def demo_run(output: str, overrides: Sequence[str]) -> Run:
    """Return the run of the packaged demo, with all its files under `output`."""
    from sdvae_ray.run.run import Run

    folder = absolute(output)
    run_file = Path(__file__).parent / "assets" / "demo.yaml"
    places = {"manifest": "manifest.parquet", "output": "run", "synthetic.folder": "plates"}
    return Run.open(run_file, [*(f"{key}={join(folder, name)}" for key, name in places.items()), *overrides])


def make_manifest(
    load_data: Sequence[str], output: str, *, storage: Mapping[str, Any], console: Console, **settings: Any
) -> None:
    """Build a manifest, write it to `output`, and print its size and notes.

    storage: keys of `storage:`. settings: options of sources.manifest.build_manifest.
    """
    from sdvae_ray.schema import PLATE_KEY, WELL_KEY
    from sdvae_ray.sources.manifest import build_manifest, write_manifest

    place = Storage.of(storage)
    built = build_manifest(load_data, storage=place, **settings)
    write_manifest(built.table, output, place)
    plates, wells = built.table.select(PLATE_KEY).n_unique(), built.table.select(WELL_KEY).n_unique()
    _say_made(built.notes, f"{built.table.height} FOVs, {wells} wells, {plates} plates -> {absolute(output)}", console)


def make_photographs(
    sources: Sequence[str], output: str, *, storage: Mapping[str, Any], console: Console, **settings: Any
) -> None:
    """Build the manifest of a set of photographs, write it to `output`, and print its size and notes.

    storage: keys of `storage:`. settings: options of sources.photographs.build_photographs.
    """
    from sdvae_ray.schema import PLATE_COLUMN
    from sdvae_ray.sources.photographs import build_photographs, write_photographs

    place = Storage.of(storage)
    built = build_photographs(sources, storage=place, **settings)
    write_photographs(built, output, place)
    classes = built.table[PLATE_COLUMN].n_unique()
    _say_made(built.notes, f"{built.table.height} photographs, {classes} classes -> {absolute(output)}", console)


def pack(
    manifest: str, output: str, address: str | None, *, storage: Mapping[str, Any], console: Console, **options: Any
) -> None:
    """Pack a manifest's fields of view into shards, and print how many were packed, skipped and failed.

    storage: keys of `storage:`. options: fields of encoding.pack_plan.PackOptions.
    """
    from sdvae_ray.encoding.pack import pack as pack_manifest
    from sdvae_ray.encoding.pack_plan import PackOptions

    place, chosen = Storage.of(storage), PackOptions(**options)
    packed = pack_manifest(absolute(manifest), absolute(output), place, console, chosen, address)
    if packed.skipped:
        print_line(console, f"note: {packed.skipped} of {packed.shards} shards were finished before")
    if packed.errors:
        print_line(console, f"note: {packed.errors} FOVs have an error and no pixels; the first: {packed.first_error}")
    if packed.transient:
        print_line(console, f"note: storage failed for {packed.transient} FOVs: the same command tries them again")
    size = f"{packed.stored_bytes / 1e9:.3f} GB of images"
    if chosen.crop is not None:
        share = 100 * (1 - packed.stored_bytes / max(1, packed.source_bytes))
        size += f" in place of {packed.source_bytes / 1e9:.3f} GB ({share:.1f} % less)"
    print_line(console, f"pack: {packed.fovs} FOVs, {packed.shards} shards, {size} -> {packed.place}")


def _say_made(notes: Sequence[str], what: str, console: Console) -> None:
    for line in [*(f"note: {note}" for note in notes), f"manifest: {what}"]:
        print_line(console, line)


def list_models(console: Console, as_json: bool = False) -> None:
    """Print every entry of the shelves, as tables or as JSON."""
    from sdvae_ray.report.facts.catalogue import catalogue
    from sdvae_ray.report.terminal.catalogue import print_catalogue

    if as_json:
        console.print_json(json.dumps(catalogue()))
    else:
        print_catalogue(console)


def show_retrieved(
    retrieved: Retrieved,
    profiles: Sequence[str],
    output: str | None,
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
) -> None:
    """Print the tables of `retrieve`, and write them into the folder `output` unless it is None."""
    from sdvae_ray.report.facts.retrieved import retrieved_section
    from sdvae_ray.report.terminal.tables import print_section
    from sdvae_ray.run.tables import write_table

    summary = {"profiles": list(profiles), **retrieved.summary}
    if output is not None:
        place, folder = Storage.of(storage), absolute(output)
        for name, frame in (("groups", retrieved.groups), ("wells", retrieved.wells), ("floors", retrieved.floors)):
            if frame is not None:
                write_table(join(folder, f"{name}.parquet"), frame.to_arrow(), place)
        place.write_bytes(join(folder, "retrieve.json"), json.dumps(summary, indent=1).encode() + b"\n")
    if as_json:
        console.print_json(json.dumps(summary))
    else:
        print_section(retrieved_section(retrieved), console)


def compare(a: str, b: str, storage: Mapping[str, Any], console: Console, as_json: bool = False) -> None:
    """Print two scored runs side by side, as tables or as JSON. a, b: run files or output folders. storage: keys of `storage:`."""
    from sdvae_ray.report.facts.compare import comparison
    from sdvae_ray.report.terminal.summary import print_comparison
    from sdvae_ray.run.run import Run

    compared = comparison(Run.open(a, storage=storage), Run.open(b, storage=storage))
    if as_json:
        console.print_json(json.dumps(compared, allow_nan=False))
    else:
        print_comparison(compared, console)


class Asked(NamedTuple):
    """The query of `search`, exactly one of: a well, a FOV or a patch of the run, a new image."""

    well: str | None = None  # PLATE/WELL
    fov: str | None = None
    patch: int | None = None
    images: Sequence[str] = ()  # STAIN=FILE, or one file
    manifest: str | None = None
    plate: str | None = None  # a plate of the run; a new image is normalised as a well of this plate


def search(
    run: Run, asked: Asked, extractor: str | None, side: str | None, count: int, console: Console, as_json: bool = False
) -> None:
    """Print the `count` nearest neighbours of the query, as a table or as JSON.

    extractor, side: which index is searched; None: the run's first extractor, the originals. Raises ConfigError if `asked` has no
    query or several, DataError if the query or the index does not exist.
    """
    from sdvae_ray.report.facts.neighbours import neighbours_table
    from sdvae_ray.report.terminal.tables import print_table

    neighbours, facts = _neighbours(run, asked, extractor, side, count)
    if as_json:
        console.print_json(json.dumps({**facts, "neighbours": neighbours.to_dicts()}))
    else:
        print_table(neighbours_table(run.config, neighbours, facts), console)
        if note := facts.get("note"):
            print_line(console, f"note: {note}")


def _neighbours(run: Run, asked: Asked, extractor: str | None, side: str | None, count: int) -> Answer:
    """Return the neighbours of the query of `asked`. Raises ConfigError if `asked` has no query, or more than one."""
    from sdvae_ray.queries.search import search_row, search_well

    fov_of_run = asked.fov if asked.manifest is None else None
    is_new = bool(asked.images) + (asked.manifest is not None)
    if (asked.well is not None) + (fov_of_run is not None) + is_new != 1:
        raise ConfigError(
            "search: one of --well PLATE/WELL, --fov ID, --image STAIN=FILE and --manifest FILE is wanted"
        )
    if asked.patch is not None and asked.well is not None:
        raise ConfigError("search: --patch is of a FOV or an image, not of a well")
    if asked.plate is not None and (not is_new or asked.patch is not None):
        raise ConfigError(
            "search: --plate names the plate of a whole new image (--image or --manifest, without --patch)"
        )
    if asked.well is not None:
        return search_well(run, asked.well, extractor, side, count)
    if fov_of_run is not None:
        return search_row(run, fov_of_run, asked.patch, extractor, side, count)
    from sdvae_ray.queries.new_image import image_query, manifest_query, search_image

    query = image_query(run, asked.images) if asked.images else manifest_query(run, str(asked.manifest), asked.fov)
    return search_image(run, query, extractor, side, count, asked.patch, asked.plate)


def decode(run: Run, fov_id: str, side: str | None, output: str, console: Console) -> None:
    """Decode the stored latents of one field of view, and write its stains to `output`, an OME-TIFF.

    side: an autoencoder; None: the only one whose latents are stored. Raises what queries.decode.decode_fov raises.
    """
    from sdvae_ray.queries.decode import decode_fov, ome_tiff

    stains, facts = decode_fov(run, fov_id, side)
    uri = absolute(output)
    run.storage.write_bytes(uri, ome_tiff(stains, run.config.image.stains, facts))
    random = ", random weights" if facts["random_weights"] else ""
    shape = " x ".join(str(size) for size in stains.shape)
    print_line(console, f"decode: {fov_id} by {facts['side']}{random}, {shape} {stains.dtype} -> {uri}")
