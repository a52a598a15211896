"""How stains are packed into RGB passes, as a run file says it: by name, or as a list of triples of stains.

published  (Mito, AGP, RNA) and (RNA, ER, DNA)
grey       every stain alone, on all three planes
"""

from collections.abc import Sequence
from typing import Literal

from sdvae_ray.errors import did_you_mean

Triples = tuple[tuple[str, str, str], ...]
Packing = Literal["published", "grey"] | Triples
Unpacking = Literal["first", "last"]  # the triple from which a stain is read back, of the triples that hold it
PUBLISHED_TRIPLES: Triples = (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))


def triples_of(packing: Packing, stains: Sequence[str]) -> Triples:
    """Return the three stains of each RGB pass."""
    if packing == "published":
        return PUBLISHED_TRIPLES
    if packing == "grey":
        return tuple((stain, stain, stain) for stain in stains)
    return packing


def check_triples(triples: Triples, stains: Sequence[str]) -> None:
    """Raise ValueError, in one line, unless every stain is in a triple and every name in a triple is a stain."""
    packed = {stain for triple in triples for stain in triple}
    if unknown := packed - set(stains):
        name = sorted(unknown)[0]
        raise ValueError(f"packing names a stain that is not in stains: {name!r}{did_you_mean(name, stains)}")
    if missing := [stain for stain in stains if stain not in packed]:
        raise ValueError(f"packing leaves out {', '.join(missing)}: every stain must be in a triple")


def pass_names(triples: Triples) -> list[str]:
    """Return the names of RGB passes: Mito+AGP+RNA, or the stain's name for a pass of one stain."""
    return ["+".join(dict.fromkeys(triple)) for triple in triples]
