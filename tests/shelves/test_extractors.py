"""The shelf of extractors: what it says of itself, and what naming its files imports."""

import importlib
import sys
from collections.abc import Iterator

import pytest
import torch

from sdvae_ray import shelves
from sdvae_ray.contracts import Checkpoint
from sdvae_ray.extractors import inception_fid, inception_v3


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


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


def test_nothing_of_a_shelf_is_heavy_to_list():
    """Naming the extractors must not import transformers: `sdvae-ray models` lists them."""
    import subprocess

    names = [f"sdvae_ray.extractors.{name}" for name in shelves.names("extractors")]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print('transformers' in sys.modules)"
    assert importlib.util.find_spec("transformers")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
