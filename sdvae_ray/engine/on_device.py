"""A field of view before and after its work on the device."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from sdvae_ray.contracts import Extractor
from sdvae_ray.engine.compress import Compressed
from sdvae_ray.engine.forward import Lap
from sdvae_ray.engine.sides import Side
from sdvae_ray.engine.transfer import Clock, Download
from sdvae_ray.run.cost import Costs, added


@dataclass(frozen=True)
class Fov:
    """A FOV to compute: image (P, C, S, S) integers on the device; its stored latents; its compressed forms, one per codec."""

    fov_id: str
    image: Tensor
    latents: Mapping[str, np.ndarray]
    compressed: Mapping[str, Compressed]


@dataclass(frozen=True)
class Launched:
    """A FOV on the device whose columns are on their way to the host. laps: of its parts."""

    columns: Download
    clock: Clock
    laps: list[Lap]

    def costs(self) -> Costs:
        """Return what its parts cost; the columns must have arrived."""
        return added({lap.part: lap.cost()} for lap in self.laps)


def charged(side: str) -> str:
    """Return the name under which the latent of a side comes to the host to be coded; no column of a table begins so."""
    return f"charged latent of {side}"


def inputs_of(extractor: Extractor, output: Side) -> Tensor | None:
    """Return the tensor of a side that the extractor takes; None if the side lacks it."""
    if extractor.takes == "rgb":
        return output.result.recon_rgb
    return output.result.recon if extractor.takes == "stains" else output.decoded
