"""The metrics against scikit-image, scipy, torch.distributions and numpy, on noise, real cells and at their edges."""

import math
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sdvae_ray.contracts import Posterior, Reconstruction
from sdvae_ray.metrics import emd, kld, mae, psnr, ssim

patches = arrays(np.float32, (2, 3, 16, 16), elements=st.floats(0, 1, width=32))


def reconstruction(image: np.ndarray, recon: np.ndarray, posterior: Posterior | None = None) -> Reconstruction:
    """(N, C, S, S) arrays in [0, 1], C at least 3; the RGB passes are the first three stains, once."""
    x, y = (torch.from_numpy(np.asarray(a, np.float32)) for a in (image, recon))
    return Reconstruction(x, y, x[:, None, :3], y[:, None, :3], posterior)


def noisy_pair(seed: int = 0, count: int = 2, stains: int = 5, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.random((count, stains, side, side), np.float32)
    return image, np.clip(image + random.normal(0, 0.1, image.shape), 0, 1).astype(np.float32)


def per_stain(reference, image: np.ndarray, recon: np.ndarray) -> np.ndarray:
    """(N, C): a reference of two (S, S) planes, plane by plane, in float64."""
    image, recon = image.astype(np.float64), recon.astype(np.float64)
    return np.array([[reference(x, y) for x, y in zip(*pair, strict=True)] for pair in zip(image, recon, strict=True)])


def skimage_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Mean over the windows that lie within the image."""
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    _, full = structural_similarity(x, y, full=True, **options)
    return float(full[5:-5, 5:-5].mean())


REFERENCES = {
    ssim: skimage_ssim,
    emd: lambda x, y: wasserstein_distance(x.ravel(), y.ravel()),
    mae: lambda x, y: np.abs(x - y).mean(),
    psnr: lambda x, y: peak_signal_noise_ratio(x, y, data_range=1.0),
}
by_reference = pytest.mark.parametrize("metric", REFERENCES, ids=lambda m: m.__name__.rpartition(".")[2])


def assert_equals_its_reference(metric, image: np.ndarray, recon: np.ndarray) -> None:
    ours = metric.compute(reconstruction(image, recon)).numpy()
    expected = per_stain(REFERENCES[metric], image, recon)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@by_reference
def test_a_metric_equals_its_reference_on_noise(metric):
    assert_equals_its_reference(metric, *noisy_pair())


@by_reference
def test_a_metric_equals_its_reference_on_real_cells(metric, real_field):
    planes = np.stack([np.clip(tifffile.imread(path)[400:528, 400:528] / 256, 0, 255) for path in real_field.values()])
    image = (planes.astype(np.uint8) / 255.0).astype(np.float32)[None]
    recon = gaussian_filter(image, (0, 0, 2, 2))
    assert_equals_its_reference(metric, image, recon)


@by_reference
def test_a_metric_equals_its_reference_on_stacks_of_another_microscope(metric, shared: Path):
    stack = tifffile.imread(shared / "data/images/cpg0002_scope_A11_DMSO_crop1_y540_x540.tif")[:, :96, :96]
    image = np.clip(stack / np.percentile(stack, 99.9, axis=(1, 2), keepdims=True), 0, 1).astype(np.float32)[None]
    recon = np.clip(np.roll(image, 3, -1) * 0.9 + 0.02, 0, 1)
    assert_equals_its_reference(metric, image, recon)


@by_reference
def test_a_metric_equals_its_reference_on_bright_images_with_little_contrast(metric):
    image, recon = noisy_pair(1)
    assert_equals_its_reference(metric, 0.99 + image / 1000, 0.99 + recon / 1000)


def test_similarity_of_different_constants_is_their_luminance_term():
    image, recon = np.full((1, 3, 32, 32), 0.25), np.full((1, 3, 32, 32), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(ssim.compute(reconstruction(image, recon)), expected, rtol=1e-5)


@pytest.mark.parametrize("level", [0.0, 1 / 255, 0.5, 1.0])
def test_a_constant_image_that_comes_back_is_perfect(level):
    same = reconstruction(*[np.full((2, 3, 32, 32), level)] * 2)
    assert (mae.compute(same) == 0).all()
    assert (emd.compute(same) == 0).all()
    assert (ssim.compute(same) == 1).all()
    assert (psnr.compute(same) == torch.inf).all()


def test_black_reconstructed_as_white_is_the_worst_of_all():
    worst = reconstruction(np.zeros((1, 3, 32, 32)), np.ones((1, 3, 32, 32)))
    assert (mae.compute(worst) == 1).all()
    assert (emd.compute(worst) == 1).all()
    assert (psnr.compute(worst) == 0).all()
    np.testing.assert_allclose(ssim.compute(worst), 1e-4 / (1 + 1e-4), rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(patches, patches)
def test_errors_keep_their_order_and_their_bounds(image, recon):
    result = reconstruction(image, recon)
    moved, paired = emd.compute(result), mae.compute(result)
    assert (moved >= 0).all()
    assert (moved <= paired + 1e-6).all()  # the sorted pairing is the cheapest of all
    assert (paired <= 1).all()
    assert (psnr.compute(result) >= -10 * paired.log10() - 1e-3).all()  # no squared error is larger than its root
    assert (ssim.compute(result).abs() <= 1 + 1e-4).all()


@settings(max_examples=30, deadline=None)
@given(patches, patches)
def test_errors_are_symmetric(image, recon):
    forth, back = reconstruction(image, recon), reconstruction(recon, image)
    for metric in (emd, mae, psnr):
        torch.testing.assert_close(metric.compute(forth), metric.compute(back))
    torch.testing.assert_close(ssim.compute(forth), ssim.compute(back), atol=2e-4, rtol=0)


def test_emd_is_blind_to_where_the_pixels_are_and_the_others_are_not():
    image, recon = noisy_pair(2, stains=3, side=32)
    shuffled = np.random.default_rng(0).permuted(recon.reshape(2, 3, -1), axis=2).reshape(recon.shape)
    before, after = reconstruction(image, recon), reconstruction(image, shuffled)
    torch.testing.assert_close(emd.compute(before), emd.compute(after))
    assert (mae.compute(after) > 2 * mae.compute(before)).all()
    assert (ssim.compute(after) < ssim.compute(before) / 2).all()


def posterior_of(mean: Tensor, logvar: Tensor | None, passes: int = 2) -> Reconstruction:
    count = len(mean) // passes
    image = torch.rand(count, 5, 16, 16)
    rgb = torch.rand(count, passes, 3, 16, 16)
    return Reconstruction(image, image, rgb, rgb, Posterior(mean, logvar))


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_kld_equals_the_divergence_of_torch_distributions(spread):
    random = torch.Generator().manual_seed(0)
    mean = torch.randn(6, 4, 8, 8, generator=random) * spread
    logvar = torch.randn(6, 4, 8, 8, generator=random) - 4
    normal = Normal(mean.double(), (0.5 * logvar.double()).exp())
    expected = kl_divergence(normal, Normal(0.0, 1.0)).sum((1, 2, 3)).view(3, 2)
    torch.testing.assert_close(kld.compute(posterior_of(mean, logvar)).double(), expected, rtol=1e-6, atol=0)


def test_kld_of_the_standard_normal_is_zero():
    zeros = torch.zeros(4, 4, 8, 8)
    assert (kld.compute(posterior_of(zeros, zeros)) == 0).all()


def test_kld_is_nan_and_not_zero_without_a_posterior():
    image, recon = noisy_pair()
    for posterior in (None, Posterior(torch.zeros(2, 4, 6, 6), None)):
        values = kld.compute(reconstruction(image, recon, posterior))
        assert values.shape == (2, 1)
        assert torch.isnan(values).all()


def test_psnr_of_a_known_error_is_known():
    image = np.full((1, 3, 16, 16), 0.5, np.float32)
    for error, decibels in ((0.1, 20.0), (0.01, 40.0), (0.5, 20 * math.log10(2))):
        np.testing.assert_allclose(psnr.compute(reconstruction(image, image + error)), decibels, atol=1e-3)
