"""The fractions retrieved that the authors print, and the rows of a run that they may be compared with.

Cropsal & Mercado 2025, arXiv 2510.19887: CPJUMP1, four groups of cell line and time, 306 compounds each.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.report.facts import outcome
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.schema import BATCH_COLUMN
from sdvae_ray.settings.packing import PUBLISHED_TRIPLES

CITATION = "Cropsal & Mercado 2025, arXiv 2510.19887"
DATA = "CPJUMP1"
COMPOUNDS = 306
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

# what the numbers above were had with, by key of the run file
_PROTOCOL: dict[str, Any] = {
    "image.resize": None,
    "image.crop": 1024,
    "image.patch": 256,
    "image.transpose": True,
    "image.scaling.method": "divide",
    "image.scaling.divisor": 256.0,
    "image.scaling.bits": 8,
    "precision": "float16",
    "score.normalise": "published",
    "score.fit": "controls",
    "score.negatives": "group",
    "score.null": "copairs",
    "score.null_size": 1_000_000,
    "score.threshold": 0.05,
    "score.ties": "copairs",
}
_SWITCHES = {"inception_v3": "half_mean", "openphenom": "published_range"}  # of the extractors, true as published
_HOURS = re.compile(r"(\d+)(?:\.0+)?\s*(?:h|hr|hrs|hour|hours)?")


def printed(extractor: str, is_image_side: bool, group: str, aggregate: str) -> float | None:
    """Return the fraction retrieved, in [0, 1], that the authors print; None if they print none.

    extractor: its name on the shelf. group: cell line and hours, such as "A549 / 24", in either order and any case, with or
    without the unit of time. aggregate: mean or median, of the fields of a well.
    """
    row = FRACTIONS.get(aggregate, {}).get(_cell_and_hours(group) or ("", 0))
    if row is None or extractor not in EXTRACTORS:
        return None
    return row[2 * EXTRACTORS.index(extractor) + (not is_image_side)]


def _cell_and_hours(group: str) -> tuple[str, int] | None:
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
        wanted["extractors", name, _SWITCHES[config.extractors[name].name]] = True
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
    return lines


def _said(value: Any) -> str:
    return json.dumps(value).strip('"')


@dataclass(frozen=True)
class Papers:
    """The printed FR that apply to a run. fractions: (extractor, group, side) -> FR. reasons: why other rows have no printed FR.
    departures: from the published protocol."""

    fractions: dict[tuple[str, ...], float]
    reasons: list[str]
    departures: list[str]


def papers(scored: ScoredRun) -> Papers:
    """Return the printed FR that apply to the run, why other rows have none, and the run's departures from the protocol."""
    config = scored.config
    reasons: dict[str, dict[str, None]] = {}  # reason -> whose, in order
    fitting: list[Values] = []
    for row in outcome.retrieval_rows(scored):
        who, why = why_not(config, row["extractor"], row["side"]) or ("", "")
        if why:
            reasons.setdefault(why, {})[who] = None
        else:
            fitting.append(row)
    batches = scored.usable[BATCH_COLUMN].unique().to_list() if BATCH_COLUMN in scored.fovs.columns else []
    if fitting and not is_their_data(batches):
        reasons[f"its batches are not all of {DATA}"], fitting = {"this run": None}, []
    fractions: dict[tuple[str, ...], float] = {}
    for row in fitting:
        extractor, group, side = (row[name] for name in ("extractor", "group", "side"))
        fraction = printed(config.extractors[extractor].name, side == IMAGE_SIDE, group, config.score.aggregate)
        if fraction is None:
            reasons.setdefault("the authors' groups are A549 and U2OS, 24 and 48 h", {})[group] = None
        else:
            fractions[extractor, group, side] = fraction
    extractors, sides = (dict.fromkeys(key[index] for key in fractions) for index in (0, 2))
    lines = [f"no printed FR for {', '.join(who)}: {why}" for why, who in reasons.items()]
    return Papers(fractions, lines, departures(config, extractors, sides) if fractions else [])
