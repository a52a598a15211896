"""The catalogue of the shelves: every model, codec and metric with its size, licence, input, output, and if its weights are here.

Nothing is built and nothing is fetched: the modules are imported and read.
"""

from dataclasses import asdict
from typing import Any

from sdvae_ray import shelves, weights
from sdvae_ray.config import SHELVES, Shelf

Entry = dict[str, Any]


def catalogue() -> list[Entry]:
    """Return one entry per module, in the order of the shelves:

    shelf, name, summary
    checkpoints    of models and codecs: the fields of contracts.Checkpoint, and `at_hand`; None if no weights are needed
    unit, higher_is_better (None: no direction is better), takes_weights, bands (["stains"]: those of the run)    of metrics
    """
    return [_entry(shelf, name) for shelf in SHELVES for name in shelves.names(shelf)]


def _entry(shelf: Shelf, name: str) -> Entry:
    module = shelves.find(shelf, name)
    checkpoints = [
        asdict(known) | {"at_hand": None if known.source is None else weights.at_hand(known.source, known.subfolder)}
        for known in getattr(module, "CHECKPOINTS", ())
    ]
    entry: Entry = {"shelf": shelf, "name": name, "summary": shelves.summary(shelf, name), "checkpoints": checkpoints}
    if shelf == "metrics":
        entry |= {"unit": getattr(module, "UNIT", ""), "higher_is_better": getattr(module, "HIGHER_IS_BETTER", None)}
        bands = ["stains"] if getattr(module, "AGAINST_STAINS", False) else list(getattr(module, "BANDS", ()))
        entry |= {"bands": bands, "takes_weights": hasattr(module, "load")}
    return entry
