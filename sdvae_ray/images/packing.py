"""Packs stains into RGB passes, and unpacks them again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sdvae_ray.settings.packing import Unpacking


class Packing:
    """T triples of stains; a triple is one RGB pass. A stain is unpacked as the mean over its planes in one pass.

    unpack: `first` or `last`, of the passes that hold the stain. The published triples are (Mito, AGP, RNA) and (RNA, ER, DNA), and
    RNA is unpacked from the first.
    """

    def __init__(self, stains: Sequence[str], triples: Sequence[Sequence[str]], unpack: Unpacking = "first") -> None:
        self.index = [[stains.index(stain) for stain in triple] for triple in triples]
        self.sources: list[tuple[int, list[int]]] = []  # per stain: (pass, planes in it)
        for stain in range(len(stains)):
            holding = [number for number, triple in enumerate(self.index) if stain in triple]
            number = holding[0 if unpack == "first" else -1]
            self.sources.append((number, [plane for plane in range(3) if self.index[number][plane] == stain]))

    @property
    def passes(self) -> int:
        """Return T, the number of RGB passes."""
        return len(self.index)

    def pack(self, stains: Tensor) -> Tensor:
        """Return the RGB passes (N, T, 3, S, S) of stains (N, C, S, S)."""
        planes = torch.stack([stains[:, stain] for triple in self.index for stain in triple], 1)
        return planes.unflatten(1, (len(self.index), 3))

    def unpack(self, rgb: Tensor) -> Tensor:
        """Return the stains (N, C, S, S) of RGB passes (N, T, 3, S, S)."""
        return torch.stack([_mean([rgb[:, t, plane] for plane in planes]) for t, planes in self.sources], 1)


def _mean(planes: list[Tensor]) -> Tensor:
    """Return the mean of images (N, S, S), exact if they are equal."""
    first = planes[0]
    return first if len(planes) == 1 else first + (torch.stack(planes, 1) - first[:, None]).mean(1)
