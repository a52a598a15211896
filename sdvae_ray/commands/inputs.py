"""Commands that make manifests, their scaling constants and shards, and list the shelves.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sdvae_ray.commands.first_line import give, lines_of
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError
from sdvae_ray.schema import PLATE_KEY
from sdvae_ray.storage import Storage, absolute

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.run.run import Run
    from sdvae_ray.sources.manifest.plate import Recipe

_MOST_OUTLIERS = 20  # lines


def make_manifest(
    load_data: Sequence[str],
    output: str,
    address: str | None = None,
    *,
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
    **settings: Any,
) -> None:
    """Build a manifest, write it to `output`, and print its size and notes.

    output: a name that ends in .parquet, for one file, else a folder of a file per plate. load_data may then be a manifest, which
    is cut by its plates. storage: keys of `storage:`. settings: options of sources.manifest.build_manifest.
    """
    from sdvae_ray.schema import WELL_KEY
    from sdvae_ray.sources.load_data_files import load_data_files
    from sdvae_ray.sources.manifest.index import index_uri
    from sdvae_ray.sources.manifest.manifest import build_manifest, write_manifest

    place = Storage.of(storage)
    lines = lines_of(console, as_json)
    if index_uri(output) is not None:
        _make_folder(load_data, absolute(output), address, place, console, as_json, settings)
        return
    files = [*load_data_files(load_data, place)]
    with waiting(lines, f"manifest: reading {len(files)} load_data files and their tables"):
        built = build_manifest(files, storage=place, **settings)
        write_manifest(built.table, output, place)
    plates, wells = built.table.select(PLATE_KEY).n_unique(), built.table.select(WELL_KEY).n_unique()
    _say_made(built.notes, f"{built.table.height} FOVs, {wells} wells, {plates} plates -> {absolute(output)}", lines)
    told = {"fovs": built.table.height, "wells": wells, "plates": plates, "notes": [*built.notes]}
    give({"output": absolute(output), **told}, console, as_json)


def _make_folder(
    load_data: Sequence[str],
    output: str,
    address: str | None,
    storage: Storage,
    console: Console,
    as_json: bool,
    settings: Mapping[str, Any],
) -> None:
    """Write a manifest of many files, of load_data files by the options of the command line, or of a manifest."""
    from sdvae_ray.schema import BATCH_COLUMN, SOURCE_COLUMN
    from sdvae_ray.settings.load_data import LoadDataConfig
    from sdvae_ray.sources.manifest.plate import Recipe
    from sdvae_ray.sources.manifest.writer import cut, is_manifest

    if len(load_data) == 1 and is_manifest(load_data[0], storage):
        lines = lines_of(console, as_json)
        with waiting(lines, f"manifest: cutting {load_data[0]} by its plates"):
            fovs, plates = cut(absolute(load_data[0]), output, storage)
        _say_made([], f"{fovs} FOVs, {plates} plates -> {output}", lines)
        give({"output": output, "fovs": fovs, "plates": plates, "notes": []}, console, as_json)
        return
    defaults = settings["defaults"]
    section = LoadDataConfig(
        files=tuple(load_data),
        platemaps=settings["platemaps"],
        metadata=settings["metadata"],
        rewrite=dict(settings["rewrites"]),
        source=defaults.get(SOURCE_COLUMN),
        batch=defaults.get(BATCH_COLUMN),
        drop_unmapped_wells=settings["drop_unmapped_wells"],
        **({"missing": settings["missing"]} if "missing" in settings else {}),
    )
    recipe = Recipe.of(section, settings["stains"], output, storage.config)
    give(_build(recipe, lines_of(console, as_json), address), console, as_json)


def manifest_of_run(run: Run, console: Console, address: str | None = None, as_json: bool = False) -> None:
    """Build the manifest of a run file by its section `load_data`. Raises ConfigError if it has none."""
    from sdvae_ray.sources.manifest.plate import Recipe

    config, section = run.config, run.config.load_data
    if section is None:
        raise ConfigError("manifest: the run file has no section load_data, which says what its manifest is made of")
    recipe = Recipe.of(section, config.image.stains, config.manifest, run.storage.config)
    give(_build(recipe, lines_of(console, as_json), address), console, as_json)


def _build(recipe: Recipe, lines: Console, address: str | None) -> dict[str, Any]:
    """Build a manifest of many files, and print its size and notes. Return what `--json` prints."""
    from dataclasses import asdict

    from sdvae_ray.encoding.manifest_folder import build_folder

    built = build_folder(recipe, lines, address)
    for reason, count in built.excluded.items():
        print_line(lines, f"manifest: left out: {count} {reason}" if count else f"note: left out nothing: {reason}")
    what = f"{built.fovs} FOVs, {built.wells} wells, {built.plates} plates of {built.load_data} load_data files"
    _say_made(built.notes, f"{what} -> {recipe.output}", lines)
    return {"output": recipe.output, **asdict(built)}


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
