"""Images for the tests of metrics: noise, and real cells."""

import numpy as np
import pytest
import tifffile
import torch
from reconstructions import blurred_with_noise
from torch import Tensor

from sdvae_ray.contracts import Reconstruction


@pytest.fixture(scope="session")
def noise() -> Reconstruction:
    return blurred_with_noise(torch.rand(2, 5, 192, 192, generator=torch.Generator().manual_seed(3)), 0.1)


@pytest.fixture(scope="session")
def cells(real_field) -> Reconstruction:
    """Three crops of 192 pixels of the real field, as a run scales them."""
    planes = np.stack([tifffile.imread(path) for path in real_field.values()]) / 256 / 255
    crops = [planes[:, y : y + 192, x : x + 192] for y, x in ((40, 40), (600, 300), (284, 796))]
    return blurred_with_noise(torch.from_numpy(np.stack(crops).astype(np.float32)), 0.01)


@pytest.fixture(params=["noise", "cells"])
def pair(request) -> Reconstruction:
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def field(real_field) -> Tensor:
    """(5, 1024, 1024): the centre of the real field in 8 bits, as a run scales it."""
    planes = np.stack([tifffile.imread(path)[28:1052, 28:1052] for path in real_field.values()])
    return torch.from_numpy((planes // 256).astype(np.float32) / 255)
