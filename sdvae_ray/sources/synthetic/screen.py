"""Writes a synthetic screen: plates of rendered fields, as files in the Cell Painting Gallery's layout, with the truth.

    <output>/<project>/<source>/images/<batch>/images/<plate>__<time>-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff
                                images/<batch>/illum/<plate>/<plate>_Illum<stain>.npy
                                workspace/load_data_csv/<batch>/<plate>/load_data_with_illum.csv[.gz]
                                workspace/metadata/platemaps/<batch>/barcode_platemap.csv, platemap/<name>.txt
                                workspace/metadata/external_metadata/compound_metadata.tsv, experiment-metadata.tsv
    <output>/truth.tsv

`<output>` stands for the bucket: the load_data files name images as the gallery's do, on `/home/ubuntu/bucket/` (odd
plates, the older header) or `s3://cellpainting-gallery/` (even plates, the newer one), for a reader to rewrite.

All plates share one random layout, as in a screen, so a treatment stands in the same wells of every plate. A position effect may
be drawn in: brightness that rises over the plate. Every plate has its own gains and light, and its own platemap. The effect of a
well is in the platemap (`position_effect`) and in truth.tsv. Equal arguments write equal bytes, in any number of threads.
"""

import csv
import gzip
import io
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from os import PathLike
from pathlib import Path

import numpy as np
import tifffile

from sdvae_ray.errors import ConfigError
from sdvae_ray.randomness import generator
from sdvae_ray.sources.synthetic.field import render_field
from sdvae_ray.sources.synthetic.microscope import STAINS, BatchEffect, batch_effect, correction
from sdvae_ray.sources.synthetic.phenotypes import PHENOTYPES

PROJECT, SOURCE, BATCH = "synthetic-screen", "source_1", "2026_01_05_Synthetic"
TIME = "2026-01-05T09_00_00"
PREFIXES = ("/home/ubuntu/bucket/", "s3://cellpainting-gallery/")
ROWS, COLUMNS = 16, 24  # of a 384-well plate
POSITION_EFFECT = "position_effect"  # of a well: the logarithm of its brightness over that of the middle of the plate


@dataclass(frozen=True)
class Compound:
    """One treatment. `strength` in [0, 1]: 0 looks like DMSO."""

    sample: str  # broad_sample
    name: str  # pert_iname
    phenotype: str = "none"  # a key of PHENOTYPES
    strength: float = 0.0

    @property
    def truth(self) -> str:
        """Return "active" or "inactive"."""
        return "active" if self.strength else "inactive"


def _default_compounds() -> tuple[Compound, ...]:
    graded = [(name, strength) for name in PHENOTYPES if name != "none" for strength in (1.0, 0.5)]
    active = [(f"{name}_{strength:g}", name, strength) for name, strength in [*graded, ("nucleolar_loss", 0.2)]]
    inactive = [(f"inactive_{i}", "none", 0.0) for i in range(1, 7)]
    return tuple(Compound(f"SYN-K{i:08d}", *design) for i, design in enumerate([*active, *inactive], 1))


COMPOUNDS = _default_compounds()  # seven phenotypes at full and half strength, one weak, six inactive


@dataclass(frozen=True)
class Well:
    """One well of one plate, with its treatment; compound None: DMSO."""

    plate: str
    row: int  # 0..15
    column: int  # 0..23
    compound: Compound | None

    @property
    def name(self) -> str:
        """Return the position on the plate, A01 to P24."""
        return f"{chr(ord('A') + self.row)}{self.column + 1:02d}"

    @property
    def slope(self) -> float:
        """Return where the well is on the way over the plate, from -1 in P01 to 1 in A24."""
        return self.column / (COLUMNS - 1) - self.row / (ROWS - 1)


@dataclass(frozen=True)
class ScreenFiles:
    """The files of a written screen. rewrites: (FROM, TO) prefixes; with them the load_data files name the images under `root`."""

    root: Path
    load_data: tuple[Path, ...]  # one per plate
    barcode_platemap: Path
    compound_metadata: Path
    experiment_metadata: Path
    truth: Path
    rewrites: tuple[tuple[str, str], ...]


