"""The settings of runs beside each other: what each was computed with, and the keys in which they differ."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sdvae_ray.report.facts.scored import ScoredRun, Values

ABSENT = object()  # the value of a key that a run does not have
_RECORDED = ("manifest", "sdvae_ray", "python", "precision", "micro_batch", "libraries", "weights")


def settings_of(scored: ScoredRun) -> Values:
    """Return the run file with its packings resolved, and `recorded`: what run.json says of the manifest, versions and weights."""
    settings = scored.config.model_dump(mode="json", exclude={"manifest", "output"})
    settings["image"]["packing"] = [list(triple) for triple in scored.config.image.triples]
    for name, autoencoder in settings["autoencoders"].items():
        autoencoder["packing"] = [list(triple) for triple in scored.config.triples(name)]
    record = scored.record or {}
    return {**settings, "recorded": {key: record[key] for key in _RECORDED if key in record}}


def differences(settings: Sequence[Any], key: str = "") -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield (key, values) of every difference; a value is ABSENT where a run lacks the key. A mapping that only some runs have is
    one difference, with all its content.
    """
    if all(isinstance(value, Mapping) for value in settings):
        for name in dict.fromkeys(name for mapping in settings for name in mapping):
            yield from differences([mapping.get(name, ABSENT) for mapping in settings], f"{key}.{name}".lstrip("."))
    elif any(value != settings[0] for value in settings[1:]):
        yield key, tuple(settings)


def in_words(value: Any) -> str:
    """Return a value of a run file in short: only the settings of a model that are set, only the first 12 digits of a hash."""
    if isinstance(value, dict):
        settings = ((key, setting) for key, setting in value.items() if setting is not None and setting is not False)
        return ", ".join(f"{key} {in_words(setting)}" for key, setting in settings)
    text = value if isinstance(value, str) else json.dumps(value).replace('"', "")
    return re.sub(r"\b[0-9a-f]{64}\b", lambda match: match[0][:12], text)
