"""Writes a synthetic screen: plates of rendered fields, as files in the Cell Painting Gallery's layout, with the truth.

    <output>/<project>/<source>/images/<batch>/images/<plate>__<time>-Measurement1/Images/r01c01f01p01-ch1sk1fk1fl1.tiff
                                images/<batch>/illum/<plate>/<plate>_Illum<stain>.npy
                                workspace/load_data_csv/<batch>/<plate>/load_data_with_illum.csv[.gz]
                                workspace/metadata/platemaps/<batch>/barcode_platemap.csv, platemap/<name>.txt
                                workspace/metadata/external_metadata/compound_metadata.tsv, experiment-metadata.tsv
    <output>/truth.tsv

`<output>` stands for the bucket: the load_data files name images as the gallery's do, on `/home/ubuntu/bucket/` (odd
plates, the older header) or `s3://cellpainting-gallery/` (even plates, the newer one), for a reader to rewrite.

Every plate has its own random layout, gains and light, and its own platemap, so that no position goes with a treatment.
Equal arguments write equal bytes, in any number of threads.
"""

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
    """Return plate -> wells by position; the treatments of every plate are dealt anew over all 384 positions. Raises ConfigError
    if the treatments do not fit on a plate."""
    treatments: list[Compound | None] = [None] * controls
    treatments += [compound for compound in compounds for _ in range(replicates_per_plate)]
    if len(treatments) > ROWS * COLUMNS:
        raise ConfigError(f"a plate has {ROWS * COLUMNS} wells; {len(treatments)} treatments do not fit")
    screen = {}
    for number in range(1, plates + 1):
        plate = f"SY{number:08d}"
        places = generator(seed, plate, "layout").permutation(ROWS * COLUMNS)[: len(treatments)]
        order = sorted(zip(places.tolist(), treatments, strict=True), key=lambda pair: pair[0])
        screen[plate] = [Well(plate, place // COLUMNS, place % COLUMNS, compound) for place, compound in order]
    return screen


def write_screen(
    output: str | PathLike[str],
    *,
    seed: int = 0,
    plates: int = 2,
    size: int = 256,
    sites: int = 1,
    controls: int = 16,
    replicates_per_plate: int = 2,
    compounds: Sequence[Compound] = COMPOUNDS,
    workers: int = 1,
) -> ScreenFiles:
    """Render and write a screen. size: pixels. sites: fields per well. controls: DMSO wells per plate.

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
        (base, seed, size, well, site, effects[plate])
        for plate, wells in screen.items()
        for well, site in product(wells, range(1, sites + 1))
    ]
    with ThreadPoolExecutor(workers) as pool:  # numpy, FFT and LZW let go of the interpreter's lock
        list(pool.map(_write_field, jobs))
    return _write_tables(root, base, screen, sites)


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


def _write_tables(root: Path, base: Path, screen: dict[str, list[Well]], sites: int) -> ScreenFiles:
    metadata = base / "workspace" / "metadata"
    platemaps, external = metadata / "platemaps" / BATCH, metadata / "external_metadata"
    load_data, maps, experiment = [], [], []
    for number, (plate, wells) in enumerate(screen.items(), 1):
        name = f"Synthetic-{number}_compound_platemap"
        maps.append((plate, name))
        experiment.append((BATCH, name, plate, "compound", "U2OS", "48", "100", "none"))
        samples = [(well.name, well.compound.sample if well.compound else "", "DMSO") for well in wells]
        _write(platemaps / "platemap" / f"{name}.txt", ("well_position", "broad_sample", "solvent"), samples, "\t")
        load_data.append(_write_load_data(base, number, plate, wells, sites))
    compounds = {well.compound for wells in screen.values() for well in wells if well.compound}
    known = [(c.sample, c.name, "trt", "", c.phenotype, f"{c.strength:g}", c.truth) for c in compounds]
    dmso = ("", "DMSO", "control", "negcon", "none", "0", "control")
    header = ("broad_sample", "pert_iname", "pert_type", "control_type", "phenotype", "strength", "truth")
    facts = {row[0]: row for row in [dmso, *sorted(known)]}
    truth = [
        (plate, well.name, *facts[well.compound.sample if well.compound else ""])
        for plate, wells in screen.items()
        for well in wells
    ]
    columns = (
        "Batch", "Plate_Map_Name", "Assay_Plate_Barcode", "Perturbation", "Cell_type", "Time", "Density", "Anomaly",
    )  # fmt: skip
    return ScreenFiles(
        root=root,
        load_data=tuple(load_data),
        barcode_platemap=_write(platemaps / "barcode_platemap.csv", ("Assay_Plate_Barcode", "Plate_Map_Name"), maps),
        compound_metadata=_write(external / "compound_metadata.tsv", header, facts.values(), "\t"),
        experiment_metadata=_write(external / "experiment-metadata.tsv", columns, experiment, "\t"),
        truth=_write(root / "truth.tsv", ("Assay_Plate_Barcode", "well_position", *header), truth, "\t"),
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
