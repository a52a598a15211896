"""A small run with scores that are made up, and its page and summary: what the tests of the report share."""

import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import tifffile
import torch
from rich.console import Console

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig
from sdvae_ray.controls import with_groups
from sdvae_ray.engine.compress import Compressor
from sdvae_ray.engine.encode import Encoder
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import autoencoder_engines, load_models, resolve_weights
from sdvae_ray.metrics import radial_power
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.page.write import write_report
from sdvae_ray.report.terminal.summary import print_summary
from sdvae_ray.run import record as provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.run.stored.plates import in_threads
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.runfile import parse_run
from sdvae_ray.schema import FOV_ID, KEYS, fov_id, illum_column, uri_column
from sdvae_ray.scoring.inputs.fovs import Fovs
from sdvae_ray.scoring.metric_distributions import metric_distributions
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
EVIL = "<script>alert('x')</script> & \"Co\""
COMPOUNDS = ((None, "none", "0"), ("strong", "er_stress", "1"), (EVIL, "actin_edge", "0.5"), ("inactive", "none", "0"))
STORAGE = Storage()
RANDOM = "(random weights)"


def run_config(folder: Path, **changes: object) -> RunConfig:
    raw = {
        "manifest": str(folder / "manifest.parquet"),
        "output": str(folder / "run"),
        "synthetic": {"folder": str(folder / "plates")},
        "image": {"crop": 128, "patch": 64},
        "autoencoders": {
            "pca": {"name": "patch_pca"},
            "tiny": {"name": "diffusers_kl", "random": True, "architecture": "tiny"},
            "identity": {"name": "identity"},
        },
        "codecs": {"jpeg": {"name": "jpeg", "quality": 30}},
        "extractors": {"latent": {"name": "latent"}, "intensity": {"name": "intensity"}},
        "metrics": ["kld", "mae", "ssim", "emd", "psnr", "radial_power"],
    }
    return parse_run({**raw, **changes})


def write_run(folder: Path, config: RunConfig) -> None:
    """Eight FOVs of four treatments, the last one truncated: TIFFs, manifest, tables, run.json; the engine without Ray."""
    rows = []
    for number in range(8):
        compound, phenotype, strength = COMPOUNDS[number % 4]
        keys = dict(zip(KEYS, ("source_1", "batch", "P1", f"A{number + 1:02d}", "1"), strict=True))
        known = {"broad_sample": compound, "phenotype": phenotype, "strength": strength}
        known["control_type"] = None if compound else "negcon"
        row = {FOV_ID: fov_id(keys), **keys, **{f"Metadata_{name}": value for name, value in known.items()}}
        for at, stain in enumerate(STAINS):
            random = np.random.default_rng([number, at])
            y, x = np.mgrid[:136, :136]
            pixels = 2000 + 20000 * (np.sin(x / random.uniform(3, 9)) * np.cos(y / random.uniform(3, 9)) > 0.3)
            path = folder / f"{number}-{stain}.tiff"
            tifffile.imwrite(path, random.poisson(pixels).astype(np.uint16), compression="lzw")
            row |= {uri_column(stain): str(path), illum_column(stain): None}
        rows.append(row)
    (folder / "7-ER.tiff").write_bytes((folder / "7-ER.tiff").read_bytes()[:500])
    pl.DataFrame(rows).write_parquet(config.manifest)
    resolved = resolve_weights(config, STORAGE)
    cpu = torch.device("cpu")
    encoder = Encoder(config, load_models(config, resolved, cpu), Forward(cpu, "float32"), 8)
    batch = {name: np.array([row[name] for row in rows], object) for name in rows[0]}
    loader, compressor = Loader(config.image, config.storage), Compressor.of(config)
    for start in (0, 4):
        part = {name: values[start : start + 4] for name, values in batch.items()}
        write_rows(config.output, f"part-{start}", encoder(compressor(loader(part))), STORAGE)
    manifest = describe_manifest(config.manifest, len(rows), STORAGE)
    weights = {name: found.record() for name, found in resolved.items()}
    provenance.write_record(
        config.output,
        provenance.new_record(
            config, manifest, weights, 8, "float32", engines=autoencoder_engines(config, resolved, None)
        ),
        STORAGE,
    )


