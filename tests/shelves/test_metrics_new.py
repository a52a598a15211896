"""What the metrics promise: at identity, of blank patches, of noise and of real cells; and the perceptual metric's weights."""

import math
import pickle
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from sdvae_ray import shelves
from sdvae_ray.contracts import Metric, Posterior, Reconstruction
from sdvae_ray.errors import WeightsError
from sdvae_ray.metrics import (
    foreground_mae,
    foreground_ssim,
    kld,
    lpips,
    ms_ssim,
    mse,
    psnr,
    radial_power,
    stain_correlation,
)
from sdvae_ray.metrics._foreground import foreground, noise, otsu, smooth

NAMES = shelves.names("metrics")
PASSES = [[0, 1, 2], [2, 3, 4]]
SIDE = 192  # pixels: above the 176 that five scales need
CPU = torch.device("cpu")
IDENTITY = {
    "emd": 0,
    "foreground_mae": 0,
    "foreground_ssim": 1,
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
def without_gradients():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def field(real_field) -> Tensor:
    """(5, 1024, 1024): the centre of the real field in 8 bits, as a run scales it."""
    planes = np.stack([tifffile.imread(path)[28:1052, 28:1052] for path in real_field.values()])
    return torch.from_numpy((planes // 256).astype(np.float32) / 255)


def shapes(*size: int) -> Tensor:
    """(N, 5, S, S): bright discs over a dim background, each stain its own, with noise of two grey levels."""
    random = np.random.default_rng(0)
    y, x = np.mgrid[: size[1], : size[1]]
    image = np.full((size[0], 5, size[1], size[1]), 0.1)
    for plane in image.reshape(-1, size[1], size[1]):
        for _ in range(6):
            cy, cx, radius = *random.uniform(0, size[1], 2), random.uniform(8, 20)
            plane += 0.2 * (np.hypot(y - cy, x - cx) < radius)
    noisy = gaussian_filter(image, (0, 0, 1, 1)) + random.normal(0, 2 / 255, image.shape)
    return torch.from_numpy(np.clip(noisy, 0, 1).astype(np.float32))


def reconstruction(image: Tensor, recon: Tensor | None = None) -> Reconstruction:
    recon = image.clone() if recon is None else recon
    random = torch.Generator().manual_seed(1)
    moments = torch.randn(2, len(image), 2, 4, 8, 8, generator=random)
    posterior = Posterior(*moments.to(image.device).flatten(1, 2))
    return Reconstruction(image, recon, image[:, PASSES], recon[:, PASSES], posterior)


def degraded(image: Tensor) -> Reconstruction:
    blurred = gaussian_filter(image.numpy(), (0, 0, 1.5, 1.5)) * 0.9 + 0.01
    return reconstruction(image, torch.from_numpy(blurred))


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
    given = degraded(shapes(3, SIDE))
    before = [v.clone() for v in (given.image, given.recon, given.image_rgb, given.recon_rgb)]
    state = torch.get_rng_state()
    values = build(name)(given)
    bands = getattr(shelves.find("metrics", name), "BANDS", None)
    assert values.dtype == torch.float32
    assert values.shape in (((3, 5, len(bands)),) if bands else ((3,), (3, 5), (3, 2)))
    assert torch.isfinite(values).all()
    after = (given.image, given.recon, given.image_rgb, given.recon_rgb)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_a_patch_is_judged_by_itself(name):
    """Alone, in another order, and beside patches that are blank, black or white."""
    metric, image = build(name), shapes(5, SIDE)
    image[1], image[2], image[3] = 0.3, 0, 1
    whole = degraded(image)
    together = metric(whole)
    alone = torch.cat([metric(part(whole, row)) for row in range(5)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5, equal_nan=True)


def test_a_mask_is_bit_for_bit_that_of_the_patch_alone():
    image = shapes(4, 96)
    image[1] = 0.3
    mask = foreground(image)
    assert torch.equal(mask, torch.cat([foreground(image[row : row + 1]) for row in range(4)]))
    assert torch.equal(mask.flatten(0, 1)[:, None], foreground(image.flatten(0, 1)[:, None]))
    assert not mask[1].any()


@pytest.mark.parametrize("name", IDENTITY)
def test_an_image_that_comes_back_exactly_has_the_best_value_exactly(name):
    assert (build(name)(reconstruction(shapes(2, SIDE))) == IDENTITY[name]).all()


@pytest.mark.parametrize("name", IDENTITY)
def test_real_cells_that_come_back_exactly_have_the_best_value_exactly(name, field):
    assert (build(name)(reconstruction(field[None, :, :256, :256].contiguous())) == IDENTITY[name]).all()


@pytest.mark.parametrize("name", IDENTITY)
@pytest.mark.parametrize("level", [0.0, 1 / 255, 0.7, 1.0])
def test_a_blank_patch_has_no_score_where_there_is_nothing_to_score(name, level):
    values = build(name)(reconstruction(torch.full((2, 5, SIDE, SIDE), level)))
    torch.testing.assert_close(values, torch.full_like(values, BLANK[name]), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_metric_gets_worse_with_the_reconstruction(name):
    """Those without a better direction say so, and are tested by themselves below."""
    module, image = shelves.find("metrics", name), shapes(2, SIDE)
    random = torch.randn(image.shape, generator=torch.Generator().manual_seed(2))
    good, bad = (build(name)(reconstruction(image, (image + error * random).clamp(0, 1))) for error in (0.01, 0.2))
    if module.HIGHER_IS_BETTER is not None:
        assert ((good > bad) if module.HIGHER_IS_BETTER else (good < bad)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_metric_gives_on_cuda_what_it_gives_on_the_cpu(name):
    cuda, image = torch.device("cuda"), shapes(2, SIDE)
    given = degraded(image)
    values = build(name, cuda)(reconstruction(image.to(cuda), given.recon.to(cuda)))
    assert values.is_cuda
    torch.testing.assert_close(values.cpu(), build(name)(given), atol=1e-5, rtol=1e-4, equal_nan=True)


def test_only_kld_needs_the_posterior():
    needing = [name for name in NAMES if getattr(shelves.find("metrics", name), "NEEDS_POSTERIOR", False)]
    assert needing == ["kld"]
    given = degraded(shapes(1, SIDE))
    without = Reconstruction(given.image, given.recon, given.image_rgb, given.recon_rgb, None)
    assert kld.compute(without).isnan().all()
    for name in set(NAMES) - {"kld"}:
        torch.testing.assert_close(build(name)(without), build(name)(given), rtol=0, atol=0)


# Errors and scales


def test_mse_is_what_psnr_is_the_logarithm_of():
    given = degraded(shapes(2, 64))
    torch.testing.assert_close(-10 * mse.compute(given).log10(), psnr.compute(given))


def test_ms_ssim_needs_176_pixels():
    assert ms_ssim.SMALLEST == 176
    assert torch.isfinite(ms_ssim.compute(degraded(shapes(1, 176)))).all()
    assert ms_ssim.compute(degraded(shapes(1, 175))).isnan().all()


# Foreground


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


# The perceptual metric's weights


def weights_folder(folder: Path, suffix: str = ".pth", **linear: Any) -> Path:
    from safetensors.torch import save_file

    model = lpips.load(None, weights_seed=8)
    state = {f"features.{name}": value for name, value in model.features.state_dict().items()}
    if suffix == ".pth":
        torch.save(state, folder / "alexnet-owt-7be5be79.pth")
    else:
        save_file(state, folder / f"alexnet{suffix}")
    layers = {f"lin{number}.model.1.weight": weight for number, weight in enumerate(model.linear)}
    torch.save(layers | linear, folder / "alex.pth")
    return folder


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_lpips_reads_its_two_files(suffix, tmp_path):
    given = degraded(shapes(2, 64))
    read = lpips.load(weights_folder(tmp_path, suffix)).to(CPU)
    torch.testing.assert_close(read(given), lpips.load(None, weights_seed=8)(given), rtol=0, atol=0)


def test_random_weights_are_those_of_their_seed_and_touch_no_other():
    given, state = degraded(shapes(1, 64)), torch.get_rng_state()
    one, again, other = (lpips.load(None, weights_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(given), again(given))
    assert (one(given) - other(given)).abs().min() > 1e-6
    assert all((weight >= 0).all() for weight in one.linear)


def test_lpips_is_not_defined_where_alexnet_sees_nothing():
    model = lpips.load(None)
    assert torch.isfinite(model(degraded(shapes(1, 31)))).all()
    assert model(degraded(shapes(1, 30))).isnan().all()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("alexnet-owt-7be5be79.pth", "no alexnet.*torchvision's AlexNet"),
        ("alex.pth", "no alex.pth in .*of the lpips package"),
    ],
)
def test_a_missing_file_is_named_with_where_it_comes_from(missing, message, tmp_path):
    (weights_folder(tmp_path) / missing).unlink()
    with pytest.raises(WeightsError, match=message) as caught:
        lpips.load(tmp_path)
    assert "\n" not in str(caught.value)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file's code was run",))


@pytest.mark.parametrize("name", ["alexnet-owt-7be5be79.pth", "alex.pth"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps(Trap(), protocol=2)], ids=["empty", "text", "code"]
)
def test_a_file_that_is_not_weights_is_refused_and_not_run(name, content, tmp_path):
    (weights_folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} is not") as caught:
        lpips.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_weights_of_another_model_are_refused(tmp_path):
    weights_folder(tmp_path, **{"lin4.model.1.weight": torch.zeros(1, 512, 1, 1)})
    with pytest.raises(WeightsError, match="512"):
        lpips.load(tmp_path)
    weights_folder(tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(WeightsError, match="is not torchvision's AlexNet"):
        lpips.load(tmp_path)
