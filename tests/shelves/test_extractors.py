"""Extractors beyond the contract: the network of TF-FID beside its reference, and OpenPhenom with code of its own."""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdvae_ray import shelves, weights
from sdvae_ray.config import ExtractorConfig
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.errors import ConfigError, UserError, WeightsError
from sdvae_ray.extractors import inception_fid, inception_v3, openphenom
from sdvae_ray.storage import Storage


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def refusal(kind: type[UserError], action: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def real_stains(real_field) -> Tensor:
    """(4, 5, 256, 256) in [0, 1] of 8 bits: four patches of a real field."""
    import tifffile

    planes = np.stack([tifffile.imread(file) for file in real_field.values()])
    corners = [(300, 300), (300, 560), (560, 300), (560, 560)]
    patches = np.stack([planes[:, y : y + 256, x : x + 256] for y, x in corners])
    return torch.from_numpy((patches // 256).clip(0, 255).astype(np.float32)) / 255


# What the shelf says of itself


@pytest.mark.parametrize("name", shelves.names("extractors"))
def test_an_extractor_lists_its_checkpoints(name):
    module = shelves.find("extractors", name)
    assert module.CHECKPOINTS
    for checkpoint in module.CHECKPOINTS:
        assert isinstance(checkpoint, Checkpoint)
        assert all((checkpoint.licence, checkpoint.input, checkpoint.output))
    source = getattr(module, "SOURCE", None)
    assert source is None or source in [checkpoint.source for checkpoint in module.CHECKPOINTS]


def test_the_parameters_of_the_inceptions_are_counted():
    for module in (inception_v3, inception_fid):
        with torch.device("meta"):
            model = module.build() if module is inception_fid else inception_v3.load(None).model
        model.fc = torch.nn.Identity()
        (checkpoint,) = module.CHECKPOINTS
        assert sum(weight.numel() for weight in model.parameters()) == checkpoint.parameters


# The network of TF-FID


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
def reference(tf_weights) -> Any:
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(tf_weights))


@pytest.mark.parametrize("side", [64, 299, 400])
def test_the_features_are_those_of_torch_fidelity_on_noise(tf_weights, reference, side):
    levels = torch.from_numpy(np.random.default_rng(side).integers(0, 256, (2, 3, side, side), np.uint8))
    assert_same_features(tf_weights, reference, levels)


def test_the_features_are_those_of_torch_fidelity_on_real_images(tf_weights, reference, real_stains):
    levels = (real_stains[:2, [0, 1, 2]] * 255).round().to(torch.uint8)
    assert levels.max() > 20
    assert_same_features(tf_weights, reference, levels)


def assert_same_features(tf_weights: Path, reference: Any, levels: Tensor) -> None:
    (expected,) = reference(levels)
    features = inception_fid.load(tf_weights)(levels.float()[:, None] / 255)
    assert features.shape == (len(levels), 1, 2048)
    assert expected.std() > 0.01
    # 94 layers in float32, the same operations in the same order; libraries may choose other kernels
    assert (features[:, 0] - expected).norm(dim=1).max() <= 1e-4 * expected.norm(dim=1).min()


def test_torchvisions_pools_would_give_other_features(tf_weights):
    """So that the parity above says something of the pools."""
    from torchvision.models.inception import Inception3

    plain = Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    plain.load_state_dict(torch.load(tf_weights, weights_only=True))
    plain.fc = torch.nn.Identity()
    rgb = noise(1, 1, 3, 299, 299)
    ours = inception_fid.load(tf_weights)
    theirs = inception_fid.InceptionFID(plain.eval())
    assert (ours(rgb) - theirs(rgb)).norm() > 1e-2 * ours(rgb).norm()


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


def test_images_are_rounded_to_8_bits(tf_weights):
    extractor = inception_fid.load(tf_weights)
    levels = (noise(1, 1, 3, 48, 48) * 254).round()
    shifted = [extractor((levels + shift) / 255) for shift in (0.0, 0.4, -0.4, 0.6)]
    assert torch.equal(shifted[0], shifted[1])
    assert torch.equal(shifted[0], shifted[2])
    assert not torch.equal(shifted[0], shifted[3])


def test_the_published_file_may_be_safetensors_or_lie_in_a_folder(tf_weights):
    from safetensors.torch import save_file

    rgb = noise(1, 2, 3, 48, 48)
    expected = inception_fid.load(tf_weights)(rgb)
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


# OpenPhenom, the random form


def tiny(**options: Any) -> openphenom.OpenPhenom:
    return openphenom.load(None, architecture="tiny", **options)


def test_openphenoms_shape_is_384_per_stain():
    with torch.device("meta"):
        model = openphenom.load(None).model
        assert model.predict(torch.zeros(2, 5, 256, 256)).shape == (2, 5 * 384)
    blocks = 12 * (12 * 384**2 + 13 * 384)  # qkv, out, mlp and two norms, with their biases
    assert sum(weight.numel() for weight in model.parameters()) == blocks + 384 * 256 + 384 + 384 + 2 * 384


def test_openphenom_is_a_function_of_its_seed_and_of_each_patch_alone():
    batch = noise(3, 5, 64, 64)
    features = tiny(weights_seed=1)(batch)
    assert (features.shape, features.dtype) == ((3, 5, 32), torch.float32)
    assert torch.isfinite(features).all()
    assert torch.equal(tiny(weights_seed=1)(batch), features)
    assert not torch.equal(tiny(weights_seed=2)(batch), features)
    alone = torch.cat([tiny(weights_seed=1)(patch[None]) for patch in batch])
    torch.testing.assert_close(alone, features, atol=1e-5, rtol=1e-5)


def test_openphenoms_stains_share_their_weights_and_see_each_other():
    extractor, batch = tiny(), noise(1, 5, 256, 256)
    features = extractor(batch)
    order = [3, 1, 4, 0, 2]
    torch.testing.assert_close(extractor(batch[:, order]), features[:, order], atol=1e-5, rtol=1e-5)
    other = batch.clone()
    other[:, 4] = noise(256, 256, seed=9)
    assert not torch.allclose(extractor(other)[:, 0], features[:, 0], atol=1e-5)


def test_the_random_network_normalises_brightness_away_except_in_the_published_range():
    batch = 0.125 * noise(1, 5, 256, 256)
    ours, published = (extractor(8 * batch) - extractor(batch) for extractor in (tiny(), tiny(published_range=True)))
    # eps is 0.8 % of this variance on [0, 1], and 500 times it on [0, 1 / 255]
    assert published.norm() > 10 * ours.norm()


def test_positions_are_sines_and_cosines_of_row_and_column():
    table = openphenom.sincos(4, 8).view(4, 4, 8)
    row, column, slow = 2.0, 3.0, 0.01
    slow_and_fast = [np.sin(row), np.sin(row * slow), np.cos(row), np.cos(row * slow)]
    slow_and_fast += [np.sin(column), np.sin(column * slow), np.cos(column), np.cos(column * slow)]
    np.testing.assert_allclose(table[2, 3], slow_and_fast, atol=1e-6)


def test_openphenom_takes_no_more_stains_than_it_was_made_for():
    assert "12 stains" in refusal(ConfigError, lambda: tiny()(noise(1, 12, 64, 64)))
    assert "did you mean 'tiny'" in refusal(ConfigError, lambda: openphenom.load(None, architecture="tinny"))


# OpenPhenom, its own code: a folder as its repository has it, with a network that gives back what it was given

MODELING = """
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from .pools import middle

Path(r"{marker}").write_text("ran")


class FakeConfig(PretrainedConfig):
    model_type = "fake-openphenom"


class FakeModel(PreTrainedModel):
    config_class = FakeConfig

    def __init__(self, config):
        super().__init__(config)
        self.gain = torch.nn.Parameter(torch.ones(3))
        self.return_channelwise_embeddings = False
        self.post_init()

    def _init_weights(self, module):
        pass

    def predict(self, images):
        assert images.shape[2:] == (256, 256)
        found = middle(images)[:, :, None] * self.gain
        return found.flatten(1) if self.return_channelwise_embeddings else found.mean(1)
{more}
"""
OWN_READER = """
    @classmethod
    def from_pretrained(cls, folder, *args, **kwargs):
        from safetensors.torch import load_file

        model = cls(FakeConfig.from_pretrained(folder, **kwargs))
        model.load_state_dict(load_file(folder + "/model.safetensors"))
        return model
"""


@pytest.fixture(scope="module")
def modules_folder(tmp_path_factory) -> Iterator[None]:
    """Where transformers puts copies of the code that it runs."""
    folder = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", folder)
        yield
    if folder in sys.path:
        sys.path.remove(folder)


@pytest.fixture(params=["", OWN_READER], ids=["transformers reads", "its own reader"])
def remote_model(request, tmp_path, modules_folder) -> Path:
    """The folder of a model with code of its own; `marker` beside it is written when that code runs."""
    from safetensors.torch import save_file

    folder = tmp_path / f"0{abs(hash(tmp_path)) % 10**9}"  # snapshots of the hub begin with any hexadecimal digit
    folder.mkdir()
    code = MODELING.format(marker=tmp_path / "marker", more=request.param)
    (folder / "modeling.py").write_text(code)
    (folder / "pools.py").write_text("from .sums import total\n\n\ndef middle(x):\n    return total(x) / 65536\n")
    (folder / "sums.py").write_text("def total(x):\n    return x.sum((2, 3))\n")
    config = {"model_type": "fake-openphenom", "architectures": ["FakeModel"]}
    config["auto_map"] = {"AutoConfig": "modeling.FakeConfig", "AutoModel": "modeling.FakeModel"}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"gain": torch.tensor([1.0, 2.0, 3.0])}, folder / "model.safetensors", {"format": "pt"})
    return folder


