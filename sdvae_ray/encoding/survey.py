"""What the fields of a manifest are like, by the headers of a sample of their files: a smaller source is found at the start."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import polars as pl

from sdvae_ray.engine.files.load import Loader
from sdvae_ray.errors import ConfigError, one_line
from sdvae_ray.images.header import Header, read_header
from sdvae_ray.images.prepare import resampled_size
from sdvae_ray.run.run import Run
from sdvae_ray.schema import BATCH_COLUMN, FOV_ID, KEYS, PLATE_COLUMN, SOURCE_COLUMN, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.settings.policies import Policy
from sdvae_ray.sources.manifest.reader import read_rows
from sdvae_ray.sources.manifest.row import Row, as_batch, rows_of
from sdvae_ray.sources.tables import listed

_HEADERS = 256  # read at most
_PLATES = 3  # of a batch, at most: the first, the middle and the last
_READERS = 8  # threads
_SIZES = 4  # of a source that have a line of their own: photographs have as many sizes as pictures
_VALUE = "_value"


class Seen(NamedTuple):
    """The fields of one value of the policies' column (without policies: of a source) that have one size and one type.

    header   None: the header could not be read
    batches  of the fields that were looked at
    fovs     number of the fields that were looked at
    example  one of them
    fits     the crop fits the field
    problem  why there is no header
    """

    value: str
    header: Header | None
    batches: list[str]
    fovs: int
    example: str
    fits: bool
    problem: str | None = None


def survey(run: Run, keys: pl.DataFrame) -> tuple[list[Seen], list[str]]:
    """Return what was seen, and lines for a person. keys: fov_id, row_group, row, and the column of the policies.

    Of every batch up to three plates are looked at, of a plate one field, of a field the file of the first stain. Raises
    ConfigError if the crop of a policy fits none of its fields.
    """
    image = run.config.image
    chosen, plates = _chosen(keys, image)
    rows = rows_of(as_batch(read_rows(run.config.manifest, chosen, run.storage)))
    loader = Loader(image, run.config.storage)
    with ThreadPoolExecutor(_READERS) as readers:
        headers = list(readers.map(lambda row: _header(run, loader, row), rows))
    groups: dict[tuple[str, Header | str], list[Row]] = {}
    for row, header in zip(rows, headers, strict=True):
        groups.setdefault((str(row[_column(image)]), header), []).append(row)
    seen = [_seen(image, value, header, of) for (value, header), of in sorted(groups.items(), key=_order)]
    lines = [f"fields    {len(rows)} headers read, of {plates} plates one field at most"]
    for value in dict.fromkeys(group.value for group in seen):
        sizes = [group for group in seen if group.value == value]
        lines += [_line(image, group) for group in sizes[:_SIZES]]
        lines += [f"fields    {value}: {len(sizes) - _SIZES} more sizes"] if len(sizes) > _SIZES else []
        of_value = [group for group in sizes if group.header is not None]
        if of_value and not any(group.fits for group in of_value):
            raise ConfigError(_misfit(image, of_value[0]))
        lines += [
            f"note: {_misfit(image, group)}; such fields get a row with an error"
            for group in of_value
            if not group.fits
        ]
    return seen, lines


def as_records(seen: Sequence[Seen]) -> list[dict[str, Any]]:
    """Return what was seen, JSON-ready."""
    return [{**group._asdict(), "header": None if group.header is None else group.header._asdict()} for group in seen]


def _column(image: ImageConfig) -> str:
    return (image.policy_columns or [SOURCE_COLUMN])[0]


def _chosen(keys: pl.DataFrame, image: ImageConfig) -> tuple[pl.DataFrame, int]:
    """Return the rows whose headers are read, in the order of the manifest, and the number of plates of the manifest."""
    parts = pl.col(FOV_ID).str.split("/")
    names = {name: parts.list.get(KEYS.index(name)).alias(name) for name in (SOURCE_COLUMN, BATCH_COLUMN, PLATE_COLUMN)}
    value = pl.col(image.policy_columns[0]) if image.policies else names[SOURCE_COLUMN]
    plates = keys.with_columns(
        *(expression.alias(f"_{name}") for name, expression in names.items()), value.alias(_VALUE)
    )
    batch = [_VALUE, *(f"_{name}" for name in (SOURCE_COLUMN, BATCH_COLUMN))]
    plates = plates.unique([*batch, f"_{PLATE_COLUMN}"], keep="first", maintain_order=True)
    place, count = pl.int_range(pl.len()).over(batch), pl.len().over(batch)
    first, wanted = place == 0, (place == 0) | (place == count // 2) | (place == count - 1)
    chosen = plates.filter(wanted)
    if chosen.height > _HEADERS:
        chosen = plates.filter(first)
    if chosen.height > _HEADERS:
        chosen = chosen.gather_every(-(-chosen.height // _HEADERS))
    return chosen.select("row_group", "row"), plates.height


def _header(run: Run, loader: Loader, row: Row) -> Header | str:
    """Return the header of the first stain's file of a row, or why it cannot be read."""
    uri = str(row[uri_column(run.config.image.stains[0])])
    try:
        if (packed := loader.packed_file(row, uri)) is not None:
            return read_header(io.BytesIO(packed), uri)
        with run.storage.open(uri) as file:
            return read_header(file, uri)
    except (OSError, ValueError) as error:
        return one_line(error)


def _order(item: tuple[tuple[str, Header | str], list[Row]]) -> tuple[str, int, str]:
    (value, header), rows = item
    return value, -len(rows), str(header)


def _seen(image: ImageConfig, value: str, header: Header | str, rows: Sequence[Row]) -> Seen:
    batches = list(dict.fromkeys(f"{row[SOURCE_COLUMN]}/{row[BATCH_COLUMN]}" for row in rows))
    example = str(rows[0][FOV_ID])
    if isinstance(header, str):
        return Seen(value, None, batches, len(rows), example, False, header)
    fits = min(_size(image, image.policy_of(rows[0]), header)) >= image.policy_of(rows[0]).crop
    return Seen(value, header, batches, len(rows), example, fits)


def _size(image: ImageConfig, policy: Policy, header: Header) -> tuple[int, int]:
    """Return the height and the width before the crop."""
    if image.resize is not None:
        return image.resize, image.resize
    zoom = policy.zoom or 1.0
    return resampled_size(header.height, zoom), resampled_size(header.width, zoom)


def _policy(image: ImageConfig, value: str) -> Policy:
    return image.every_policy[value if image.policies else None]


def _line(image: ImageConfig, seen: Seen) -> str:
    where = f"fields    {seen.value}: "
    number = (
        f"{seen.fovs} of {len(seen.batches)} batches" if len(seen.batches) > 1 else f"{seen.fovs} of {seen.batches[0]}"
    )
    if seen.header is None:
        return f"{where}no header in {number}, such as {seen.example}: {seen.problem}"
    policy = _policy(image, seen.value)
    height, width = _size(image, policy, seen.header)
    resampled = f", {height} x {width} as resampled" if (height, width) != seen.header[:2] else ""
    return f"{where}{seen.header}{resampled} in {number}; crop {policy.crop}, {policy.patches} patches"


def _misfit(image: ImageConfig, seen: Seen) -> str:
    key = f"image.policies.values.{seen.value}" if image.policies else "image"
    assert seen.header is not None
    height, width = _size(image, _policy(image, seen.value), seen.header)
    of = listed(seen.batches)
    return f"{key}.crop: crop {_policy(image, seen.value).crop} does not fit {height} x {width}, the size of fields of {of}"
