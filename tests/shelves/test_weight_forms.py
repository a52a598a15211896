"""Kind: weights in the forms people have. Every form gives the tensors of the model, or one line that names what is wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sdvae_ray import weights
from sdvae_ray.autoencoders import diffusers_kl
from sdvae_ray.config import AutoencoderConfig
from sdvae_ray.engine.models import latent_scaling, resolve_weights
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.extractors import inception_v3
from sdvae_ray.state_dicts import tensor_files
from sdvae_ray.storage import Storage

MAIN = "diffusion_pytorch_model.safetensors"
GROUPS = 16
SHAPE: dict[str, Any] = {  # of a small AutoencoderKL with attention in its middle, as Stable Diffusion's has
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": GROUPS,
    "latent_channels": 4,
}


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    from diffusers import AutoencoderKL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return AutoencoderKL(**SHAPE).eval()


@pytest.fixture
def folder(original, tmp_path) -> Path:
    original.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def latent_diffusion_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the names of the latent-diffusion code, written out by hand: the reverse of diffusers' conversion."""
    renamed = {}
    for name, tensor in state.items():
        for level in range(2):
            name = name.replace(f"encoder.down_blocks.{level}.resnets.", f"encoder.down.{level}.block.")
            name = name.replace(f"encoder.down_blocks.{level}.downsamplers.0.", f"encoder.down.{level}.downsample.")
            name = name.replace(f"decoder.up_blocks.{level}.resnets.", f"decoder.up.{1 - level}.block.")
            name = name.replace(f"decoder.up_blocks.{level}.upsamplers.0.", f"decoder.up.{1 - level}.upsample.")
            name = name.replace(f"mid_block.resnets.{level}.", f"mid.block_{level + 1}.")
        for ours, theirs in (
            ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
            ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
            ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
            ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
            ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
            ("conv_shortcut.", "nin_shortcut."),
            ("conv_norm_out.", "norm_out."),
        ):
            name = name.replace(ours, theirs)
        is_linear = ".attn_1." in name and tensor.ndim == 2
        renamed[name] = (tensor[:, :, None, None] if is_linear else tensor).contiguous().clone()
    return renamed


def earlier_attention_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    pairs = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, old in pairs.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[name] = tensor
    return renamed