def scores_of(config: RunConfig, sides: tuple[str, ...] = ("image", "pca", "tiny", "identity")) -> Scores:
    """Tables as `score` writes them, for the extractors intensity (all sides) and latent (which has no originals)."""
    summary, compounds, fid = [], [], []
    for extractor in ("intensity", "latent"):
        for side in sides:
            if extractor == "latent" and side == "image":
                continue
            head = {"extractor": extractor, "side": side, "group": "U2OS / 48"}
            recalls = {f"replicate_recall_at_{k}": 0.111 * k for k in (1, 5, 10)}
            own = None if side == "image" else 0.125
            counts = {"wells": 12345, "controls": 6789, "compounds": 3, "compounds_scored": 3, "retrieved": 1}
            values = {"mean_map": 0.4567, "fraction_retrieved": 1 / 3, "reconstruction_recall": own}
            summary.append({**head, "random_weights": side == "tiny", **counts, **values, **recalls, "status": "ok"})
            for number, (name, _, _) in enumerate(COMPOUNDS[1:]):
                lost = side == "tiny"
                value = 0.9 - 0.3 * number - 0.2 * lost
                found = {
                    "compound": name,
                    "map": value,
                    "normalised_map": value - 0.2,
                    "retrieved": number == 0 and not lost,
                }
                compounds.append({**head, **found, "status": "ok"})
            if extractor == "intensity" and side != "image":
                counts = {"n_image": 28, "n_side": 28, "dimensions": 17}
                where = {"extractor": extractor, "side": side, "by": "group", "slice": "U2OS / 48"}
                parts = enumerate(config.image.stains)
                fid += [{**where, "part": name, **counts, "sampled": 28, "fid": 4.0 + at} for at, name in parts]
    bands = {"radial_power": radial_power.BANDS}
    run = Run(config)
    fovs = Fovs.of(with_groups(config.score, run.fovs()))
    metrics = metric_distributions(run, fovs, bands, in_threads).filter(pl.col("side").is_in(sides))
    latents, channels = latents_of("pca" in sides)
    distributions = pl.DataFrame(fid, schema=None if fid else {"extractor": pl.String, "by": pl.String})
    return Scores(
        summary=pl.DataFrame(summary),
        compounds=pl.DataFrame(compounds),
        wells=pl.DataFrame(),
        floors=floors_of_sides(sides, "posing", "posing_shuffled"),
        estimates=floors_of_sides(sides, "half_other", "half_same"),
        over_floor=over_floor_of_sides(sides),
        ceilings=ceilings_of(sides),
        tasks=tasks_of_sides(sides),
        differences=differences_of_sides(sides),
        distributions=distributions,
        metrics=metrics,
        latents=latents,
        latent_channels=channels,
        **audits_of_sides(sides),
    )


def audits_of_sides(sides: tuple[str, ...]) -> dict[str, pl.DataFrame]:
    """The ladder without a rung of batches, shares of neighbours, enrichment and probe of one column of targets."""
    tables: dict[str, list[dict[str, object]]] = {
        name: [] for name in ("stringency", "neighbours", "enrichment", "probes")
    }
    for side in sides:
        where = {"extractor": "intensity", "side": side, "group": "U2OS / 48"}
        for rung, value in (("any", 0.512), ("plate", 0.434), ("batch", None)):
            numbers = {
                "mean_normalised_map": value,
                "floor_normalised_map": value and 0.021,
                "recall_at_5": value and 0.353,
            }
            status = "ok" if value else "one_batch"
            tables["stringency"].append(
                {**where, "task": "activity", "rung": rung, **numbers, "floor_recall_at_5": 0.052, "status": status}
            )
        for shared, ratio in (("replicates", 3.0), ("plate", 1.87), ("row", None)):
            numbers = {"share": 0.64, "over_chance": ratio, "floor_share": 0.043, "floor_over_chance": 1.03}
            status = "ok" if ratio else "no_position"
            tables["neighbours"].append({**where, "shared": shared, "k": 10, **numbers, "status": status})
        odds = {"odds_ratio": 6.25, "floor_odds_ratio": 1.37, "enriched": None, "status": "cannot_reject"}
        tables["enrichment"].append({**where, "column": "Metadata_target", "label": None, "k": 5, **odds})
        tables["enrichment"].append({**where, "column": "Metadata_target", "label": "kinase", "k": 5, **odds})
        probe = {
            "balanced_accuracy": 0.715,
            "floor_balanced_accuracy": 0.243,
            "chance": 0.25,
            "compounds": 21,
            "status": "ok",
        }
        tables["probes"].append({**where, "column": "Metadata_target", **probe})
    parts = {"by": "group", "slice": "U2OS / 48", "part": "Mito", "n_image": 14, "n_side": 14, "fid": 2.468}
    tables["references"] = (
        [{"extractor": "intensity", "side": "image", **parts, "reference": "sites"}] if "image" in sides else []
    )
    return {name: pl.DataFrame(rows) for name, rows in tables.items()}


