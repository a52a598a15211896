"""What every metric promises: shape, patch by patch, at identity, of blank patches; bounds, symmetry, and the edges of each."""

import math
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reconstructions import degraded, reconstruction, shapes, whole_field
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sdvae_ray import shelves
from sdvae_ray.contracts import Metric, Posterior, Reconstruction, Shared
from sdvae_ray.metrics import emd, kld, mae, ms_ssim, mse, psnr, radial_power, ssim, stain_correlation

NAMES = shelves.names("metrics")
SIZE = 192  # pixels: above the 176 that five scales need
CPU = torch.device("cpu")
IDENTITY = {
    "emd": 0,
    "foreground_mae": 0,
    "foreground_ssim": 1,
    "leakage": torch.nan,
    "lpips": 0,
    "mae": 0,
    "ms_ssim": 1,
    "mse": 0,
    "psnr": torch.inf,
    "radial_power": 1,
    "ssim": 1,
    "stain_correlation": 0,
}
# a constant patch that came back exactly; where there is nothing to compare there is no perfect score
BLANK = IDENTITY | dict.fromkeys(("foreground_mae", "foreground_ssim", "radial_power", "stain_correlation"), torch.nan)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def field(real_field) -> Tensor:
    return whole_field(real_field)


def part(whole: Reconstruction, row: int) -> Reconstruction:
    fields = (whole.image, whole.recon, whole.image_rgb, whole.recon_rgb)
    assert whole.posterior is not None
    assert whole.posterior.logvar is not None
    passes = slice(2 * row, 2 * row + 2)
    posterior = Posterior(whole.posterior.mean[passes], whole.posterior.logvar[passes])
    return Reconstruction(*(values[row : row + 1] for values in fields), posterior)


def build(name: str, device: torch.device = CPU) -> Metric:
    module: ModuleType = shelves.find("metrics", name)
    return module.compute if hasattr(module, "compute") else module.load(None).to(device)


