"""How often a verdict is wrong: equivalence where the difference is exactly at the margin, other words and losses on noise.

    python benchmarks/verdicts.py [--repeats 2000]

First table: differences of C compounds on P plates, drawn with known spreads of compounds, plates and wells. "equivalent at the
margin" is the share of differences exactly at the margin that are called equivalent; it may be 5 %. "inferior at the margin" is
the same for inferior, and "inferior or superior on noise" is with a true difference of 0. "percentile" is what the percentile
interval of the hierarchical bootstrap alone would call equivalent at the margin. Second table: rare and large losses. Third table:
AP of wells whose side has other noise and the same effect; the share of data sets of eight compounds in which one or more are
called fallen. The last line is one JSON document.
"""

import argparse
import json

import numpy as np
import polars as pl

from sdvae_ray.retrieval.significance.bootstrap import hierarchical
from sdvae_ray.retrieval.significance.equivalence import EQUIVALENT, INFERIOR, SUPERIOR, equivalence, holm
from sdvae_ray.retrieval.significance.falls import falls

MARGIN, LEVEL = 0.1, 0.05
# compounds, plates, sd of compounds, of plates, of wells
LAYOUTS = (
    (10, 1, 0.05, 0.0, 0.05),
    (10, 2, 0.05, 0.0, 0.05),
    (21, 2, 0.05, 0.0, 0.05),
    (21, 2, 0.05, 0.03, 0.05),
    (21, 2, 0.02, 0.05, 0.02),
    (21, 4, 0.05, 0.03, 0.05),
    (100, 2, 0.05, 0.0, 0.1),
    (100, 2, 0.05, 0.03, 0.1),
    (100, 8, 0.05, 0.02, 0.1),
)
RARE = (21, 100, 300)  # compounds, of which one in twenty loses 0.8
# wells of a compound, plates, controls per plate, features, correlation of the noise of the two sides
WELLS = ((2, 2, 16, 30, 0.9), (4, 1, 16, 30, 0.5), (4, 2, 16, 85, 0.9), (4, 2, 8, 85, 0.7), (8, 4, 16, 85, 0.8))
EFFECTS = (1, 2, 3, 4, 5, 6, 8, 10)  # of the eight compounds, in standard deviations of a feature


def cells(random: np.random.Generator, layout: tuple, difference: float) -> pl.DataFrame:
    """Return compound, plate, value of C x P wells whose mean is `difference`."""
    compounds, plates, of_compounds, of_plates, of_wells = layout
    values = (
        difference
        + random.normal(0, of_compounds, (compounds, 1))
        + random.normal(0, of_plates, (1, plates))
        + random.normal(0, of_wells, (compounds, plates))
    )
    return table(values)


def rare(random: np.random.Generator, compounds: int, plates: int = 4) -> pl.DataFrame:
    """Return wells of which one compound in twenty loses 0.8: the mean loss is 0.04."""
    lost = np.where(random.random((compounds, 1)) < 0.05, -0.8, 0.0)
    return table(lost + random.normal(0, 0.03, (compounds, plates)))


def table(values: np.ndarray) -> pl.DataFrame:
    compound, plate = np.indices(values.shape).reshape(2, -1)
    return pl.DataFrame({"compound": compound.astype(str), "plate": plate.astype(str), "value": values.ravel()})


def verdicts(random: np.random.Generator, layout: tuple, difference: float, repeats: int) -> dict[str, float]:
    """Return verdict -> its share of `repeats` data sets, and `percentile`: equivalent by the bootstrap's interval alone."""
    counts = dict.fromkeys((EQUIVALENT, INFERIOR, SUPERIOR, "percentile"), 0)
    for seed in range(repeats):
        wells = cells(random, layout, difference)
        word = equivalence(wells, MARGIN, LEVEL, draws=400, seed=seed).verdict
        if word in counts:
            counts[word] += 1
        alone, _ = hierarchical(wells, 400, 1 - 2 * LEVEL, seed)
        counts["percentile"] += alone.low > -MARGIN and alone.high < MARGIN
    return {word: count / repeats for word, count in counts.items()}


