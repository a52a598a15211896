"""The engine's benchmark on a tiny architecture: what it prints, that its parts are the whole, what it counts."""

import contextlib
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import engine

from sdvae_ray.autoencoders import diffusers_kl
from sdvae_ray.engine.flop import count_flop
from sdvae_ray.engine.models import pick_precision

CPU, META = torch.device("cpu"), torch.device("meta")
TINY = ["--architecture=tiny", "--patch=64", "--crop=128", "--device=cpu", "--threads=1", "--warmup=0", "--repeats=1"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def benchmark(*arguments):
    """Exit code and what was printed to standard output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = engine.main([*TINY, *arguments])
    return code, out.getvalue()


@pytest.fixture(scope="module")
def printed():
    code, out = benchmark("--micro-batch", "3,16")
    assert code == 0
    return out


@pytest.fixture(scope="module")
def record(printed):
    return json.loads(printed.splitlines()[-1])


def test_the_last_line_is_one_json_object_with_the_machine_and_the_settings(record):
    keys = {"benchmark", "weights", "date", "machine", "settings", "gflop_per_fov", "reference", "results", "left_out"}
    assert set(record) == keys
    assert (record["benchmark"], record["weights"]) == ("engine", "random")
    assert record["settings"]["patches_per_fov"] == 4
    assert record["machine"]["torch"] == torch.__version__
    assert record["machine"]["threads"] == 1


def test_the_table_says_that_weights_are_random(printed):
    assert "random weights" in printed


def test_the_parts_sum_to_the_whole(record):
    (result,) = record["results"]
    assert set(result["seconds"]) == set(engine.PARTS)
    assert sum(result["seconds"].values()) == pytest.approx(result["seconds_per_fov"], rel=1e-3)
    assert 0 <= result["seconds"]["other"] < 0.2 * result["seconds_per_fov"]
    assert sum(result["core_seconds"].values()) == pytest.approx(result["core_seconds_per_fov"], rel=1e-3)


def test_rates_and_shares_follow_from_seconds_and_flop(record):
    (result,) = record["results"]
    tflop = sum(record["gflop_per_fov"].values()) / 1e3
    assert min(record["gflop_per_fov"].values()) > 0
    assert result["tflops"] == pytest.approx(tflop / result["seconds_per_fov"], rel=1e-3)
    assert result["patches_per_s"] == pytest.approx(4 / result["seconds_per_fov"], rel=1e-3)
    fastest = max(rate["core_tflops"] for name, rate in record["reference"]["plain"].items() if "product" in name)
    assert result["share_of_product"] == pytest.approx(tflop / result["core_seconds_per_fov"] / fastest, rel=1e-3)


def test_padding_is_told_and_a_micro_batch_that_no_fov_fills_is_left_out(record):
    (result,) = record["results"]
    assert (result["micro_batch"], result["padded_passes"]) == (3, 1)
    assert record["left_out"] == ["micro-batch 16: a FOV has 8 passes"]


def test_an_impossible_crop_is_one_line_and_exit_code_2(capsys):
    code, out = benchmark("--crop", "100")
    assert (code, out) == (2, "")
    assert "crop 100 is not a multiple of patch 64" in capsys.readouterr().err


@pytest.mark.parametrize("device", [CPU, META])
def test_a_convolution_costs_what_a_hand_count_says(device):
    layer = nn.Conv2d(3, 8, 5, padding=2).to(device)
    images = torch.zeros(2, 3, 16, 20, device=device)
    assert count_flop(lambda: layer(images)) == 2 * (2 * 8 * 16 * 20) * (3 * 5 * 5)


@pytest.mark.parametrize("device", [CPU, META])
def test_attention_is_counted(device):
    tokens = torch.zeros(1, 1, 64, 16, device=device)
    flop = count_flop(lambda: functional.scaled_dot_product_attention(tokens, tokens, tokens))
    assert flop == 2 * (2 * 64 * 64 * 16)


def test_counting_without_data_equals_counting_with_it():
    options = engine.parse(["--architecture", "tiny", "--patch", "64", "--crop", "128"])
    options.precision = pick_precision("auto", CPU)
    config = engine.run_config(options)
    model = diffusers_kl.load(None, architecture="tiny", engine="diffusers")
    passes = torch.rand(4 * 2, 3, 64, 64)
    counted = engine.flop_per_fov(config)
    assert counted["encode"] == count_flop(lambda: model.encode(passes))
    assert counted["decode"] == count_flop(lambda: model.decode(torch.rand(4 * 2, 4, 8, 8)))
