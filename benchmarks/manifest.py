"""Builds the manifest of a screen as large as JUMP from synthetic load_data files, and measures time and memory.

    python benchmarks/manifest.py --scale 0.1
    python benchmarks/manifest.py --scale 1 --folder FOLDER      # keeps the files there; the next run takes them

The plates, wells and sites are those of `plan.sources` in jobs/configs/jump-plan.yaml. Every load_data file has the columns of
cpg0016's, URL_ or FileName_ and PathName_, with some Metadata_* of the microscope, and names of one of its four naming schemes.
They locate no image. The tables of metadata have as many wells and compounds as cpg0016, with made-up names. Memory is the sum of
the proportional set sizes of the command and of all that it started, looked at twice a second. The last line of output is one JSON
object.
"""

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import harness
import polars as pl
import torch
import yaml

from sdvae_ray.sources.manifest.reader import read_row_group, row_groups
from sdvae_ray.storage import Storage

ROOT = Path(__file__).parents[1]
STAINS = ("DNA", "ER", "RNA", "AGP", "Mito")
MICROSCOPE = (
    "AbsPositionZ", "AbsTime", "BinningX", "BinningY", "ChannelID", "ChannelName", "Col", "ExposureTime", "FieldID",
    "ImageResolutionX", "ImageResolutionY", "ImageSizeX", "ImageSizeY", "PositionX", "PositionY", "PositionZ", "Row",
)  # fmt: skip
COMPOUNDS = 116_000
JCP = "Metadata_JCP2022"
PLATE = ("Metadata_Source", "Metadata_Batch", "Metadata_Plate", "Metadata_PlateType")
GALLERY = "s3://cellpainting-gallery/cpg0016-jump"


def sources(scale: float) -> dict[str, dict[str, int]]:
    """Source -> plates, wells and sites of a plate, of the plan of JUMP; `scale` of the plates."""
    planned = yaml.safe_load((ROOT / "jobs/configs/jump-plan.yaml").read_text())["plan"]["sources"]
    counted = {}
    for source, counts in planned.items():
        wells = 1536 if counts["fovs"] / counts["plates"] > 5000 else 384
        sites = round(counts["fovs"] / counts["plates"] / wells)
        counted[source] = {"plates": max(1, round(scale * counts["plates"])), "wells": wells, "sites": sites}
    return counted


def name_of(source: str, number: int) -> pl.Expr:
    """The file of a stain, by one of four naming schemes."""
    row, column, site = pl.col("row"), pl.col("column"), pl.col("site").cast(pl.String)
    letter, stain = pl.col("Metadata_Well").str.head(1), number + 1
    two = column.cast(pl.String).str.zfill(2)
    if source in ("source_2", "source_5", "source_6", "source_7", "source_10", "source_13"):
        return pl.format(
            "{}_{}{}_T0001F{}L01A0{}Z01C0{}.tif", "Metadata_Plate", letter, two, site.str.zfill(3), stain, stain
        )
    if source == "source_8":
        unique = pl.concat_str("Metadata_Plate", "Metadata_Well", site, pl.lit(str(stain))).hash()
        return pl.format("HTS_{}{}_s{}_w{}{}.tif", letter, two, site, stain, unique)
    ending = "tiff" if source != "source_11" else "tif"
    return pl.format(
        "r{}c{}f{}p01-ch{}sk1fk1fl1.{}", row.cast(pl.String).str.zfill(2), two, site.str.zfill(2), stain, pl.lit(ending)
    )


def load_data(source: str, batch: str, plate: str, wells: int, sites: int) -> pl.DataFrame:
    """The load_data of one plate."""
    columns = 48 if wells == 1536 else 24
    number = pl.int_range(wells * sites, eager=True)
    well = number // sites
    row, column = well // columns + 1, well % columns + 1
    letters = ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"[n] if n < 26 else f"A{'ABCDEF'[n - 26]}" for n in range(32)]
    table = pl.DataFrame({"row": row, "column": column, "site": number % sites + 1}).with_columns(
        Metadata_Source=pl.lit(source),
        Metadata_Batch=pl.lit(batch),
        Metadata_Plate=pl.lit(plate),
        Metadata_Well=pl.Series([letters[n - 1] for n in row]) + column.cast(pl.String).str.zfill(2),
        Metadata_Site=(number % sites + 1).cast(pl.String),
        **{f"Metadata_{name}": (number % (7 + place)).cast(pl.String) for place, name in enumerate(MICROSCOPE)},
    )
    folder = f"{GALLERY}/{source}/images/{batch}"
    images, illum = f"{folder}/images/{plate}__2021-05-02T16_02_51-Measurement1", f"{folder}/illum/{plate}"
    added: dict[str, Any] = {}
    for place, stain in enumerate(STAINS):
        file, function = name_of(source, place), f"{plate}_Illum{stain}.npy"
        if source == "source_4":  # the newer form of the header
            added |= {
                f"URL_Orig{stain}": pl.lit(f"{images}/Images/") + file,
                f"URL_Illum{stain}": pl.lit(f"{illum}/{function}"),
            }
        else:
            added |= {f"FileName_Orig{stain}": file, f"PathName_Orig{stain}": pl.lit(f"{images}/Images/")}
            added |= {f"FileName_Illum{stain}": pl.lit(function), f"PathName_Illum{stain}": pl.lit(illum)}
    return table.with_columns(**added).drop("row", "column", "site")


