"""What a run found, as rows that the terminal and the page both show: numbers, their words, and the reason where there is none."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from sdvae_ray import shelves
from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.schema import ERROR, FOV_ID, latents_table
from sdvae_ray.scores import Scores
from sdvae_ray.storage import Storage
from sdvae_ray.tables import read_column

NONE = "–"  # shown where there is no number
RANDOM = "(random weights)"
OK = "ok"
PHENOTYPE, STRENGTH, TRUTH = "Metadata_phenotype", "Metadata_strength", "Metadata_truth"
TRUTH_COLUMNS = (PHENOTYPE, STRENGTH, TRUTH)


@dataclass(frozen=True)
class MetricHead:
    """A metric's column: `better` is "higher", "lower", or "" where it is a description rather than a score."""

    name: str
    unit: str
    better: str

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓"}.get(self.better, "")


@dataclass(frozen=True)
class Retrieval:
    """One row of the summary. `numbers`: text per column of RETRIEVAL_COLUMNS and of recall_columns; `status` is OK or the reason."""

    extractor: str
    side: str
    group: str
    numbers: dict[str, str]
    fraction: float | None
    retrieved: int | None
    scored: int | None
    status: str


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


def label(config: RunConfig, name: str) -> str:
    """A side's or extractor's name, with what must be said beside it everywhere."""
    return f"{name} {RANDOM}" if name in config.random_weights else name


def sides(config: RunConfig, found: Iterable[str]) -> list[str]:
    """Distinct names, the originals first, then as the run file has them, then what it does not know."""
    return _ordered(found, [IMAGE_SIDE, *config.autoencoders])


def extractors(config: RunConfig, found: Iterable[str]) -> list[str]:
    return _ordered(found, list(config.extractors))


def _ordered(found: Iterable[str], known: list[str]) -> list[str]:
    names = set(found)
    return [name for name in known if name in names] + sorted(names - set(known))


def number(value: float | None, digits: int | None = None) -> str:
    """`digits` decimals, or about four significant ones; "inf" and NONE are words."""
    if value is None or math.isnan(value):
        return NONE
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if digits is not None:
        return f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero
    size = abs(value)
    if size < 1e-9:
        return "0"
    if size < 1e-4:
        return f"{value:.1e}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.1f}" if size >= 100 else f"{value:.2f}" if size >= 2 else f"{value:.4f}"


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


# --- metrics -----------------------------------------------------------------------------------------------------------------


def metric_head(name: str) -> MetricHead:
    """Unit and direction, as the metric's own module says."""
    module = shelves.find("metrics", name) if name in shelves.names("metrics") else None
    better = {True: "higher", False: "lower"}.get(getattr(module, "HIGHER_IS_BETTER", None), "")  # type: ignore[arg-type]
    return MetricHead(name, getattr(module, "UNIT", ""), better)


def metric_heads(config: RunConfig, metrics: pl.DataFrame) -> list[MetricHead]:
    return [metric_head(name) for name in _ordered(metrics["metric"], list(config.metrics))] if metrics.height else []


def metric_cells(config: RunConfig, metrics: pl.DataFrame) -> dict[str, dict[str, str]]:
    """side -> metric -> the mean over parts (stains or RGB passes) of the mean over patches."""
    cells: dict[str, dict[str, str]] = {side: {} for side in sides(config, metrics["side"])} if metrics.height else {}
    for (side, metric), rows in metrics.group_by("side", "metric") if metrics.height else ():
        means = [value for value in rows["mean"] if value is not None]
        cells[str(side)][str(metric)] = number(sum(means) / len(means) if means else None) + _median_beside(rows)
    return cells


def _median_beside(rows: pl.DataFrame) -> str:
    """One exact patch makes a mean of decibels infinite: then the median is worth more."""
    middle = [value for value in rows["median"] if value is not None]
    if not middle or not any(math.isinf(value) for value in rows["mean"]) or any(math.isinf(value) for value in middle):
        return ""
    return f" (median {number(sum(middle) / len(middle))})"


def part_names(config: RunConfig, parts: int) -> list[str]:
    """What a metric's parts are: stains, RGB passes (Mito+AGP+RNA), or the whole patch."""
    passes = ["+".join(dict.fromkeys(triple)) for triple in config.image.packing]
    if parts == len(config.image.stains):
        return list(config.image.stains)
    return passes if parts == len(passes) else ["all"] if parts == 1 else [str(part) for part in range(parts)]


# --- retrieval ---------------------------------------------------------------------------------------------------------------

RETRIEVAL_COLUMNS = ("wells", "controls", "compounds", "mAP", "FR")