def floors_of_sides(sides: tuple[str, ...], known: str, lacking: str) -> pl.DataFrame:
    """The first quantity has numbers, for the second the controls are too few."""
    rows = []
    for side in sides:
        where = {"extractor": "intensity", "side": side, "group": "U2OS / 48"}
        rows.append({**where, "quantity": known, "fraction_retrieved": 0.271, "status": "ok"})
        rows.append({**where, "quantity": lacking, "fraction_retrieved": None, "status": "too_few_controls"})
    return pl.DataFrame(rows, schema=None if rows else {"extractor": pl.String, "side": pl.String})


def over_floor_of_sides(sides: tuple[str, ...]) -> pl.DataFrame:
    """FR over floor of all sides but `tiny`, whose floor is unknown."""
    rows = []
    for side in sides:
        where = {"extractor": "intensity", "side": side, "group": "U2OS / 48"}
        known = side != "tiny"
        numbers = {
            "over_floor": 0.085,
            "low": -0.015,
            "high": 0.185,
            "map_between": 0.765,
            "plates_low": 0.22,
            "plates_high": 0.44,
        }
        status = {"status": "ok" if known else "position effect unknown"}
        rows.append({**where, **{name: value if known else None for name, value in numbers.items()}, **status})
    return pl.DataFrame(rows, schema=None if rows else {"extractor": pl.String, "side": pl.String})


def ceilings_of(sides: tuple[str, ...]) -> pl.DataFrame:
    where = {"extractor": "intensity", "side": "image", "group": "U2OS / 48"}
    numbers = {
        "normalised_map": 0.5,
        "fraction_retrieved": 0.6,
        "retrieved": 9.0,
        "kept": 6.5,
        "gained": 2.0,
        "kept_share": 0.722,
    }
    rows = [
        {**where, "halves": "wells", **numbers, "status": "ok"},
        {**where, "halves": "plates", "status": "cannot_reject"},
    ]
    return pl.DataFrame(rows if "image" in sides else [], schema=None if "image" in sides else {"status": pl.String})


def tasks_of_sides(sides: tuple[str, ...]) -> pl.DataFrame:
    rows = []
    for side in sides:
        where = {"extractor": "intensity", "side": side, "group": "U2OS / 48"}
        counts = {
            "queries": 12,
            "groups": 3,
            "mean_map": 0.345,
            "mean_normalised_map": 0.234,
            "fraction_retrieved": 0.678,
        }
        rows.append({**where, "task": "distinctiveness", **counts, "status": "ok"})
        if side != "image":
            rows.append({**where, "task": "cross_side", "mean_map": None, "status": "not scored: no well"})
    return pl.DataFrame(rows, schema=None if rows else {"extractor": pl.String, "side": pl.String})


def differences_of_sides(sides: tuple[str, ...]) -> pl.DataFrame:
    rows = []
    for side in sides:
        where = {"extractor": "intensity", "side": side, "group": "U2OS / 48", "quantity": "fraction_retrieved"}
        apart = None if side == "image" else -0.125
        ends = {"difference": apart, "difference_low": -0.25, "difference_high": 0.0}
        rows.append(
            {**where, "estimate": 1 / 3, "low": 0.2, "high": 0.5, **ends, "mcnemar_p": None if apart is None else 0.625}
        )
    return pl.DataFrame(rows, schema=None if rows else {"extractor": pl.String, "side": pl.String})


def latents_of(there: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What `latent_space` gives of the side pca: two channels, one of them without a unit that varies."""
    where = {"side": "pca", "group": "U2OS / 48", "passes": 56}
    whole = pl.DataFrame([{**where, "channels": 2, "units": 128, "active_units": 64, "effective_rank": 1.25}])
    channels = pl.DataFrame([{**where, "channel": at, "sd": sd} for at, sd in enumerate((0.5, 3.25))])
    return (whole, channels) if there else (whole.head(0), channels.head(0))


def scored(config: RunConfig, scores: Scores | None = None) -> ScoredRun:
    return ScoredRun.read(Run(config), scores or scores_of(config))


def page_of(config: RunConfig, scores: Scores) -> str:
    uri = write_report(scored(config, scores))
    assert uri == f"{config.output}/report/index.html"
    return Path(uri).read_text()


def summary_of(config: RunConfig, scores: Scores) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_summary(scored(config, scores), console)
    return console.export_text()


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; fails where tags do not nest."""

    VOID = frozenset({"meta", "link", "img", "col", "br", "rect", "line", "circle", "path", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code of a command, and what it printed, as one line."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    told = capsys.readouterr()
    return int(ended.value.code), (told.out + told.err).replace("\n", " ")
