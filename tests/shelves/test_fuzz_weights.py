"""Fuzz over folders of weights: the network has the tensors that lie there, or one line says what is wrong."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from torch import nn

from sdvae_ray.autoencoders import diffusers_kl
from sdvae_ray.errors import WeightsError, one_line
from sdvae_ray.state_dicts import DAMAGE, fill, read_state_dict, tensor_files

MAIN = "diffusion_pytorch_model"
folders = st.fixed_dictionaries(
    {
        "name": st.sampled_from((MAIN, f"{MAIN}.fp16", "vae-ft-mse", "a b#c%20")),
        "shards": st.integers(1, 3),
        "index": st.booleans(),
        "change": st.sampled_from(("none", "none", "none", "missing", "unexpected", "nan", "shape", "half")),
        "damage": st.sampled_from(("none", "none", "none", "cut", "empty", "lost")),
        "others": st.lists(
            st.sampled_from(("model.ckpt", "README.md", "config.json", ".hidden.safetensors")), max_size=2
        ),
        "seed": st.integers(0, 99),
    }
)


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 2, 1), nn.GroupNorm(1, 2))


def written(drawn: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """Write the folder; return the tensors that it is written from."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    state = {name: torch.full_like(tensor, drawn["seed"]) for name, tensor in network().state_dict().items()}
    names = sorted(state)
    name = names[drawn["seed"] % len(names)]
    if drawn["change"] == "missing":
        del state[name]
    elif drawn["change"] == "unexpected":
        state["more"] = torch.zeros(1)
    elif drawn["change"] == "nan":
        state[name] = torch.full_like(state[name], torch.nan)
    elif drawn["change"] == "shape":
        state[name] = torch.zeros(7)
    elif drawn["change"] == "half":
        state = {key: tensor.half() for key, tensor in state.items()}
    parts = [sorted(state)[number :: drawn["shards"]] for number in range(drawn["shards"])]
    places = [
        f"{drawn['name']}-{n}.safetensors" if drawn["shards"] > 1 else f"{drawn['name']}.safetensors"
        for n in range(len(parts))
    ]
    for part, place in zip(parts, places, strict=True):
        save_file({key: state[key] for key in part}, folder / place)
    if drawn["index"]:
        weight_map = {key: place for part, place in zip(parts, places, strict=True) for key in part}
        (folder / f"{MAIN}.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    victim = folder / places[drawn["seed"] % len(places)]
    if drawn["damage"] == "lost":
        victim.unlink()
    elif drawn["damage"] in ("cut", "empty"):
        victim.write_bytes(victim.read_bytes()[: -10 if drawn["damage"] == "cut" else 0])
    for other in drawn["others"]:
        (folder / other).write_bytes(b"words")
    return state


def survey(count: int, folder: Path) -> dict[str, int]:
    loaded, refusals = 0, []

    @settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(folders)
    def check(drawn: dict[str, Any]) -> None:
        nonlocal loaded
        expected, model = written(drawn, folder), network()
        try:
            state: dict[str, torch.Tensor] = {}
            for file in tensor_files(folder):
                state |= read_state_dict(file)
            fill(model, state)
        except WeightsError as error:
            refusals.append(str(error))
            return
        except DAMAGE as error:  # a loader puts the name of the model and the folder before its line
            refusals.append(f"{folder}: {one_line(error)}")
            return
        assert drawn["change"] in ("none", "half")
        assert drawn["damage"] == "none"
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[name].float())
        loaded += 1

    run = check
    run()  # type: ignore[call-arg]
    assert not [line for line in refusals if "\n" in line or str(folder) not in line]
    return {"loaded": loaded, "refused": len(refusals)}


@pytest.mark.parametrize("count", [60, pytest.param(5000, marks=pytest.mark.slow)])
def test_weights_kind_whatever_lies_in_a_folder_is_loaded_as_it_is_or_refused(tmp_path, count):
    outcomes = survey(count, tmp_path / "weights")
    assert min(outcomes.values()) > count / 20


@pytest.mark.slow
@pytest.mark.parametrize("count", [300])
def test_weights_kind_an_autoencoder_of_any_damage_is_loaded_or_refused_in_one_line(tmp_path, count):
    whole = diffusers_kl.load(None, architecture="tiny").model
    whole.save_pretrained(tmp_path / "vae")
    data = save(whole.state_dict())

    refusals = []

    @settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 5000), st.integers(0, 255))
    def check(place: int, value: int) -> None:
        damaged = bytearray(data)
        damaged[place] = value
        (tmp_path / "vae" / f"{MAIN}.safetensors").write_bytes(damaged)
        try:
            loaded = diffusers_kl.load(tmp_path / "vae").model.state_dict()
        except WeightsError as error:
            refusals.append(str(error))
        else:
            assert loaded.keys() == whole.state_dict().keys()

    run = check
    run()  # type: ignore[call-arg]
    assert refusals
    assert not [line for line in refusals if "\n" in line]
