"""The cell count: foreground and bright objects of every stain, on patches whose cells are known."""

import pytest
import torch
from torch import Tensor

from sdvae_ray.extractors import cell_count

SIZE = 128  # pixels


def discs(centres: list[tuple[int, int]], radius: float = 8, level: float = 0.5) -> Tensor:
    y, x = torch.meshgrid(torch.arange(float(SIZE)), torch.arange(float(SIZE)), indexing="ij")
    plane = torch.full((SIZE, SIZE), 0.05)
    for row, column in centres:
        plane = torch.maximum(plane, level * torch.sigmoid(radius - torch.hypot(y - row, x - column)))
    return plane


@pytest.mark.parametrize("level", [0.2, 0.9, 40.0])
def test_nuclei_apart_are_counted_whatever_their_brightness(level):
    """A level of 40 saturates: flat tops are one object each."""
    centres = [(20, 20), (20, 64), (64, 30), (90, 90), (110, 40)]
    stains = torch.stack([discs(centres, level=level), discs(centres[:2], level=level)]).clamp(0, 1)
    features = cell_count.load(None)(stains[None])
    assert features.shape == (1, 2, 2)
    assert features[0, :, 1].tolist() == [5, 2]
    assert features[0, 0, 0] == pytest.approx(2.5 * features[0, 1, 0].item(), rel=0.1)


def test_a_blank_and_a_noisy_patch_have_no_cells():
    noise = 0.1 + 0.02 * torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    for stains in (torch.full((1, 1, SIZE, SIZE), 0.3), torch.zeros(1, 1, SIZE, SIZE), noise.clamp(0, 1)):
        assert cell_count.load(None)(stains).tolist() == [[[0, 0]]]


def test_a_patch_is_counted_by_itself():
    stains = torch.stack([discs([(30, 30)]), discs([(30, 30), (90, 90)]), torch.zeros(SIZE, SIZE)])[:, None]
    together = cell_count.load(None)(stains)
    assert together[:, 0, 1].tolist() == [1, 2, 0]
    assert torch.equal(together, torch.cat([cell_count.load(None)(stains[[row]]) for row in range(3)]))


def test_the_maximum_within_reach_is_that_of_a_pool():
    planes = torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0))
    pooled = torch.nn.functional.max_pool2d(planes[:, None], 2 * cell_count.REACH + 1, 1, cell_count.REACH)[:, 0]
    assert torch.equal(cell_count._highest_within_reach(planes), pooled)
