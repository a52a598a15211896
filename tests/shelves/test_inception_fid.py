"""The network of TF-FID beside torch-fidelity: features, resize, rounding, and the files of its weights."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractor_inputs import noise, refusal
from torch import Tensor

from sdvae_ray.errors import WeightsError
from sdvae_ray.extractors import inception_fid, inception_v3


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def real_stains(real_field) -> Tensor:
    """(4, 5, 256, 256) in [0, 1] of 8 bits: four patches of a real field."""
    import tifffile

    planes = np.stack([tifffile.imread(file) for file in real_field.values()])
    corners = [(300, 300), (300, 560), (560, 300), (560, 560)]
    patches = np.stack([planes[:, y : y + 256, x : x + 256] for y, x in corners])
    return torch.from_numpy((patches // 256).clip(0, 255).astype(np.float32)) / 255


@pytest.fixture(scope="module")
def tf_weights(tmp_path_factory) -> Path:
    """Random weights in the published file's form, batch statistics that are not those of torch's beginning among them."""
    torch.manual_seed(3)
    model = inception_fid.build()
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data.uniform_(0.7, 1.3)
            layer.bias.data.normal_(0, 0.2)
    file = tmp_path_factory.mktemp("tf-fid") / inception_fid.FILE
    torch.save(model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def extractor(tf_weights) -> Any:
    return inception_fid.load(tf_weights)


@pytest.fixture(scope="module")
def reference(tf_weights) -> Any:
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(tf_weights))


@pytest.mark.parametrize("side", [64, 299, 400])
def test_the_features_are_those_of_torch_fidelity_on_noise(extractor, reference, side):
    levels = torch.from_numpy(np.random.default_rng(side).integers(0, 256, (1, 3, side, side), np.uint8))
    assert_same_features(extractor, reference, levels)


def test_the_features_are_those_of_torch_fidelity_on_real_images(extractor, reference, real_stains):
    levels = (real_stains[:2, [0, 1, 2]] * 255).round().to(torch.uint8)
    assert levels.max() > 20
    assert_same_features(extractor, reference, levels)


def assert_same_features(extractor: Any, reference: Any, levels: Tensor) -> None:
    (expected,) = reference(levels)
    features = extractor(levels.float()[:, None] / 255)
    assert features.shape == (len(levels), 1, 2048)
    assert expected.std() > 0.01
    # 94 layers in float32, the same operations in the same order; libraries may choose other kernels
    assert (features[:, 0] - expected).norm(dim=1).max() <= 1e-4 * expected.norm(dim=1).min()


def test_torchvisions_pools_would_give_other_features(tf_weights, extractor):
    """So that the parity above says something of the pools."""
    from torchvision.models.inception import Inception3

    plain = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    plain.load_state_dict(torch.load(tf_weights, weights_only=True))
    plain.fc = torch.nn.Identity()
    rgb = noise(1, 1, 3, 299, 299)
    ours = extractor(rgb)
    theirs = inception_fid.PassFeatures(plain.eval(), inception_fid.prepare)
    assert (ours - theirs(rgb)).norm() > 1e-2 * ours.norm()


@pytest.mark.parametrize("size", [(37, 64), (256, 256), (299, 299), (600, 401)])
def test_the_resize_is_torch_fidelitys(size):
    interpolate = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    images = (noise(2, 3, *size) * 255).round()
    expected = interpolate.interpolate_bilinear_2d_like_tensorflow1x(images, size=(299, 299), align_corners=False)
    # levels up to 255: a few of float32's last places
    torch.testing.assert_close(inception_fid.resize(images, 299), expected, atol=1e-4, rtol=0)


def test_the_resize_on_paper():
    """Output i lies at input i * size / side: no half pixels, and nothing beyond the last pixel."""
    row = torch.tensor([0.0, 10.0]).expand(1, 1, 2, 2)
    expected = torch.tensor([0.0, 5.0, 10.0, 10.0])
    assert torch.equal(inception_fid.resize(row, 4)[0, 0], expected.expand(4, 4))
    assert torch.equal(inception_fid.resize(row.transpose(2, 3), 4)[0, 0], expected.expand(4, 4).T)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert torch.equal(inception_fid.resize(ramp, 2)[0, 0, 0], torch.tensor([0.0, 4.0]))  # no antialias


def test_images_are_rounded_to_8_bits(extractor):
    levels = (noise(1, 1, 3, 48, 48) * 254).round()
    shifted = [extractor((levels + shift) / 255) for shift in (0.0, 0.4, -0.4, 0.6)]
    assert torch.equal(shifted[0], shifted[1])
    assert torch.equal(shifted[0], shifted[2])
    assert not torch.equal(shifted[0], shifted[3])


def test_the_published_file_may_be_safetensors_or_lie_in_a_folder(tf_weights, extractor):
    from safetensors.torch import save_file

    rgb = noise(1, 1, 3, 48, 48)
    expected = extractor(rgb)
    assert torch.equal(inception_fid.load(tf_weights.parent)(rgb), expected)
    state = torch.load(tf_weights, weights_only=True)
    counted = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    file = tf_weights.parent / "safe" / "inception.safetensors"
    file.parent.mkdir()
    save_file(counted, file)  # older files do not count their batches
    assert torch.equal(inception_fid.load(file)(rgb), expected)


def test_a_missing_file_is_told_with_its_name_and_where_it_is(tmp_path):
    message = refusal(WeightsError, lambda: inception_fid.load(tmp_path))
    for wanted in (str(tmp_path), inception_fid.FILE, "toshas/torch-fidelity", "mseitzer/pytorch-fid"):
        assert wanted in message


def test_weights_of_the_other_inception_are_refused(tmp_path, tf_weights):
    torch.save(inception_v3.load(None).model.state_dict(), tmp_path / "torchvision.pth")
    assert "TF-FID" in refusal(WeightsError, lambda: inception_fid.load(tmp_path / "torchvision.pth"))
    assert "torchvision's" in refusal(WeightsError, lambda: inception_v3.load(tf_weights))
