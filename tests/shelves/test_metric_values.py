"""Every metric against the reference libraries, or a slow and obvious loop, on noise and on real cells; known values."""

import math
from itertools import pairwise, product
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import tifffile
import torch
from reconstructions import CLOSE, PASSES, of_cells, of_noise, per_stain, skimage_map
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sdvae_ray.contracts import Posterior, Reconstruction
from sdvae_ray.metrics import emd, kld, lpips, mae, ms_ssim, mse, psnr, radial_power, ssim, stain_correlation


@pytest.fixture(params=["noise", "cells"])
def pair(request) -> Reconstruction:
    return of_noise() if request.param == "noise" else of_cells(request.getfixturevalue("real_field"))


def per_plane(reference, pair: Reconstruction) -> np.ndarray:
    """(N, C) of a reference of two (1, 1, S, S) float32 tensors."""
    planes = zip(pair.image.flatten(0, 1), pair.recon.flatten(0, 1), strict=True)
    return np.array([float(reference(x[None, None], y[None, None])) for x, y in planes]).reshape(pair.image.shape[:2])


# Structural similarity


def test_ssim_is_what_the_published_loss_is_not(pair):
    """MONAI's loss, which the published pipeline plots under the name of SSIM, is 1 - SSIM."""
    losses = pytest.importorskip("monai.losses")
    expected = per_plane(losses.SSIMLoss(spatial_dims=2, data_range=1.0), pair)
    np.testing.assert_allclose(1 - ssim.compute(pair), expected, **CLOSE)


def test_ssim_equals_torchmetrics(pair):
    functional = pytest.importorskip("torchmetrics.functional.image")

    def reference(x: Tensor, y: Tensor) -> Tensor:
        _, full = functional.structural_similarity_index_measure(y, x, data_range=1.0, return_full_image=True)
        return full[..., 5:-5, 5:-5].mean()

    np.testing.assert_allclose(ssim.compute(pair), per_plane(reference, pair), **CLOSE)


def test_ssim_equals_skimage_in_float64(pair):
    expected = per_stain(lambda x, y: skimage_map(x, y).mean(), pair)
    np.testing.assert_allclose(ssim.compute(pair), expected, **CLOSE)


def test_ms_ssim_equals_torchmetrics_but_for_the_rim_of_its_coarsest_scale(pair):
    """Its coarsest scale, and only that, averages over windows that hang over the reflected edge too; ours and monai's do not."""
    functional = pytest.importorskip("torchmetrics.functional.image")
    whole = functional.multiscale_structural_similarity_index_measure

    def reference(x: Tensor, y: Tensor) -> Tensor:
        small = [torch.nn.functional.avg_pool2d(v, 16) for v in (y, x)]
        _, full = functional.structural_similarity_index_measure(*small, data_range=1.0, return_full_image=True)
        rim = (full[..., 5:-5, 5:-5].mean() / full.mean()) ** 0.1333
        return whole(y, x, data_range=1.0, normalize="relu") * rim

    np.testing.assert_allclose(ms_ssim.compute(pair), per_plane(reference, pair), **CLOSE)


def test_ms_ssim_equals_monai(pair):
    monai = pytest.importorskip("monai.metrics")
    reference = monai.MultiScaleSSIMMetric(spatial_dims=2, data_range=1.0, reduction="none")
    expected = per_plane(lambda x, y: reference(y_pred=y, y=x), pair)
    np.testing.assert_allclose(ms_ssim.compute(pair), expected, **CLOSE)


def test_ms_ssim_equals_skimage_scale_by_scale(pair):
    """Pools with numpy; contrast-structure is SSIM over luminance, from skimage's own filter of the means."""

    def reference(x: np.ndarray, y: np.ndarray) -> float:
        result = 1.0
        for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            similarity = skimage_map(x, y)
            mx, my = (gaussian_filter(v, 1.5, truncate=3.5)[5:-5, 5:-5] for v in (x, y))
            luminance = (2 * mx * my + 1e-4) / (mx**2 + my**2 + 1e-4)
            result *= max(0.0, (similarity if scale == 4 else similarity / luminance).mean()) ** weight
            x, y = ((v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]) / 4 for v in (x, y))
        return result

    np.testing.assert_allclose(ms_ssim.compute(pair), per_stain(reference, pair), **CLOSE)