def write_screen(folder: Path, scale: float) -> int:
    """Write the load_data files and the tables of metadata, unless they are there. Return the number of fields."""
    counted = sources(scale)
    total = sum(of["plates"] * of["wells"] * of["sites"] for of in counted.values())
    if (folder / "tables/well.csv.gz").exists():
        return total
    plates, wells = list[dict[str, str]](), list[pl.DataFrame]()
    for source, of in counted.items():
        for number in range(of["plates"]):
            batch, plate = f"Batch{number // 30 + 1}", f"P{source.removeprefix('source_')}{number:05d}"
            table = load_data(source, batch, plate, of["wells"], of["sites"])
            place = folder / source / "workspace/load_data_csv" / batch / plate
            place.mkdir(parents=True)
            table.write_parquet(place / "load_data_with_illum.parquet")
            plates.append(dict(zip(PLATE, (source, batch, plate, "COMPOUND"), strict=True)))
            keys = table.select("Metadata_Source", "Metadata_Plate", "Metadata_Well").unique(maintain_order=True)
            which = pl.int_range(pl.len()) % COMPOUNDS
            wells.append(
                keys.with_columns(Metadata_JCP2022=pl.format("JCP2022_{}", which.cast(pl.String).str.zfill(6)))
            )
    tables = folder / "tables"
    tables.mkdir()
    names = pl.Series([f"JCP2022_{number:06d}" for number in range(COMPOUNDS)])
    written = {
        "plate": pl.DataFrame(plates),
        "well": pl.concat(wells),
        "compound": pl.DataFrame({JCP: names, "Metadata_InChIKey": "KEY-" + names, "Metadata_SMILES": "C" + names}),
        "control": pl.DataFrame({JCP: names[:1], "Metadata_pert_type": ["negcon"], "Metadata_Name": ["DMSO"]}),
    }
    for name, table in written.items():
        table.write_csv(tables / f"{name}.csv.gz", compression="gzip")
    return total


def run_file(folder: Path) -> Path:
    """A run file whose section load_data is like that of jump.yaml."""
    tables = [str(folder / "tables" / f"{name}.csv.gz") for name in ("plate", "well", "compound", "control")]
    section = {
        "files": [str(folder / "source_*/workspace/load_data_csv/*/*/load_data_with_illum.parquet")],
        "metadata": tables,
        "keep": [],
        "exclude": [{"where": {"Metadata_Plate": "P400000", "Metadata_Well": "A01"}, "reason": "an example"}],
    }
    raw = {"manifest": str(folder / "manifest"), "output": str(folder / "run"), "load_data": section}
    raw |= {"autoencoders": {"pca": {"name": "patch_pca"}}}
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def memory_of(process: int) -> int:
    """Bytes: the proportional set sizes of a process and of all processes under it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    total, waiting = 0, [process]
    while waiting:
        number = waiting.pop()
        waiting += children.get(number, [])
        with contextlib.suppress(OSError):
            for line in (Path("/proc") / str(number) / "smaps_rollup").read_text().splitlines():
                total += 1024 * int(line.split()[1]) if line.startswith("Pss:") else 0
    return total


@contextlib.contextmanager
def watched(process: int) -> Iterator[list[int]]:
    """A list that gets the largest memory of a process and what it started."""
    most, ended = [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.5):
            most[0] = max(most[0], memory_of(process))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield most
    finally:
        ended.set()
        watcher.join()


def measure(folder: Path, scale: float) -> harness.Record:
    fovs = write_screen(folder, scale)
    command = [sys.executable, "-m", "sdvae_ray.cli.main", "manifest", str(run_file(folder)), "--json"]
    start = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process, watched(process.pid) as most:
        told = json.loads(process.communicate()[0])
    seconds = time.monotonic() - start
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert told["fovs"] == fovs - (1 if scale <= 1 else 0) * sources(scale)["source_4"]["sites"], "a field is missing"
    sizes, _ = row_groups(str(folder / "manifest"), Storage())
    start_of_read = time.perf_counter()
    read_row_group(str(folder / "manifest"), len(sizes) // 2, Storage())
    return {
        "load_data": told["load_data"],
        "fovs": told["fovs"],
        "seconds": seconds,
        "cpu_seconds": spent.ru_utime + spent.ru_stime,
        "peak_bytes": most[0],
        "manifest_bytes": sum(file.stat().st_size for file in (folder / "manifest").rglob("*.parquet")),
        "index_bytes": (folder / "manifest/index.parquet").stat().st_size,
        "read_of_a_file_seconds": time.perf_counter() - start_of_read,
    }


@harness.refusing_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--scale", type=float, default=0.1, help="share of the plates of JUMP")
    parser.add_argument("--folder", type=Path, help="where the files stay; default: a temporary folder")
    options = parser.parse_args(arguments)
    record = harness.head("manifest", torch.device("cpu"), {"scale": options.scale}) | {"files": "synthetic"}
    if options.folder:
        record["result"] = measure(options.folder.absolute(), options.scale)
    else:
        with tempfile.TemporaryDirectory(prefix="manifest-") as folder:
            record["result"] = measure(Path(folder), options.scale)
    print(", ".join(f"{key} {value:.5g}" for key, value in record["result"].items()), flush=True)
    harness.print_json(record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
