"""Fuzz over the structure of TIFFs: pages, sizes, types, photometric, compression, damage. A plane is a page of the file, or there
is one line that names the file."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdvae_ray.images.decode import DecodeError, decode_planes

SIZES = ((32, 24), (16, 12), (32, 23))
DTYPES = ("u1", "u2", "u4", "i1", "i2", "f4", "f8", "c8", "?")
QUIET: dict[str, Any] = {"derandomize": True, "deadline": None, "suppress_health_check": list(HealthCheck)}

pages = st.fixed_dictionaries(
    {
        "size": st.sampled_from(SIZES),
        "dtype": st.sampled_from(DTYPES),
        "photometric": st.sampled_from(("minisblack", "minisblack", "minisblack", "miniswhite", "rgb", "palette")),
        "compression": st.sampled_from((None, None, "lzw", "zlib", "packbits")),
        "tile": st.booleans(),
        "reduced": st.booleans(),
        "negative": st.booleans(),
    }
)
files = st.fixed_dictionaries(
    {
        "pages": st.lists(pages, min_size=1, max_size=4),
        "byteorder": st.sampled_from("<>"),
        "bigtiff": st.booleans(),
        "ome": st.booleans(),
        "channel": st.integers(0, 4),
        "damage": st.sampled_from(("none", "none", "none", "cut", "bytes")),
        "seed": st.integers(0, 2**16),
    }
)


def pixels(page: dict[str, Any], random: np.random.Generator) -> np.ndarray:
    shape = (*page["size"], 3) if page["photometric"] == "rgb" else page["size"]
    values = random.integers(0, 100, shape)
    if page["negative"]:
        values.flat[0] = -5
    return values.astype(page["dtype"])


def written(file: dict[str, Any]) -> tuple[bytes, list[tuple[dict[str, Any], np.ndarray]]]:
    """The bytes of a file, and its pages with their pixels; pages that tifffile cannot write are left out."""
    random, kept, buffer = np.random.default_rng(file["seed"]), [], io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder=file["byteorder"], bigtiff=file["bigtiff"]) as writer:
        for page in file["pages"]:
            image = pixels(page, random)
            options: dict[str, Any] = {"photometric": page["photometric"], "compression": page["compression"]}
            options |= {"tile": (16, 16)} if page["tile"] else {}
            options |= {"subfiletype": 1} if page["reduced"] else {}
            if page["photometric"] == "palette" and page["dtype"] == "u1":
                options["colormap"] = random.integers(0, 65536, (3, 256), dtype=np.uint16)
            if file["ome"]:
                options["description"] = "<OME><Image><Pixels SizeC='9'><TiffData IFD='3'/></Pixels></Image></OME>"
            try:
                writer.write(image, metadata=None, **options)
            except Exception:  # noqa: BLE001 - a combination that no TIFF has
                continue
            kept.append((page, image))
    return buffer.getvalue(), kept


def outcome(file: dict[str, Any]) -> str:
    """Decode one file; return what became of it. A plane that is wrong, or another error than a line, fails the test."""
    data, kept = written(file)
    random = np.random.default_rng(file["seed"])
    if not kept:
        return "not a file"
    if file["damage"] == "cut":
        data = data[: int(random.integers(len(data)))]
    elif file["damage"] == "bytes":
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 4):
            damaged[place] = random.integers(256)
        data = bytes(damaged)
    try:
        (plane,) = decode_planes(data, [file["channel"]], "plate/a.tif")
    except DecodeError as error:
        return refused(error, "plate/a.tif")
    assert plane.ndim == 2
    assert plane.dtype.kind in "uf"
    if file["damage"] == "none":
        full = [(page, image) for page, image in kept if not page["reduced"]]
        largest = max(full, key=lambda entry: np.prod(entry[0]["size"]))[0]["size"]
        page, image = [entry for entry in full if entry[0]["size"] == largest][file["channel"]]
        np.testing.assert_array_equal(plane, image)
        assert page["photometric"] in ("minisblack", "palette")
        assert not (page["negative"] and image.dtype.kind == "i")
    return "decoded"


def refused(error: Exception, where: str) -> str:
    assert where in str(error)
    assert "\n" not in str(error)
    return "refused"


def survey(count: int) -> dict[str, int]:
    outcomes: dict[str, int] = {}

    @settings(max_examples=count, **QUIET)
    @given(files)
    def check(file: dict[str, Any]) -> None:
        result = outcome(file)
        outcomes[result] = outcomes.get(result, 0) + 1

    run: Callable[[], None] = check
    run()
    return outcomes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [80, pytest.param(5000, marks=pytest.mark.slow)])
def test_file_kind_whatever_a_tiff_is_made_of_it_gives_its_own_page_or_one_line(count):
    outcomes = survey(count)
    assert outcomes["decoded"] > count / 20
    assert outcomes["refused"] > count / 20
