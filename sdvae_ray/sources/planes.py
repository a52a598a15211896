"""Where the pixels of a stain are: which plane of its file, and whether its file can be read at all.

CellProfiler's load_data names a plane by the columns `Frame_Orig<Stain>` and `Series_Orig<Stain>`, from 0. A manifest has one
number, the plane of the file (`channel_<stain>`). So a load_data file may count by frames or by series, and not by both.
"""

from collections.abc import Iterable, Iterator, Sequence

import polars as pl

from sdvae_ray.errors import DataError
from sdvae_ray.schema import PIXELS, SHARD, channel_column, illum_column, uri_column
from sdvae_ray.sources.manifest.reader import batches, opened_manifest, row_groups
from sdvae_ray.sources.tables import FILE
from sdvae_ray.sources.tables import place as place_of
from sdvae_ray.storage import Storage

_BATCH = 1 << 15  # rows of a manifest that are looked at together
_KINDS = ("Frame", "Series")
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"
# the gallery's own bucket, as its pages link to it
_GALLERY = "https://cellpainting-gallery.s3.amazonaws.com/=s3://cellpainting-gallery/"


def plane_columns(raw: pl.DataFrame, stains: Sequence[str], place: str) -> tuple[list[pl.Series], list[str]]:
    """Return (the manifest's column `channel_<stain>` of every stain, int32; notes) of a load_data file.

    raw: its rows as text. place: the file, for an error; the column `_row` numbers the rows. An empty cell is 0. Raises DataError
    for a cell that is no whole number from 0, and for a file that counts frames and series.
    """
    numbers: dict[str, dict[str, pl.Series]] = {kind: {} for kind in _KINDS}
    for kind in _KINDS:
        for stain in stains:
            column = f"{kind}_Orig{stain}"
            if column in raw.columns:
                numbers[kind][stain] = _whole_numbers(raw, column, place)
    used = {
        kind: [stain for stain, values in of_kind.items() if (values > 0).any()] for kind, of_kind in numbers.items()
    }
    if used["Frame"] and used["Series"]:
        frame, series = (f"{kind}_Orig{used[kind][0]}" for kind in _KINDS)
        raise DataError(
            f"{place}: {frame} and {series} both count planes; a manifest numbers the planes of a file, so one of them must be 0"
        )
    kind = "Series" if used["Series"] else "Frame"
    notes = ["Series_ names the plane: every series is taken to be one plane of its file"] if used["Series"] else []
    zeros = pl.zeros(raw.height, pl.Int32, eager=True)
    return [numbers[kind].get(stain, zeros).cast(pl.Int32).alias(channel_column(stain)) for stain in stains], notes


def _whole_numbers(raw: pl.DataFrame, column: str, place: str) -> pl.Series:
    text = raw[column].cast(pl.String).str.strip_chars().fill_null("")
    numbers = text.replace("", "0").cast(pl.Float64, strict=False)
    wrong = ~((numbers >= 0) & (numbers == numbers.floor()) & (numbers < 2**31)).fill_null(False)
    if wrong.any():
        row = int(wrong.arg_true()[0])
        number = f", row {raw['_row'][row]}" if "_row" in raw.columns else ""
        raise DataError(f"{place}{number}: {column} is {text[row]!r}; a whole number from 0 is wanted")
    return numbers


def shared_planes(tables: Iterable[pl.DataFrame], stains: Sequence[str]) -> list[str]:
    """Return a note for every two stains that are the same plane of the same file in rows of a manifest.

    tables: the manifest in one part or several.
    """
    pairs = [(stain, other) for number, stain in enumerate(stains) for other in stains[:number]]
    counts, examples, total = dict.fromkeys(pairs, 0), dict.fromkeys(pairs, ""), 0
    for table in tables:
        total += table.height
        for stain, other in pairs:
            files = [table[uri_column(name)] for name in (stain, other)]
            channels = [_channels(table, name) for name in (stain, other)]
            same = ((files[0] == files[1]) & (channels[0] == channels[1])).fill_null(False)
            if same.any():
                counts[stain, other] += int(same.sum())
                examples[stain, other] = examples[stain, other] or files[0].filter(same)[0]
    return [
        f"{stain} and {other} are the same plane of the same file in {counts[stain, other]} of {total} FOVs, "
        f"such as {examples[stain, other]}"
        for stain, other in pairs
        if counts[stain, other]
    ]


def _channels(table: pl.DataFrame, stain: str) -> pl.Series:
    name = channel_column(stain)
    zeros = pl.zeros(table.height, pl.Int32, eager=True)
    return table[name].fill_null(0) if name in table.columns else zeros


def check_locations(manifest: str, stains: Sequence[str], storage: Storage) -> list[str]:
    """Return the notes of `shared_planes` of a whole manifest on storage, which is read by its row groups.

    Raises DataError as `check_schemes` does. The URIs of images that shards or the manifest itself hold are names alone.
    """
    wanted = [f(stain) for stain in stains for f in (uri_column, channel_column, illum_column)]
    _, present = row_groups(manifest, storage)

    def parts() -> Iterator[pl.DataFrame]:
        with opened_manifest(manifest, storage) as rows:
            for some in batches(rows, _BATCH, [name for name in wanted if name in present]):
                table = pl.DataFrame(some)
                check_schemes(table, stains, manifest, illumination_alone=holds_images(present))
                yield table

    return shared_planes(parts(), stains)


def holds_images(columns: Iterable[str]) -> bool:
    """Return whether a manifest of these columns, or shards of it, hold the images, so that their URIs are names alone."""
    return not {SHARD, PIXELS}.isdisjoint(columns)


def check_schemes(table: pl.DataFrame, stains: Sequence[str], where: str, illumination_alone: bool = False) -> None:
    """Raise DataError for an image or illumination function at a URI that storage has no reader for.

    where: the manifest, for an error; a table that is being built names the file and the row itself.
    """
    for column in [f(stain) for stain in stains for f in (uri_column, illum_column)[illumination_alone:]]:
        if column not in table.columns or table[column].dtype != pl.String:
            continue
        schemes = table[column].str.extract(f"^({_SCHEME})")
        wrong = ((schemes != "s3://") & (schemes.str.to_lowercase() != "file://")).fill_null(False)
        if wrong.any():
            row = table.filter(wrong).row(0, named=True)
            uri, place = row[column], place_of(row) if FILE in row else where
            scheme = uri.partition("://")[0].lower()
            hint = f", such as --rewrite {_GALLERY}" if scheme in ("http", "https") else ""
            raise DataError(
                f"{place}: {column} is {uri} ({int(wrong.sum())} rows): no reader for {scheme}:// "
                f"(allowed: a local path, file://, s3://); copy the files, or name their bucket{hint}"
            )
