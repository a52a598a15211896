"""Every metric against the reference libraries, or a slow and obvious loop, on noise and on real cells."""

import math
from itertools import pairwise, product
from pathlib import Path
from shutil import copy

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance
from skimage.filters import threshold_otsu
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sdvae_ray.contracts import Posterior, Reconstruction
from sdvae_ray.metrics import (
    emd,
    foreground_mae,
    foreground_ssim,
    kld,
    lpips,
    mae,
    ms_ssim,
    mse,
    psnr,
    radial_power,
    ssim,
    stain_correlation,
)
from sdvae_ray.metrics._foreground import foreground, otsu, smooth

CLOSE = {"rtol": 0, "atol": 1e-5}  # float32 sums of up to 2^16 values in [0, 1]
PASSES = [[0, 1, 2], [2, 3, 4]]
SKIMAGE = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}


@pytest.fixture(scope="module")
def noise() -> Reconstruction:
    return reconstruction(torch.rand(2, 5, 192, 192, generator=torch.Generator().manual_seed(3)), 0.1)


@pytest.fixture(scope="module")
def cells(real_field) -> Reconstruction:
    """Three crops of 192 pixels of the real field, as a run scales them."""
    planes = np.stack([tifffile.imread(path) for path in real_field.values()]) / 256 / 255
    crops = [planes[:, y : y + 192, x : x + 192] for y, x in ((40, 40), (600, 300), (284, 796))]
    return reconstruction(torch.from_numpy(np.stack(crops).astype(np.float32)), 0.01)


@pytest.fixture(params=["noise", "cells"])
def pair(request) -> Reconstruction:
    return request.getfixturevalue(request.param)


def reconstruction(image: Tensor, error: float) -> Reconstruction:
    """(N, 5, S, S): blurred, and with noise."""
    random = np.random.default_rng(4)
    blurred = gaussian_filter(image.numpy(), (0, 0, 1, 1))
    recon = torch.from_numpy(np.clip(blurred + random.normal(0, error, blurred.shape), 0, 1).astype(np.float32))
    return Reconstruction(image, recon, image[:, PASSES], recon[:, PASSES], None)


def per_stain(reference, pair: Reconstruction) -> np.ndarray:
    """(N, C, ...) of a reference of two (S, S) float64 planes."""
    image, recon = pair.image.double().numpy(), pair.recon.double().numpy()
    return np.array([[reference(x, y) for x, y in zip(*both, strict=True)] for both in zip(image, recon, strict=True)])


def per_plane(reference, pair: Reconstruction) -> np.ndarray:
    """(N, C) of a reference of two (1, 1, S, S) float32 tensors."""
    planes = zip(pair.image.flatten(0, 1), pair.recon.flatten(0, 1), strict=True)
    return np.array([float(reference(x[None, None], y[None, None])) for x, y in planes]).reshape(pair.image.shape[:2])


# Structural similarity


def test_ssim_equals_monai(pair):
    monai = pytest.importorskip("monai.metrics")
    reference = monai.SSIMMetric(spatial_dims=2, data_range=1.0, reduction="none")
    expected = per_plane(lambda x, y: reference(y_pred=y, y=x), pair)
    np.testing.assert_allclose(ssim.compute(pair), expected, **CLOSE)


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


def skimage_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return structural_similarity(x, y, full=True, **SKIMAGE)[1][5:-5, 5:-5]


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


def test_ms_ssim_of_an_inverted_image_is_0_as_torchmetrics_and_monai_have_it(noise):
    functional = pytest.importorskip("torchmetrics.functional.image")
    monai = pytest.importorskip("monai.metrics")
    image = noise.image
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
        (mse, lambda x, y: np.square(x - y).mean()),
        (emd, lambda x, y: wasserstein_distance(x.ravel(), y.ravel())),
    ],
    ids=["mae-numpy", "mse-skimage", "mse-numpy", "emd-scipy"],
)
def test_an_error_of_pixels_equals_its_reference(metric, reference, pair):
    # relative, since errors of real cells are themselves of 1e-4; float32 keeps 1e-7 of a pixel, of which thousands are summed
    np.testing.assert_allclose(metric.compute(pair), per_stain(reference, pair), rtol=1e-5, atol=1e-8)


