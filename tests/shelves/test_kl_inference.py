"""The inference form of AutoencoderKL beside diffusers' own forward: exactness on bright and dark fields, and its kernels."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdvae_ray.autoencoders import _diffusers, diffusers_kl
from sdvae_ray.autoencoders._kl.inference import KLInference
from sdvae_ray.autoencoders._kl.plan import Plan
from sdvae_ray.engine.models import autoencoder_engines, load_models, resolve_weights
from sdvae_ray.errors import ConfigError
from sdvae_ray.storage import Storage

CPU = torch.device("cpu")
FORMS = {  # small models of every kind: with and without attention and quant_conv, and with three levels
    "tiny": diffusers_kl.ARCHITECTURES["tiny"],
    "tiny16": diffusers_kl.ARCHITECTURES["tiny16"],
    "attention": {**diffusers_kl.ARCHITECTURES["tiny"], "mid_block_add_attention": True, "norm_num_groups": 8},
    "three levels": {
        **diffusers_kl.ARCHITECTURES["tiny16"],
        "block_out_channels": (12, 12, 24),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 2,
    },
}
FIELDS = ("bright", "dark")


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def network(settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """Random weights; biases and norms too, which a fresh network has at 0 and 1."""
    from diffusers import AutoencoderKL

    model = _diffusers.build("test", AutoencoderKL, {"": settings}, None, "", 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.to(dtype)


def field(kind: str, size: int = 64) -> Tensor:
    """(2, 3, size, size) float32 in [-1, 1]; `dark`: mean 3 and standard deviation 0.01 of 255."""
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(2, 3, size, size, generator=generator)
    return 2 * ((3 + 0.01 * noise) / 255 if kind == "dark" else torch.rand(noise.shape, generator=generator)) - 1


def of_diffusers(model: Any, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """mean, logvar, and the image decoded from the mean."""
    posterior = model.encode(images).latent_dist
    return posterior.mean, posterior.logvar, model.decode(posterior.mean).sample


def largest_error(model: Any, plan: Plan, images: Tensor, exact: tuple[Tensor, Tensor, Tensor]) -> float:
    """The largest difference of mean, logvar and image, as a share of their largest value where that is above 1."""
    form = KLInference(model, plan, CPU)
    mean, logvar = form.encode(images)
    results = (mean, logvar, form.decode(exact[0].to(images.dtype)))
    return max(
        ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1)).item()
        for ours, theirs in zip(results, exact, strict=True)
    )


@pytest.mark.parametrize("kind", FIELDS)
@pytest.mark.parametrize("form", FORMS)
def test_the_form_equals_diffusers_in_float64(form, kind):
    model, images = network(FORMS[form]), field(kind).double()
    exact = of_diffusers(network(FORMS[form], torch.float64), images)
    for channels_last in (False, True):
        for fold in (False, True):
            plan = Plan(torch.float64, channels_last, fused=False, fold=fold)
            assert largest_error(model, plan, images, exact) < 1e-12
            single = Plan(torch.float32, channels_last, fused=False, fold=fold)
            assert largest_error(model, single, images.float(), exact) < 1e-5


@pytest.mark.parametrize("architecture", ["sd1", "sd3"])
def test_the_public_forms_equal_diffusers(architecture):
    """SDXL and FLUX.1 have the networks of these two. diffusers' own float32 is about 1e-5 from its float64 here."""
    twin = {"sd1": "sdxl", "sd3": "flux"}[architecture]
    apart = {"scaling_factor", "shift_factor", "sample_size", "force_upcast"}
    one, two = (diffusers_kl.ARCHITECTURES[name] for name in (architecture, twin))
    assert {key: value for key, value in one.items() if key not in apart} == {
        key: value for key, value in two.items() if key not in apart
    }
    images = field("bright", 32)
    model = network(one, torch.float64)
    exact = of_diffusers(model, images.double())
    model = model.float()  # as it was drawn
    theirs = (*of_diffusers(model, images)[:2], model.decode(exact[0].float()).sample)
    own = max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in zip(theirs, exact, strict=True))
    assert largest_error(model, Plan.of(CPU, torch.float32), images, exact) < max(1e-5, 1.2 * own)


