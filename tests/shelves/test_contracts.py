"""Everything on the shelves keeps the promises of contracts.py; a new file there is tested the moment it exists."""

import dataclasses
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdvae_ray import shelves
from sdvae_ray.autoencoders.identity import Identity
from sdvae_ray.config import SHELVES, AutoencoderConfig
from sdvae_ray.contracts import Autoencoder, Checkpoint, Codec, Extractor, Posterior, Reconstruction
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.shelves import check_name, check_options, find, names, summary
from sdvae_ray.storage import Storage
from sdvae_ray.weights import resolve

PACKAGE = Path(str(files("sdvae_ray")))
AUTOENCODERS, CODECS, EXTRACTORS, METRICS = (names(shelf) for shelf in SHELVES)
SIDE = 64  # pixels
CPU = torch.device("cpu")


def options(shelf: shelves.Shelf, name: str) -> dict[str, Any]:
    """The smallest form of a model that can be built without a download."""
    return {"architecture": "tiny"} if "architecture" in shelves.options(shelf, name) else {}


def has_random_form(shelf: shelves.Shelf, name: str) -> bool:
    return "weights_seed" in shelves.options(shelf, name)


def build(shelf: shelves.Shelf, name: str, **more: Any) -> Any:
    """A model of a shelf: with random weights where it can have them, else with those that the package ships."""
    module = find(shelf, name)
    source = getattr(module, "SOURCE", None)
    if has_random_form(shelf, name) or source is None:
        return module.load(None, **options(shelf, name), **more).to(CPU)
    return module.load(packaged(name, source)).to(CPU)


def packaged(name: str, source: str) -> Path:
    if not (PACKAGE / "assets" / source.removeprefix("asset:")).is_dir():
        pytest.skip(f"{source} is not in the package yet")
    path = resolve(AutoencoderConfig(name=name, source=source), None, Storage()).path
    assert path is not None
    return Path(path)


def assets_with_a_network() -> list[str]:
    return sorted(path.parent.name for path in (PACKAGE / "assets").glob("*/config.json"))


def architectures(name: str) -> list[Any]:
    """`<name>/<architecture>` of every form that is built from a config; those of full size are for the slow suite."""
    known = getattr(find("autoencoders", name), "ARCHITECTURES", {})
    forms = [f"{name}/{form}" for form in known]
    return [pytest.param(form, marks=() if "/tiny" in form else pytest.mark.slow) for form in forms] or [name]


ALL_AUTOENCODERS = [form for name in AUTOENCODERS for form in architectures(name)]
ALL_AUTOENCODERS += [f"asset:{name}" for name in assets_with_a_network()]


@pytest.fixture(scope="module", params=ALL_AUTOENCODERS)
def autoencoder(request) -> Autoencoder:
    if request.param.startswith("asset:"):
        return find("autoencoders", "diffusers_kl").load(packaged("diffusers_kl", request.param)).to(CPU)
    name, _, architecture = request.param.partition("/")
    if architecture:
        return find("autoencoders", name).load(None, architecture=architecture).to(CPU)
    return build("autoencoders", name)


