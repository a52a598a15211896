"""The extractors from transformers, with tiny random models: what goes in, what is pooled, and what a folder must have."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractor_inputs import noise, refusal

from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.extractors import clip, dinov2, dinov3, hf_vision
from sdvae_ray.extractors._transformers import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD

MODULES = {"hf_vision": hf_vision, "dinov2": dinov2, "dinov3": dinov3, "clip": clip}
WIDTH = {"hf_vision": 32, "dinov2": 32, "dinov3": 32, "clip": 16}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64}
VISION_TENSOR = {
    "hf_vision": "encoder.layer.1",
    "dinov2": "encoder.layer.1",
    "dinov3": "layer.1",
    "clip": "visual_projection",
}

everywhere = pytest.mark.parametrize("name", list(MODULES))


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def tiny(name: str, **options: Any) -> Any:
    return MODULES[name].load(None, architecture="tiny", **options)


def seeded(build: Callable[[], Any]) -> Any:
    torch.manual_seed(7)
    return build().eval()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


# The contract


@everywhere
@pytest.mark.parametrize("per", ["pass", "stain"])
def test_one_vector_per_pass_or_stain(name, per):
    extractor = tiny(name, per=per).to(torch.device("cpu"))
    assert extractor.takes == {"pass": "rgb", "stain": "stains"}[per]
    batch = noise(*((3, 2, 3, 48, 48) if per == "pass" else (3, 5, 48, 48)))
    before = batch.clone()
    features = extractor(batch)
    assert (features.shape, features.dtype) == ((*batch.shape[:2], WIDTH[name]), torch.float32)
    assert torch.isfinite(features).all()
    assert torch.equal(extractor(batch), features)
    assert torch.equal(batch, before)
    alone = torch.cat([extractor(patch[None]) for patch in batch])
    torch.testing.assert_close(alone, features, atol=1e-4, rtol=1e-4)
    swapped = extractor(batch.flip(1))
    torch.testing.assert_close(swapped, features.flip(1), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(swapped, features, atol=1e-2)


@everywhere
def test_a_stain_is_a_grey_pass(name):
    stains = noise(2, 4, 48, 48)
    grey = stains.unsqueeze(2).expand(-1, -1, 3, -1, -1)
    expected = tiny(name)(grey)
    torch.testing.assert_close(tiny(name, per="stain")(stains), expected, atol=1e-5, rtol=1e-5)


@everywhere
def test_random_weights_are_a_function_of_their_seed_and_of_nothing_else(name):
    batch = noise(1, 1, 3, 48, 48)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, again, other = (tiny(name, weights_seed=seed)(batch) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)


@everywhere
def test_what_is_saved_gives_the_same_numbers(name, tmp_path):
    extractor, batch = tiny(name), noise(2, 1, 3, 64, 64)
    loaded = MODULES[name].load(saved(extractor.model, tmp_path), **({} if name == "hf_vision" else {"size": 224}))
    assert torch.equal(loaded(batch), extractor(batch))


@everywhere
def test_the_parameters_of_the_checkpoints_are_counted(name):
    import transformers

    with torch.device("meta"):
        if name == "hf_vision":
            built = {
                "google/vit-base-patch16-224-in21k": transformers.ViTModel(transformers.ViTConfig()),
                "microsoft/resnet-50": transformers.ResNetModel(transformers.ResNetConfig()),
            }
        elif name == "dinov2":
            build = lambda settings: transformers.Dinov2Model(transformers.Dinov2Config(patch_size=14, **settings))  # noqa: E731
            built = {f"facebook/dinov2-{key}": build(settings) for key, settings in dinov2.ARCHITECTURES.items()}
        elif name == "dinov3":
            names = {"small": "vits16", "base": "vitb16", "large": "vitl16", "tiny": "tiny"}
            built = {}
            for key, settings in dinov3.ARCHITECTURES.items():
                more = {"intermediate_size": 4 * settings["hidden_size"], "num_register_tokens": 4}
                config = transformers.DINOv3ViTConfig(**settings, **more)
                built[f"facebook/dinov3-{names[key]}-pretrain-lvd1689m"] = transformers.DINOv3ViTModel(config)
        else:
            names = {"b32": "base-patch32", "b16": "base-patch16", "l14": "large-patch14", "tiny": "tiny"}
            built = {}
            for key, settings in clip.ARCHITECTURES.items():
                config = transformers.CLIPVisionConfig(**settings)
                built[f"openai/clip-vit-{names[key]}"] = transformers.CLIPVisionModelWithProjection(config)
    for checkpoint in MODULES[name].CHECKPOINTS:
        model = built[checkpoint.source]
        assert sum(weight.numel() for weight in model.parameters()) == checkpoint.parameters
        config = model.config
        width = (
            getattr(config, "projection_dim", None) or getattr(config, "hidden_size", None) or config.hidden_sizes[-1]
        )
        assert checkpoint.output == f"{width} per pass or stain"


# What goes in


@everywhere
def test_each_module_prepares_as_its_card_says(name):
    extractor = tiny(name)
    expected = {
        "hf_vision": (64, IMAGENET_MEAN, IMAGENET_STD, "bicubic"),
        "dinov2": (224, IMAGENET_MEAN, IMAGENET_STD, "bicubic"),
        "dinov3": (224, IMAGENET_MEAN, IMAGENET_STD, "bilinear"),
        "clip": (224, CLIP_MEAN, CLIP_STD, "bicubic"),
    }[name]
    size, mean, std, mode = expected
    assert extractor.size == size
    images = noise(2, 3, 100, 100)
    resized = torch.nn.functional.interpolate(images, (size, size), mode=mode, antialias=True).clamp(0, 1)
    by_hand = torch.stack([(resized[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    torch.testing.assert_close(extractor.prepare(images), by_hand, atol=1e-5, rtol=1e-5)
    assert extractor.prepare(images).min() >= ((0 - torch.tensor(mean)) / torch.tensor(std)).min() - 1e-5


PREPROCESSORS = {
    "clip": {
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 64, "width": 64},
        "image_mean": list(CLIP_MEAN),
        "image_std": list(CLIP_STD),
    },
    "vit": {
        "size": {"height": 96, "width": 96},
        "do_center_crop": False,
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
    },
    "plain": {"size": {"height": 64, "width": 64}, "do_center_crop": False, "do_normalize": False},
    "signed": {
        "size": {"height": 64, "width": 64},
        "do_center_crop": False,
        "rescale_factor": 1 / 127.5,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [1.0, 1.0, 1.0],
    },
}


@pytest.mark.parametrize("kind", list(PREPROCESSORS))
@pytest.mark.parametrize("origin", ["noise", "real"])
def test_images_are_prepared_as_the_folders_preprocessor_does(kind, origin, tmp_path, request):
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(**PREPROCESSORS[kind])
    folder = saved(tiny("hf_vision").model, tmp_path)
    processor.save_pretrained(folder)
    assert (folder / "preprocessor_config.json").exists()
    if origin == "noise":
        levels = np.random.default_rng(0).integers(64, 192, (2, 3, 100, 100), np.uint8)
    else:
        import tifffile

        field = request.getfixturevalue("real_field")
        planes = np.stack([tifffile.imread(field[stain]) for stain in ("Mito", "AGP", "RNA")])
        levels = (planes[None, :, 400:656, 400:656] // 256).astype(np.uint8)
    expected = processor(images=[torch.from_numpy(image) for image in levels], return_tensors="pt")["pixel_values"]
    extractor = hf_vision.load(folder)
    prepared = extractor.prepare(torch.from_numpy(levels).float() / 255)
    assert prepared.shape == expected.shape
    # theirs is rounded to whole levels after each axis: half a level times bicubic's gain (1.3), and half a level
    level = PREPROCESSORS[kind].get("rescale_factor", 1 / 255)
    if PREPROCESSORS[kind].get("do_normalize", True):
        level /= min(PREPROCESSORS[kind]["image_std"])
    assert (prepared - expected).abs().max() <= 1.2 * level
    assert expected.std() > 5 * level or origin == "real"


def test_options_come_before_the_preprocessor(tmp_path):
    from transformers import CLIPImageProcessor

    folder = saved(tiny("hf_vision").model, tmp_path)
    CLIPImageProcessor(**PREPROCESSORS["clip"]).save_pretrained(folder)
    extractor = hf_vision.load(folder, size=32, mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6], interpolation="bilinear")
    images = noise(1, 3, 64, 64)
    resized = torch.nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    channels = [(resized[:, c] - (0.1, 0.2, 0.3)[c]) / (0.4, 0.5, 0.6)[c] for c in range(3)]
    torch.testing.assert_close(extractor.prepare(images), torch.stack(channels, 1))


def test_another_size_than_the_one_trained_on_interpolates_the_positions(tmp_path):
    extractor = hf_vision.load(saved(tiny("hf_vision").model, tmp_path), size=96)
    images = noise(2, 3, 96, 96)
    direct = extractor.model(extractor.prepare(images), interpolate_pos_encoding=True).last_hidden_state[:, 0]
    assert torch.equal(extractor(images[:, None])[:, 0], direct)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "clss"}, "did you mean 'cls'"),
        ({"per": "stains"}, "did you mean 'stain'"),
        ({"interpolation": "bicubik"}, "did you mean 'bicubic'"),
        ({"size": 65}, "a multiple of 16"),
        ({"size": -16}, "a multiple of 16"),
        ({"mean": [0.5, 0.5]}, "three numbers"),
        ({"std": [0.5, 0.5, 0.0]}, "three numbers above 0"),
        ({"std": "0.5"}, "three numbers above 0"),
        ({"architecture": "tinny"}, "did you mean 'tiny'"),
        ({"pooling": "projection"}, "cls, mean"),
    ],
)
def test_a_wrong_option_is_told_with_what_is_allowed(options, words):
    assert words in refusal(ConfigError, lambda: hf_vision.load(None, **options))


def test_the_sizes_of_the_thin_modules_are_multiples_of_their_patch():
    for name, patch in (("dinov2", 14), ("dinov3", 16), ("clip", 32)):
        assert f"a multiple of {patch}" in refusal(ConfigError, lambda name=name: tiny(name, size=100))
        assert tiny(name, size=2 * patch)(noise(1, 1, 3, 48, 48)).shape == (1, 1, WIDTH[name])


# What is pooled


def models() -> dict[str, tuple[Callable[[], Any], int | None]]:
    """Kinds of model, and how many tokens come before the patches (None: no tokens)."""
    import transformers as t

    vit = {**SMALL, "patch_size": 16}
    dino = {key: value for key, value in vit.items() if key != "intermediate_size"}
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    return {
        "vit": (lambda: t.ViTModel(t.ViTConfig(**vit)), 1),
        "deit": (lambda: t.DeiTModel(t.DeiTConfig(**vit)), 2),
        "dinov2": (lambda: t.Dinov2Model(t.Dinov2Config(**dino)), 1),
        "dinov2 with registers": (
            lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**dino, num_register_tokens=4)),
            5,
        ),
        "dinov3": (lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**vit, num_register_tokens=4)), 5),
        "clip": (lambda: t.CLIPVisionModelWithProjection(t.CLIPVisionConfig(**vit)), 1),
        "siglip": (lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**vit)), 0),
        "convnext": (lambda: t.ConvNextModel(t.ConvNextConfig(**stages)), None),
        "resnet": (lambda: t.ResNetModel(t.ResNetConfig(**stages, embedding_size=8)), None),
    }


@pytest.mark.parametrize("kind", list(models()))
def test_pooling_is_that_of_a_direct_call(kind, tmp_path):
    build, before = models()[kind]
    original = seeded(build)
    folder = saved(original, tmp_path)
    images = noise(3, 3, 64, 64)
    channels = [(images[:, c] - IMAGENET_MEAN[c]) / IMAGENET_STD[c] for c in range(3)]
    output = original(torch.stack(channels, 1))
    hidden = output.last_hidden_state
    expected = {}
    if before is None:
        expected["mean"] = hidden.mean((2, 3))
    else:
        assert hidden.shape[1] == before + 16  # the registers and the patches are where we think
        expected["mean"] = hidden[:, before:].mean(1)
    if before:
        expected["cls"] = hidden[:, 0]
    if kind == "clip":
        expected["projection"] = output.image_embeds
    else:
        expected["pooler"] = output.pooler_output.flatten(1)
    for pooling, values in expected.items():
        extractor = hf_vision.load(folder, pooling=pooling, size=64)
        torch.testing.assert_close(extractor(images[:, None])[:, 0], values, atol=1e-5, rtol=1e-5)
    for pooling in {"cls", "mean", "pooler", "projection"} - set(expected):
        message = refusal(ConfigError, lambda pooling=pooling: hf_vision.load(folder, pooling=pooling, size=64))
        assert f"pooling: {pooling} does not fit" in message


def test_a_model_that_hides_patches_at_random_is_refused(tmp_path):
    from transformers import ViTMAEConfig, ViTMAEModel

    folder = saved(seeded(lambda: ViTMAEModel(ViTMAEConfig(**SMALL))), tmp_path)
    for pooling in ("cls", "mean", "pooler"):
        refusal(ConfigError, lambda pooling=pooling: hf_vision.load(folder, pooling=pooling, size=64))


def test_clips_embedding_is_that_of_the_whole_model(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    config = {**SMALL, "patch_size": 16}
    text = {key: value for key, value in config.items() if key != "image_size"}
    whole = seeded(lambda: CLIPModel(CLIPConfig(vision_config=config, text_config=text, projection_dim=24)))
    folder = saved(whole, tmp_path)
    images = noise(2, 1, 3, 64, 64)
    extractor = clip.load(folder, size=64)
    expected = whole.get_image_features(extractor.prepare(images[:, 0]))
    expected = getattr(expected, "pooler_output", expected)
    assert expected.shape == (2, 24)
    torch.testing.assert_close(extractor(images)[:, 0], expected, atol=1e-5, rtol=1e-5)


# What a folder must have


def drop(folder: Path, prefix: str) -> int:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    tensors = load_file(file)
    kept = {name: value for name, value in tensors.items() if prefix not in name}
    save_file(kept, file, {"format": "pt"})
    return len(tensors) - len(kept)


@everywhere
def test_missing_tensors_are_refused_and_not_filled_at_random(name, tmp_path):
    folder = saved(tiny(name).model, tmp_path)
    missing = drop(folder, VISION_TENSOR[name])
    assert missing
    message = refusal(WeightsError, lambda: MODULES[name].load(folder))
    assert f"{folder} lacks {missing} tensors" in message


def test_a_pooler_may_be_missing_where_it_is_not_asked(tmp_path):
    extractor, batch = tiny("hf_vision"), noise(1, 1, 3, 64, 64)
    folder = saved(extractor.model, tmp_path)
    assert drop(folder, "pooler.") == 2
    assert torch.equal(hf_vision.load(folder)(batch), extractor(batch))
    assert "lacks 2 tensors" in refusal(WeightsError, lambda: hf_vision.load(folder, pooling="pooler"))


def test_dinov3_loads_by_the_names_of_its_published_tensors(tmp_path):
    from safetensors.torch import load_file, save_file

    extractor, batch = tiny("dinov3"), noise(1, 1, 3, 64, 64)
    folder = saved(extractor.model, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    published = {name.removeprefix("model."): value for name, value in tensors.items()}
    assert "layer.0.attention.q_proj.weight" in published
    assert "embeddings.register_tokens" in published
    save_file(published, folder / "model.safetensors", {"format": "pt"})
    assert torch.equal(dinov3.load(folder)(batch), extractor(batch))


def test_torchs_format_is_read_where_there_is_no_safetensors_file(tmp_path):
    one, other = tiny("dinov2", weights_seed=1), tiny("dinov2", weights_seed=2)
    batch = noise(1, 1, 3, 64, 64)
    folder = saved(one.model, tmp_path)
    torch.save(other.model.state_dict(), folder / "pytorch_model.bin")
    assert torch.equal(dinov2.load(folder)(batch), one(batch))
    (folder / "model.safetensors").unlink()
    assert torch.equal(dinov2.load(folder)(batch), other(batch))


def test_half_precision_weights_are_computed_with_in_float32(tmp_path):
    extractor, batch = tiny("dinov2"), noise(1, 1, 3, 64, 64)
    folder = saved(extractor.model.half(), tmp_path)
    loaded = dinov2.load(folder)
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert torch.equal(
        loaded(batch), dinov2.Vision("dinov2", extractor.model, dinov2.Preparation(224), "cls", "pass")(batch)
    )


@everywhere
@pytest.mark.parametrize("damage", ["no config", "no weights", "empty config", "a list", "another shape", "noise"])
def test_a_damaged_folder_is_named_in_one_line(name, damage, tmp_path):
    folder = saved(tiny(name).model, tmp_path)
    config, file = folder / "config.json", folder / "model.safetensors"
    if damage == "no config":
        config.unlink()
    elif damage == "no weights":
        file.unlink()
    elif damage == "empty config":
        config.write_text("{}")
    elif damage == "a list":
        config.write_text("[]")
    elif damage == "another shape":
        config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 48}))
    else:
        file.write_bytes(np.random.default_rng(0).bytes(1000))
    assert str(folder) in refusal(WeightsError, lambda: MODULES[name].load(folder))


@pytest.mark.parametrize(("name", "other"), [("dinov2", "clip"), ("dinov3", "dinov2"), ("clip", "hf_vision")])
def test_another_familys_model_is_refused(name, other, tmp_path):
    folder = saved(tiny(other).model, tmp_path)
    message = refusal(WeightsError, lambda: MODULES[name].load(folder))
    assert "of type" in message
    assert str(folder) in message


def test_code_in_a_folder_is_never_run(tmp_path):
    folder = saved(tiny("hf_vision").model, tmp_path / "model")
    marker = tmp_path / "marker"
    (folder / "modeling.py").write_text(f"from pathlib import Path\n\nPath(r'{marker}').write_text('ran')\n")
    config = json.loads((folder / "config.json").read_text())
    auto_map = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Model"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": auto_map}))
    hf_vision.load(folder)  # a type that transformers knows is read with transformers' own class
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of", "auto_map": auto_map}))
    assert str(folder) in refusal(WeightsError, lambda: hf_vision.load(folder))
    assert not marker.exists()
