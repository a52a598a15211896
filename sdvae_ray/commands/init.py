"""The command `init`: load_data files in, a commented run file out, and the commands that come next. It asks nothing.

Nothing heavy is imported until the command runs.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from sdvae_ray.commands.first_line import give, lines_of
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError, StorageError, one_line
from sdvae_ray.storage import Storage, absolute, join

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

_ORIGINAL = re.compile(r"(?:URL|FileName)_Orig(.+)")
_TREATMENTS = ("broad_sample", "JCP2022", "pert_iname", "compound", "Compound", "treatment", "gene", "symbol")
_NEGATIVE = ("negcon", "DMSO", "dmso", "JCP2022_033924")  # the last one is DMSO in JUMP
_GROUPS = ("Cell_type", "Time")
_MOST, _PATCH = 1024, 256  # pixels, as published


class Field(NamedTuple):
    """The first field of view: the shorter side of its images in pixels, and the highest of its stains' 99.9 % intensities."""

    side: int
    bright: float


def init(
    load_data: Sequence[str],
    output: str,
    *,
    tables: Mapping[str, Sequence[str]],
    settings: Mapping[str, Any],
    storage: Mapping[str, Any],
    console: Console,
    as_json: bool = False,
) -> None:
    """Write a run file for the images of load_data files, and print the commands that come next.

    tables: option of `manifest` (platemap, metadata, rewrite, source, batch) -> what was given. settings: of build_manifest.
    storage: keys of `storage:`. Raises ConfigError if the output exists, DataError for tables that make no manifest.
    """
    from sdvae_ray.sources.load_data_files import load_data_files
    from sdvae_ray.sources.manifest.manifest import build_manifest

    place, file, lines = Storage.of(storage), absolute(output), lines_of(console, as_json)
    if not file.endswith((".yaml", ".yml")):
        raise ConfigError(f"init: --output {output}: a run file ends in .yaml")
    if place.exists(file):
        raise ConfigError(f"init: {file} exists; another --output is wanted, or delete it")
    files = [*load_data_files(load_data, place)]
    with waiting(lines, f"init: reading {len(files)} load_data files and the first field of view"):
        stains = _stains(files[0], place)
        built = build_manifest(files, stains=stains, storage=place, **settings)
        field = _first_field(built.table, stains, place)
    folder = file.rpartition("/")[0]
    manifest = join(folder, "manifest.parquet")
    commands = [
        _manifest_command(load_data, stains, tables, storage, manifest),
        f"sdvae-ray check {shlex.quote(file)}",
        f"sdvae-ray run {shlex.quote(file)} --limit 24",
        f"sdvae-ray run {shlex.quote(file)}",
    ]
    text = _run_file(built.table, stains, field, storage, manifest, join(folder, "run"), commands)
    place.write_bytes(file, text.encode())
    for note in built.notes:
        print_line(lines, f"note: {note}")
    if isinstance(field, str):
        print_line(lines, f"note: no image could be read, so crop and patch are a guess: {field}")
    print_line(lines, f"init: {built.table.height} FOVs, stains {', '.join(stains)} -> {file}")
    for what, command in zip(("the manifest", "tried on a few fields", "a trial", "all"), commands, strict=True):
        print_line(lines, f"  {command}   # {what}")
    give({"output": file, "fovs": built.table.height, "stains": [*stains], "commands": commands}, console, as_json)


def _stains(load_data: str, storage: Storage) -> tuple[str, ...]:
    """Return the stains of a load_data file without brightfield, in the published order; the published ones if it has none."""
    from sdvae_ray.sources.manifest.manifest import STAINS
    from sdvae_ray.sources.tables import read_columns

    names = {match[1] for name in read_columns(load_data, storage).columns if (match := _ORIGINAL.fullmatch(name))}
    stains = sorted(name for name in names if not name.lower().startswith("brightfield"))
    known = [stain for stain in STAINS if stain in stains]
    return (
        STAINS if len(known) == len(STAINS) or not stains else (*known, *(name for name in stains if name not in known))
    )


def _first_field(table: pl.DataFrame, stains: Sequence[str], storage: Storage) -> Field | str:
    """Return what the first field of view is like, or why it cannot be read."""
    import numpy as np

    from sdvae_ray.images.decode import decode_planes
    from sdvae_ray.schema import uri_column
    from sdvae_ray.sources.manifest.row import channel_of

    row = table.row(0, named=True)
    planes = []
    try:
        for stain in stains:
            uri = absolute(row[uri_column(stain)])
            planes += decode_planes(storage.read_bytes(uri), [channel_of(row, stain)], uri)
    except (OSError, ValueError, StorageError) as error:
        return one_line(error)
    return Field(min(min(plane.shape) for plane in planes), max(float(np.quantile(plane, 0.999)) for plane in planes))


