"""What the parts of a run cost: measured in the engine, kept in run.json, told of every side and metric as if it were alone."""

import time

import pytest
import torch
from test_engine import CPU, encoder, fovs, models_of

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.models import Models
from sdvae_ray.run.cost import COSTS, Cost, added, of_metric, of_side, recorded, told

BURNT = 0.03  # core-seconds


def burn(image: torch.Tensor) -> torch.Tensor:
    end = time.process_time() + BURNT
    while time.process_time() < end:
        pass
    return image.amax()


def first(pair: Reconstruction) -> torch.Tensor:
    return pair.of_image(burn).expand(len(pair.image))


def second(pair: Reconstruction) -> torch.Tensor:
    return pair.of_image(burn).expand(len(pair.image))


def test_every_part_of_a_fov_is_measured_once_a_fov(small_run_config):
    config = small_run_config(autoencoders={"tiny": {"latent_bits": 4}}, codecs={"j": {"name": "jpeg"}})
    ready, compressor = encoder(config), Compressor.of(config)
    ready(compressor(fovs(config, 3, bad=(1,))))
    costs = added([ready.costs, compressor.costs])
    for part in ("encode tiny", "decode tiny", "code tiny", "compress j"):
        assert costs[part].calls == 2, part  # the third has an error
        assert costs[part].core_seconds > 0
        assert costs[part].gpu_seconds is None
    for name in config.metrics:
        assert costs[f"metric {name}"].calls == 2 * len(config.sides)
    assert costs["extract intensity"].calls == 2 * (1 + len(config.sides))
    assert "compress tiny" not in costs
    parts = [costs[f"{verb} tiny"].of_a_call.core_seconds for verb in ("encode", "decode", "code")]
    assert of_side(costs, "tiny").core_seconds == pytest.approx(sum(parts))
    assert of_side(costs, "j").core_seconds == costs["compress j"].core_seconds / 2
    assert of_side(costs, "unheard of") is None


def test_a_shared_result_is_charged_to_every_metric_that_asks_for_it_and_once_a_field(small_run_config):
    config = small_run_config(metrics=["mae", "mse"])
    models = models_of(config)
    ready = encoder(config, Models(models.autoencoders, {}, {"mae": first, "mse": second}))
    ready(fovs(config, 1))
    for name in ("mae", "mse"):
        cost = ready.costs[f"metric {name}"]
        assert cost.calls == len(config.sides) == 2
        assert BURNT <= cost.core_seconds < 2 * BURNT


def test_sides_that_share_an_encoder_are_each_told_its_cost(small_run_config):
    tiny = {"name": "diffusers_kl", "random": True, "architecture": "tiny"}
    config = small_run_config(autoencoders={"tiny": tiny, "coarse": {**tiny, "latent_bits": 2}})
    ready = encoder(config)
    ready(fovs(config, 1))
    assert ready.costs["encode coarse"] == ready.costs["encode tiny"]
    assert ready.costs["decode coarse"] != ready.costs["decode tiny"]


def test_the_record_gives_the_costs_of_all_sessions_back():
    costs = {"encode sd": Cost(4, 2.0, 0.5), "metric ssim": Cost(8, 0.25)}
    record = {"sessions": [{"stages": [{COSTS: told(costs)}, {COSTS: told(costs)}]}, {"stages": [{}]}, {}]}
    again = recorded(record)
    assert again == added([costs, costs])
    assert again["encode sd"] == Cost(8, 4.0, 1.0)
    assert of_side(again, "sd") == Cost(1, 0.5, 0.125)
    assert of_metric(again, "ssim") == Cost(1, 0.03125)
    assert recorded(None) == {}


def test_costs_do_not_change_a_number(small_run_config):
    config = small_run_config()
    ready, batch = encoder(config), fovs(config, 1)
    assert ready.forward.device == CPU
    ready(batch)
    before = set(ready.costs)
    out = ready(batch)
    assert set(ready.costs) == before
    assert not [name for name in out if name.startswith("charged")]
    assert not ready.forward.laps