def test_in_bfloat16_the_form_is_no_less_exact_than_diffusers_under_autocast():
    """The ratio of two errors of rounding varies by a fifth from one small network to the next, so the mean over all is judged."""
    ratios = []
    for form in FORMS.values():
        exact_model, model = network(form, torch.float64), network(form)
        ours = KLInference(model, Plan.of(CPU, torch.bfloat16), CPU)
        for kind in FIELDS:
            images = field(kind)
            exact = of_diffusers(exact_model, images.double())
            with torch.autocast("cpu", torch.bfloat16):
                posterior = model.encode(images).latent_dist
                theirs = (posterior.mean, posterior.logvar, model.decode(exact[0].float()).sample)
            here = (*ours.encode(images), ours.decode(exact[0].float()))
            ratios += [
                _rms(value.double() - truth) / _rms(their_value.double() - truth)
                for value, their_value, truth in zip(here, theirs, exact, strict=True)
            ]
    assert sum(ratios) / len(ratios) <= 1
    assert max(ratios) <= 1.3


def _rms(values: Tensor) -> float:
    return values.square().mean().sqrt().item()


def test_the_fast_engine_is_the_default_and_differs_from_diffusers_by_rounding_alone():
    fast, reference = (diffusers_kl.load(None, architecture="tiny", engine=engine) for engine in (None, "diffusers"))
    assert fast.engine == "fast"
    rgb = (field("bright") + 1) / 2
    ours, theirs = fast.encode(rgb), reference.encode(rgb)
    torch.testing.assert_close(ours.mean, theirs.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(fast.decode(ours.mean), reference.decode(ours.mean), rtol=0, atol=1e-5)
    assert not torch.equal(fast.decode(ours.mean), reference.decode(ours.mean))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"act_fn": "gelu"}, "its activation is gelu"),
        ({"up_block_types": ("UpBlock2D",) * 4}, "it has blocks of type UpBlock2D"),
    ],
)
def test_a_model_without_an_inference_form_runs_in_diffusers_and_says_so(change, why, tmp_path):
    diffusers_kl.load(None, architecture="tiny").model.save_pretrained(tmp_path)
    model = diffusers_kl.load(tmp_path)
    assert model.engine == "fast"
    if "act_fn" in change:
        file = tmp_path / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
        assert diffusers_kl.load(tmp_path).engine == "diffusers"
        with pytest.raises(ConfigError, match=rf"no fast engine for this model: {why} \(use engine: diffusers\)"):
            diffusers_kl.load(tmp_path, engine="fast")
    else:
        model.model.register_to_config(**change)
        with pytest.raises(ValueError, match=why):
            KLInference(model.model, Plan.of(CPU, torch.float32), CPU)


def test_an_unknown_engine_is_refused():
    with pytest.raises(ConfigError, match=r"engine is 'turbo' \(allowed: fast, diffusers\)"):
        diffusers_kl.load(None, architecture="tiny", engine="turbo")


def test_the_kernels_equal_plain_torch_in_the_interpreter_of_triton():
    pytest.importorskip("triton")
    script = Path(__file__).with_name("kernels_in_the_interpreter.py")
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["12", "checks"]


def test_a_run_that_was_started_before_keeps_the_engine_of_its_record(small_run_config):
    """A run without a record of engines was computed by diffusers' forward."""
    config = small_run_config(
        autoencoders={"tiny": None, "kl": {"name": "diffusers_kl", "random": True, "architecture": "tiny"}}
    )
    resolved = resolve_weights(config, Storage())
    assert autoencoder_engines(config, resolved, None)["kl"] == "fast"
    record: dict[str, Any] = {"config": {"autoencoders": {"kl": {}}}}
    assert autoencoder_engines(config, resolved, record)["kl"] == "diffusers"
    assert autoencoder_engines(config, resolved, record | {"engines": {"kl": "fast"}})["kl"] == "fast"
    assert autoencoder_engines(config, resolved, {"config": {"autoencoders": {}}})["kl"] == "fast"
    models = load_models(config, resolved, CPU, {"kl": "diffusers"})
    assert models.autoencoders["kl"].engine == "diffusers"  # type: ignore[attr-defined]