@pytest.fixture(scope="module", params=EXTRACTORS)
def extractor(request) -> Extractor:
    return build("extractors", request.param)


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def images(*shape: int) -> Tensor:
    """[0, 1], with a flat half, so that not all is noise."""
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    values[..., : shape[-1] // 2] = 0.25
    return values


def one_by_one(function: Any, batch: Tensor) -> Tensor:
    return torch.cat([function(batch[row : row + 1]) for row in range(len(batch))])


# The folder is the registry


@pytest.mark.parametrize("shelf", SHELVES)
def test_the_names_on_a_shelf_are_its_files(shelf):
    stems = {path.stem for path in (PACKAGE / shelf).glob("*.py")}
    assert names(shelf) == sorted(stem for stem in stems if not stem.startswith("_"))
    assert names(shelf)


@pytest.mark.parametrize(("shelf", "name"), [(shelf, name) for shelf in SHELVES for name in names(shelf)])
def test_everything_on_a_shelf_says_what_it_is_in_one_line(shelf, name):
    assert len(summary(shelf, name)) > 20
    assert "\n" not in summary(shelf, name)


@pytest.mark.parametrize(
    ("shelf", "wrong", "right"),
    [
        ("autoencoders", "difusers_kl", "diffusers_kl"),
        ("extractors", "inception_v4", "inception_v3"),
        ("extractors", "latents", "latent"),
        ("metrics", "ssmi", "ssim"),
        ("codecs", "jpegxll", "jpegxl"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(shelf, wrong, right):
    with pytest.raises(ConfigError, match=f"no '{wrong}' .*did you mean '{right}'") as caught:
        check_name(shelf, wrong)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError):
        find(shelf, wrong)


@pytest.mark.parametrize("wrong", ["__init__", "", "../config", "os", "diffusers_kl.load"])
def test_nothing_but_a_file_of_the_shelf_can_be_named(wrong):
    with pytest.raises(ConfigError, match="autoencoders"):
        find("autoencoders", wrong)


def test_a_wrong_option_is_answered_with_the_nearest_right_one():
    check_options("autoencoders", "diffusers_kl", {"architecture": "tiny", "weights_seed": 1})
    with pytest.raises(ConfigError, match="diffusers_kl has no option 'architectur'; did you mean 'architecture'"):
        check_options("autoencoders", "diffusers_kl", {"architectur": "tiny"})
    with pytest.raises(ConfigError, match="identity has no option 'architecture'"):
        check_options("autoencoders", "identity", {"architecture": "tiny"})
    with pytest.raises(ConfigError, match="did you mean 'tiny'"):
        find("autoencoders", "diffusers_kl").load(None, architecture="tiney")


# Autoencoders


def test_an_autoencoder_encodes_to_float32_and_decodes_to_an_image(autoencoder):
    rgb = images(3, 3, SIDE, SIDE)
    posterior = autoencoder.encode(rgb)
    assert isinstance(posterior, Posterior)
    assert posterior.mean.ndim == 4
    assert (len(posterior.mean), posterior.mean.dtype) == (3, torch.float32)
    assert posterior.mean.shape[2] == posterior.mean.shape[3]
    assert torch.isfinite(posterior.mean).all()
    if posterior.logvar is not None:
        assert (posterior.logvar.shape, posterior.logvar.dtype) == (posterior.mean.shape, torch.float32)
    recon = autoencoder.decode(posterior.mean)
    assert (recon.shape, recon.dtype) == (rgb.shape, torch.float32)
    if not isinstance(autoencoder, Identity):
        assert posterior.mean[0].numel() < rgb[0].numel()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_an_autoencoder_gives_values_in_the_unit_range_whatever_it_sees(autoencoder, level):
    for rgb in (torch.full((1, 3, SIDE, SIDE), level), images(2, 3, SIDE, SIDE).round()):
        mean = autoencoder.encode(rgb).mean
        recon = autoencoder.decode(mean if isinstance(autoencoder, Identity) else mean * 50)
        assert recon.min() >= 0
        assert recon.max() <= 1


def test_an_autoencoder_is_deterministic_and_leaves_its_input_alone(autoencoder):
    rgb = images(2, 3, SIDE, SIDE)
    before = rgb.clone()
    first, second = autoencoder.encode(rgb), autoencoder.encode(rgb)
    assert torch.equal(first.mean, second.mean)
    latent = first.mean.clone()
    assert torch.equal(autoencoder.decode(latent), autoencoder.decode(latent))
    assert torch.equal(rgb, before)
    assert torch.equal(latent, first.mean)


def test_an_autoencoder_sees_each_image_by_itself(autoencoder):
    rgb = images(4, 3, SIDE, SIDE)
    together = autoencoder.encode(rgb)
    torch.testing.assert_close(
        one_by_one(lambda x: autoencoder.encode(x).mean, rgb), together.mean, atol=1e-4, rtol=1e-4
    )
    if together.logvar is not None:
        alone = one_by_one(lambda x: autoencoder.encode(x).logvar, rgb)
        torch.testing.assert_close(alone, together.logvar, atol=1e-4, rtol=1e-4)
    recon = autoencoder.decode(together.mean)
    torch.testing.assert_close(one_by_one(autoencoder.decode, together.mean), recon, atol=1e-4, rtol=1e-4)


def test_an_autoencoder_takes_other_sizes_in_proportion(autoencoder):
    small, large = (autoencoder.encode(images(1, 3, side, side)).mean.shape for side in (SIDE, 2 * SIDE))
    assert (large[1], large[2]) == (small[1], 2 * small[2])


@pytest.mark.parametrize("name", [name for name in AUTOENCODERS if has_random_form("autoencoders", name)])
def test_random_weights_of_an_autoencoder_are_a_function_of_their_seed(name):
    rgb = images(1, 3, SIDE, SIDE)
    one, again, other = (build("autoencoders", name, weights_seed=seed).encode(rgb).mean for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_random_weights_leave_the_random_state_of_the_process_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for shelf in SHELVES:
        for name in names(shelf):
            if has_random_form(shelf, name):
                build(shelf, name)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", assets_with_a_network())
def test_a_packaged_network_reconstructs_better_than_a_flat_image(name):
    model = find("autoencoders", "diffusers_kl").load(packaged("diffusers_kl", f"asset:{name}"))
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    disc = 0.1 + 0.5 * torch.sigmoid(12 - torch.hypot(y - 30.0, x - 34.0)).expand(1, 3, SIDE, SIDE)
    error = (model.decode(model.encode(disc).mean) - disc).square().mean()
    assert error < disc.var() / 10


# The linear baseline, whose answers are known


def test_patch_pca_reconstructs_what_lies_in_its_plane_and_nothing_better_exists():
    patch_pca = find("autoencoders", "patch_pca")
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(4, 192, generator=random) * 0.01
    inside = 0.5 + torch.randn(500, 4, generator=random) @ basis
    fitted = patch_pca.fit(inside)
    torch.testing.assert_close(fitted.components @ fitted.components.T, torch.eye(4), atol=1e-5, rtol=0)
    image = torch.nn.functional.fold(inside[:64].T[None], (64, 64), 8, stride=8)
    torch.testing.assert_close(fitted.decode(fitted.encode(image).mean), image, atol=1e-5, rtol=0)

    noisy = inside + torch.randn(500, 192, generator=random) * 0.01
    best = patch_pca.fit(noisy)
    centred = noisy.double() - noisy.double().mean(0)
    left = torch.linalg.svdvals(centred)[4:].square().sum()
    kept = (centred - centred @ best.components.double().T @ best.components.double()).square().sum()
    assert kept.item() == pytest.approx(left.item(), rel=1e-4)


def test_patch_pca_refuses_a_file_that_is_another(tmp_path):
    from safetensors.torch import save_file

    load = find("autoencoders", "patch_pca").load
    save_file({"weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    save_file({"mean": torch.zeros(3), "components": torch.zeros(4, 3)}, tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(b"no tensors")
    for name in ("a", "b", "c", "missing"):
        with pytest.raises(WeightsError, match=f"{name}.safetensors") as caught:
            load(tmp_path / f"{name}.safetensors")
        assert "\n" not in str(caught.value)


# Extractors


def given(extractor: Extractor, count: int) -> Tensor:
    shapes = {"rgb": (2, 3, SIDE, SIDE), "stains": (5, SIDE, SIDE), "latent": (2, 4, 8, 8)}
    return images(count, *shapes[extractor.takes])


def test_an_extractor_gives_one_vector_per_pass_or_stain(extractor):
    batch = given(extractor, 2)
    features = extractor(batch)
    assert features.shape[:2] == batch.shape[:2]
    assert features.ndim == 3
    assert features.dtype == torch.float32
    assert torch.isfinite(features).all()
    assert features.half().isfinite().all()  # as they are stored


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_an_extractor_is_finite_on_a_flat_image(extractor, level):
    assert torch.isfinite(extractor(torch.full_like(given(extractor, 1), level))).all()


def test_an_extractor_is_deterministic_and_leaves_its_input_alone(extractor):
    batch = given(extractor, 2)
    before = batch.clone()
    assert torch.equal(extractor(batch), extractor(batch))
    assert torch.equal(batch, before)


def test_an_extractor_sees_each_image_by_itself(extractor):
    batch = given(extractor, 2)
    together = extractor(batch)
    torch.testing.assert_close(one_by_one(extractor, batch), together, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(extractor(batch.flip(0)), together.flip(0), atol=1e-4, rtol=1e-4)


def test_the_latent_extractor_gives_the_moments_of_its_channels():
    latent = torch.randn(1, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    features = build("extractors", "latent")(latent)[0, 1]
    channels = latent[0, 1].flatten(1)
    covariance = torch.cov(channels, correction=0)
    torch.testing.assert_close(features[:4], channels.mean(1))
    torch.testing.assert_close(features[4:8], channels.std(1, correction=0))
    torch.testing.assert_close(features[8:], torch.stack([covariance[i, j] for i in range(4) for j in range(i + 1, 4)]))


def test_the_intensity_extractor_gives_numbers_that_numpy_gives():
    batch = images(1, 5, SIDE, SIDE)
    features = build("extractors", "intensity")(batch)[0].numpy()
    pixels = batch[0].flatten(1).double().numpy()
    np.testing.assert_allclose(features[:, 0], pixels.mean(1), rtol=1e-5)
    np.testing.assert_allclose(features[:, 1], pixels.std(1), rtol=1e-5)
    quantiles = np.quantile(pixels, (0.01, 0.25, 0.5, 0.75, 0.99), axis=1, method="nearest")
    np.testing.assert_allclose(features[:, 2:7], quantiles.T, atol=2e-3)
    np.testing.assert_allclose(features[:, -5:], np.corrcoef(pixels), atol=1e-4)


def test_band_energies_rise_where_the_texture_is():
    """Stripes of period 4 are fine detail, of period 32 coarse: the finest band and a coarse one tell them apart."""
    x = torch.arange(SIDE)
    fine, coarse = ((0.5 + 0.4 * torch.sin(2 * torch.pi * x / period)).expand(1, 1, SIDE, SIDE) for period in (4, 32))
    bands_fine, bands_coarse = (build("extractors", "intensity")(stripes)[0, 0, 7:12] for stripes in (fine, coarse))
    assert bands_fine.argmax() < bands_coarse.argmax()
    assert bands_fine[0] > 5 * bands_coarse[0]


def test_inception_features_are_those_of_torchvisions_own_preprocessing():
    from torchvision.models import Inception_V3_Weights
    from torchvision.transforms import InterpolationMode

    model = build("extractors", "inception_v3")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in model.model.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)  # so that differences survive 48 layers
    rgb = images(2, 3, 256, 256)
    transforms = Inception_V3_Weights.DEFAULT.transforms
    published = transforms(crop_size=299, resize_size=299, interpolation=InterpolationMode.BILINEAR)
    features = model(rgb[:, None])
    assert features.shape == (2, 1, 2048)
    assert features.std() > 0.01
    torch.testing.assert_close(features[:, 0], model.model(published(rgb)), atol=1e-3, rtol=1e-3)
    assert (features[:, 0] - model.model(rgb)).abs().max() > 0.1  # neither resized nor normalised


# Codecs


@pytest.fixture(scope="module", params=CODECS)
def codec_name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def codec(codec_name) -> Codec:
    return find("codecs", codec_name).load()


def planes(count: int, dtype: type) -> np.ndarray:
    return (images(count, 2, SIDE, SIDE).numpy() * np.iinfo(dtype).max).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_codec_gives_back_images_and_their_bytes(codec_name, codec, dtype):
    given = planes(3, dtype)
    before = given.copy()
    recon, sizes = codec.roundtrip(given)
    assert (recon.shape, recon.dtype) == (given.shape, given.dtype)
    assert (sizes.shape, sizes.dtype) == ((3, 2), np.int64)
    assert ((sizes > 0) == getattr(find("codecs", codec_name), "WRITES_FILES", True)).all()
    assert (sizes < given[0, 0].nbytes * 1.1).all()
    np.testing.assert_array_equal(given, before)
    again, same = codec.roundtrip(given)
    np.testing.assert_array_equal(again, recon)
    np.testing.assert_array_equal(same, sizes)


def test_a_codec_sees_each_plane_by_itself(codec):
    given = planes(4, np.uint8)
    recon, sizes = codec.roundtrip(given)
    order = [2, 0, 3, 1]
    turned, turned_sizes = codec.roundtrip(given[order][:, ::-1])
    np.testing.assert_array_equal(turned, recon[order][:, ::-1])
    np.testing.assert_array_equal(turned_sizes, sizes[order][:, ::-1])


# Metrics


def reconstruction(count: int, error: float) -> Reconstruction:
    """Discs over a dim ground, so that there is a foreground, in patches large enough for every scale."""
    random = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(176.0), torch.arange(176.0), indexing="ij")
    centres = torch.rand(count, 5, 6, 2, 1, 1, generator=random) * 176
    distance = torch.hypot(y - centres[:, :, :, 0], x - centres[:, :, :, 1])
    ground = 0.1 + 0.02 * torch.randn(count, 5, 176, 176, generator=random)
    image = (ground + 0.2 * torch.sigmoid(14 - distance).sum(2)).clamp(0, 1)
    recon = (image + error * torch.randn(image.shape, generator=random)).clamp(0, 1)
    passes = [[0, 1, 2], [2, 3, 4]]
    moments = torch.randn(2, 2 * count, 4, 4, 4, generator=random)
    return Reconstruction(image, recon, image[:, passes], recon[:, passes], Posterior(moments[0], moments[1]))


def part(whole: Reconstruction, row: int) -> Reconstruction:
    fields = (whole.image, whole.recon, whole.image_rgb, whole.recon_rgb)
    assert whole.posterior is not None
    assert whole.posterior.logvar is not None
    both = (whole.posterior.mean, whole.posterior.logvar)
    mean, logvar = (values.unflatten(0, (-1, 2))[row : row + 1].flatten(0, 1) for values in both)
    return Reconstruction(*(values[row : row + 1] for values in fields), Posterior(mean, logvar))


def metric(name: str) -> Callable[[Reconstruction], Tensor]:
    module = find("metrics", name)
    return module.load(None).to(CPU) if hasattr(module, "load") else module.compute


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_gives_one_number_per_patch_or_stain_or_pass(name):
    values = metric(name)(reconstruction(3, 0.1))
    module = find("metrics", name)
    against_stains = getattr(module, "AGAINST_STAINS", False)
    bands = range(5) if against_stains else getattr(module, "BANDS", ())
    assert values.dtype == torch.float32
    assert tuple(values.shape) in ([(3, 5, len(bands))] if bands else [(3,), (3, 5), (3, 2)])
    if against_stains:
        values = values[:, ~torch.eye(5, dtype=torch.bool)]  # a stain is not compared with itself
    assert torch.isfinite(values).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_sees_each_patch_by_itself(name):
    compute, whole = metric(name), reconstruction(3, 0.1)
    alone = torch.cat([compute(part(whole, row)) for row in range(3)])
    torch.testing.assert_close(alone, compute(whole), atol=1e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_its_unit_and_its_better_direction_and_means_it(name):
    module = find("metrics", name)
    assert isinstance(module.UNIT, str)
    assert module.HIGHER_IS_BETTER in (True, False, None)
    good, bad = (metric(name)(reconstruction(3, error)) for error in (0.01, 0.2))
    if module.HIGHER_IS_BETTER is not None:
        assert ((good > bad) if module.HIGHER_IS_BETTER else (good < bad)).all()
    elif getattr(module, "NEEDS_POSTERIOR", False):
        assert torch.equal(good, bad)  # a description of the latent: the pixels do not matter
    elif getattr(module, "AGAINST_STAINS", False):
        assert (good.nan_to_num().abs() < 0.1).all()  # best at 0, and an error of noise leaks nothing
        assert (bad.nan_to_num().abs() < 0.1).all()
    else:
        assert ((good - 1).abs().mean() < (bad - 1).abs().mean()).all()  # best at 1


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_its_formula_its_source_and_a_range_that_holds_its_values(name):
    module = find("metrics", name)
    assert module.FORMULA
    assert module.REFERENCE
    (low, high) = re.match(r"[\[(](\S+), (\S+?)[\])]", module.RANGE).groups()
    values = torch.cat([metric(name)(reconstruction(3, error)) for error in (0.0, 0.01, 0.2)]).double()
    assert values[~values.isnan()].ge(float(low) - 1e-6).all()
    assert values[~values.isnan()].le(float(high) + 1e-6).all()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_that_needs_the_posterior_says_so(name):
    """An extension decodes stored latents where it may: such a metric would silently be NaN."""
    whole = reconstruction(2, 0.1)
    without = dataclasses.replace(whole, posterior=None)
    same = torch.equal(metric(name)(whole).nan_to_num(-1), metric(name)(without).nan_to_num(-1))
    assert same != getattr(find("metrics", name), "NEEDS_POSTERIOR", False)


# What modules say of themselves, which plans a run before a model is there


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_an_autoencoder_has_a_posterior_and_a_small_latent_unless_it_says_otherwise(name):
    module, rgb = find("autoencoders", name), images(1, 3, SIDE, SIDE)
    posterior = build("autoencoders", name).encode(rgb)
    assert (posterior.logvar is not None) == getattr(module, "HAS_POSTERIOR", True)
    assert (posterior.mean.numel() < rgb.numel()) == getattr(module, "STORES_LATENTS", True)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_an_extractor_that_takes_the_latent_says_so(name):
    takes = build("extractors", name).takes
    assert (takes == "latent") == getattr(find("extractors", name), "TAKES_LATENT", False)


@pytest.mark.parametrize(
    ("shelf", "name"), [(shelf, name) for shelf in ("autoencoders", "codecs", "extractors") for name in names(shelf)]
)
def test_every_model_lists_what_it_offers(shelf, name):
    checkpoints = find(shelf, name).CHECKPOINTS
    assert checkpoints
    assert all(isinstance(each, Checkpoint) and each.licence and each.input and each.output for each in checkpoints)


# Options that belong to the run file's own keys


@pytest.mark.parametrize(
    ("shelf", "name", "wrong", "right"),
    [
        ("extractors", "inception_v3", "keep_patch", "keep_patches"),
        ("autoencoders", "diffusers_kl", "laten", "latent"),
        ("autoencoders", "diffusers_kl", "store_latent", "store_latents"),
        ("extractors", "latent", "sorce", "source"),
        ("autoencoders", "identity", "revison", "revision"),
        ("codecs", "jpeg", "qualty", "quality"),
        ("metrics", "lpips", "sourc", "source"),
        ("metrics", "mae", "sourc", "source"),
    ],
)
def test_a_misspelt_key_of_a_model_is_answered_with_the_nearest_right_one(shelf, name, wrong, right):
    with pytest.raises(ConfigError, match=f"did you mean '{right}'"):
        check_options(shelf, name, {wrong: 1})


# What is told apart by its stored features


def test_an_extractor_tells_two_images_apart_in_the_type_that_is_stored(extractor):
    batch = given(extractor, 2)
    one, other = extractor(batch).half().double()
    assert (one - other).norm() > 1e-3 * one.norm()
    assert one.std() > 1e-4  # float16 has few digits below
