"""The fractions retrieved that the authors print, and the plates, models and settings that they were had with.

Cropsal & Mercado 2025, arXiv 2510.19887: CPJUMP1, four groups of cell line and time, 306 compounds each. A printed figure stands
only beside a run whose plates, compounds, controls and settings are those of jobs/configs/cpjump1-published.yaml. Any other run
has a list of its departures instead.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.settings.packing import PUBLISHED_TRIPLES

CITATION = "Cropsal & Mercado 2025, arXiv 2510.19887"
DATA = "CPJUMP1"
COMPOUNDS, CONTROLS = 306, 256  # of a group: 64 DMSO wells on each of its four plates
EXTRACTORS = ("openphenom", "inception_v3")  # names on the shelf
AUTOENCODER, SOURCE = "diffusers_kl", "CompVis/stable-diffusion-v1-4"

# aggregate -> (cell line, hours) -> OpenPhenom original, OpenPhenom reconstruction, Inception original, Inception reconstruction;
# a reconstruction's is the mean of three runs
FRACTIONS: dict[str, dict[tuple[str, int], tuple[float, float, float, float]]] = {
    "mean": {
        ("a549", 24): (0.8039, 0.8214, 0.8464, 0.8464),
        ("a549", 48): (0.9248, 0.9150, 0.9346, 0.9150),
        ("u2os", 24): (0.7745, 0.8268, 0.8333, 0.8519),
        ("u2os", 48): (0.7190, 0.7680, 0.7680, 0.7505),
    },
    "median": {
        ("a549", 24): (0.7222, 0.7288, 0.8725, 0.9063),
        ("a549", 48): (0.8824, 0.8791, 0.9608, 0.9510),
        ("u2os", 24): (0.8170, 0.8355, 0.8366, 0.8475),
        ("u2os", 48): (0.6601, 0.6972, 0.8366, 0.8366),
    },
}

# The compound plates of CPJUMP1 with parental cells at full density without an antibiotic (its experiment-metadata.tsv): 16, as the
# authors have. The authors' own list of plates was not seen.
PLATES: dict[tuple[str, int], tuple[str, ...]] = {
    ("a549", 24): ("BR00116991", "BR00116992", "BR00116993", "BR00116994"),
    ("a549", 48): ("BR00117015", "BR00117016", "BR00117017", "BR00117019"),
    ("u2os", 24): ("BR00116995", "BR00117024", "BR00117025", "BR00117026"),
    ("u2os", 48): ("BR00117010", "BR00117011", "BR00117012", "BR00117013"),
}

# what the numbers above were had with, by key of the run file; the aggregate is mean or median, one table each
_PROTOCOL: dict[str, Any] = {
    "image.stains": ["Mito", "AGP", "RNA", "ER", "DNA"],
    "image.resize": None,
    "image.crop": 1024,
    "image.patch": 256,
    "image.transpose": True,
    "image.scaling.method": "divide",
    "image.scaling.divisor": 256.0,
    "image.scaling.bits": 8,
    "precision": "float16",
    "score.exclude": None,
    "score.exclude_qc": None,
    "score.half_mean": True,
    "score.normalise": "published_float16",
    "score.fit": "controls",
    "score.negatives": "group",
    "score.null": "copairs",
    "score.null_size": 1_000_000,
    "score.strict": True,
    "score.threshold": 0.05,
    "score.ties": "copairs",
}
_SWITCHES = {  # of the extractors, true as published
    "inception_v3": ("half_mean",),
    "openphenom": ("half_mean", "published_range"),
}
_HOURS = re.compile(r"(\d+)(?:\.0+)?\s*(?:h|hr|hrs|hour|hours)?")


def printed(extractor: str, is_image_side: bool, group: str, aggregate: str) -> float | None:
    """Return the fraction retrieved, in [0, 1], that the authors print; None if they print none.

    extractor: its name on the shelf. group: cell line and hours, such as "A549 / 24", in either order and any case, with or
    without the unit of time. aggregate: mean or median, of the fields of a well.
    """
    row = FRACTIONS.get(aggregate, {}).get(cell_and_hours(group) or ("", 0))
    if row is None or extractor not in EXTRACTORS:
        return None
    return row[2 * EXTRACTORS.index(extractor) + (not is_image_side)]


def cell_and_hours(group: str) -> tuple[str, int] | None:
    """Return (cell line in small letters, hours) of a group's name; None if it names no such two."""
    values = [value.strip().lower() for value in group.split("/")]
    times = [int(match[1]) for value in values if (match := _HOURS.fullmatch(value))]
    cells = [re.sub(r"[^a-z0-9]", "", value) for value in values if not _HOURS.fullmatch(value)]
    return (cells[0], times[0]) if len(times) == len(cells) == 1 else None


def why_not(config: RunConfig, extractor: str, side: str) -> tuple[str, str] | None:
    """Return (name, reason) if no printed FR applies to this extractor (a name of the run) on this side, whatever the data; else
    None.
    """
    model = config.extractors.get(extractor)
    if model is None or model.name not in EXTRACTORS:
        return extractor, f"the authors print FR of {' and '.join(sorted(EXTRACTORS))} alone"
    if model.random:
        return extractor, "random weights"
    if side == IMAGE_SIDE:
        return None
    autoencoder = config.autoencoders.get(side)
    if autoencoder is None or autoencoder.name != AUTOENCODER:
        return side, f"the authors print FR of {AUTOENCODER} from {SOURCE} alone"
    if autoencoder.random:
        return side, "random weights"
    if autoencoder.source != SOURCE:
        return side, f"its weights are not from {SOURCE}"
    if autoencoder.latent_bits is not None:
        return side, "its latents are quantised"
    if config.triples(side) != config.image.triples or autoencoder.unpack != "first":
        return side, "it has a packing of its own"
    return None


def is_their_data(batches: Iterable[str | None]) -> bool:
    """Return whether every batch names CPJUMP1; False without batches."""
    names = list(batches)
    return bool(names) and all(DATA.lower() in (name or "").lower() for name in names)


def departures(config: RunConfig, extractors: Iterable[str], sides: Iterable[str]) -> list[str]:
    """Return one line per setting that departs from the published protocol: "score.negatives plate (published: group)".

    extractors, sides: the names that a printed FR is shown for.
    """
    wanted = {tuple(key.split(".")): value for key, value in _PROTOCOL.items()}
    for name in extractors:
        for switch in _SWITCHES[config.extractors[name].name]:
            wanted["extractors", name, switch] = True
    for side in sides:
        if side != IMAGE_SIDE:
            wanted["autoencoders", side, "latent"] = "sample"
    settings = config.model_dump(mode="json")
    lines = []
    for keys, theirs in wanted.items():
        ours: Any = settings
        for key in keys:
            ours = ours.get(key, False)  # of a switch that is not given
        if ours != theirs:
            lines.append(f"{'.'.join(keys)} {_said(ours)} (published: {_said(theirs)})")
    if config.image.triples != PUBLISHED_TRIPLES:
        lines.append(f"image.packing {_said(config.image.packing)} (published: published)")
    if config.image.policies is not None:
        lines.append(f"image.policies by {config.image.policies.column} (published: none)")
    return lines


def _said(value: Any) -> str:
    return json.dumps(value).strip('"')