def resolved(folder: Path, **options: Any) -> weights.Weights:
    return weights.resolve(
        ExtractorConfig(name="openphenom", source=str(folder), **options), openphenom.SOURCE, Storage()
    )


def test_remote_code_runs_only_where_the_run_file_says_so(remote_model):
    marker = remote_model.parent / "marker"
    found = resolved(remote_model)
    assert set(found.files) == {"config.json", "model.safetensors"}
    for options in ({}, {"remote_code": False}, {"remote_code": "yes"}, {"remote_code": 1}):
        message = refusal(ConfigError, lambda options=options: openphenom.load(Path(str(found.path)), **options))
        assert "remote_code: true" in message
    assert not marker.exists()

    allowed = resolved(remote_model, remote_code=True)
    assert set(allowed.files) == {"config.json", "model.safetensors", "modeling.py", "pools.py", "sums.py"}
    extractor = openphenom.load(Path(str(allowed.path)), remote_code=True)
    assert marker.exists()
    batch = noise(2, 5, 256, 256)
    expected = 255 * batch.mean((2, 3))[:, :, None] * torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(extractor(batch), expected)


def test_the_remote_model_is_given_the_range_and_the_size_that_it_wants(remote_model):
    ours, published = (
        openphenom.load(remote_model, remote_code=True, published_range=switch).to(torch.device("cpu"))
        for switch in (False, True)
    )
    batch = noise(1, 4, 128, 128)
    torch.testing.assert_close(ours(batch), 255 * published(batch))
    assert published(batch).shape == (1, 4, 3)
    level = torch.full((1, 2, 64, 64), 0.25)
    torch.testing.assert_close(published(level)[..., 0], torch.full((1, 2), 0.25))


def test_a_remote_model_that_lacks_tensors_or_packages_is_refused(remote_model):
    from safetensors.torch import save_file

    save_file({"other": torch.zeros(3)}, remote_model / "model.safetensors", {"format": "pt"})
    message = refusal(WeightsError, lambda: openphenom.load(remote_model, remote_code=True))
    assert str(remote_model) in message
    assert "gain" in message
    (remote_model / "sums.py").write_text("import no_such_package\n")
    message = refusal(WeightsError, lambda: openphenom.load(remote_model, remote_code=True))
    assert "no_such_package" in message


def test_nothing_of_a_shelf_is_heavy_to_list():
    """Naming the extractors must not import transformers: `sdvae-ray models` lists them."""
    import subprocess

    names = [f"sdvae_ray.extractors.{name}" for name in shelves.names("extractors")]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print('transformers' in sys.modules)"
    assert importlib.util.find_spec("transformers")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
