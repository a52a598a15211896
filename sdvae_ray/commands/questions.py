"""Commands that ask: search and decode a run, compare two runs, score any profiles.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sdvae_ray.commands.first_line import give, lines_of
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError
from sdvae_ray.storage import Storage, absolute, join

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.queries.retrieve import Retrieved
    from sdvae_ray.queries.search import Answer
    from sdvae_ray.run.run import Run


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


def decode(run: Run, fov_id: str, side: str | None, output: str, console: Console, as_json: bool = False) -> None:
    """Decode the stored latents of one field of view, and write its stains to `output`, an OME-TIFF.

    side: an autoencoder; None: the only one whose latents are stored. Raises what queries.decode.decode_fov raises.
    """
    from sdvae_ray.queries.decode import decode_fov, ome_tiff

    lines = lines_of(console, as_json)
    with waiting(lines, "decode: loading the autoencoder and decoding"):
        stains, facts = decode_fov(run, fov_id, side)
    uri = absolute(output)
    run.storage.write_bytes(uri, ome_tiff(stains, run.config.image.stains, facts))
    random = ", random weights" if facts["random_weights"] else ""
    shape = " x ".join(str(size) for size in stains.shape)
    print_line(lines, f"decode: {fov_id} by {facts['side']}{random}, {shape} {stains.dtype} -> {uri}")
    give({**facts, "output": uri, "shape": stains.shape, "dtype": str(stains.dtype)}, console, as_json)


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


def published(places: Sequence[str], storage: Mapping[str, Any], console: Console, as_json: bool = False) -> None:
    """Print FR of runs that differ in the seed alone beside the paper's figures.

    Raises DataError for a run that is not the published protocol, with every departure by name, and for runs that are not of one
    configuration.
    """
    from sdvae_ray.errors import DataError
    from sdvae_ray.report.facts.conclude.study import studies
    from sdvae_ray.report.facts.papers import beside_the_paper, papers_section
    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.report.terminal.tables import print_section
    from sdvae_ray.run.run import Run

    runs = [ScoredRun.read(Run.open(place, storage=storage)) for place in places]
    if len(studies(runs)) > 1:
        raise DataError("the runs are not seeds of one configuration and manifest")
    rows = beside_the_paper(runs)
    if as_json:
        console.print_json(json.dumps(rows, allow_nan=False))
    else:
        print_section(papers_section(rows), console)


def conclude(
    places: Sequence[str],
    storage: Mapping[str, Any],
    console: Console,
    margin: float | None = None,
    as_json: bool = False,
) -> None:
    """Print what one or more scored runs say on the paper's three questions, as tables or as JSON.

    places: run files or output folders. storage: keys of `storage:`. margin: of a run whose file declares none. Raises ConfigError
    if a run declares another margin, DataError if a run has not been scored.
    """
    from sdvae_ray.report.facts.conclude.study import rule_of
    from sdvae_ray.report.facts.scored import ScoredRun
    from sdvae_ray.run.run import Run

    runs = [ScoredRun.read(Run.open(place, storage=storage)) for place in places]
    rules = [rule_of(run, margin) for run in runs]
    if as_json:
        from sdvae_ray.report.facts.conclude.answers import conclusion

        console.print_json(json.dumps(conclusion(runs, rules), allow_nan=False))
    else:
        from sdvae_ray.report.terminal.summary import print_conclusion

        print_conclusion(runs, rules, console)


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
    from sdvae_ray.run.stored.table_files import write_table

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