def _manifest_command(
    load_data: Sequence[str],
    stains: Sequence[str],
    tables: Mapping[str, Sequence[str]],
    storage: Mapping[str, Any],
    manifest: str,
) -> str:
    words = ["sdvae-ray", "manifest", *load_data]
    words += [word for option, values in tables.items() for value in values for word in (f"--{option}", value)]
    for name, value in storage.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if value is True else ["--signed"] if value is False else [flag, str(value)]
    return shlex.join([*words, "--stains", ",".join(stains), "--output", manifest])


def _sizes(field: Field | str) -> tuple[int, int]:
    """Return (crop, patch) in pixels: as published, or as large as the images allow. Raises ConfigError for images below 64."""
    if isinstance(field, str):
        return _MOST, _PATCH
    if field.side < 64:
        raise ConfigError(f"init: the images are {field.side} pixels wide or high, and 64 are the least")
    patch = _PATCH if field.side >= _PATCH else field.side // 64 * 64
    return min(_MOST, field.side // patch * patch), patch


def _scoring(table: pl.DataFrame) -> tuple[str | None, str | None]:
    """Return the column of the treatments and the expression of the negative controls; None for what no column tells."""
    columns = [f"Metadata_{name}" for name in _TREATMENTS if f"Metadata_{name}" in table.columns]
    treatment = next((name for name in columns if table[name].n_unique() > 1), None)
    for column in ("Metadata_control_type", "Metadata_pert_type", *columns):
        if column in table.columns:
            values = set(table[column].drop_nulls().to_list())
            if negative := next((word for word in _NEGATIVE if word in values), None):
                return treatment, f"{column} == '{negative}'"
    return treatment, None


def _run_file(
    table: pl.DataFrame,
    stains: Sequence[str],
    field: Field | str,
    storage: Mapping[str, Any],
    manifest: str,
    output: str,
    commands: Sequence[str],
) -> str:
    from sdvae_ray.runfile import parse_run
    from sdvae_ray.sources.manifest.manifest import STAINS

    crop, patch = _sizes(field)
    treatment, control = _scoring(table)
    scored = treatment is not None and control is not None
    seen = "no image could be read" if isinstance(field, str) else f"the first field is {field.side} pixels"
    bright = "" if isinstance(field, str) else f"; of the first field, 99.9 % are below {field.bright:.0f}"
    groups = [f"Metadata_{name}" for name in _GROUPS if f"Metadata_{name}" in table.columns]
    lacking = "treatments" if treatment is None else "negative controls"
    said = "" if scored else f"   # no column of the manifest tells the {lacking}: name them, and retrieval is scored"
    lines = [
        "# Made by `sdvae-ray init`. Every key with its default: docs/run-file.md of sdvae_ray.",
        *(f"#   {command}" for command in commands),
        f"manifest: {json.dumps(manifest)}",
        f"output: {json.dumps(output)}",
        *([f"storage: {json.dumps(dict(storage))}"] if storage else []),
        "image:",
        f"  stains: {json.dumps([*stains])}",
        f"  crop: {crop}   # pixels, from the centre; {seen}",
        f"  patch: {patch}   # pixels; crop is a multiple of it",
        f"  scaling: {{method: divide, divisor: 256, bits: 8}}   # pixel / divisor, at most 255{bright}",
        f"  packing: {'published' if [*stains] == [*STAINS] else 'grey'}   # RGB passes; grey: every stain alone",
        "autoencoders:   # every autoencoder is a side; `sdvae-ray models` lists what there is",
        "  patch_pca: {name: patch_pca}   # linear, without weights to fetch",
        "  # sd_mse: {name: diffusers_kl, source: stabilityai/sd-vae-ft-mse, revision: main}   # from the hub, or a folder",
        "codecs:   # image codecs: every codec is a side too",
        "  jpegxl: {name: jpegxl, distance: 1.0}",
        "  jpeg: {name: jpeg, quality: 20}",
        "extractors:   # what looks at the images",
        "  intensity: {name: intensity}   # made by hand, without weights",
        "  cell_count: {name: cell_count}   # the floor: the number of cells alone",
        "  # inception_v3: {name: inception_v3}   # as published; fetched by torchvision",
        "score:",
        f"  perturbation: {json.dumps(treatment if scored else None)}{said}",
        *([f"  control: {json.dumps(control)}   # the negatives"] if scored else []),
        *([f"  group: {json.dumps(groups)}   # scored apart"] if groups and scored else []),
        "  normalise: plate_standardise   # published: whitening, for plates with many controls",
    ]
    text = "\n".join(lines) + "\n"
    import yaml

    parse_run(yaml.safe_load(text), "init")
    return text