def test_psnr_equals_skimage(pair):
    expected = per_stain(lambda x, y: peak_signal_noise_ratio(x, y, data_range=1.0), pair)
    np.testing.assert_allclose(psnr.compute(pair), expected, rtol=0, atol=1e-4)  # dB: 2e-5 of the squared error


def test_psnr_equals_torchmetrics(pair):
    functional = pytest.importorskip("torchmetrics.functional.image")
    expected = per_plane(lambda x, y: functional.peak_signal_noise_ratio(y, x, data_range=1.0), pair)
    np.testing.assert_allclose(psnr.compute(pair), expected, rtol=0, atol=1e-4)


def test_kld_equals_torch_distributions():
    random = torch.Generator().manual_seed(5)
    mean, logvar = torch.randn(2, 6, 4, 24, 24, generator=random) * 2
    rgb = torch.zeros(3, 2, 3, 8, 8)
    values = kld.compute(Reconstruction(rgb[:, 0], rgb[:, 0], rgb, rgb, Posterior(mean, logvar)))
    q, p = Normal(mean.double(), (logvar.double() / 2).exp()), Normal(torch.zeros(()).double(), torch.ones(()).double())
    expected = kl_divergence(q, p).flatten(1).sum(1).view(3, 2)
    np.testing.assert_allclose(values, expected, rtol=1e-6)  # summed in float64, rounded once


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


# Foreground


def otsus(planes: np.ndarray) -> np.ndarray:
    return np.array([threshold_otsu(plane.astype(np.float64)) for plane in planes])


def test_the_smoothing_equals_scipy(pair):
    expected = gaussian_filter(pair.image.double().numpy(), (0, 0, 2, 2), truncate=4, mode="mirror")
    np.testing.assert_allclose(smooth(pair.image.flatten(0, 1)), expected.reshape(-1, 192, 192), rtol=0, atol=1e-6)


def test_the_threshold_equals_skimage(pair):
    for planes in (pair.image.flatten(0, 1), smooth(pair.image.flatten(0, 1))):
        np.testing.assert_allclose(otsu(planes)[0], otsus(planes.numpy()), rtol=1e-9)


def test_the_threshold_equals_skimage_at_its_edges():
    random = np.random.default_rng(7)
    step = np.where(np.arange(64) < 20, 0.2, 0.7)
    planes = np.stack(
        [
            np.tile(step, (64, 1)),  # two values, with nothing between
            np.floor(random.random((64, 64)) * 4) / 255,  # four grey levels
            np.eye(64) * (np.arange(64) < 3),  # three hot pixels
            random.poisson(3, (64, 64)) / 255,
            np.tile(step, (64, 1)) + random.normal(0, 0.05, (64, 64)),
        ]
    ).astype(np.float32)
    threshold, difference = otsu(torch.from_numpy(planes))
    np.testing.assert_allclose(threshold, otsus(planes), rtol=1e-9)
    np.testing.assert_allclose(difference[0], 0.5, atol=0.5 / 255, rtol=0)  # of bins: one of them at most
    assert (otsu(torch.full((3, 64, 64), 0.3))[1] <= 0).all()


def test_the_mask_equals_scipy_and_skimage_on_real_cells(cells):
    smoothed = gaussian_filter(cells.image.numpy(), (0, 0, 2, 2), truncate=4, mode="mirror").reshape(-1, 192, 192)
    expected = (smoothed > otsus(smoothed)[:, None, None]).reshape(cells.image.shape)
    mask = foreground(cells.image).numpy()
    found = mask.any((2, 3))
    assert found[:2].all()
    # a pixel that lies on the threshold may fall to either side in float32
    assert (mask != expected)[found].mean() < 1e-4


def test_foreground_mae_is_the_error_of_those_pixels(cells):
    mask, image, recon = (v.numpy() for v in (foreground(cells.image), cells.image, cells.recon))
    values = foreground_mae.compute(cells).numpy()
    for n, c in product(range(2), range(5)):
        np.testing.assert_allclose(values[n, c], np.abs(image - recon)[n, c][mask[n, c]].mean(), rtol=1e-5)


def test_foreground_ssim_is_skimages_map_at_those_pixels(cells):
    mask = foreground(cells.image).numpy()[:, :, 5:-5, 5:-5]
    maps = per_stain(skimage_map, cells)
    values = foreground_ssim.compute(cells).numpy()
    for n, c in product(range(2), range(5)):
        np.testing.assert_allclose(values[n, c], maps[n, c][mask[n, c]].mean(), **CLOSE)


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