def lay_out(
    seed: int, plates: int, controls: int, replicates_per_plate: int, compounds: Sequence[Compound] = COMPOUNDS
) -> dict[str, list[Well]]:
    """Return plate -> wells by position; the treatments are dealt once over all 384 positions, and every plate has this layout.
    Raises ConfigError if the treatments do not fit on a plate."""
    treatments: list[Compound | None] = [None] * controls
    treatments += [compound for compound in compounds for _ in range(replicates_per_plate)]
    if len(treatments) > ROWS * COLUMNS:
        raise ConfigError(f"a plate has {ROWS * COLUMNS} wells; {len(treatments)} treatments do not fit")
    places = generator(seed, "layout").permutation(ROWS * COLUMNS)[: len(treatments)]
    order = sorted(zip(places.tolist(), treatments, strict=True), key=lambda pair: pair[0])
    return {
        plate: [Well(plate, place // COLUMNS, place % COLUMNS, compound) for place, compound in order]
        for plate in (f"SY{number:08d}" for number in range(1, plates + 1))
    }


def write_screen(
    output: str | PathLike[str],
    *,
    seed: int = 0,
    plates: int = 2,
    size: int = 256,
    sites: int = 1,
    controls: int = 16,
    replicates_per_plate: int = 2,
    position_effect: float = 0.0,
    compounds: Sequence[Compound] = COMPOUNDS,
    workers: int = 1,
) -> ScreenFiles:
    """Render and write a screen. size: pixels. sites: fields per well. controls: DMSO wells per plate. position_effect: the natural
    logarithm of the brightness of A24 over that of the middle of the plate, and of the middle over P01; the same on every plate.

    The defaults make 116 fields and take some 10 seconds on one core. Raises ConfigError if a plate is too full.
    """
    root = Path(output).absolute()
    base = root / PROJECT / SOURCE
    screen = lay_out(seed, plates, controls, replicates_per_plate, compounds)
    effects = {plate: batch_effect(generator(seed, plate, "microscope")) for plate in screen}
    for plate in screen:
        _image_folder(base, plate).mkdir(parents=True, exist_ok=True)
        illum = base / "images" / BATCH / "illum" / plate
        illum.mkdir(parents=True, exist_ok=True)
        for stain, function in zip(STAINS, correction(size, effects[plate]), strict=True):
            np.save(illum / f"{plate}_Illum{stain}.npy", function)
    jobs = [
        (base, seed, size, well, site, _in_place(effects[plate], position_effect * well.slope))
        for plate, wells in screen.items()
        for well, site in product(wells, range(1, sites + 1))
    ]
    with ThreadPoolExecutor(workers) as pool:  # numpy, FFT and LZW let go of the interpreter's lock
        list(pool.map(_write_field, jobs))
    return _write_tables(root, base, screen, sites, position_effect)


def _in_place(effect: BatchEffect, brightness: float) -> BatchEffect:
    """Return the effect of the plate on a well: all gains are multiplied by exp(brightness)."""
    return replace(effect, gain=tuple(gain * math.exp(brightness) for gain in effect.gain))


def _image_folder(base: Path, plate: str) -> Path:
    return base / "images" / BATCH / "images" / f"{plate}__{TIME}-Measurement1" / "Images"


def _file_name(well: Well, site: int, channel: int) -> str:
    return f"r{well.row + 1:02d}c{well.column + 1:02d}f{site:02d}p01-ch{channel}sk1fk1fl1.tiff"


def _write_field(job: tuple[Path, int, int, Well, int, BatchEffect]) -> None:
    """Write five LZW TIFFs, ch1 to ch5 in the order of STAINS; the pixels depend on (seed, plate, well, site) alone."""
    base, seed, size, well, site, effect = job
    rng = generator(seed, well.plate, well.name, str(site))
    compound = well.compound or Compound("", "DMSO")
    counts = render_field(rng, size, compound.phenotype, compound.strength, effect)
    for channel, image in enumerate(counts, 1):
        path = _image_folder(base, well.plate) / _file_name(well, site, channel)
        tifffile.imwrite(path, image, compression="lzw", metadata=None, software=False)


def _write_tables(
    root: Path, base: Path, screen: dict[str, list[Well]], sites: int, position_effect: float
) -> ScreenFiles:
    metadata = base / "workspace" / "metadata"
    platemaps, external = metadata / "platemaps" / BATCH, metadata / "external_metadata"
    load_data, maps, experiment = [], [], []
    for number, (plate, wells) in enumerate(screen.items(), 1):
        name = f"Synthetic-{number}_compound_platemap"
        maps.append((plate, name))
        experiment.append((BATCH, name, plate, "compound", "U2OS", "48", "100", "none"))
        samples = [
            (well.name, well.compound.sample if well.compound else "", "DMSO", f"{position_effect * well.slope:.4f}")
            for well in wells
        ]
        columns = ("well_position", "broad_sample", "solvent", POSITION_EFFECT)
        _write(platemaps / "platemap" / f"{name}.txt", columns, samples, "\t")
        load_data.append(_write_load_data(base, number, plate, wells, sites))
    compounds = {well.compound for wells in screen.values() for well in wells if well.compound}
    known = [(c.sample, c.name, "trt", "", c.phenotype, f"{c.strength:g}", c.truth) for c in compounds]
    dmso = ("", "DMSO", "control", "negcon", "none", "0", "control")
    header = ("broad_sample", "pert_iname", "pert_type", "control_type", "phenotype", "strength", "truth")
    facts = {row[0]: row for row in [dmso, *sorted(known)]}
    truth = [
        (plate, well.name, *facts[well.compound.sample if well.compound else ""], f"{position_effect * well.slope:.4f}")
        for plate, wells in screen.items()
        for well in wells
    ]
    described = (
        "Batch", "Plate_Map_Name", "Assay_Plate_Barcode", "Perturbation", "Cell_type", "Time", "Density", "Anomaly",
    )  # fmt: skip
    return ScreenFiles(
        root=root,
        load_data=tuple(load_data),
        barcode_platemap=_write(platemaps / "barcode_platemap.csv", ("Assay_Plate_Barcode", "Plate_Map_Name"), maps),
        compound_metadata=_write(external / "compound_metadata.tsv", header, facts.values(), "\t"),
        experiment_metadata=_write(external / "experiment-metadata.tsv", described, experiment, "\t"),
        truth=_write(
            root / "truth.tsv", ("Assay_Plate_Barcode", "well_position", *header, POSITION_EFFECT), truth, "\t"
        ),
        rewrites=tuple((prefix, f"{root}/") for prefix in PREFIXES),
    )


def _write_load_data(base: Path, number: int, plate: str, wells: Sequence[Well], sites: int) -> Path:
    """Write one row per field. Odd plates: FileName_ and PathName_ columns, CSV; even plates: URL_ columns, gzipped."""
    bucket = PREFIXES[(number + 1) % 2]
    root = base.parent.parent
    images = bucket + _image_folder(base, plate).relative_to(root).as_posix()
    illum = bucket + (base / "images" / BATCH / "illum" / plate).relative_to(root).as_posix()
    rows = []
    for well, site in product(wells, range(1, sites + 1)):
        row: dict[str, str] = {}
        for kind, (channel, stain) in product(("Orig", "Illum"), enumerate(STAINS, 1)):
            folder = images if kind == "Orig" else illum
            name = _file_name(well, site, channel) if kind == "Orig" else f"{plate}_Illum{stain}.npy"
            if number % 2:
                row |= {f"FileName_{kind}{stain}": name, f"PathName_{kind}{stain}": folder}
            else:
                row |= {f"URL_{kind}{stain}": f"{folder}/{name}"}
        keys = {"Source": SOURCE, "Batch": BATCH, "Plate": plate, "Well": well.name, "Site": str(site)}
        place = {"Row": str(well.row + 1), "Col": str(well.column + 1)}
        rows.append(row | {f"Metadata_{key}": value for key, value in (keys | place).items()})
    tables = base / "workspace" / "load_data_csv" / BATCH / plate
    suffix = "" if number % 2 else ".gz"
    return _write(tables / f"load_data_with_illum.csv{suffix}", list(rows[0]), (list(row.values()) for row in rows))


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]], delimiter: str = ",") -> Path:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows([header, *rows])
    data = text.getvalue().encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path
