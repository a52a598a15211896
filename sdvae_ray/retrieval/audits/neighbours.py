"""What a well shares with its nearest neighbours: its compound (recall at k); and what it should not, such as plate and row.

From the results of one search; no index is opened. Every number has its floor, from the same neighbours with the labels permuted.
"""

from typing import Any

import numpy as np
import polars as pl

from sdvae_ray.retrieval.arrays import Bools, Ints
from sdvae_ray.retrieval.positions import rows_and_columns
from sdvae_ray.retrieval.significance.permutations import permuted_rows
from sdvae_ray.retrieval.tasks.activity_tables import OK
from sdvae_ray.retrieval.tasks.recall import replicate_recall, without_the_query

REPLICATES = "replicates"
NUISANCES = ("plate", "row", "column", "batch", "source")
SCHEMA: dict[str, Any] = {
    "shared": pl.String,
    **dict.fromkeys(("k", "queries"), pl.Int64),
    **dict.fromkeys(("share", "chance", "over_chance", "floor_share", "floor_over_chance"), pl.Float64),
    "status": pl.String,
}
Row = dict[str, Any]


def neighbour_shares(
    neighbours: Ints, queries: Ints, wells: pl.DataFrame, recall_at: tuple[int, ...], seed: int, repeats: int
) -> pl.DataFrame:
    """Return one row of SCHEMA for REPLICATES and every nuisance, at every k.

    neighbours: (Q, K) rows of `wells`, nearest first, K >= k + 1 for the largest k, or all wells. queries: (Q,) rows of treated
    wells. wells: all W wells of the index in the order of its ids: compound, is_treated, plate, batch, source, position (text).

    REPLICATES: share is recall at k, the mean over queries of the share of a query's replicates among its k nearest wells; chance,
    what k wells drawn at random have of them. A nuisance: share is the share of these k wells that have the query's plate, row
    and so on, replicates of the query left out, because a compound's wells may stand side by side; chance, that share of all
    wells that are no replicates. over_chance = share / chance.

    floor_*: means over the repeats, with compounds permuted among the treated wells of a plate; rows and columns among the wells of
    a plate; plates, batches and sources among all wells. status: "ok", one_<nuisance> where all wells have one, no_position, or
    no_replicates.
    """
    plate, treated = wells["plate"].to_numpy().astype(str), wells["is_treated"].to_numpy()
    compound = wells["compound"].fill_null("").to_numpy().astype(str)
    row, column = rows_and_columns(wells["position"].to_numpy().astype(str))
    everyone, one_place = np.ones(len(plate), dtype=bool), np.full(len(plate), "")
    nearest = {k: without_the_query(neighbours, queries, k, len(plate)) for k in recall_at}
    drawn = [permuted_rows(plate, treated, "neighbours", seed, REPLICATES, repeat) for repeat in range(repeats)]
    rows = []
    for k in recall_at:
        score = replicate_recall(neighbours, queries, compound, treated, k)
        floors = [replicate_recall(neighbours, queries, compound[moved], treated, k) for moved in drawn]
        at_random = min(1.0, k / max(1, len(plate) - 1))
        known = int((~np.isnan(score)).sum())
        if not known:
            rows.append({"shared": REPLICATES, "k": k, "queries": 0, "status": "no_replicates"})
            continue
        share, floor = float(np.nanmean(score)), [float(np.nanmean(values)) for values in floors]
        rows.append(_row(REPLICATES, k, known, (share, at_random), [(value, at_random) for value in floor]))
    values = {
        "plate": plate,
        "row": row,
        "column": column,
        **{name: wells[name].to_numpy().astype(str) for name in ("batch", "source")},
    }
    for name in NUISANCES:
        code = np.unique(values[name], return_inverse=True)[1]
        reason = "no_position" if (values[name] == "").any() else f"one_{name}" if code.max(initial=0) == 0 else None
        within = plate if name in ("row", "column") else one_place
        moves = (
            [] if reason else [permuted_rows(within, everyone, "neighbours", seed, name, at) for at in range(repeats)]
        )
        own = _Replicates.of(compound, treated, queries)
        for k in recall_at:
            if reason:
                rows.append({"shared": name, "k": k, "status": reason})
                continue
            pairs = [own.shared(nearest[k], codes) for codes in (code, *(code[moved] for moved in moves))]
            rows.append(_row(name, k, len(queries), pairs[0], pairs[1:]))
    return pl.DataFrame(rows, schema=SCHEMA)


class _Replicates:
    """The queries and which wells are their replicates: treated wells of the same compound."""

    def __init__(self, compound: Ints, treated: Bools, queries: Ints) -> None:
        self.compound, self.treated, self.queries = compound, treated, queries

    @classmethod
    def of(cls, compound: np.ndarray, treated: Bools, queries: Ints) -> "_Replicates":
        return cls(np.unique(compound, return_inverse=True)[1], treated, queries)

    def shared(self, nearest: Ints, code: Ints) -> tuple[float, float]:
        """Return (share of the nearest wells that have the query's code, that share of all wells), replicates left out.

        nearest: (Q, k), -1 for none. code: (W,). The second is a mean over queries, weighted by the neighbours that count.
        """
        queries, compound, treated = self.queries, self.compound, self.treated
        own = (compound[nearest] == compound[queries][:, None]) & treated[nearest]
        counted = (nearest >= 0) & ~own
        same = counted & (code[nearest] == code[queries][:, None])
        both = compound * (code.max() + 1) + code
        replicates = np.bincount(compound[treated], minlength=compound.max() + 1)[compound[queries]] - 1
        alike = np.bincount(both[treated], minlength=both.max() + 1)[both[queries]] - 1
        others = len(code) - 1 - replicates
        of_code = np.bincount(code)[code[queries]] - 1 - alike
        weight = counted.sum(axis=1)
        total = weight.sum()
        if not total:
            return float("nan"), float("nan")
        expected = (weight * of_code / np.maximum(others, 1)).sum() / total
        return float(same.sum() / total), float(expected)


def _row(name: str, k: int, queries: int, score: tuple[float, float], floors: list[tuple[float, float]]) -> Row:
    ratios = [_over(*pair) for pair in floors]
    return {
        "shared": name,
        "k": k,
        "queries": queries,
        "share": score[0],
        "chance": score[1],
        "over_chance": _over(*score),
        "floor_share": float(np.mean([share for share, _ in floors])) if floors else None,
        "floor_over_chance": _mean([ratio for ratio in ratios if ratio is not None]),
        "status": OK,
    }


def _over(share: float, chance: float) -> float | None:
    return share / chance if chance > 0 else None


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
