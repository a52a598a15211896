"""Key `ladder` of a run file: one line that makes many sides of known and rising damage.

It is expanded where a run file is read: everything below sees autoencoders and codecs alone, and run.json has them one by one.
"""

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from sdvae_ray.errors import ConfigError
from sdvae_ray.settings.values import Name, Section

LADDER = "ladder"
Strengths = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]
_NOT_COMPRESSED = "identity"  # its latent is the image
# codec: the option that is its strength, how a side is named after it, and the strengths of `true`
_STRENGTHS: dict[str, tuple[str, str, tuple[float, ...]]] = {
    "jpeg": ("quality", "q", (5, 10, 20, 40, 80)),
    "jpegxl": ("distance", "d", (1, 2, 4, 8, 15)),
    "jpeg2000": ("level", "db", (25, 30, 35, 40, 45)),
    "avif": ("quality", "q", (10, 30, 50, 70, 90)),
}


class LadderConfig(Section):
    """Section `ladder`, or `ladder: true` for its defaults."""

    codecs: tuple[Name, ...] | dict[Name, Strengths] = ("jpeg", "jpegxl")
    """Names of codecs, or codec: strengths (quality of jpeg and avif, distance of jpegxl, level of jpeg2000)."""
    latent_bits: tuple[Annotated[int, Field(ge=1, le=12)], ...] = (1, 2, 3, 4, 6, 8)
    """Every autoencoder of the run file without latent_bits is repeated with each of them; identity is not."""
    blur: Strengths = (0.5, 1, 2, 4)
    """Standard deviations of a Gaussian in pixels."""
    noise: Strengths = (0.005, 0.01, 0.02, 0.05)
    """Standard deviations of Gaussian noise, as fractions of full scale."""


def with_ladder(raw: dict[str, Any], ladder: LadderConfig, where: str) -> dict[str, Any]:
    """Return the mapping of a run file with the sides of a ladder among its autoencoders and codecs, after its own.

    Raises ConfigError for a codec without strengths, and for a side whose name the run file has with other settings.
    """
    shelves = [raw.get("autoencoders") or {}, raw.get("codecs") or {}]
    if not all(isinstance(shelf, dict) for shelf in shelves):
        return raw  # RunConfig says what is wrong
    autoencoders, codecs = (dict(shelf) for shelf in shelves)
    for side, settings in list(_of_latents(autoencoders, ladder)):
        _add(autoencoders, side, settings, f"{where}: autoencoders.{side}")
    for side, settings in _of_images(ladder, where):
        _add(codecs, side, settings, f"{where}: codecs.{side}")
    return {**raw, "autoencoders": autoencoders, "codecs": codecs}


def _add(shelf: dict[str, Any], side: str, settings: dict[str, Any], place: str) -> None:
    if shelf.setdefault(side, settings) != settings:
        raise ConfigError(
            f"{place} has other settings than the side of that name that `{LADDER}` makes; give it another name"
        )


def _of_latents(autoencoders: dict[str, Any], ladder: LadderConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, settings in autoencoders.items():
        if not isinstance(settings, dict) or settings.get("latent_bits") or settings.get("name") == _NOT_COMPRESSED:
            continue
        for bits in ladder.latent_bits:
            yield f"{name}_b{bits}", {**settings, "latent_bits": bits}


def _of_images(ladder: LadderConfig, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    asked = ladder.codecs if isinstance(ladder.codecs, dict) else dict.fromkeys(ladder.codecs)
    for codec, strengths in asked.items():
        if codec not in _STRENGTHS:
            raise ConfigError(f"{where}: {LADDER}.codecs: {codec} has no strengths (allowed: {', '.join(_STRENGTHS)})")
        option, letter, usual = _STRENGTHS[codec]
        for strength in strengths or usual:
            yield f"{codec}_{letter}{strength:g}", {"name": codec, option: _plain(strength)}
    for sigma in ladder.blur:
        yield f"blur_{sigma:g}", {"name": "blur", "sigma": _plain(sigma)}
    for sd in ladder.noise:
        yield f"noise_{sd:g}", {"name": "noise", "sd": _plain(sd)}


def _plain(number: float) -> float:
    """Return 20.0 as the integer 20, which is what an option of whole numbers takes."""
    return int(number) if float(number).is_integer() else number
