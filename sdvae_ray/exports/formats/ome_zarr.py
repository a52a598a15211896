"""One plate's reconstruction as an OME-Zarr plate (HCS), decoded from the stored latents; napari and OMERO open it."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.exports.contract import Exported, Request
from sdvae_ray.exports.rows import as_json, usable_fovs
from sdvae_ray.queries.decode import Decoder
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, PLATE_KEY, SITE_COLUMN, WELL_COLUMN
from sdvae_ray.storage import join

SUFFIXES = (".zarr",)
NEEDS = ("ome_zarr",)
TAKES = frozenset({"side", "plate"})
_WELL = re.compile(r"([A-Za-z]{1,2})(\d{1,2})")
_LISTED, _EVERY = 5, 25  # plates that an error names; fields between two lines of progress
_COLOURS = {"DNA": "0000FF", "ER": "00FF00", "RNA": "FFFF00", "AGP": "FF8000", "Mito": "FF0000"}


def export(request: Request) -> Exported:
    """Write `<row>/<column>/<field>` (C, Y, X) with a pyramid, one field at a time. Pixels are the run's scaled integers.

    Raises ConfigError if the run has several plates and none or more than one is asked for, DataError for a well that is no row and
    column.
    """
    run, storage = request.run, request.run.storage
    if storage.list(request.output):
        raise ConfigError(f"export: there are files in {request.output}; a folder that is empty or new is wanted")
    decoder = Decoder(run, _one(request.sides))
    fovs = _of_one_plate(run, request)
    plate = "/".join(fovs.select(PLATE_KEY).row(0))
    wells = {
        well: rows for (well,), rows in fovs.sort(WELL_COLUMN, SITE_COLUMN).group_by(WELL_COLUMN, maintain_order=True)
    }
    places = {str(well): _place(str(well)) for well in wells}
    most = max(rows.height for rows in wells.values())
    _upload(request, "", lambda folder: _write_plate(folder, plate, list(places.values()), most))
    facts: dict[str, Any] = {}
    done = 0
    for well, rows in wells.items():
        path = "/".join(places[str(well)])
        _upload(request, path, lambda folder, rows=rows: _write_well(folder, rows.height))
        for number, row in enumerate(rows.iter_slices(1)):
            stains, facts = decoder.stains(row)
            _upload(request, f"{path}/{number}", lambda folder, s=stains, f=facts: _write_field(folder, run, s, f))
            done += 1
            if done % _EVERY == 0:
                request.say(f"{done} of {fovs.height} fields decoded")
    facts = {"plate": plate, **{name: value for name, value in facts.items() if name not in (FOV_ID, "micro_batch")}}
    return Exported(
        done, f"fields of {len(wells)} wells of plate {plate}, decoded by {decoder.side}", [request.output], facts
    )


def _one(names: Any) -> str | None:
    if len(names) > 1:
        raise ConfigError("export: one --side is wanted, a plate has the reconstruction of one autoencoder")
    return names[0] if names else None


def _of_one_plate(run: Run, request: Request) -> pl.DataFrame:
    fovs = usable_fovs(run, request.plates, ["micro_batch", "device"])
    plates = fovs.select(pl.concat_str(PLATE_KEY, separator="/")).to_series().unique().sort().to_list()
    if len(plates) > 1:
        listed = ", ".join(plates[:_LISTED]) + (f", ... ({len(plates)} in all)" if len(plates) > _LISTED else "")
        raise ConfigError(f"export: one --plate is wanted: {listed}")
    return fovs


def _place(well: str) -> tuple[str, str]:
    """Return (row, column) of a well such as A01."""
    if not (parts := _WELL.fullmatch(well)):
        raise DataError(f"export: well {well!r} is no row and column, which a plate of OME-Zarr needs")
    return parts[1].upper(), str(int(parts[2]))


def _upload(request: Request, path: str, write: Any) -> None:
    """Write a group into a folder of this machine, and copy its files to the output."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                target = join(request.output, *filter(None, (path, str(file.relative_to(folder)))))
                request.run.storage.write_bytes(target, file.read_bytes())


def _write_plate(folder: Path, plate: str, places: list[tuple[str, str]], most: int) -> None:
    import zarr
    from ome_zarr.format import FormatV05
    from ome_zarr.writer import write_plate_metadata

    rows = sorted({row for row, _ in places}, key=lambda row: (len(row), row))
    columns = sorted({column for _, column in places}, key=int)
    wells: list[str | dict[str, Any]] = ["/".join(place) for place in places]
    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    write_plate_metadata(group, rows, columns, wells, FormatV05(), field_count=most, name=plate)
    for row in rows:
        zarr.open_group(str(folder / row), mode="w", zarr_format=3)


def _write_well(folder: Path, count: int) -> None:
    import zarr
    from ome_zarr.format import FormatV05
    from ome_zarr.writer import write_well_metadata

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    write_well_metadata(group, [str(number) for number in range(count)], FormatV05())


def _write_field(folder: Path, run: Run, stains: np.ndarray, facts: dict[str, Any]) -> None:
    import zarr
    from ome_zarr.format import FormatV05
    from ome_zarr.writer import write_image

    group = zarr.open_group(str(folder), mode="w", zarr_format=3)
    top = int(np.iinfo(stains.dtype).max)
    window = {"min": 0, "max": top, "start": 0, "end": top}
    channels = [
        {"label": stain, "color": _COLOURS.get(stain, "FFFFFF"), "active": True, "window": window}
        for stain in run.config.image.stains
    ]
    write_image(stains, group, [2, 4], facts[FOV_ID], fmt=FormatV05(), axes="cyx", omero={"channels": channels})
    group.attrs["sdvae_ray"] = as_json(facts).decode()
