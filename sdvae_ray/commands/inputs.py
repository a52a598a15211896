"""Commands that make manifests, their scaling constants and shards, and list the shelves.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdvae_ray.commands.first_line import give, lines_of
from sdvae_ray.console import print_line, waiting
from sdvae_ray.schema import PLATE_KEY
from sdvae_ray.storage import Storage, absolute

if TYPE_CHECKING:
    from rich.console import Console

_MOST_OUTLIERS = 20  # lines


def make_manifest(
    load_data: Sequence[str],
    output: str,
    *,
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
    **settings: Any,
) -> None:
    """Build a manifest, write it to `output`, and print its size and notes.

    storage: keys of `storage:`. settings: options of sources.manifest.build_manifest.
    """
    from sdvae_ray.schema import WELL_KEY
    from sdvae_ray.sources.manifest.manifest import build_manifest, write_manifest

    place = Storage.of(storage)
    lines = lines_of(console, as_json)
    with waiting(lines, f"manifest: reading {len(load_data)} load_data files and their tables"):
        built = build_manifest(load_data, storage=place, **settings)
        write_manifest(built.table, output, place)
    plates, wells = built.table.select(PLATE_KEY).n_unique(), built.table.select(WELL_KEY).n_unique()
    _say_made(built.notes, f"{built.table.height} FOVs, {wells} wells, {plates} plates -> {absolute(output)}", lines)
    told = {"fovs": built.table.height, "wells": wells, "plates": plates, "notes": [*built.notes]}
    give({"output": absolute(output), **told}, console, as_json)


def make_photographs(
    sources: Sequence[str],
    output: str,
    *,
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
    **settings: Any,
) -> None:
    """Build the manifest of a set of photographs, write it to `output`, and print its size and notes.

    storage: keys of `storage:`. settings: options of sources.photographs.build_photographs.
    """
    from sdvae_ray.schema import PLATE_COLUMN
    from sdvae_ray.sources.photographs import build_photographs, write_photographs

    place = Storage.of(storage)
    lines = lines_of(console, as_json)
    with waiting(lines, "photographs: reading their sizes"):
        built = build_photographs(sources, storage=place, **settings)
        write_photographs(built, output, place)
    classes = built.table[PLATE_COLUMN].n_unique()
    _say_made(built.notes, f"{built.table.height} photographs, {classes} classes -> {absolute(output)}", lines)
    told = {"photographs": built.table.height, "classes": classes, "notes": [*built.notes]}
    give({"output": absolute(output), **told}, console, as_json)


def pack(
    manifest: str,
    output: str,
    address: str | None,
    *,
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
    **options: Any,
) -> None:
    """Pack a manifest's fields of view into shards, and print how many were packed, skipped and failed.

    storage: keys of `storage:`. options: fields of encoding.shards.plan.PackOptions.
    """
    from dataclasses import asdict

    from sdvae_ray.encoding.shards.pack import pack as pack_manifest
    from sdvae_ray.encoding.shards.plan import PackOptions

    place, chosen, lines = Storage.of(storage), PackOptions(**options), lines_of(console, as_json)
    packed = pack_manifest(absolute(manifest), absolute(output), place, lines, chosen, address)
    if packed.skipped:
        print_line(lines, f"note: {packed.skipped} of {packed.shards} shards were finished before")
    if packed.errors:
        print_line(lines, f"note: {packed.errors} FOVs have an error and no pixels; the first: {packed.first_error}")
    if packed.transient:
        print_line(lines, f"note: storage failed for {packed.transient} FOVs: the same command tries them again")
    size = f"{packed.stored_bytes / 1e9:.3f} GB of images"
    if chosen.crop is not None:
        share = 100 * (1 - packed.stored_bytes / max(1, packed.source_bytes))
        size += f" in place of {packed.source_bytes / 1e9:.3f} GB ({share:.1f} % less)"
    print_line(lines, f"pack: {packed.fovs} FOVs, {packed.shards} shards, {size} -> {packed.place}")
    give(asdict(packed), console, as_json)


def calibrate(
    manifest: str,
    output: str,
    address: str | None,
    *,
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
    **options: Any,
) -> None:
    """Write a manifest with scaling constants, and print them with the plates that stand out.

    storage: keys of `storage:`. options: fields of encoding.calibration.calibrate.CalibrateOptions.
    """
    lines = lines_of(console, as_json)
    print_line(lines, f"calibrate: {manifest}; starting")
    from dataclasses import asdict

    from sdvae_ray.encoding.calibration.calibrate import CalibrateOptions
    from sdvae_ray.encoding.calibration.calibrate import calibrate as calibrate_manifest

    place, chosen = Storage.of(storage), CalibrateOptions(**options)
    done = calibrate_manifest(absolute(manifest), absolute(output), place, lines, chosen, address)
    for row in done.groups:
        constants = f"offset {row['offset']:.6g}, divisor {row['divisor']:.6g}"
        print_line(
            lines, f"{row[chosen.by]}  {row['stain']}: {constants}; {row['fovs']} fields, spread {row['spread']:.3g}"
        )
    for row in done.outliers[:_MOST_OUTLIERS]:
        plate = "/".join(row[key] for key in PLATE_KEY)
        print_line(
            lines,
            f"note: {plate} stands out: {row['stain']} from {row['low']:.6g} to {row['high']:.6g}, z {row['z']:.1f}",
        )
    if (more := len(done.outliers) - _MOST_OUTLIERS) > 0:
        print_line(lines, f"note: {more} more stains of plates stand out: --json lists them")
    if done.failed:
        fov_id, why = next(iter(done.failed.items()))
        print_line(lines, f"note: {len(done.failed)} fields of the sample cannot be read, such as {fov_id}: {why}")
    for plate in done.unread:
        print_line(lines, f"note: {plate}: not one of its fields can be read; it takes the constants of its group")
    of = "every plate" if chosen.level == "plate" else f"every {chosen.by}"
    print_line(
        lines, f"calibrate: constants of {of}, by {done.fovs} fields of {done.plates} plates -> {absolute(output)}"
    )
    give({"output": absolute(output), **asdict(chosen), **asdict(done)}, console, as_json)


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
