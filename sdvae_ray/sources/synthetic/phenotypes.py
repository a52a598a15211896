"""The phenotypes of synthetic cells: a perturbation changes a cell's look, with a strength."""

from dataclasses import dataclass, fields, replace


@dataclass(frozen=True)
class Look:
    """The look of a cell. The defaults are untreated (DMSO) cells; a number is a multiplier unless its comment says otherwise."""

    density: float = 1.0  # cells per area
    spread: float = 1.0  # radius of the cell body
    nucleus: float = 1.0  # radius of the nucleus
    dna: float = 1.0  # brightness of the nucleus
    chromatin: float = 1.0  # contrast of the chromatin texture
    mito: float = 1.0  # brightness of the mitochondria
    fragmentation: float = 0.0  # 0 = network of filaments, 1 = dots
    er: float = 1.0  # brightness of the endoplasmic reticulum
    vacuoles: float = 0.0  # 0..1, depth of the dark holes in the ER
    golgi_spread: float = 0.0  # 0 = one cluster beside the nucleus, 1 = scattered over the cell
    nucleoli: float = 1.0  # brightness of the nucleoli
    edge: float = 1.0  # brightness of the actin at the cell's edge
    fibres: float = 1.0  # contrast of the stress fibres


UNTREATED = Look()
PHENOTYPES: dict[str, Look] = {
    "none": UNTREATED,
    "nuclear_shrinkage": Look(nucleus=0.68, dna=1.55, chromatin=0.5, density=0.7),
    "mito_fragmentation": Look(fragmentation=1.0),
    "er_stress": Look(er=1.35, vacuoles=1.0),
    "golgi_dispersal": Look(golgi_spread=1.0),
    "nucleolar_loss": Look(nucleoli=0.0),
    "actin_edge": Look(edge=3.5, fibres=2.2),
    "cell_loss": Look(density=0.35, spread=1.15),
}


def look_of(phenotype: str, strength: float) -> Look:
    """Return the look at `strength` in [0, 1], on the straight line from untreated (0) to the full phenotype (1)."""
    target = PHENOTYPES[phenotype]
    pairs = {f.name: (getattr(UNTREATED, f.name), getattr(target, f.name)) for f in fields(Look)}
    return replace(UNTREATED, **{name: a + strength * (b - a) for name, (a, b) in pairs.items()})