def average_precision(query: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    is_positive = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    ranked = is_positive[np.argsort(-np.r_[positives @ query, negatives @ query], kind="stable")]
    return float((ranked * np.cumsum(ranked) / np.arange(1, len(ranked) + 1)).sum() / ranked.sum())


def unchanged_compound(random: np.random.Generator, effect: float, layout: tuple) -> np.ndarray:
    """Return the AP (2, R) of the wells of a compound on two sides that differ in noise alone."""
    wells, plates, controls, features, correlation = layout
    direction = random.standard_normal(features)
    direction /= np.linalg.norm(direction)
    first = random.standard_normal((wells + plates * controls, features))
    other = random.standard_normal(first.shape)
    ap = []
    for noise in (first, correlation * first + np.sqrt(1 - correlation**2) * other):
        profiles = noise.copy()
        profiles[:wells] += effect * direction
        profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
        treated, negatives = profiles[:wells], profiles[wells:].reshape(plates, controls, features)
        of_plate = np.repeat(np.arange(plates), wells // plates)
        ap.append(
            [
                average_precision(treated[well], np.delete(treated, well, 0), negatives[of_plate[well]])
                for well in range(wells)
            ]
        )
    return np.array(ap)


def called_fallen(random: np.random.Generator, layout: tuple, repeats: int) -> float:
    """Return the share of data sets of eight unchanged compounds in which one or more are called fallen."""
    wrong = 0
    for _ in range(repeats):
        parts = []
        for number, effect in enumerate(EFFECTS):
            image, side = unchanged_compound(random, effect, layout)
            parts.append(pl.DataFrame({"compound": [str(number)] * len(image), "image": image, "side": side}))
        wrong += bool((holm(falls(pl.concat(parts))["p"]) <= LEVEL).any())
    return wrong / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random, repeats = np.random.default_rng(given.seed), given.repeats
    rows = []
    print(
        "| compounds | plates | sd of compounds, plates, wells | equivalent at the margin | inferior at the margin |",
        end="",
    )
    print(" inferior or superior on noise | equivalent on noise | percentile alone |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|")
    for layout in LAYOUTS:
        at, on_noise = (verdicts(random, layout, difference, repeats) for difference in (-MARGIN, 0.0))
        wrong = on_noise[INFERIOR] + on_noise[SUPERIOR]
        shares = (at[EQUIVALENT], at[INFERIOR], wrong, on_noise[EQUIVALENT], at["percentile"])
        rows.append({"layout": layout, "shares": shares})
        spreads = ", ".join(f"{spread:g}" for spread in layout[2:])
        print(f"| {layout[0]} | {layout[1]} | {spreads} |", " | ".join(f"{100 * share:.1f} %" for share in shares), "|")
    print("\n| compounds, of which one in twenty loses 0.8; the mean loss is the margin | equivalent |\n|---:|---:|")
    losses = []
    for compounds in RARE:
        count = sum(
            equivalence(rare(random, compounds), 0.04, LEVEL, draws=400).verdict == EQUIVALENT for _ in range(repeats)
        )
        losses.append({"compounds": compounds, "equivalent": count / repeats})
        print(f"| {compounds} | {100 * count / repeats:.1f} % |")
    print("\n| wells of a compound | plates | controls per plate | features | one or more of eight called fallen |")
    print("|---:|---:|---:|---:|---:|")
    fallen = []
    for wells in WELLS:
        share = called_fallen(random, wells, max(1, repeats // 2))
        fallen.append({"layout": wells, "fallen": share})
        print("|", " | ".join(str(number) for number in wells[:4]), f"| {100 * share:.1f} % |")
    print(json.dumps({"repeats": repeats, "equivalence": rows, "rare": losses, "falls": fallen}))


if __name__ == "__main__":
    main()