def in_shards(folder: Path, variant: str = "") -> None:
    state = load_file(folder / MAIN)
    (folder / MAIN).unlink()
    weight_map = {}
    for number, name in enumerate(sorted(state)):
        weight_map[name] = f"diffusion_pytorch_model{variant}-0000{1 + number % 3}-of-00003.safetensors"
    for file in set(weight_map.values()):
        save_file({name: state[name] for name in state if weight_map[name] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"diffusion_pytorch_model.safetensors.index{variant}.json").write_text(json.dumps(index))


def assert_same(path: Path, original: torch.nn.Module, half: bool = False, **options: Any) -> None:
    loaded, expected = diffusers_kl.load(path, **options).model.state_dict(), original.state_dict()
    assert loaded.keys() == expected.keys()
    for name, tensor in expected.items():
        assert loaded[name].dtype == torch.float32
        assert torch.equal(loaded[name], tensor.half().float() if half else tensor), name


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(WeightsError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message


# Forms that load


def test_weights_kind_a_variant_in_half_precision_is_read_where_it_stands_alone(folder, original):
    half = {name: tensor.half() for name, tensor in load_file(folder / MAIN).items()}
    save_file(half, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert_same(folder, original)  # the full precision comes first
    (folder / MAIN).unlink()
    assert_same(folder, original, half=True)


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_weights_kind_shards_are_read_by_their_index(folder, original, variant):
    in_shards(folder, variant)
    assert_same(folder, original)
    resolved = weights.resolve(AutoencoderConfig(name="diffusers_kl", source=str(folder)), None, Storage())
    assert len(resolved.files) == 5  # config, index and three shards are hashed


def test_weights_kind_earlier_names_of_attention_are_read(folder, original):
    state = earlier_attention_names(load_file(folder / MAIN))
    assert any(".proj_attn." in name for name in state)
    save_file(state, folder / MAIN)
    assert_same(folder, original)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
@pytest.mark.parametrize("form", ["file", "folder", "folder with a config"])
def test_weights_kind_a_checkpoint_of_the_latent_diffusion_form_is_converted(
    folder, original, prefix, form, monkeypatch
):
    def no_network(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", no_network)
    state = {f"{prefix}{name}": tensor for name, tensor in latent_diffusion_names(load_file(folder / MAIN)).items()}
    if prefix:  # a whole checkpoint has more than the autoencoder
        state["model.diffusion_model.out.0.weight"] = torch.zeros(3)
    else:
        state["loss.logvar"] = torch.zeros(1)
    (folder / MAIN).unlink()
    file = folder / "kl-f8.safetensors"
    save_file(state, file)
    if form != "folder with a config":
        (folder / "config.json").unlink()
    assert_same(file if form == "file" else folder, original)


def test_weights_kind_what_shapes_do_not_tell_is_said_and_can_be_given(folder, original, small_run_config):
    save_file(latent_diffusion_names(load_file(folder / MAIN)), folder.parent / "x.safetensors")
    entry = {"name": "diffusers_kl", "source": str(folder.parent / "x.safetensors")}
    config = small_run_config(autoencoders={"sd": entry})
    resolved = resolve_weights(config, Storage())
    assert latent_scaling(config, resolved)["sd"] == {}
    record = resolved["autoencoders.sd"].record()
    assert "norm_num_groups 16 is assumed" in record["assumed"]
    assert "scaling factor of its latents is unknown" in record["assumed"]
    model = diffusers_kl.load(folder.parent / "x.safetensors")
    assert model.scaling_factor is None
    assert model.force_upcast
    told = {"norm_num_groups": 8, "scaling_factor": 0.13025}
    model = diffusers_kl.load(folder.parent / "x.safetensors", config=told, force_upcast=False)
    assert (model.scaling_factor, model.model.config["norm_num_groups"], model.force_upcast) == (0.13025, 8, False)
    assert diffusers_kl.load(folder).scaling_factor == 0.18215
    with pytest.raises(ConfigError, match="did you mean 'norm_num_groups'"):
        diffusers_kl.load(folder, config={"norm_groups": 8})


def test_weights_kind_a_real_one_file_checkpoint_is_loaded(shared):
    file = shared / "data/cases/22_ldm/vae-ft-mse-840000-ema-pruned.safetensors"
    if not file.is_file():
        pytest.skip(f"the case is not at {file}")
    stored = load_file(file)
    for place in (file, file.parent):
        loaded = diffusers_kl.load(place).model.state_dict()
        assert len(loaded) == len(stored)
        assert torch.equal(loaded["encoder.conv_in.weight"], stored["encoder.conv_in.weight"])
        attention = stored["decoder.mid.attn_1.proj_out.weight"][:, :, 0, 0]
        assert torch.equal(loaded["decoder.mid_block.attentions.0.to_out.0.weight"], attention)
        last, first = "decoder.up_blocks.3.resnets.1.conv2.weight", "decoder.up.0.block.1.conv2.weight"
        assert torch.equal(loaded[last], stored[first])


def test_weights_kind_the_folder_of_a_pipeline_leads_to_its_vae(folder, original, small_run_config):
    (folder.parent / "model_index.json").write_text("{}")
    (folder.parent / "unet").mkdir()
    (folder.parent / "unet" / MAIN).write_bytes(b"another model, which must not be read")
    config = small_run_config(autoencoders={"sd": {"name": "diffusers_kl", "source": str(folder.parent)}})
    resolved = resolve_weights(config, Storage())["autoencoders.sd"]
    assert resolved.path == str(folder)
    assert set(resolved.files) == {"config.json", MAIN}
    assert_same(Path(resolved.path), original)


def test_weights_kind_an_object_and_a_pipeline_on_s3_are_sources(s3, folder, original, small_run_config, monkeypatch):
    monkeypatch.setenv("SDVAE_RAY_CACHE", str(folder.parent / "cache"))
    for name in ("config.json", MAIN):
        s3.storage.write_bytes(f"{s3.prefix}/sd 1.5/vae/{name}", (folder / name).read_bytes())
    s3.storage.write_bytes(f"{s3.prefix}/sd 1.5/unet/{MAIN}", b"another model")
    save_file(latent_diffusion_names(load_file(folder / MAIN)), folder.parent / "kl.safetensors")
    s3.storage.write_bytes(f"{s3.prefix}/kl.safetensors", (folder.parent / "kl.safetensors").read_bytes())
    for source, files in (
        (f"{s3.prefix}/sd 1.5", {"config.json", MAIN}),
        (f"{s3.prefix}/kl.safetensors", {"kl.safetensors"}),
    ):
        config = small_run_config(autoencoders={"sd": {"name": "diffusers_kl", "source": source}})
        resolved = resolve_weights(config, s3.storage)["autoencoders.sd"]
        assert set(resolved.files) == files
        assert_same(Path(str(resolved.path)), original)


@pytest.mark.parametrize("name", ["my vae #1", "50%20off", "a+b"])
@pytest.mark.parametrize("form", ["path", "URI"])
def test_container_kind_weights_lie_under_any_path(folder, original, name, form):
    place = folder.parent / name
    folder.rename(place)
    source = str(place) if form == "path" else place.as_uri()
    resolved = weights.resolve(AutoencoderConfig(name="diffusers_kl", source=source), None, Storage())
    assert resolved.path == str(place)
    assert_same(place, original)


# Forms that are refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("decoder.conv_in.bias"), "lacks 1 tensors, such as decoder.conv_in.bias"),
        (lambda state: state.update(extra=torch.zeros(1)), "has unexpected 1 tensors, such as extra"),
        (
            lambda state: state["encoder.conv_in.weight"][0].fill_(torch.nan),
            "encoder.conv_in.weight has 27 numbers that are not",
        ),
        (lambda state: state["quant_conv.bias"].fill_(torch.inf), "quant_conv.bias has 8 numbers that are not finite"),
        (
            lambda state: state.update({"quant_conv.bias": torch.zeros(3)}),
            "quant_conv.bias has the shape (3,), the network's has (8,)",
        ),
    ],
    ids=["missing", "unexpected", "nan", "infinite", "another shape"],
)
@pytest.mark.parametrize("form", ["diffusers", "latent diffusion"])
def test_weights_kind_tensors_that_do_not_fit_are_named(folder, change, words, form):
    state = load_file(folder / MAIN)
    change(state)
    if form == "latent diffusion":
        state = latent_diffusion_names(state)
        if "extra" in state:
            state["encoder.extra"] = state.pop("extra")
            words = words.replace("extra", "encoder.extra")
    save_file(state, folder / MAIN)
    message = refusal(lambda: diffusers_kl.load(folder))
    assert words in message
    assert str(folder) in message


def test_weights_kind_a_folder_without_weights_lists_what_was_looked_for_and_what_is_there(folder):
    (folder / MAIN).rename(folder / "weights.safetensors.part")
    message = refusal(lambda: diffusers_kl.load(folder))
    for words in (
        "diffusion_pytorch_model.safetensors",
        ".fp16",
        "index",
        "there is config.json, weights.safetensors.part",
    ):
        assert words in message


def test_weights_kind_a_choice_that_cannot_be_made_is_listed(folder):
    for variant in ("bf16", "fp16"):
        shutil.copy(folder / MAIN, folder / f"diffusion_pytorch_model.{variant}.safetensors")
    (folder / MAIN).unlink()
    message = refusal(lambda: diffusers_kl.load(folder))
    assert "several files of weights: diffusion_pytorch_model.bf16.safetensors, diffusion_pytorch_model.fp16" in message


@pytest.mark.parametrize("damage", ["a shard is absent", "a name leads out", "not JSON"])
def test_weights_kind_a_damaged_index_is_named(folder, damage):
    in_shards(folder)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    if damage == "a shard is absent":
        (folder / "diffusion_pytorch_model-00002-of-00003.safetensors").unlink()
    elif damage == "a name leads out":
        index.write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
    else:
        index.write_text("{")
    message = refusal(lambda: diffusers_kl.load(folder))
    assert ("lacks 1 of 3 shards" if damage == "a shard is absent" else "is not an index of shards") in message


@pytest.mark.parametrize("as_folder", [True, False])
def test_weights_kind_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, as_folder):
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    place = tmp_path if as_folder else tmp_path / "model.ckpt"
    for action in (
        lambda: diffusers_kl.load(place),
        lambda: inception_v3.load(place),
        lambda: tensor_files(place),
    ):
        message = refusal(action)
        assert "model.ckpt: it is a pickle" in message
        assert "weights_only=True" in message
    if not as_folder:
        entry = AutoencoderConfig(name="diffusers_kl", source=str(place))
        assert "it is a pickle" in refusal(lambda: weights.resolve(entry, None, Storage()))


def test_weights_kind_an_extractor_names_its_tensors_too(tmp_path):
    save_file({"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "inception.safetensors")
    message = refusal(lambda: inception_v3.load(tmp_path))
    assert "it lacks " in message
    assert "such as AuxLogits.conv0.bn.bias" in message
