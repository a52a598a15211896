"""The nominal floating-point operations of a run's networks, counted from their architectures on tensors without data.

Nominal: matrix products and convolutions of diffusers' own forward, without padding; a multiply-add counts as two. Metrics, codecs
and extractors without a network count as none.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sdvae_ray.config import RunConfig
from sdvae_ray.contracts import Extractor
from sdvae_ray.engine.models import Models, load_models, resolve_weights
from sdvae_ray.images.packing import Packing
from sdvae_ray.storage import Storage

_META = torch.device("meta")


def count_flop(call: Callable[[], object]) -> int:
    """Return the floating-point operations of matrix products and convolutions in one call.

    Attention runs as plain products here, because the counter sees no operations in the fused kernel of a CPU.
    """
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        call()
    return int(counter.get_total_flops())


def models_without_data(config: RunConfig, storage: Storage) -> Models:
    """Return the models of a run on torch's meta device. Raises WeightsError for weights that are not there."""
    return load_models(config, resolve_weights(config, storage), _META)


def flop_of_a_call(config: RunConfig, models: Models) -> dict[str, int]:
    """Return part -> nominal operations of one call of the part, named and called as the parts of `run.cost`.

    `encode` and `decode` of an autoencoder are of a field of view, `extract` of an extractor of one side of it. models: from
    `models_without_data`.
    """
    image = config.image
    rgb = torch.empty(1, 3, image.patch, image.patch, device=_META)
    flop: dict[str, int] = {}
    for side, autoencoder in models.autoencoders.items():
        with torch.inference_mode():
            latent = autoencoder.encode(rgb).mean
        passes = image.patches * Packing(image.stains, config.triples(side)).passes
        flop[f"encode {side}"] = passes * count_flop(partial(autoencoder.encode, rgb))
        flop[f"decode {side}"] = passes * count_flop(partial(autoencoder.decode, latent))
    for name, extractor in models.extractors.items():
        flop[f"extract {name}"] = image.patches * _of_a_patch(config, extractor)
    return flop


def parameters_of(models: Models) -> int:
    """Return the number of parameters of all networks; entries of one object count once."""
    networks = {id(network): network for part in vars(models).values() for network in map(_network, part.values())}
    return sum(parameter.numel() for network in networks.values() if network for parameter in network.parameters())


def _of_a_patch(config: RunConfig, extractor: Extractor) -> int:
    """Return the operations of an extractor on one patch of one side; 0 without a network."""
    if _network(extractor) is None or extractor.takes == "latent":
        return 0
    image, size = config.image, config.image.patch
    shape = (1, len(image.triples), 3, size, size) if extractor.takes == "rgb" else (1, len(image.stains), size, size)
    return count_flop(lambda: extractor(torch.empty(shape, device=_META)))


def _network(model: Any) -> torch.nn.Module | None:
    """Return the module of torch that a model is, or holds as `model`; None for a function."""
    inner = model if isinstance(model, torch.nn.Module) else getattr(model, "model", None)
    return inner if isinstance(inner, torch.nn.Module) else None
