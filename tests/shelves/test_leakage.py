"""Leakage: the correlation of a stain's error with the fine detail of every other stain, where cells are."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from sdvae_ray.contracts import Reconstruction
from sdvae_ray.images.foreground import foreground
from sdvae_ray.metrics import leakage

SIZE = 96  # pixels


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def cells(count: int = 2, stains: int = 3, seed: int = 0) -> Tensor:
    """A textured disc on a dark ground, another texture in every stain; its edge is soft, since a shared edge is shared detail."""
    draws = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    disc = torch.sigmoid((SIZE / 3 - torch.hypot(y - SIZE / 2, x - SIZE / 2)) / 6)
    texture = torch.rand(count, stains, SIZE, SIZE, generator=draws)
    return 0.05 + disc * (0.3 + 0.3 * texture)


def pair(image: Tensor, recon: Tensor) -> Reconstruction:
    return Reconstruction(image, recon, image[:, None, :3], recon[:, None, :3], None)


def detail(plane: np.ndarray) -> np.ndarray:
    return plane - uniform_filter(plane, 9, mode="mirror")


def test_it_is_the_correlation_over_the_foreground_of_any_stain():
    image = cells()
    recon = (image + 0.05 * torch.rand(image.shape, generator=torch.Generator().manual_seed(3))).roll(1, 3)
    values = leakage.compute(pair(image, recon))
    mask = foreground(image).any(1).numpy()
    for patch in range(2):
        for error in range(3):
            for other in range(3):
                if error == other:
                    assert torch.isnan(values[patch, error, other])
                    continue
                difference = (recon - image)[patch, error].double().numpy()[mask[patch]]
                texture = detail(image[patch, other].double().numpy())[mask[patch]]
                expected = np.corrcoef(difference, texture)[0, 1]
                assert values[patch, error, other].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("share", [0.3, -0.3])
def test_texture_that_is_drawn_into_another_stain_is_seen_with_its_sign(share):
    image = cells()
    recon = image.clone()
    recon[:, 0] += share * torch.from_numpy(np.stack([detail(plane.numpy()) for plane in image[:, 1]]))
    values = leakage.compute(pair(image, recon))
    torch.testing.assert_close(values[:, 0, 1], torch.full((2,), float(np.sign(share))), atol=1e-4, rtol=0)
    assert (values[:, 0, 2].abs() < 0.1).all()  # the third stain has another texture
    assert torch.isnan(values[:, 1:]).all()  # no error, no leak


def test_a_stain_that_is_blurred_leaks_into_no_other():
    image = cells()
    recon = torch.from_numpy(np.stack([uniform_filter(plane.numpy(), (0, 5, 5)) for plane in image]))
    values = leakage.compute(pair(image, recon))
    other = ~torch.eye(3, dtype=torch.bool)
    assert (values[:, other].abs() < 0.15).all()


def test_a_patch_without_cells_and_a_constant_stain_have_no_leak():
    image = cells(3)
    image[0] = 0.05
    image[1, 2] = 0.5
    recon = image + 0.02 * torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    values = leakage.compute(pair(image, recon))
    assert torch.isnan(values[0]).all()  # blank
    assert torch.isnan(values[1, :, 2]).all()  # a constant stain has no detail
    assert torch.isfinite(values[1, 2, :2]).all()  # texture drawn into an empty stain is a leak
    assert torch.isfinite(values[2][~torch.eye(3, dtype=torch.bool)]).all()
