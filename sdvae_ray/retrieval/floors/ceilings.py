"""Ceilings of what a reconstruction can keep: the originals against the originals, by halves.

The wells of a compound, the plates, or the sites of every well are split in two; each half is scored as the whole is, against the
same controls (by sites: against the same half of their sites). The
compounds that the first half retrieves and the second half does too are what a change that changes nothing would keep.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Bools
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.significance.splits import Space
from sdvae_ray.retrieval.tasks.activity import Negatives, activity_in
from sdvae_ray.retrieval.tasks.activity_tables import OK, Activity

HALVES = ("wells", "plates")
SITES = "sites"
SCHEMA: dict[str, Any] = {
    "halves": pl.String,
    **dict.fromkeys(("normalised_map", "fraction_retrieved", "retrieved", "kept", "gained", "kept_share"), pl.Float64),
    "compounds": pl.Float64,
    "repeats": pl.Int64,
    "status": pl.String,
}
TOO_FEW_WELLS = "too_few_wells"  # no compound has two wells in both halves
PLATES = 4  # parts of the plates of which one is left out, at most


def ceilings(
    spaces: Sequence[Space],
    wells: pl.DataFrame,
    chance: Chance,
    *,
    key: Sequence[str],
    negatives: Negatives,
    repeats: int,
) -> pl.DataFrame:
    """Return one row of SCHEMA for each of HALVES, of one group. The arguments are those of `activity_in`, with originals' spaces.

    Numbers are means over the repeats and over both orders of the halves: normalised_map and fraction_retrieved of a half;
    retrieved (compounds, by the first half), kept (by the second half too), gained (by the second half alone), kept_share (kept /
    retrieved; null if none was retrieved). compounds: those that both halves could score. status: "ok", or why there is no
    number.
    """
    rows = []
    for name in HALVES:
        pairs = []
        for repeat in range(repeats):
            first = _half(wells, name, key, chance.seed, repeat)
            halves = [
                activity_in(
                    spaces,
                    wells.with_columns(is_treated=pl.col("is_treated") & pl.Series(half)),
                    chance,
                    key=key,
                    negatives=negatives,
                )
                for half in (first, ~first)
            ]
            pairs.append(_compared(*halves))
        rows.append({"halves": name, **_means(pairs)})
    return pl.DataFrame(rows, schema=SCHEMA)


def sites_ceiling(halves: tuple[Activity, Activity]) -> pl.DataFrame:
    """Return the row of SCHEMA for SITES. halves: the scores of one group by half of every well's sites, and by the other half."""
    return pl.DataFrame([{"halves": SITES, **_means([_compared(*halves)])}], schema=SCHEMA)


def leave_one_plate_out(
    spaces: Sequence[Space], wells: pl.DataFrame, chance: Chance, *, key: Sequence[str], negatives: Negatives
) -> tuple[float | None, float | None]:
    """Return the least and the largest FR of one group over the plates, each left out in turn; of more than four plates a fourth
    of them is left out at a time. (None, None) for fewer than two plates, or if no FR exists.
    """
    plate = wells["plate"].to_numpy().astype(str)
    names = np.unique(plate[wells["is_treated"].to_numpy()])
    if len(names) < 2:
        return None, None
    fractions = []
    for part in range(min(PLATES, len(names))):
        rows = ~np.isin(plate, names[part::PLATES])
        left = [Space(space.features[rows], space.is_negative[rows]) for space in spaces]
        groups = activity_in(left, wells.filter(pl.Series(rows)), chance, key=key, negatives=negatives).groups
        fractions += groups["fraction_retrieved"].drop_nulls().to_list()
    return (min(fractions), max(fractions)) if fractions else (None, None)


def _half(wells: pl.DataFrame, name: str, key: Sequence[str], seed: int, repeat: int) -> Bools:
    """Return a mask (W,): the first half of every compound's wells, or the wells on the first half of the plates."""
    if name == "plates":
        plates = np.unique(wells["plate"].to_numpy().astype(str))
        order = plates[block_generator(seed, "ceilings", "plates", len(plates), block=repeat).permutation(len(plates))]
        return np.isin(wells["plate"].to_numpy().astype(str), order[: len(order) // 2])
    table = wells.select(*dict.fromkeys(("compound", *key))).with_row_index("_row").sort("compound", *key)
    rows, compound = table["_row"].to_numpy(), table["compound"].fill_null("").to_numpy().astype(str)
    random = block_generator(seed, "ceilings", "wells", len(rows), block=repeat).random(len(rows))
    order = np.lexsort((random, compound))
    starts = np.flatnonzero(np.append(True, compound[order][1:] != compound[order][:-1]))
    rank = np.arange(len(rows)) - np.repeat(starts, np.diff(np.append(starts, len(rows))))
    half = np.zeros(len(rows), dtype=bool)
    half[rows[order]] = rank % 2 == 0
    return half


def _compared(first: Activity, second: Activity) -> dict[str, float] | str:
    both = first.compounds.join(second.compounds, on=["group", "compound"], suffix="_2", maintain_order="left")
    scored = both.filter(pl.col("retrieved").is_not_null() & pl.col("retrieved_2").is_not_null())
    if not scored.height:
        reasons = [status for status in (*both["status"], *both["status_2"]) if status != OK]
        return max(sorted(set(reasons)), key=reasons.count, default=TOO_FEW_WELLS)
    a, b = (scored[name].cast(pl.Boolean).to_numpy() for name in ("retrieved", "retrieved_2"))
    return {
        "normalised_map": float(np.mean([scored["normalised_map"].mean(), scored["normalised_map_2"].mean()])),
        "fraction_retrieved": float(np.mean([a.mean(), b.mean()])),
        "retrieved": float(np.mean([a.sum(), b.sum()])),
        "kept": float((a & b).sum()),
        "gained": float(np.mean([(b & ~a).sum(), (a & ~b).sum()])),
        "compounds": float(scored.height),
    }


def _means(pairs: list[dict[str, float] | str]) -> dict[str, Any]:
    numbers = [pair for pair in pairs if not isinstance(pair, str)]
    if not numbers:
        return {"repeats": 0, "status": next(pair for pair in pairs if isinstance(pair, str))}
    means: dict[str, Any] = {name: float(np.mean([pair[name] for pair in numbers])) for name in numbers[0]}
    means["kept_share"] = means["kept"] / means["retrieved"] if means["retrieved"] else None
    return {**means, "repeats": len(numbers), "status": OK}
