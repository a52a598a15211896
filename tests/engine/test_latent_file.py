"""What is charged for a latent is a file that gives back the latent that was decoded and scored, to the last bit."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_engine import encoder, fovs, models_of

from sdvae_ray.engine import latent_file, rate


def latents(patches: int = 4, channels: int = 4, size: int = 16) -> np.ndarray:
    """(P, 2, Z, s, s) float32: smooth in space, as the latent of an image is, with noise; channels of unlike ranges."""
    random = np.random.default_rng(patches)
    smooth = gaussian_filter(random.standard_normal((patches, 2, channels, size, size)), (0, 0, 0, 2, 2)) * 4
    values = smooth + 0.1 * random.standard_normal(smooth.shape)
    return (values * 10.0 ** np.arange(channels)[:, None, None] / 10 + 3).astype(np.float32)


def quantised(values: np.ndarray, bits: int) -> np.ndarray:
    return rate.quantise(torch.from_numpy(values).flatten(0, 1), bits)[0].numpy().reshape(values.shape)


def read_back(files: list[bytes]) -> np.ndarray:
    return np.stack([latent_file.decode(file) for file in files], 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8, 9, 10, 12, None])
def test_a_file_gives_back_the_latent_to_the_last_bit(bits, dtype):
    values = latents()
    given = (values if bits is None else quantised(values, bits)).astype(dtype)
    files = latent_file.encode(given, bits)
    again = read_back(files)
    assert again.dtype == dtype
    assert again.tobytes() == given.tobytes()
    assert sum(map(len, files)) < given.nbytes
    assert [file[0] for file in files] == 2 * [
        bits or 0
    ] or bits > 8  # in these ranges 2^9 levels and more may be finer than float16


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-7, 60000.0])
def test_a_constant_channel_comes_back(value):
    given = np.full((1, 2, 2, 8, 8), value, np.float16)
    given[:, :, 1] = latents(1, 1, 8)[:, :, 0]
    for bits in (3, None):
        latent = given if bits is None else quantised(given.astype(np.float32), bits).astype(np.float16)
        assert np.array_equal(read_back(latent_file.encode(latent, bits)), latent)


def test_a_latent_that_does_not_have_its_levels_is_coded_as_it_is():
    given = latents().astype(np.float16)
    files = latent_file.encode(given, 3)
    assert [file[0] for file in files] == [0, 0]
    assert read_back(files).tobytes() == given.tobytes()


@pytest.mark.parametrize("bits", [3, 8])
def test_a_file_of_a_whole_field_is_no_larger_than_its_entropy(bits):
    given = quantised(latents(16, 4, 32), bits)
    _, symbols = rate.quantise(torch.from_numpy(given).flatten(0, 1), bits)
    entropy = rate.entropy_bits(symbols, 2**bits).sum().item()
    assert 8 * sum(map(len, latent_file.encode(given.astype(np.float16), bits))) < entropy


@pytest.mark.parametrize(
    "settings", [{"latent_bits": 3}, {"latent_bits": 8}, {}, {"latent_bits": 4, "store_latents": False}]
)
def test_what_a_side_is_charged_is_a_file_of_the_latent_that_was_decoded(small_run_config, settings):
    config = small_run_config(autoencoders={"tiny": settings})
    models, batch = models_of(config), fovs(config, 1)
    seen: list[np.ndarray] = []
    decode = models.autoencoders["tiny"].decode
    models.autoencoders["tiny"].decode = lambda latent: (seen.append(latent.numpy().copy()), decode(latent))[1]
    out = encoder(config, models)(batch)
    decoded = np.concatenate(seen)[:8].reshape(4, 2, *seen[0].shape[1:])  # (P, T, Z, s, s), without padding
    dtype = np.float32 if settings.get("store_latents") is False else np.float16
    files = latent_file.encode(decoded.astype(dtype), settings.get("latent_bits"))
    assert np.array_equal(read_back(files).astype(np.float32), decoded)
    assert [file[0] for file in files] == 2 * [settings.get("latent_bits", 0)]
    coded = out["metrics/tiny:bits_coded"][0]
    assert coded.sum() == pytest.approx(8 * sum(map(len, files)), rel=1e-6)
    assert coded.sum() < out["metrics/tiny:bits"][0].sum()
    np.testing.assert_array_equal(coded, np.broadcast_to(coded[0], coded.shape))  # a file of the field, not of a patch
    assert np.isnan(out["metrics/identity:bits_coded"]).all()


def test_a_codec_is_charged_its_own_files(small_run_config):
    config = small_run_config(codecs={"j": {"name": "jpeg", "quality": 20}, "b": {"name": "blur"}})
    out = encoder(config)(fovs(config, 1))
    np.testing.assert_array_equal(out["metrics/j:bits_coded"], out["metrics/j:bits"])
    assert np.isnan(out["metrics/b:bits_coded"]).all()
