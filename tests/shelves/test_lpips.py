"""The perceptual metric's weights: its two files, random ones, and files that are something else."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reconstructions import degraded, shapes

from sdvae_ray.errors import WeightsError
from sdvae_ray.metrics import lpips

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def weights_folder(folder: Path, suffix: str = ".pth", **linear: Any) -> Path:
    from safetensors.torch import save_file

    model = lpips.load(None, weights_seed=8)
    state = {f"features.{name}": value for name, value in model.features.state_dict().items()}
    if suffix == ".pth":
        torch.save(state, folder / "alexnet-owt-7be5be79.pth")
    else:
        save_file(state, folder / f"alexnet{suffix}")
    layers = {f"lin{number}.model.1.weight": weight for number, weight in enumerate(model.linear)}
    torch.save(layers | linear, folder / "alex.pth")
    return folder


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_lpips_reads_its_two_files(suffix, tmp_path):
    given = degraded(shapes(2, 64))
    read = lpips.load(weights_folder(tmp_path, suffix)).to(CPU)
    torch.testing.assert_close(read(given), lpips.load(None, weights_seed=8)(given), rtol=0, atol=0)


def test_random_weights_are_those_of_their_seed_and_touch_no_other():
    given, state = degraded(shapes(1, 64)), torch.get_rng_state()
    one, again, other = (lpips.load(None, weights_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one(given), again(given))
    assert (one(given) - other(given)).abs().min() > 1e-6
    assert all((weight >= 0).all() for weight in one.linear)


def test_lpips_is_not_defined_where_alexnet_sees_nothing():
    model = lpips.load(None)
    assert torch.isfinite(model(degraded(shapes(1, 31)))).all()
    assert model(degraded(shapes(1, 30))).isnan().all()


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("alexnet-owt-7be5be79.pth", "no alexnet.*torchvision's AlexNet"),
        ("alex.pth", "no alex.pth in .*of the lpips package"),
    ],
)
def test_a_missing_file_is_named_with_where_it_comes_from(missing, message, tmp_path):
    (weights_folder(tmp_path) / missing).unlink()
    with pytest.raises(WeightsError, match=message) as caught:
        lpips.load(tmp_path)
    assert "\n" not in str(caught.value)


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("the file's code was run",))


@pytest.mark.parametrize("name", ["alexnet-owt-7be5be79.pth", "alex.pth"])
@pytest.mark.parametrize(
    "content", [b"", b"not weights", pickle.dumps(Trap(), protocol=2)], ids=["empty", "text", "code"]
)
def test_a_file_that_is_not_weights_is_refused_and_not_run(name, content, tmp_path):
    (weights_folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name} is not") as caught:
        lpips.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_the_weights_of_another_model_are_refused(tmp_path):
    weights_folder(tmp_path, **{"lin4.model.1.weight": torch.zeros(1, 512, 1, 1)})
    with pytest.raises(WeightsError, match="512"):
        lpips.load(tmp_path)
    weights_folder(tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "alexnet-owt-7be5be79.pth")
    with pytest.raises(WeightsError, match="is not torchvision's AlexNet"):
        lpips.load(tmp_path)
