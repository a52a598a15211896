"""Where pixels are: the plane that load_data names, planes that stains share, and URIs and paths of every spelling."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.encoding.start import checked_manifest
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.errors import DataError, StorageError
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, channel_column, illum_column, uri_column
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.manifest import Manifest, build_manifest, write_manifest
from sdvae_ray.sources.planes import check_locations
from sdvae_ray.storage import Storage, absolute, is_remote

STAINS = ("Mito", "DNA")
AWKWARD = ["plate 1", "a#b", "50%20off", "100%", "a+b", "a?b=c&d", "ü β", "a'b\"c", "[x]*"]


def load_data(folder: Path, **columns: Any) -> str:
    """A load_data file of the two wells A01 and A02; a column of one value has it in both."""
    frame = {
        "Metadata_Plate": "P1",
        "Metadata_Well": ["A01", "A02"],
        "Metadata_Site": "1",
        **{f"URL_Orig{stain}": ["/images/a.tif", "/images/b.tif"] for stain in STAINS},
        **columns,
    }
    path = folder / "load_data.csv"
    pl.DataFrame(
        {name: [values] * 2 if isinstance(values, str) else values for name, values in frame.items()}
    ).write_csv(path)
    return str(path)


def build(path: str, **options: Any) -> Manifest:
    defaults = {"Metadata_Source": "s1", "Metadata_Batch": "b1"}
    return build_manifest([path], stains=STAINS, defaults=defaults, storage=Storage(), **options)


def channels(manifest: Manifest) -> list[list[int]]:
    return [manifest.table[channel_column(stain)].to_list() for stain in STAINS]


# The plane of a file


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({}, [[0, 0], [0, 0]]),
        ({"Frame_OrigMito": "0", "Frame_OrigDNA": "4", "Series_OrigDNA": "0"}, [[0, 0], [4, 4]]),
        ({"Frame_OrigDNA": ["1", "2.0"]}, [[0, 0], [1, 2]]),
        ({"Frame_OrigDNA": ["1", ""]}, [[0, 0], [1, 0]]),
        ({"Frame_OrigMito": "0", "Series_OrigMito": ["1", "2"], "Series_OrigDNA": ["3", "4"]}, [[1, 2], [3, 4]]),
    ],
    ids=["none", "frames", "from pandas", "empty", "series"],
)
def test_file_kind_frames_and_series_of_load_data_name_the_plane(tmp_path, columns, expected):
    manifest = build(load_data(tmp_path, **columns))
    assert channels(manifest) == expected
    assert manifest.table[channel_column("DNA")].dtype == pl.Int32
    said = [note for note in manifest.notes if "every series is taken to be one plane" in note]
    assert bool(said) == ("Series_OrigMito" in columns)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"Frame_OrigDNA": ["0", "first"]}, "row 3: Frame_OrigDNA is 'first'; a whole number from 0"),
        ({"Frame_OrigDNA": ["-1", "0"]}, "row 2: Frame_OrigDNA is '-1'"),
        ({"Series_OrigMito": ["0.5", "0"]}, "row 2: Series_OrigMito is '0.5'"),
        ({"Frame_OrigDNA": "1", "Series_OrigMito": "2"}, "Frame_OrigDNA and Series_OrigMito both count planes"),
    ],
)
def test_file_kind_a_plane_that_is_no_number_is_refused_with_its_row(tmp_path, columns, words):
    with pytest.raises(DataError) as caught:
        build(load_data(tmp_path, **columns))
    assert words in str(caught.value)
    assert "load_data.csv" in str(caught.value)


def test_file_kind_two_stains_of_one_plane_are_said_by_manifest_and_check(tmp_path):
    same = build(load_data(tmp_path))
    (note,) = [note for note in same.notes if "same plane" in note]
    assert "DNA and Mito are the same plane of the same file in 2 of 2 FOVs, such as /images/a.tif" in note
    apart = build(load_data(tmp_path, Frame_OrigDNA=["1", "0"]))
    (note,) = [note for note in apart.notes if "same plane" in note]
    assert "1 of 2 FOVs, such as /images/b.tif" in note
    uri = str(tmp_path / "manifest.parquet")
    write_manifest(same.table, uri, Storage())
    assert check_locations(uri, STAINS, Storage()) == [n for n in same.notes if "same plane" in n]
    write_manifest(build(load_data(tmp_path, Frame_OrigDNA="1")).table, uri, Storage())
    assert check_locations(uri, STAINS, Storage()) == []


# URIs and paths


def test_container_kind_web_addresses_are_refused_at_once_with_the_bucket_to_name(tmp_path, small_run_config):
    gallery = "https://cellpainting-gallery.s3.amazonaws.com/"
    path = load_data(tmp_path, URL_OrigDNA=["/images/a.tif", f"{gallery}cpg0016-jump/a.tif"])
    with pytest.raises(DataError) as caught:
        build(path)
    for words in (
        "load_data.csv, row 3: uri_DNA is https://",
        "no reader for https://",
        "--rewrite https://cellpainting-gallery",
    ):
        assert words in str(caught.value)
    manifest = build(path, rewrites=[(gallery, "s3://cellpainting-gallery/")])
    assert "s3://cellpainting-gallery/cpg0016-jump/a.tif" in manifest.table[uri_column("DNA")].to_list()
    edited = manifest.table.with_columns(pl.lit("HTTP://host/illum.npy").alias(illum_column("DNA")))
    config = small_run_config(image={"crop": 128, "patch": 64, "stains": list(STAINS), "packing": "grey"})
    write_manifest(edited, config.manifest, Storage())
    with pytest.raises(
        DataError, match="manifest.parquet: illum_DNA is HTTP://host/illum.npy .2 rows.: no reader for http://"
    ):
        checked_manifest(Run(config))


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///plate%201/a%23b%2Bc.tif", "/plate 1/a#b+c.tif"),
        ("file://localhost/a%25b.tif", "/a%b.tif"),
        ("file:/a%20b.tif", "/a b.tif"),
        ("FILE:///a+b.tif", "/a+b.tif"),
        ("/a%20b#c+d.tif", "/a%20b#c+d.tif"),
        ("/file:///x.tif", "/file:///x.tif"),
    ],
)
def test_container_kind_a_file_uri_is_decoded_and_a_path_is_not(uri, path):
    assert absolute(uri) == str(Path(path))
    assert not is_remote(uri)


def test_container_kind_a_file_of_another_host_is_refused():
    with pytest.raises(StorageError, match="its host is server"):
        Storage().read_bytes("file://server/share/a.tif")


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("form", ["path", "URI"])
def test_container_kind_images_functions_and_manifests_lie_under_any_path(tmp_path, write_fields, name, form):
    plain = write_fields(1, illumination=True, folder=tmp_path / "plain")
    expected = Loader(ImageConfig(crop=128, patch=64), StorageConfig())(plain)
    awkward = write_fields(1, illumination=True, folder=tmp_path / name)
    places = [column for column in awkward if column.startswith(("uri_", "illum_"))]
    if form == "URI":
        for column in places:
            awkward[column][0] = Path(awkward[column][0]).as_uri()
    manifest = str(tmp_path / name / "the manifest#1.parquet")
    write_manifest(pl.DataFrame({column: values.tolist() for column, values in awkward.items()}), manifest, Storage())
    assert check_locations(manifest, ("Mito", "AGP", "RNA", "ER", "DNA"), Storage()) == []
    loaded = Loader(ImageConfig(crop=128, patch=64), StorageConfig())(awkward)
    assert loaded[ERROR].tolist() == [""]
    np.testing.assert_array_equal(loaded["image"], expected["image"])


@pytest.mark.parametrize("name", AWKWARD)
def test_container_kind_an_output_may_lie_under_any_path(tmp_path, small_run_config: Callable[..., RunConfig], name):
    run = Run(small_run_config(output=str(tmp_path / name / "run")))
    run.write_table(pl.DataFrame({"x": [1]}), "scores", "x.parquet")
    run.write_record({"config": {}, "manifest": {}, "weights": {}, "sessions": []})
    assert run.storage.list(run.output) == ["run.json", "scores/x.parquet"]
    assert run.find_record() is not None
    again = Run(small_run_config(output=Path(run.output).as_uri()))
    assert absolute(again.output) == run.output
