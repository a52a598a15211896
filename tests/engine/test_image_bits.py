"""A codec with `image_bits: 16` takes the field at 16 bits beside originals of 8: what 8 bits lose is seen as a side."""

import numpy as np
import pytest
from test_engine import encoder, fovs

from sdvae_ray.codecs import lossless
from sdvae_ray.config import StorageConfig
from sdvae_ray.engine.compress import Compressor, has_wide, taken
from sdvae_ray.engine.files.load import IMAGE, WIDE, Loader
from sdvae_ray.images.prepare import untile
from sdvae_ray.schema import ERROR, divisor_column, offset_column

CODECS = {"wide": {"name": "lossless", "image_bits": 16}, "narrow": {"name": "lossless"}}


@pytest.fixture
def loaded(small_run_config, write_fields):
    """The run, the rows of two fields, one of them damaged, and what the loader gives."""
    config = small_run_config(codecs=CODECS)
    rows = write_fields(2)
    rows["uri_ER"][1] = rows["uri_ER"][1] + ".gone"
    return config, rows, Loader(config.image, StorageConfig(), wide=has_wide(config))(rows)


def test_the_field_at_16_bits_has_the_scale_of_the_originals(loaded):
    _, _, batch = loaded
    assert (batch[WIDE].dtype, batch[WIDE].shape) == (np.uint16, batch[IMAGE].shape)
    difference = batch[WIDE][0] / 65535 - batch[IMAGE][0] / 255
    assert (difference > -1 / 65535).all()
    assert (difference < 1 / 255).all()  # what 8 bits cut off
    assert len(np.unique(batch[WIDE][0])) > 2 * len(np.unique(batch[IMAGE][0]))
    assert not batch[WIDE][1].any()
    assert batch[ERROR][1]


def test_originals_are_the_same_bytes_with_and_without_it(loaded):
    config, rows, batch = loaded
    plain = Loader(config.image, StorageConfig())(rows)
    assert WIDE not in plain
    for name in (name for name in plain if name != ERROR and not name.startswith("seconds")):
        np.testing.assert_array_equal(plain[name], batch[name])


def test_constants_of_a_plate_keep_full_scale_at_both_depths(small_run_config, write_fields):
    image = {"scaling": {"method": "manifest"}}
    config = small_run_config(codecs=CODECS, image=image)
    rows = write_fields(1)
    for stain in config.image.stains:
        rows[offset_column(stain)], rows[divisor_column(stain)] = np.array([500.0]), np.array([40.0])
    batch = Loader(config.image, StorageConfig(), wide=True)(rows)
    np.testing.assert_array_equal(batch[WIDE] == 65535, batch[IMAGE] == 255)
    difference = batch[WIDE] / 65535 - batch[IMAGE] / 255
    assert np.abs(difference).max() < 1 / 255


def test_the_side_is_the_field_at_16_bits_at_the_bytes_of_its_files(loaded):
    config, _, batch = loaded
    compressed = Compressor.of(config)(batch)
    np.testing.assert_array_equal(taken(compressed, CODECS, 0)["wide"].pixels, batch[WIDE][0])
    out = encoder(config)(compressed)
    assert [bool(error) for error in out[ERROR]] == [False, True]
    assert (out["metrics/narrow:mae"][0] == 0).all()
    expected = np.abs(batch[WIDE][0] / 65535 - batch[IMAGE][0] / 255).mean((2, 3))
    np.testing.assert_allclose(out["metrics/wide:mae"][0], expected, rtol=1e-4)
    _, sizes = lossless.load().roundtrip(untile(batch[WIDE][0])[None])
    np.testing.assert_allclose(out["metrics/wide:bits"][0].sum(0), 8 * sizes[0], rtol=1e-6)
    assert (out["metrics/wide:bits"][0] > out["metrics/narrow:bits"][0]).all()
    assert not [name for name in out if name.startswith("image")]


def test_a_run_of_16_bits_has_no_wider_field(small_run_config):
    config = small_run_config(codecs=CODECS, image={"scaling": {"method": "divide", "divisor": 1, "bits": 16}})
    assert not has_wide(config)
    out = encoder(config)(fovs(config, 1))
    assert (out["metrics/wide:mae"] == 0).all()


def test_a_run_without_the_key_is_the_run_that_it_was(small_run_config):
    identity = small_run_config(codecs={"narrow": {"name": "lossless"}}).identity()
    assert identity["codecs"] == {"narrow": {"name": "lossless"}}
    assert small_run_config(codecs=CODECS).identity()["codecs"]["wide"]["image_bits"] == 16
