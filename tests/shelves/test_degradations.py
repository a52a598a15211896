"""Blur and noise: known strengths, no bytes, the same planes whatever the batch."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from sdvae_ray.codecs import blur, noise
from sdvae_ray.config import RunConfig
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import Models
from sdvae_ray.errors import ConfigError

STAINS = np.random.default_rng(0).integers(60, 180, (2, 3, 64, 64), np.uint8)


def test_a_blur_is_scipys_gaussian():
    blurred, sizes = blur.load(sigma=1.5).roundtrip(STAINS)
    slow = np.rint(gaussian_filter(STAINS[1, 2].astype(float), 1.5, mode="reflect"))
    np.testing.assert_array_equal(blurred[1, 2], slow)
    assert blurred.dtype == np.uint8
    assert not sizes.any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_noise_has_the_strength_that_it_says(dtype):
    top = np.iinfo(dtype).max
    grey = np.full((1, 1, 256, 256), top // 2, dtype)
    noisy, _ = noise.load(sd=0.05).roundtrip(grey)
    difference = noisy.astype(float) - grey
    # 65,536 values: the sd of an sd is 0.28 % of it
    assert difference.std() == pytest.approx(0.05 * top, rel=0.012)
    assert abs(difference.mean()) < 4 * 0.05 * top / 256


def test_noise_is_a_function_of_the_plane_and_the_seed_whatever_the_batch():
    degraded, _ = noise.load(sd=0.02).roundtrip(STAINS)
    alone, _ = noise.load(sd=0.02).roundtrip(STAINS[1:, 2:])
    np.testing.assert_array_equal(degraded[1, 2], alone[0, 0])
    backwards, _ = noise.load(sd=0.02).roundtrip(STAINS[::-1, ::-1])
    np.testing.assert_array_equal(degraded, backwards[::-1, ::-1])
    other, _ = noise.load(sd=0.02, seed=1).roundtrip(STAINS)
    assert (other != degraded).mean() > 0.5
    first, second = (plane.astype(float) - STAINS[0, n] for n, plane in enumerate(degraded[0, :2]))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.08  # planes that differ have noise that differs


def test_pixels_stay_on_the_scale():
    ends = np.zeros((1, 2, 64, 64), np.uint8)
    ends[:, 1] = 255
    noisy, _ = noise.load(sd=0.3).roundtrip(ends)
    assert noisy[0, 0].min() == 0
    assert noisy[0, 1].max() == 255
    assert 0.4 < (noisy[0, 0] == 0).mean() < 0.6


@pytest.mark.parametrize(
    ("codec", "options"),
    [(blur, {"sigma": 0}), (blur, {"sigma": True}), (noise, {"sd": 2}), (noise, {"sd": 0.1, "seed": -1})],
)
def test_an_option_that_is_not_allowed_is_refused(codec, options):
    with pytest.raises(ConfigError, match=r"allowed"):
        codec.load(**options)


def test_a_side_without_a_file_has_no_rate(small_run_config):
    import torch

    config: RunConfig = small_run_config(
        autoencoders={}, codecs={"blur": {"name": "blur"}, "jpeg": {"name": "jpeg"}}, extractors={}, metrics=["mae"]
    )
    count, size = len(config.image.stains), config.image.patch
    image = np.random.default_rng(1).integers(0, 200, (1, config.image.patches, count, size, size), np.uint8)
    batch = {"fov_id": np.array(["a/b/c/A01/1"], object), "error": np.array([""], object), "image": image}
    encoder = Encoder(config, Models({}, {}, {"mae": _mae}), Forward(torch.device("cpu"), "float32"), 2)
    columns = encoder(Compressor.of(config)(batch))
    assert np.isnan(columns["metrics/blur:bits"]).all()
    assert (columns["metrics/jpeg:bits"] > 0).all()
    assert (columns["metrics/blur:mae"] > 0).all()
    assert columns["error"].tolist() == [""]


def _mae(reconstruction):
    return (reconstruction.image - reconstruction.recon).abs().mean((2, 3))
