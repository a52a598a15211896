"""What retrieval found, as rows for the terminal and the page: scores, what a side keeps, and the truth where it is known."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.report.facts.findings import NONE, count, extractors, in_order, label, number
from sdvae_ray.run.scores import Scores

OK = "ok"
PHENOTYPE, STRENGTH, TRUTH = "Metadata_phenotype", "Metadata_strength", "Metadata_truth"
TRUTH_COLUMNS = (PHENOTYPE, STRENGTH, TRUTH)
DISTANCES = {
    "fid": "FID ↓",
    "kid": "KID ↓",
    "kid_paired": "KID, paired ↓",
    "cmmd": "CMMD ↓",
    "precision": "precision ↑",
    "recall": "recall ↑",
    "density": "density",
    "coverage": "coverage ↑",
}


@dataclass(frozen=True)
class Retrieval:
    """One row of the summary. `numbers`: text per column of the table; `status` is OK or the reason."""

    extractor: str
    side: str
    group: str
    numbers: dict[str, str]
    fraction: float | None
    retrieved: int | None
    scored: int | None
    status: str


@dataclass(frozen=True)
class Kept:
    """Of `original` compounds that the originals retrieve, a reconstruction retrieves `both`; and `added` that they do not."""

    extractor: str
    side: str
    group: str
    original: int
    both: int
    added: int


@dataclass(frozen=True)
class TruthCell:
    """Compounds of one phenotype and strength on one side: mean normalised mAP, and how many of those with a p were retrieved."""

    normalised_map: float | None
    retrieved: int
    scored: int
    compounds: int

    @property
    def verdict(self) -> str:
        if self.scored == 0:
            return NONE
        if self.compounds == 1:
            return "yes" if self.retrieved else "no"
        return f"{self.retrieved}/{self.scored}"


@dataclass(frozen=True)
class TruthRow:
    extractor: str
    group: str
    phenotype: str
    strength: str
    cells: dict[str, TruthCell]


# --- retrieval ---------------------------------------------------------------------------------------------------------------


def recall_columns(config: RunConfig) -> dict[str, str]:
    """Column of the summary -> its heading; three at most: the first, the middle and the last k."""
    at = sorted(set(config.score.recall_at))
    chosen = at if len(at) <= 3 else [at[0], at[len(at) // 2], at[-1]]
    return {f"replicate_recall_at_{k}": f"R@{k}" for k in chosen}


def retrieval_rows(config: RunConfig, scores: Scores) -> list[Retrieval]:
    """Every row of the summary, by extractor, group and side."""
    if scores.summary.height == 0:
        return []
    fid = {(e, s, g): value for e, s, g, value in mean_distances(scores, "fid")}
    rows = [_retrieval(config, row, fid) for row in scores.summary.to_dicts()]
    return in_order(config, rows)


def _retrieval(config: RunConfig, row: Mapping[str, Any], fid: Mapping[tuple[str, str, str], float]) -> Retrieval:
    key = (row["extractor"], row["side"], row["group"])
    status = row.get("status") or OK
    numbers = {
        "wells": count(row.get("wells") if status == OK else None),  # where nothing was scored it counts controls too
        "controls": count(row.get("controls")),
        "compounds": count(row.get("compounds")),
        "mAP": number(row.get("mean_map"), 3),
        "FR": number(row.get("fraction_retrieved"), 3),
        **{column: number(row.get(column), 3) for column in recall_columns(config)},
        "reconstruction_recall": number(row.get("reconstruction_recall"), 3),
        "FID": number(fid.get(key)),
    }
    counts = row.get("retrieved"), row.get("compounds_scored")
    return Retrieval(*key, numbers, row.get("fraction_retrieved"), *counts, status)


def mean_distances(scores: Scores, name: str) -> list[tuple[str, str, str, float]]:
    """(extractor, side, group, mean over parts) of one of the distances between the originals and a side."""
    table = scores.distributions
    if name not in table.columns:
        return []
    return table.filter(pl.col("by") == "group").group_by("extractor", "side", "slice").agg(pl.col(name).mean()).rows()


def reasons(config: RunConfig, rows: Sequence[Retrieval]) -> list[str]:
    """One line per distinct reason why rows have no score, naming the rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.status != OK:
            group = "" if row.group == "all" else f" [{row.group}]"
            found.setdefault(row.status, []).append(f"{label(config, row.extractor)} {label(config, row.side)}{group}")
    return [f"{', '.join(where)}: {why}" for why, where in found.items()]


def kept(config: RunConfig, scores: Scores) -> list[Kept]:
    """Per extractor, group and reconstruction, which of the originals' retrieved compounds it keeps; where both were scored."""
    if scores.compounds.height == 0:
        return []
    known = scores.compounds.filter(pl.col("retrieved").is_not_null())
    key = ["extractor", "group", "compound"]
    originals = known.filter(pl.col("side") == IMAGE_SIDE).select(*key, on_image="retrieved")
    found = []
    pairs = known.filter(pl.col("side") != IMAGE_SIDE).join(originals, on=key, how="inner")
    for (extractor, group, side), rows in pairs.group_by("extractor", "group", "side", maintain_order=True):
        image, recon = rows["on_image"].cast(pl.Boolean), rows["retrieved"].cast(pl.Boolean)
        both, added = int((image & recon).sum()), int((~image & recon).sum())
        found.append(Kept(str(extractor), str(side), str(group), int(image.sum()), both, added))
    return in_order(config, found)


# --- truth -------------------------------------------------------------------------------------------------------------------


def truth_rows(config: RunConfig, scores: Scores, fovs: pl.DataFrame) -> list[TruthRow]:
    """Scores by the phenotype and strength that the metadata of `fovs` knows for a compound; none where it knows nothing.

    Strong before weak, and compounds without a phenotype last.
    """
    compound, compounds = config.score.perturbation, scores.compounds
    if (
        compound is None
        or compounds.height == 0
        or compound not in fovs.columns
        or not {PHENOTYPE, TRUTH} & set(fovs.columns)
    ):
        return []
    phenotype = PHENOTYPE if PHENOTYPE in fovs.columns else TRUTH
    strength = pl.col(STRENGTH) if STRENGTH in fovs.columns else pl.lit("")
    known = fovs.select(compound=pl.col(compound), phenotype=pl.col(phenotype), strength=strength.fill_null(""))
    known = known.filter(pl.col("compound").is_not_null() & pl.col("phenotype").is_not_null()).unique()
    known = known.filter(~pl.col("compound").is_duplicated())  # the same compound with two truths has none
    joined = compounds.join(known, on="compound", how="inner")
    rows: dict[tuple[str, str, str, str], dict[str, TruthCell]] = {}
    for (*key, side), part in joined.group_by(
        "extractor", "group", "phenotype", "strength", "side", maintain_order=True
    ):
        mean = part["normalised_map"].mean()
        retrieved = part["retrieved"].cast(pl.Boolean)
        cell = TruthCell(_float(mean), int(retrieved.sum() or 0), int(retrieved.is_not_null().sum()), part.height)
        where = (str(key[0]), str(key[1]), str(key[2]), str(key[3]))
        rows.setdefault(where, {})[str(side)] = cell
    order = extractors(config, (key[0] for key in rows))
    ordered = sorted(
        rows, key=lambda key: (order.index(key[0]), key[1], strength_of(key[3]) == 0, key[2], -strength_of(key[3]))
    )
    return [TruthRow(*key, cells=rows[key]) for key in ordered]


def strength_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