def test_ms_ssim_of_an_inverted_image_is_0_as_torchmetrics_and_monai_have_it():
    functional = pytest.importorskip("torchmetrics.functional.image")
    monai = pytest.importorskip("monai.metrics")
    image = of_noise().image
    inverted = Reconstruction(image, 1 - image, image[:, PASSES], 1 - image[:, PASSES], None)
    reference = functional.multiscale_structural_similarity_index_measure
    other = monai.MultiScaleSSIMMetric(spatial_dims=2, data_range=1.0, reduction="none")
    for expected in (
        per_plane(lambda x, y: reference(y, x, data_range=1.0, normalize="relu"), inverted),
        per_plane(lambda x, y: other(y_pred=y, y=x), inverted),
    ):
        np.testing.assert_array_equal(ms_ssim.compute(inverted), expected)
        assert (expected == 0).all()


# Errors of pixels, histograms, posteriors


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        (mae, lambda x, y: np.abs(x - y).mean()),
        (mse, mean_squared_error),
        (emd, lambda x, y: wasserstein_distance(x.ravel(), y.ravel())),
    ],
    ids=["mae-numpy", "mse-skimage", "emd-scipy"],
)
def test_an_error_of_pixels_equals_its_reference(metric, reference, pair):
    # relative, since errors of real cells are themselves of 1e-4; float32 keeps 1e-7 of a pixel, of which thousands are summed
    np.testing.assert_allclose(metric.compute(pair), per_stain(reference, pair), rtol=1e-5, atol=1e-8)


def test_psnr_equals_skimage(pair):
    expected = per_stain(lambda x, y: peak_signal_noise_ratio(x, y, data_range=1.0), pair)
    np.testing.assert_allclose(psnr.compute(pair), expected, rtol=0, atol=1e-4)  # dB: 2e-5 of the squared error


def test_the_psnr_of_patches_together_is_that_of_one_image_and_an_exact_patch_leaves_it_finite():
    image = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    recon = image + torch.tensor([0.1, 0.02, 0.0])[:, None, None, None]  # the last patch is exact
    patches = psnr.compute(Reconstruction(image, recon, image[:, :, None], recon[:, :, None], None))
    assert patches[2].isinf()
    together = peak_signal_noise_ratio(image.flatten().numpy(), recon.flatten().numpy(), data_range=1.0)
    assert psnr.pooled(patches.flatten().double().numpy()) == pytest.approx(together, abs=1e-4)
    assert math.isinf(psnr.pooled(np.array([np.inf, np.inf])))


def test_psnr_equals_torchmetrics(pair):
    functional = pytest.importorskip("torchmetrics.functional.image")
    expected = per_plane(lambda x, y: functional.peak_signal_noise_ratio(y, x, data_range=1.0), pair)
    np.testing.assert_allclose(psnr.compute(pair), expected, rtol=0, atol=1e-4)


def posterior_of(mean: Tensor, logvar: Tensor | None, passes: int = 2) -> Reconstruction:
    count = len(mean) // passes
    image = torch.rand(count, 5, 16, 16)
    rgb = torch.rand(count, passes, 3, 16, 16)
    return Reconstruction(image, image, rgb, rgb, Posterior(mean, logvar))


@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
def test_kld_equals_torch_distributions(spread):
    random = torch.Generator().manual_seed(0)
    mean = torch.randn(6, 4, 8, 8, generator=random) * spread
    logvar = torch.randn(6, 4, 8, 8, generator=random) - 4
    normal = Normal(mean.double(), (0.5 * logvar.double()).exp())
    expected = kl_divergence(normal, Normal(0.0, 1.0)).sum((1, 2, 3)).view(3, 2)
    torch.testing.assert_close(kld.compute(posterior_of(mean, logvar)).double(), expected, rtol=1e-6, atol=0)


def test_kld_of_the_standard_normal_is_zero():
    zeros = torch.zeros(4, 4, 8, 8)
    assert (kld.compute(posterior_of(zeros, zeros)) == 0).all()


# Four metrics on other images


OTHERS = {
    ssim: lambda x, y: skimage_map(x, y).mean(),
    emd: lambda x, y: wasserstein_distance(x.ravel(), y.ravel()),
    mae: lambda x, y: np.abs(x - y).mean(),
    psnr: lambda x, y: peak_signal_noise_ratio(x, y, data_range=1.0),
}
of_four = pytest.mark.parametrize("metric", OTHERS, ids=lambda metric: metric.__name__.rpartition(".")[2])


