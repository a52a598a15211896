"""Which pixels are foreground, against scipy and scikit-image, on noise, real cells and other microscopes; and its two metrics."""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from reconstructions import CLOSE, of_cells, of_noise, per_stain, reconstruction, shapes, skimage_map, whole_field
from scipy.ndimage import gaussian_filter
from skimage.filters import threshold_otsu
from torch import Tensor

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.images.foreground import foreground, noise, otsu, smooth
from sdvae_ray.metrics import foreground_mae, foreground_ssim


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=["noise", "cells"])
def pair(request) -> Reconstruction:
    return of_noise() if request.param == "noise" else of_cells(request.getfixturevalue("real_field"))


@pytest.fixture(scope="module")
def cells(real_field) -> Reconstruction:
    return of_cells(real_field)


@pytest.fixture(scope="module")
def field(real_field) -> Tensor:
    return whole_field(real_field)


# Against the references


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


# Noise, cells, and edges


def noises(side: int) -> dict[str, np.ndarray]:
    """Patches with nothing in them, in grey levels of 255."""
    random = np.random.default_rng(3)
    counts = {
        f"poisson {rate} x {gain}": random.poisson(rate, (side, side)) * gain
        for rate, gain in ((0.01, 1), (0.01, 10), (0.1, 10), (1, 1), (1, 10), (10, 1), (10, 5), (100, 1), (100, 2))
    }
    normal = {
        f"gauss {mean} {sigma}": random.normal(mean, sigma, (side, side))
        for mean, sigma in ((0, 1), (0, 20), (5, 0.1), (5, 1), (100, 3), (100, 30))
    }
    # what an interpolation or a lossy camera leaves: neighbours that resemble each other
    normal["gauss 100 15, correlated"] = 100 + 15 * gaussian_filter(random.normal(0, 1, (side, side)), 0.5)
    return {name: np.clip(np.round(values), 0, 255).astype(np.uint8) for name, values in {**counts, **normal}.items()}


@pytest.mark.parametrize("side", [64, 256])
@pytest.mark.parametrize("name", noises(8))
def test_noise_has_no_foreground(name, side):
    image = torch.from_numpy(noises(side)[name] / np.float32(255)).expand(1, 5, side, side)
    assert not foreground(image).any()
    given = reconstruction(image, image * 0.5)
    assert foreground_mae.compute(given).isnan().all()
    assert foreground_ssim.compute(given).isnan().all()


def test_the_noise_of_a_patch_is_that_which_was_put_there():
    random = np.random.default_rng(4)
    y, x = np.mgrid[:256, :256] / 255
    planes = [random.normal(0.5, 0.03, (256, 256)) + y / 4, random.poisson(20, (256, 256)) / 255 + x / 10]
    stack = torch.from_numpy(np.stack(planes).astype(np.float32))
    np.testing.assert_allclose(noise(stack), [0.03, math.sqrt(20) / 255], rtol=0.02)  # 2^16 samples
    flat = torch.from_numpy(random.normal(0.5, 0.03, (1, 256, 256)).astype(np.float32))
    # of smoothed noise, some 2^16 / 50 values are independent
    np.testing.assert_allclose(smooth(flat).std() / noise(flat), 0.141, rtol=0.06)
    np.testing.assert_allclose(otsu(smooth(flat))[1] / smooth(flat).std(), 1.6, rtol=0.05)


def test_every_stain_of_every_real_patch_has_foreground_but_those_of_the_empty_one(field):
    """The second row's last patch holds no cell, only a grain of debris in AGP."""
    tiles = field.unfold(1, 256, 256).unfold(2, 256, 256).permute(1, 2, 0, 3, 4)
    share = foreground(tiles.flatten(0, 1)).float().mean((2, 3)).view(4, 4, 5)
    empty = torch.zeros(4, 4, dtype=torch.bool)
    empty[1, 3] = True
    assert (share[empty][:, [0, 2, 3, 4]] == 0).all()
    assert share[empty][:, 1] < 0.01
    assert (share[~empty] > 0.001).all()
    assert (share[~empty] < 0.6).all()


@pytest.mark.parametrize(
    "name",
    [
        "cpg0002_scope_A11_DMSO_crop0_y28_x28",
        "cpg0002_scope_A11_DMSO_crop1_y540_x540",
        "cpg0016_RAB30_ORF_source4_BR00123947_G01",
    ],
)
def test_every_stain_of_other_microscopes_has_foreground(name, shared: Path):
    stack = tifffile.imread(shared / f"data/images/{name}.tif")[None, :, :256, :256].astype(np.float32)
    image = np.clip(stack / np.percentile(stack, 99.9, axis=(2, 3), keepdims=True), 0, 1)
    share = foreground(torch.from_numpy(image)).float().mean((2, 3))
    assert (share > 0.01).all()
    assert (share < 0.6).all()


def test_foreground_is_where_the_discs_are_even_under_noise_of_their_own_height():
    y, x = np.mgrid[:128, :128]
    disc = np.hypot(y - 60, x - 70) < 25
    random = np.random.default_rng(5)
    image = 0.2 + 0.05 * disc + random.normal(0, 0.05, disc.shape)
    mask = foreground(torch.from_numpy(image.astype(np.float32))[None, None])[0, 0].numpy()
    assert (mask & disc).sum() / (mask | disc).sum() > 0.9


def test_a_slow_gradient_of_an_empty_well_has_no_foreground():
    ramp = torch.linspace(0.1, 0.1 + 3 / 255, 128).expand(1, 5, 128, 128)
    assert not foreground(ramp).any()


def test_foreground_metrics_are_blind_to_the_background_and_nothing_else():
    image = shapes(2, 96)
    mask = foreground(image)
    inside, outside = (torch.where(m, image + 0.1, image) for m in (mask, ~mask))
    torch.testing.assert_close(foreground_mae.compute(reconstruction(image, inside)), torch.full((2, 5), 0.1))
    assert (foreground_mae.compute(reconstruction(image, outside)) == 0).all()
    window = torch.nn.functional.max_pool2d(
        mask.float(), 11, 1, 5
    ).bool()  # all that a window centred on foreground sees
    beyond = torch.where(window, image, 1 - image)
    torch.testing.assert_close(foreground_ssim.compute(reconstruction(image, beyond)), torch.ones(2, 5))
    assert (foreground_ssim.compute(reconstruction(image, torch.where(mask, 1 - image, image))) < 0.9).all()


def test_a_patch_too_small_to_be_smoothed_has_no_foreground():
    assert not foreground(torch.rand(1, 1, 8, 8)).any()
    assert foreground(torch.rand(1, 1, 9, 9)).shape == (1, 1, 9, 9)


def test_a_mask_is_bit_for_bit_that_of_the_patch_alone():
    image = shapes(4, 96)
    image[1] = 0.3
    mask = foreground(image)
    assert torch.equal(mask, torch.cat([foreground(image[row : row + 1]) for row in range(4)]))
    assert torch.equal(mask.flatten(0, 1)[:, None], foreground(image.flatten(0, 1)[:, None]))
    assert not mask[1].any()
