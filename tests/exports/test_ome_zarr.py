"""A plate's reconstruction as OME-Zarr: a valid plate, whose pixels are those that `decode` writes."""

import numpy as np
import pytest

from sdvae_ray.queries.decode import decode_fov


def test_a_plate_is_valid_and_holds_the_decoded_pixels(shared_run, exported, tmp_path):
    pytest.importorskip("ome_zarr")
    import zarr
    from ome_zarr_models.v05.hcs import HCS

    said = exported("ome_zarr", tmp_path / "p.zarr", "--side", "pca", "--plate", "P1")
    assert said["rows"] == 4
    plate = HCS.from_zarr(zarr.open_group(tmp_path / "p.zarr", mode="r"))
    wells = {well.path for well in plate.ome_attributes.plate.wells}
    assert wells == {"A/1", "A/2", "B/11"}
    for path, fov in (("A/1/1", "source_1/batch 1/P1/A01/2"), ("B/11/0", "source_1/batch 1/P1/B11/1")):
        image = zarr.open_group(tmp_path / "p.zarr" / path, mode="r")
        levels = [level["path"] for level in image.attrs["ome"]["multiscales"][0]["datasets"]]
        np.testing.assert_array_equal(image[levels[0]][:], decode_fov(shared_run, fov, "pca")[0])
        assert image[levels[2]].shape == (5, 32, 32)
        channels = image.attrs["ome"]["omero"]["channels"]
        assert [channel["label"] for channel in channels] == ["Mito", "AGP", "RNA", "ER", "DNA"]


def test_ome_zarrs_own_reader_finds_the_plate(exported, tmp_path):
    pytest.importorskip("ome_zarr")
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Plate, Reader

    exported("ome_zarr", tmp_path / "p.zarr", "--side", "pca", "--plate", "P2")
    nodes = list(Reader(parse_url(tmp_path / "p.zarr"))())
    assert any(isinstance(spec, Plate) for node in nodes for spec in node.specs)