def assert_equals_its_reference(metric, image: np.ndarray, recon: np.ndarray) -> None:
    x, y = (torch.from_numpy(np.asarray(planes, np.float32)) for planes in (image, recon))
    pair = Reconstruction(x, y, x[:, None, :3], y[:, None, :3], None)
    np.testing.assert_allclose(metric.compute(pair), per_stain(OTHERS[metric], pair), rtol=1e-5, atol=1e-5)


@of_four
def test_a_metric_equals_its_reference_on_stacks_of_another_microscope(metric, shared: Path):
    stack = tifffile.imread(shared / "data/images/cpg0002_scope_A11_DMSO_crop1_y540_x540.tif")[:, :96, :96]
    image = np.clip(stack / np.percentile(stack, 99.9, axis=(1, 2), keepdims=True), 0, 1).astype(np.float32)[None]
    recon = np.clip(np.roll(image, 3, -1) * 0.9 + 0.02, 0, 1)
    assert_equals_its_reference(metric, image, recon)


@of_four
def test_a_metric_equals_its_reference_on_bright_images_with_little_contrast(metric):
    random = np.random.default_rng(1)
    image = random.random((2, 5, 48, 48), np.float32)
    recon = np.clip(image + random.normal(0, 0.1, image.shape), 0, 1)
    assert_equals_its_reference(metric, 0.99 + image / 1000, 0.99 + recon / 1000)


# Perception


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_lpips_equals_the_lpips_package(pair, tmp_path):
    package = pytest.importorskip("lpips")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(6)
        reference = package.LPIPS(net="alex", pnet_rand=True, verbose=False)
    state = {f"features.{name.partition('.')[2]}": value for name, value in reference.net.state_dict().items()}
    torch.save({**state, "classifier.1.bias": torch.zeros(4)}, tmp_path / "alexnet-owt-7be5be79.pth")
    copy(Path(package.__file__).parent / "weights/v0.1/alex.pth", tmp_path)
    ours = lpips.load(tmp_path).to(torch.device("cpu"))(pair)
    with torch.inference_mode():
        expected = reference(pair.image_rgb.flatten(0, 1), pair.recon_rgb.flatten(0, 1), normalize=True).view(-1, 2)
    assert expected.min() > 1e-4  # more than the tolerance
    np.testing.assert_allclose(ours, expected, **CLOSE)
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


# Frequencies and stains


def slow_bands(plane: np.ndarray) -> list[float]:
    """Mean power of the frequencies in each octave, one frequency after the other."""
    side = len(plane)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / side)
    spectrum = np.abs(np.fft.fft2((plane - plane.mean()) * np.outer(hann, hann))) ** 2
    edges = [2, 4, 8, 16, 32, 64]
    found: list[list[float]] = [[] for _ in edges[1:]]
    for row, column in product(range(side), range(side)):
        cycles = math.hypot(min(row, side - row), min(column, side - column))
        for band, (short, long) in enumerate(pairwise(edges)):
            if cycles and short <= side / cycles < long:
                found[band].append(spectrum[row, column])
    return [float(np.mean(powers)) for powers in found]


@pytest.mark.parametrize("side", [128, 131])
def test_radial_power_equals_a_loop_over_frequencies(pair, side):
    part = Reconstruction(
        pair.image[:2, :2, :side, :side], pair.recon[:2, :2, :side, :side], *[torch.zeros(0)] * 2, None
    )
    expected = per_stain(lambda x, y: np.divide(slow_bands(y), slow_bands(x)), part)
    np.testing.assert_allclose(radial_power.compute(part), expected, rtol=1e-6)  # float64, rounded once


def test_stain_correlation_equals_numpy(pair):
    expected = []
    for image, recon in zip(pair.image.numpy(), pair.recon.numpy(), strict=True):
        before, after = (np.corrcoef(planes.reshape(5, -1).astype(np.float64)) for planes in (image, recon))
        expected.append([np.delete(np.abs(before - after)[stain], stain).mean() for stain in range(5)])
    np.testing.assert_allclose(stain_correlation.compute(pair), expected, rtol=1e-5, atol=1e-9)