# The whole shelf


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_has_the_shape_that_it_declares_and_leaves_its_input_alone(name):
    given = degraded(shapes(3, SIZE))
    before = [v.clone() for v in (given.image, given.recon, given.image_rgb, given.recon_rgb)]
    state = torch.get_rng_state()
    values = build(name)(given)
    module = shelves.find("metrics", name)
    against_stains = getattr(module, "AGAINST_STAINS", False)
    bands = range(5) if against_stains else getattr(module, "BANDS", None)
    assert values.dtype == torch.float32
    assert values.shape in (((3, 5, len(bands)),) if bands else ((3,), (3, 5), (3, 2)))
    assert torch.isfinite(values[:, ~torch.eye(5, dtype=torch.bool)] if against_stains else values).all()
    after = (given.image, given.recon, given.image_rgb, given.recon_rgb)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_is_judged_by_itself(name):
    """Alone, in another order, and beside patches that are blank, black or white."""
    metric, image = build(name), shapes(5, SIZE)
    image[1], image[2], image[3] = 0.3, 0, 1
    whole = degraded(image)
    together = metric(whole)
    alone = torch.cat([metric(part(whole, row)) for row in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5, equal_nan=True)


def test_two_sides_share_what_metrics_take_from_the_originals_and_no_bit_changes():
    """The first side fills the mapping, the second reads it; a metric that changed a shared result would show in the third."""
    metrics = {name: build(name) for name in NAMES}
    image, known = shapes(2, SIZE), Shared()
    blurred = degraded(image)
    sides = [
        replace(pair, known=known, known_of_pair=Shared())
        for pair in (reconstruction(image, image.flip(3)), blurred, blurred)
    ]
    values = [{name: metric(pair) for name, metric in metrics.items()} for pair in sides]
    for side in (1, 2):
        for name, metric in metrics.items():
            alone = metric(replace(blurred, known=Shared(), known_of_pair=Shared()))
            torch.testing.assert_close(values[side][name], alone, rtol=0, atol=0, equal_nan=True)


def test_a_function_of_the_originals_runs_once_for_all_sides():
    image, known, calls = shapes(1, 32), Shared(), []

    def brightest(planes: Tensor) -> Tensor:
        calls.append("brightest")
        return planes.amax()

    def share(planes: Tensor, top: Tensor) -> Tensor:
        calls.append("share")
        return planes / top

    for recon in (image, image / 2):
        pair = replace(reconstruction(image, recon), known=known)
        assert torch.equal(pair.of_image(share, brightest), image / image.amax())
        assert pair.of_image(brightest) == image.amax()
        assert pair.once(lambda pair: pair.recon.amax()) == recon.amax()
    assert calls == ["brightest", "share"]


@pytest.mark.parametrize("name", IDENTITY)
def test_an_image_that_comes_back_exactly_has_the_best_value_exactly(name):
    values = build(name)(reconstruction(shapes(2, SIZE)))
    assert torch.equal(values.nan_to_num(-9), torch.full_like(values, IDENTITY[name]).nan_to_num(-9))


@pytest.mark.parametrize("name", IDENTITY)
def test_real_cells_that_come_back_exactly_have_the_best_value_exactly(name, field):
    values = build(name)(reconstruction(field[None, :, :256, :256].contiguous()))
    assert torch.equal(values.nan_to_num(-9), torch.full_like(values, IDENTITY[name]).nan_to_num(-9))


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("level", [0.0, 1 / 255, 0.7, 1.0])
def test_a_blank_patch_has_no_score_where_there_is_nothing_to_score(name, level):
    values = build(name)(reconstruction(torch.full((2, 5, SIZE, SIZE), level)))
    torch.testing.assert_close(values, torch.full_like(values, BLANK[name]), rtol=0, atol=0, equal_nan=True)


DIRECTED = [name for name in NAMES if shelves.find("metrics", name).HIGHER_IS_BETTER is not None]


@pytest.mark.parametrize("name", DIRECTED)
def test_a_metric_gets_worse_with_the_reconstruction(name):
    module, image = shelves.find("metrics", name), shapes(2, SIZE)
    random = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    good, bad = (build(name)(reconstruction(image, (image + error * random).clamp(0, 1))) for error in (0.01, 0.2))
    assert ((good > bad) if module.HIGHER_IS_BETTER else (good < bad)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_metric_gives_on_cuda_what_it_gives_on_the_cpu(name):
    cuda, image = torch.device("cuda"), shapes(2, SIZE)
    given = degraded(image)
    values = build(name, cuda)(reconstruction(image.to(cuda), given.recon.to(cuda)))
    assert values.is_cuda
    torch.testing.assert_close(values.cpu(), build(name)(given), atol=1e-5, rtol=1e-4, equal_nan=True)


def test_only_kld_needs_the_posterior():
    needing = [name for name in NAMES if getattr(shelves.find("metrics", name), "NEEDS_POSTERIOR", False)]
    assert needing == ["kld"]
    given = degraded(shapes(1, SIZE))
    without = Reconstruction(given.image, given.recon, given.image_rgb, given.recon_rgb, None)
    for name in set(NAMES) - {"kld"}:
        torch.testing.assert_close(build(name)(without), build(name)(given), rtol=0, atol=0, equal_nan=True)


# Errors and scales


patches = arrays(np.float32, (2, 3, 16, 16), elements=st.floats(0, 1, width=32))


def of_arrays(image: np.ndarray, recon: np.ndarray, posterior: Posterior | None = None) -> Reconstruction:
    """(N, C, S, S) arrays in [0, 1], C at least 3; the RGB passes are the first three stains, once."""
    x, y = (torch.from_numpy(np.asarray(a, np.float32)) for a in (image, recon))
    return Reconstruction(x, y, x[:, None, :3], y[:, None, :3], posterior)


def noisy_arrays(seed: int = 0, count: int = 2, stains: int = 5, size: int = 48) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    image = random.random((count, stains, size, size), np.float32)
    return image, np.clip(image + random.normal(0, 0.1, image.shape), 0, 1).astype(np.float32)


def test_similarity_of_different_constants_is_their_luminance_term():
    image, recon = np.full((1, 3, 32, 32), 0.25), np.full((1, 3, 32, 32), 0.75)
    expected = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    np.testing.assert_allclose(ssim.compute(of_arrays(image, recon)), expected, rtol=1e-5)


def test_black_reconstructed_as_white_is_the_worst_of_all():
    worst = of_arrays(np.zeros((1, 3, 32, 32)), np.ones((1, 3, 32, 32)))
    assert (mae.compute(worst) == 1).all()
    assert (emd.compute(worst) == 1).all()
    assert (psnr.compute(worst) == 0).all()
    np.testing.assert_allclose(ssim.compute(worst), 1e-4 / (1 + 1e-4), rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(patches, patches)
def test_errors_keep_their_order_and_their_bounds(image, recon):
    result = of_arrays(image, recon)
    moved, paired = emd.compute(result), mae.compute(result)
    assert (moved >= 0).all()
    assert (moved <= paired + 1e-6).all()  # the sorted pairing is the cheapest of all
    assert (paired <= 1).all()
    assert (psnr.compute(result) >= -10 * paired.log10() - 1e-3).all()  # no squared error is larger than its root
    assert (ssim.compute(result).abs() <= 1 + 1e-4).all()


@settings(max_examples=30, deadline=None)
@given(patches, patches)
def test_errors_are_symmetric(image, recon):
    forth, back = of_arrays(image, recon), of_arrays(recon, image)
    for metric in (emd, mae, psnr):
        torch.testing.assert_close(metric.compute(forth), metric.compute(back))
    # in float64: windows are shifted by the mean of the original, and float32 rounds them otherwise the other way round
    double = [
        Reconstruction(way.image.double(), way.recon.double(), way.image_rgb, way.recon_rgb, None)
        for way in (forth, back)
    ]
    torch.testing.assert_close(*(ssim.compute(way) for way in double), atol=1e-9, rtol=0)


def test_emd_is_blind_to_where_the_pixels_are_and_the_others_are_not():
    image, recon = noisy_arrays(2, stains=3, size=32)
    shuffled = np.random.default_rng(0).permuted(recon.reshape(2, 3, -1), axis=2).reshape(recon.shape)
    before, after = of_arrays(image, recon), of_arrays(image, shuffled)
    torch.testing.assert_close(emd.compute(before), emd.compute(after))
    assert (mae.compute(after) > 2 * mae.compute(before)).all()
    assert (ssim.compute(after) < ssim.compute(before) / 2).all()


def test_kld_is_nan_and_not_zero_without_a_posterior():
    image, recon = noisy_arrays()
    for posterior in (None, Posterior(torch.zeros(2, 4, 6, 6), None)):
        values = kld.compute(of_arrays(image, recon, posterior))
        assert values.shape == (2, 1)
        assert torch.isnan(values).all()


def test_psnr_of_a_known_error_is_known():
    image = np.full((1, 3, 16, 16), 0.5, np.float32)
    for error, decibels in ((0.1, 20.0), (0.01, 40.0), (0.5, 20 * math.log10(2))):
        np.testing.assert_allclose(psnr.compute(of_arrays(image, image + error)), decibels, atol=1e-3)


def test_mse_is_what_psnr_is_the_logarithm_of():
    given = degraded(shapes(2, 64))
    torch.testing.assert_close(-10 * mse.compute(given).log10(), psnr.compute(given))


def test_ms_ssim_needs_176_pixels():
    assert ms_ssim.SMALLEST == 176
    assert torch.isfinite(ms_ssim.compute(degraded(shapes(1, 176)))).all()
    assert ms_ssim.compute(degraded(shapes(1, 175))).isnan().all()


# Frequencies


def test_blur_loses_the_finest_first_and_noise_invents_it(field):
    image = field[None, :, :256, :256].contiguous()
    blurred = torch.from_numpy(gaussian_filter(image.numpy(), (0, 0, 2, 2)))
    lost = radial_power.compute(reconstruction(image, blurred))[0]
    assert (lost.diff(dim=1) > 0).all()
    assert (lost < 1).all()
    # a Gaussian's gain at a wavelength of L is exp(-2 (pi sigma / L)^2), its square that of power
    assert (lost[:, 4] > math.exp(-4 * (2 * math.pi / 32) ** 2)).all()
    noisy = image + 0.02 * torch.randn(image.shape, generator=torch.Generator().manual_seed(6))
    invented = radial_power.compute(reconstruction(image, noisy))[0]
    assert (invented[:, 0] > 1.5).all()
    assert (invented[:, 0] > invented[:, 4]).all()


@pytest.mark.parametrize(("wavelength", "band"), [(3, 0), (6, 1), (12, 2), (24, 3), (48, 4)])
def test_a_wave_counts_in_the_band_of_its_wavelength(wavelength, band):
    x = torch.arange(256)
    wave = torch.sin(2 * torch.pi * x / wavelength).expand(1, 1, 256, 256)
    base = shapes(1, 256)[:, :1]
    ratio = radial_power.compute(Reconstruction(base + 0.1 * wave, base, base, base, None))[0, 0]
    assert ratio[band] < 0.2
    assert ratio.argmin() == band
    half = Reconstruction(0.1 * wave + 0.5, 0.05 * wave + 0.5, wave, wave, None)
    torch.testing.assert_close(radial_power.compute(half)[0, 0, band], torch.tensor(0.25), rtol=1e-4, atol=0)


def test_a_band_of_more_than_half_the_patch_is_not_scored():
    for side, bands in ((32, 3), (64, 4), (127, 4), (128, 5)):
        values = radial_power.compute(degraded(shapes(1, side)))
        assert torch.isfinite(values[..., :bands]).all()
        assert values[..., bands:].isnan().all()


def test_what_float32_rounds_is_no_power_and_one_grey_level_is():
    random = torch.Generator().manual_seed(7)
    rounded = 0.7 * (1 + 1.2e-7 * torch.randint(-1, 2, (1, 5, 128, 128), generator=random))
    assert rounded.std() > 0
    assert radial_power.compute(reconstruction(rounded)).isnan().all()
    speck = torch.full((1, 5, 256, 256), 200 / 255)
    speck[:, :, 128, 128] = 201 / 255
    assert (radial_power.compute(reconstruction(speck)) == 1).all()


# Stains


def test_a_constant_stain_has_no_correlations_to_lose():
    image = shapes(1, 64)
    image[:, 4] = 0.5
    given = degraded(image)
    values = stain_correlation.compute(given)
    assert values[0, 4].isnan()
    rest = Reconstruction(given.image[:, :4], given.recon[:, :4], given.image_rgb, given.recon_rgb, None)
    torch.testing.assert_close(values[:, :4], stain_correlation.compute(rest))


def test_a_stain_that_came_back_constant_has_lost_its_correlations():
    image = shapes(1, 64)
    recon = image.clone()
    recon[:, 2] = 0.5
    values = stain_correlation.compute(reconstruction(image, recon))[0]
    r = torch.from_numpy(np.corrcoef(image[0].flatten(1).double().numpy())).float()
    torch.testing.assert_close(values[2], r[2, [0, 1, 3, 4]].abs().mean())
    torch.testing.assert_close(values[0], r[0, 2].abs() / 4)


def test_one_stain_has_no_other():
    image = shapes(2, 64)[:, :1]
    assert stain_correlation.compute(Reconstruction(image, image, image, image, None)).isnan().all()


def test_opposite_stains_that_come_back_equal_are_as_wrong_as_can_be():
    image = torch.cat([shapes(1, 64)[:, :1], 1 - shapes(1, 64)[:, :1]], 1)
    given = Reconstruction(image, image[:, [0, 0]], image, image, None)
    torch.testing.assert_close(stain_correlation.compute(given), torch.full((1, 2), 2.0))


def test_correlations_are_blind_to_each_stains_brightness_and_contrast():
    image = shapes(2, 64)
    gain = torch.linspace(0.2, 0.9, 5).view(1, 5, 1, 1)
    assert (stain_correlation.compute(reconstruction(image, gain * image + 0.05)) < 1e-6).all()
