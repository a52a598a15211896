"""OpenPhenom: its random form, and a folder with code of its own, which runs only where the run file says so."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractor_inputs import noise, refusal

from sdvae_ray import weights
from sdvae_ray.config import ExtractorConfig
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.extractors import openphenom
from sdvae_ray.storage import Storage


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


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