def recall_columns(config: RunConfig) -> dict[str, str]:
    """Column of the summary -> its heading; three at most: the first, the middle and the last k."""
    at = sorted(set(config.score.recall_at))
    chosen = at if len(at) <= 3 else [at[0], at[len(at) // 2], at[-1]]
    return {f"replicate_recall_at_{k}": f"R@{k}" for k in chosen}


def retrieval_rows(config: RunConfig, scores: Scores) -> list[Retrieval]:
    """Every row of the summary, by extractor, group and side."""
    if scores.summary.height == 0:
        return []
    fid = {(e, s, g): value for e, s, g, value in _mean_fid(scores.fid)}
    rows = [_retrieval(config, row, fid) for row in scores.summary.to_dicts()]
    by_extractor = extractors(config, (row.extractor for row in rows))
    by_side = sides(config, (row.side for row in rows))
    return sorted(rows, key=lambda row: (by_extractor.index(row.extractor), row.group, by_side.index(row.side)))


def _retrieval(config: RunConfig, row: Mapping[str, Any], fid: Mapping[tuple[str, str, str], float]) -> Retrieval:
    key = (row["extractor"], row["side"], row["group"])
    numbers = {
        "wells": count(row.get("wells")),
        "controls": count(row.get("controls")),
        "compounds": count(row.get("compounds")),
        "mAP": number(row.get("mean_map"), 3),
        "FR": number(row.get("fraction_retrieved"), 3),
        **{column: number(row.get(column), 3) for column in recall_columns(config)},
        "reconstruction_recall": number(row.get("reconstruction_recall"), 3),
        "FID": number(fid.get(key)),
    }
    known = {name: row.get(name) for name in ("fraction_retrieved", "retrieved", "compounds_scored")}
    return Retrieval(*key, numbers, *known.values(), status=row.get("status") or OK)


def _mean_fid(fid: pl.DataFrame) -> list[tuple[str, str, str, float]]:
    if fid.height == 0:
        return []
    return fid.group_by("extractor", "side", "group").agg(pl.col("fid").mean()).rows()


def reasons(config: RunConfig, rows: list[Retrieval]) -> list[str]:
    """One line per distinct reason why rows have no score, naming the rows."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.status != OK:
            found.setdefault(row.status, []).append(f"{row.extractor} {label(config, row.side)} [{row.group}]")
    return [f"{', '.join(where)}: {why}" for why, where in found.items()]


# --- truth -------------------------------------------------------------------------------------------------------------------


def truth_rows(config: RunConfig, scores: Scores, fovs: pl.DataFrame) -> list[TruthRow]:
    """Scores by the phenotype and strength that the metadata of `fovs` knows for a compound; none where it knows nothing.

    Strong before weak, and compounds without a phenotype last.
    """
    compound, compounds = config.score.perturbation, scores.compounds
    if compounds.height == 0 or compound not in fovs.columns or not {PHENOTYPE, TRUTH} & set(fovs.columns):
        return []
    phenotype = PHENOTYPE if PHENOTYPE in fovs.columns else TRUTH
    strength = pl.col(STRENGTH) if STRENGTH in fovs.columns else pl.lit("")
    known = fovs.select(compound=pl.col(compound), phenotype=pl.col(phenotype), strength=strength.fill_null(""))
    known = known.filter(pl.col("compound").is_not_null() & pl.col("phenotype").is_not_null()).unique()
    known = known.filter(~pl.col("compound").is_duplicated())  # the same compound with two truths has none
    joined = compounds.join(known, on="compound", how="inner")
    rows: dict[tuple[str, str, str, str], dict[str, TruthCell]] = {}
    for (*key, side), part in joined.group_by("extractor", "group", "phenotype", "strength", "side", maintain_order=True):
        mean = part["normalised_map"].mean()
        retrieved = part["retrieved"].cast(pl.Boolean)
        cell = TruthCell(_float(mean), int(retrieved.sum() or 0), int(retrieved.is_not_null().sum()), part.height)
        rows.setdefault(tuple(map(str, key)), {})[str(side)] = cell  # type: ignore[arg-type]
    order = extractors(config, (key[0] for key in rows))
    ordered = sorted(rows, key=lambda key: (order.index(key[0]), key[1], strength_of(key[3]) == 0, key[2], -strength_of(key[3])))
    return [TruthRow(*key, cells=rows[key]) for key in ordered]


def strength_of(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


# --- failures ----------------------------------------------------------------------------------------------------------------


def failures(fovs: pl.DataFrame) -> list[tuple[str, str]]:
    """(fov_id, reason) of every FOV without a usable row, sorted."""
    failed = fovs.filter(pl.col(ERROR).is_not_null()).select(FOV_ID, ERROR)
    return sorted((str(fov), str(why)) for fov, why in failed.rows())


# --- sizes -------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatentSize:
    """What a FOV's latent takes beside its pixels as the autoencoder saw them; `shape` None where no latent is stored."""

    side: str
    shape: tuple[int, ...] | None  # (P, T, Z, s, s)
    raw_bits: int
    latent_bits: int
    fewer_numbers: float  # numbers of an RGB pass per number of its latent; 1 where no latent is stored


def latent_sizes(config: RunConfig, usable: pl.DataFrame, storage: Storage) -> list[LatentSize]:
    """One row per autoencoder, from the latent of one FOV; `usable`: fov_id and file."""
    image = config.image
    raw = image.patches * len(image.stains) * image.patch**2 * image.scaling.bits
    sizes = []
    for side in config.autoencoders:
        _, stored = read_column(config.output, latents_table(side), "latent", usable.head(1), storage)
        shape = tuple(stored.shape[1:]) if len(stored) else None
        bits = math.prod(shape) * stored.dtype.itemsize * 8 if shape else 0
        fewer = 3 * image.patch**2 / math.prod(shape[2:]) if shape else 1.0
        sizes.append(LatentSize(side, shape, raw, bits, fewer))
    return sizes
