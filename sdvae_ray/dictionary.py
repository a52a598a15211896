"""The data dictionary: what a row of every table of a run is, and the type and the meaning of every column.

The reference pages of the docs are made from it, and a test compares it with the tables that a run writes. A name may have
placeholders: `floor_<number>` stands for a column of every number of its table, `<k>` for the values of score.recall_at,
`<metric>` for the names of the run's metrics, `<stain>` for its stains.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

Columns = dict[str, tuple[str, str]]  # name -> type (text, int, float, bool, or an array with its shape) and meaning


@dataclass(frozen=True)
class TableFacts:
    """A table. rows: what one row is. columns: in the order in which the docs show them."""

    rows: str
    columns: Columns


def unknown_columns(table: str, names: Iterable[str]) -> list[str]:
    """Return the columns that the dictionary does not have for a table."""
    patterns = [_pattern(name) for name in TABLES[table].columns]
    return [name for name in names if not any(re.fullmatch(pattern, name) for pattern in patterns)]


def unused_columns(table: str, names: Iterable[str]) -> list[str]:
    """Return the columns of the dictionary that a table does not have."""
    there = list(names)
    return [name for name in TABLES[table].columns if not any(re.fullmatch(_pattern(name), each) for each in there)]


def _pattern(name: str) -> str:
    return re.sub(r"<\w+>", ".+", name)


_FOV: Columns = {"fov_id": ("text", "the field of view: source/batch/plate/well/site")}
_RANDOM: Columns = {"random_weights": ("bool", "the extractor or the side has random weights")}
_SIDE: Columns = {
    "extractor": ("text", "name in the run file"),
    "side": ("text", "image (the originals), or an autoencoder or codec"),
}
_GROUP: Columns = {"group": ("text", "values of score.group, joined; all without groups")}
_PLACE = _SIDE | _GROUP
_STATUS: Columns = {"status": ("text", "ok, or why the numbers are null")}
_FLOOR_STATUS: Columns = {"floor_status": ("text", "ok, or why there is no floor")}
_FR = ("float", "FR: share of the compounds with a p that are retrieved")
_MAP = ("float", "mean average precision, the mean over compounds")
_NORMALISED = ("float", "mean of normalised mAP: 0 is what chance gives, 1 is perfect")
_WELL: Columns = {
    "Metadata_<key>": ("text", "Source, Batch, Plate and Well: the key of the well"),
    "compound": ("text", "value of score.perturbation"),
    "plate": ("text", "source, batch and plate in one text"),
}
_QUERIES: Columns = {
    "queries": ("int", "wells that query"),
    "groups": ("int", "compounds, or labels, that the mean is over"),
    "mean_map": _MAP,
    "mean_normalised_map": _NORMALISED,
}
_DISTANCES: Columns = {
    "by": ("text", "group, or the column of score.distributions.by"),
    "slice": ("text", "its value"),
    "part": ("text", "RGB pass, stain, or all"),
    "n_image": ("int", "patches of the originals, or of the first part"),
    "n_side": ("int", "patches of the side, or of the second part"),
    "dimensions": ("int", "features of a patch"),
    "sampled": ("int", "patches of a side in the distances that take a sample"),
    **dict.fromkeys(
        ("fid", "kid", "kid_paired", "cmmd", "precision", "recall", "density", "coverage"),
        ("float", "see the page of distances"),
    ),
    "reason": ("text", "why a distance is null"),
}

_FLOORS: Columns = (
    _PLACE
    | {
        "quantity": ("text", "which: docs/floors.md"),
        "fraction_retrieved": _FR,
        "mean_map": _MAP,
        "mean_normalised_map": _NORMALISED,
        "compounds_scored": ("float", "compounds, or poses, with a p"),
        "retrieved": ("float", "of them retrieved"),
        "queries": ("float", "wells that query"),
        "negatives": ("float", "median number of negatives of a query"),
        "repeats": ("int", "repeats that the means are over"),
        "lowest": ("float", "least FR of a repeat"),
        "highest": ("float", "largest FR of a repeat"),
    }
    | _STATUS
    | _RANDOM
)

TABLES: dict[str, TableFacts] = {
    "fovs": TableFacts(
        "one row per field of view; written last, so that a row elsewhere counts only if its file's namesake stands here",
        _FOV
        | {
            "Metadata_<name>": ("text", "every Metadata column of the manifest, as it was at encode"),
            "source_digest": ("text", "hash of where the pixels are"),
            "error": ("text", "why the field could not be used; null where it could"),
            "error_class": ("text", "absent, damaged or denied; null for an error of the engine"),
            "qc_mean": ("float32 (C,)", "mean of the scaled crop / maximum"),
            "qc_saturated": ("float32 (C,)", "share of pixels at the maximum"),
            "qc_zero": ("float32 (C,)", "share of pixels at zero"),
            "qc_raw_max": ("float32 (C,)", "largest pixel of the crop in the file"),
            "qc_raw_crc32": ("uint32 (C,)", "checksum of the crop in the file: equal for equal pictures"),
            "seconds_<stage>": ("float32", "wall seconds of load, compress and encode; of a device, synchronised"),
            "micro_batch": ("int32", "RGB passes in one forward pass"),
            "load_node": ("text", "node that read the field"),
            "encode_node": ("text", "node that encoded it"),
            "device": ("text", "its device"),
        },
    ),
    "latents/<autoencoder>": TableFacts(
        "one row per field of view",
        _FOV
        | {
            "latent": ("float16 (P, T, Z, s, s)", "unscaled; what is stored is what was decoded"),
            "logvar": ("float16 (P, T, Z, s, s)", "logarithm of the posterior's variance; with store_logvar alone"),
        },
    ),
    "metrics/<side>": TableFacts(
        "one row per field of view",
        _FOV
        | {
            "<metric>": ("float32 (P, C), (P, T) or (P, C, bands)", "a metric; NaN where it does not apply"),
            "bits": ("float32 (P, C)", "bits of the side as it is stored, per patch and stain"),
            "bits_coded": ("float32 (P, C)", "bits of the file that holds the side's latent, or of the codec's file"),
            "bits_entropy": ("float32 (P, C)", "order-zero entropy of the quantised latent; NaN of a codec"),
        },
    ),
    "embeddings/<extractor>/<side>": TableFacts(
        "one row per field of view",
        _FOV
        | {
            "embedding": ("float16 (G, D)", "mean over the patches"),
            "patches": ("float16 (k, G, D)", "the patches that are kept (keep_patches), chosen by hash"),
        },
    ),
    "profiles/<extractor>/<side>": TableFacts(
        "one row per well, before normalisation; a file per plate",
        {
            "Metadata_<name>": ("text", "what the well's fields agree in"),
            "<extractor>_<part>_<dimension>": ("float32", "a feature, as in intensity_Mito_3"),
        },
    ),
    "summary": TableFacts(
        "one row per extractor, side and group",
        _PLACE
        | {
            "wells": ("int", "treated wells"),
            "controls": ("int", "negative controls"),
            "excluded": ("int", "wells in neither role"),
            "zero_norm": ("int", "wells left out because their profile is all zeros"),
            "plates": ("int", "plates"),
            "compounds": ("int", "compounds"),
            "compounds_scored": ("int", "compounds with a p"),
            "retrieved": ("int", "compounds with p_corrected <= score.threshold"),
            "fraction_retrieved": _FR,
            "mean_map": _MAP,
            "mean_normalised_map": _NORMALISED,
            "least_p_corrected": ("float", "the least corrected p that any compound can get"),
            "retrieval_status": ("text", "ok, or why there is no fraction"),
            "replicate_recall_at_<k>": ("float", "share of wells with a replicate among the k nearest wells"),
            "reconstruction_recall": ("float", "share of reconstructions whose nearest original is their own"),
            "recall_queries": ("int", "wells that these recalls are over"),
            "features": ("int", "features after the normalisation"),
            "normalisation": ("text", "the record of every step, JSON"),
            "splits": ("int", "splits of the controls; 0: fitted on the negatives"),
            "p_valid": ("bool", "whether the fit and the negatives share no control"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "compounds": TableFacts(
        "one row per extractor, side, group and compound",
        _PLACE
        | {
            "compound": ("text", "value of score.perturbation"),
            "replicates": ("int", "treated wells"),
            "scored": ("int", "wells with an average precision"),
            "plates": ("int", "plates of the treated wells"),
            "map": ("float", "mean average precision of its wells"),
            "normalised_map": ("float", "mean of the wells' normalised AP: 0 is what chance gives, 1 is perfect"),
            "p": ("float", "by score.null"),
            "p_corrected": ("float", "Benjamini & Hochberg within the group"),
            "draws": ("int", "draws of the null"),
            "least_p": ("float", "the least p that the null can give"),
            "retrieved": ("bool", "p_corrected <= score.threshold"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "wells": TableFacts(
        "one row per extractor, side, group and treated well",
        _PLACE
        | _WELL
        | {
            "ap": ("float", "average precision, (0, 1]"),
            "normalised_ap": ("float", "0 is what chance gives, 1 is perfect"),
            "n_positives": ("int", "replicates"),
            "n_negatives": ("int", "controls; over several splits the fewest"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "floors": TableFacts("one row per extractor, side, group and floor", _FLOORS),
    "estimates": TableFacts("one row per extractor, side, group and estimate of what the fit does; no floors", _FLOORS),
    "over_floor": TableFacts(
        "one row per extractor, side and group",
        _PLACE
        | {
            "fraction_retrieved": _FR,
            "plates_low": ("float", "lowest FR with a plate left out, in one split"),
            "plates_high": ("float", "highest FR with a plate left out, in one split"),
            "floor": ("float", "f: share of controls that pose as compounds and are retrieved"),
            "over_floor": ("float", "(FR - f) / (1 - f)"),
            "low": ("float", "of its 95 % interval"),
            "high": ("float", "of its 95 % interval"),
            "compounds": ("int", "compounds that FR is over"),
            "poses": ("int", "poses that f is over"),
            "normalised_map": ("float", "mean normalised mAP of the side"),
            "floor_normalised_map": ("float", "that of the poses"),
            "ceiling_normalised_map": ("float", "that of the originals"),
            "map_between": ("float", "where the side stands between its floor (0) and the originals (1)"),
            "cut": ("float", "p up to which a compound is retrieved"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "ceilings": TableFacts(
        "one row per extractor, group and way of halving the originals",
        _PLACE
        | {
            "halves": ("text", "wells, plates or sites"),
            "normalised_map": ("float", "mean normalised mAP of the halves"),
            "fraction_retrieved": _FR,
            "retrieved": ("float", "compounds that one half retrieves"),
            "kept": ("float", "of them, those that the other half retrieves too"),
            "gained": ("float", "compounds that the other half alone retrieves"),
            "kept_share": ("float", "kept / retrieved"),
            "compounds": ("float", "compounds in both halves"),
            "repeats": ("int", "halvings that the means are over"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "tasks": TableFacts(
        "one row per extractor, side, group and task; of transfer one per pair of groups",
        _PLACE
        | {"task": ("text", "distinctiveness, consistency, cross_side, or a task of transfer")}
        | _QUERIES
        | {
            "fraction_retrieved": ("float", "share of compounds or labels that are retrieved"),
            **_STATUS,
            "floor_<number>": ("float", "the same of permuted labels"),
            **_FLOOR_STATUS,
            "column": ("text", "of transfer: the column of score.group"),
            "source": ("text", "of transfer: its value in the group queried"),
            "target": ("text", "of transfer: its value in the group searched"),
            "zero_norm": ("int", "of transfer: wells left out because their profile is all zeros"),
            "position_<number>": ("float", "of transfer: what the position of the wells alone gives"),
            "position_groups": ("int", "of transfer: poses that this is over"),
            "position_status": ("text", "of transfer: ok, or why there is no such number"),
        }
        | _RANDOM,
    ),
    "stringency": TableFacts(
        "one row per extractor, side, group, task and rung of the ladder",
        _PLACE
        | {
            "task": ("text", "activity, distinctiveness, consistency or cross_side"),
            "rung": ("text", "any, or what positives must differ in: plate, batch, source, position"),
        }
        | _QUERIES
        | {"recall_at_<k>": ("float", "share of queries with a positive among the k nearest")}
        | {"floor_<number>": ("float", "the same of permuted labels")}
        | _STATUS
        | _FLOOR_STATUS
        | _RANDOM,
    ),
    "neighbours": TableFacts(
        "one row per extractor, side, group, thing shared and k",
        _PLACE
        | {
            "shared": ("text", "replicates, plate, row, column, batch or source"),
            "k": ("int", "neighbours"),
            "queries": ("int", "wells that query"),
            "share": ("float", "share of the neighbours that share it; of replicates: recall at k"),
            "chance": ("float", "what a random neighbour gives"),
            "over_chance": ("float", "share / chance"),
            "floor_share": ("float", "share with the labels permuted"),
            "floor_over_chance": ("float", "its ratio to chance"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "enrichment": TableFacts(
        "one row per extractor, side, group, column of labels, label and k",
        _PLACE
        | {
            "column": ("text", "of score.sets"),
            "label": ("text", "a target or mechanism; null: all tests"),
            "k": ("int", "neighbours"),
            "compounds": ("int", "compounds with the label"),
            "tests": ("int", "compounds that were tested"),
            "hits": ("float", "neighbours with the label, mean"),
            "expected": ("float", "hits that chance gives"),
            "odds_ratio": ("float", "with 1/2 added to every cell"),
            "enriched": ("float", "share of tests with a corrected p up to score.threshold"),
            "least_p_corrected": ("float", "least corrected p of the tests"),
            "floor_odds_ratio": ("float", "odds ratio with the labels permuted"),
            "floor_enriched": ("float", "share enriched with the labels permuted"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "probes": TableFacts(
        "one row per extractor, side, group and column of labels",
        _PLACE
        | {
            "column": ("text", "of score.sets"),
            "balanced_accuracy": ("float", "mean recall over the labels, of wells of held-out compounds"),
            "chance": ("float", "1 / labels"),
            "floor_balanced_accuracy": ("float", "with the labels permuted among compounds"),
            "wells": ("int", "wells"),
            "compounds": ("int", "compounds"),
            "labels": ("int", "labels of at least two compounds"),
            "folds": ("int", "folds, which share no compound"),
        }
        | _STATUS
        | _RANDOM,
    ),
    "differences": TableFacts(
        "one row per extractor, side, group and quantity",
        _PLACE
        | {
            "quantity": ("text", "fraction_retrieved, mean_map or mean_normalised_map"),
            "estimate": ("float", "of the side, over its compounds"),
            "low": ("float", "of its 95 % bootstrap interval"),
            "high": ("float", "of its 95 % bootstrap interval"),
            "compounds": ("int", "compounds that the estimate is over"),
            "plates": ("int", "plates that were resampled"),
            "image": ("float", "the originals' estimate over the compounds that both have"),
            "difference": ("float", "the side's less the originals', over the same compounds"),
            "difference_low": ("float", "of its interval"),
            "difference_high": ("float", "of its interval"),
            "paired": ("int", "compounds that both have"),
            "unpaired": ("int", "compounds that one alone has"),
            "lost": ("int", "retrieved from the originals alone"),
            "gained": ("int", "retrieved from the side alone"),
            "mcnemar_p": ("float", "exact p of McNemar's test of lost and gained"),
        }
        | _RANDOM,
    ),
    "distributions": TableFacts(
        "one row per extractor, side, slice and part: distances between patches of the originals and of the side",
        _SIDE | _DISTANCES | _RANDOM,
    ),
    "references": TableFacts(
        "the same distances between parts of the originals",
        _SIDE | {"reference": ("text", "sites, plates or controls")} | _DISTANCES | _RANDOM,
    ),
    "metrics": TableFacts(
        "one row per side, metric, part and band, over all patches",
        {
            "side": _SIDE["side"],
            "metric": ("text", "a metric, or a rate (bits, bits_coded, bits_entropy)"),
            "part": ("text", "stain, RGB pass, or all"),
            "band": ("text", "of a metric with bands; else null"),
            "patches": ("int", "patches with a value"),
            "mean": ("float", "over patches; of psnr that of the squared errors"),
            "sd": ("float", "standard deviation"),
            "median": ("float", "quantile 0.5"),
            "q05": ("float", "quantile 0.05"),
            "q95": ("float", "quantile 0.95"),
            "quantile_error": ("float", "relative error of the quantiles, at most; 0: they are values of patches"),
        }
        | _RANDOM,
    ),
    "latents": TableFacts(
        "one row per side with stored latents, and group",
        {
            "side": _SIDE["side"],
            **_GROUP,
            "passes": ("int", "RGB passes of all patches"),
            "channels": ("int", "Z"),
            "units": ("int", "Z s s"),
            "active_units": ("int", "units whose variance over passes is above 0.01 (Burda et al. 2016)"),
            "effective_rank": ("float", "exponential of the entropy of the channels' eigenvalues"),
        }
        | _RANDOM,
    ),
    "latent_channels": TableFacts(
        "one row per side with stored latents, group and channel",
        {
            "side": _SIDE["side"],
            **_GROUP,
            "passes": ("int", "RGB passes of all patches"),
            "channel": ("int", "from 0"),
            "mean": ("float", "over passes and positions"),
            "sd": ("float", "standard deviation"),
            "skewness": ("float", "0 of a normal distribution"),
            "kurtosis": ("float", "excess: 0 of a normal distribution"),
            "min": ("float", "least value"),
            "max": ("float", "largest value"),
        }
        | _RANDOM,
    ),
}
