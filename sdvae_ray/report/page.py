"""The report: one HTML file with everything in it, readable offline, on paper and in the dark."""

from collections.abc import Sequence
from importlib.resources import files

import polars as pl
import yaml
from rich.console import Console

from sdvae_ray import provenance
from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.provenance import Record
from sdvae_ray.report import charts, findings, sections
from sdvae_ray.report.choice import choose
from sdvae_ray.report.examples import Examples, load_examples
from sdvae_ray.report.findings import label
from sdvae_ray.report.markup import bullets, cell, esc, facts, head, paragraph, row, section, table
from sdvae_ray.schema import ERROR
from sdvae_ray.scores import Scores
from sdvae_ray.storage import Storage, join
from sdvae_ray.tables import read_fovs

FILE = "report/index.html"


def write_report(config: RunConfig, scores: Scores, storage: Storage, console: Console | None = None) -> str:
    """Writes `<output>/report/index.html` and returns its URI. What cannot be shown now is said on the page."""

    def say(text: str) -> None:
        if console is not None:
            console.print(f"report: {text}", highlight=False, markup=False, soft_wrap=True)

    record = provenance.read_record(config.output, storage)
    fovs = read_fovs(config.output, storage)
    usable = fovs.filter(pl.col(ERROR).is_null())
    page = render(config, scores, record, fovs, _examples(config, scores, record, usable, storage, say), storage)
    uri = join(config.output, FILE)
    storage.write_bytes(uri, page.encode())
    return uri


def _examples(config: RunConfig, scores: Scores, record: Record | None, usable: pl.DataFrame, storage: Storage, say) -> Examples:  # type: ignore[no-untyped-def]
    if usable.height == 0:
        return Examples([], 0, ["No pictures: there is no usable field of view."])
    try:
        return load_examples(config, record, choose(config, scores, usable), usable, storage, say)
    except (SdvaeRayError, OSError) as error:
        return Examples([], 0, [f"No pictures: {error}"])


def render(config: RunConfig, scores: Scores, record: Record | None, fovs: pl.DataFrame, examples: Examples, storage: Storage) -> str:
    """The whole page as text. `fovs`: one row per FOV that was tried, with `error` and `file`."""
    usable = fovs.filter(pl.col(ERROR).is_null())
    failed = findings.failures(fovs)
    rows = outcome.retrieval_rows(config, scores)
    truth = outcome.truth_rows(config, scores, fovs)
    drawn = charts.metric_charts(config, usable, storage)
    parts = [
        _short(config, rows, truth),
        sections.metrics_section(config, scores),
        sections.retrieval_section(config, scores, rows),
        sections.truth_section(config, truth),
        sections.examples_section(config, examples),
        sections.comparison_section(config, scores, rows),
        sections.distributions_section(config, usable, drawn, list(config.autoencoders)),
        sections.sizes_section(config, usable, storage),
        sections.failures_section(failed, fovs.height),
        _how_to_read(config),
        _provenance(config, record),
        _again(config),
    ]
    title = f"{', '.join(config.autoencoders)}: does the phenotype survive?"
    style = (files("sdvae_ray.report") / "page.css").read_text()
    body = f"{_header(config, record, fovs, len(failed))}{''.join(parts)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{esc(title)}</title><style>{style}</style></head>\n<body><main>{body}</main></body></html>\n'
    )


def _header(config: RunConfig, record: Record | None, fovs: pl.DataFrame, failed: int) -> str:
    sides = " and ".join(", ".join(label(config, side) for side in config.autoencoders).rsplit(", ", 1))
    total = record["manifest"]["fovs"] if record else fovs.height
    synthetic = "synthetic " if config.synthetic else ""
    used = len(fovs) - failed
    lead = (
        f"{used:,} {synthetic}fields of view were encoded and decoded by {sides}; originals and reconstructions were measured, embedded by "
        f"{', '.join(label(config, name) for name in config.extractors)}, and asked the same question: are a compound's replicates "
        "closer to each other than to the negative controls?"
    )
    nav = [("short", "In short"), ("metrics", "Quality"), ("retrieval", "Retrieval"), ("examples", "Pictures"), ("fr", "Comparison")]
    nav += [("distributions", "Per stain"), ("failures", "Failures"), ("read", "How to read"), ("run", "The run")]
    links = "".join(f'<a href="#{anchor}">{esc(name)}</a>' for anchor, name in nav)
    tiles = [(f"{used:,} / {total:,}", f"usable {synthetic}fields of view"), (f"{used * config.image.patches:,}", f"patches of {config.image.patch} px")]
    for column, name in (("Metadata_Plate", "plates"), (config.score.perturbation, "perturbations")):
        if column in fovs.columns:
            known = fovs.filter(pl.col(column).is_not_null() & (pl.col(column) != ""))
            tiles.append((f"{known[column].n_unique():,}", name))
    tiles.append((str(len(config.autoencoders)), "autoencoders" if len(config.autoencoders) > 1 else "autoencoder"))
    body = "".join(f'<div class="tile"><b>{esc(value)}</b><span>{esc(name)}</span></div>' for value, name in tiles)
    return (
        f'<p class="kicker">sdvae_ray report</p><h1>Does the phenotype survive {esc(sides)}?</h1><p class="lead">{esc(lead)}</p>'
        f'{_banners(config)}<div class="tiles">{body}</div><nav aria-label="Sections">{links}</nav>'
    )


def _banners(config: RunConfig) -> str:
    found = ""
    if config.random_weights:
        names = ", ".join(config.random_weights)
        found += (
            f'<p class="banner warn" role="note"><strong>Random weights: {esc(names)}.</strong> These models were built without trained '
            "weights. Every number and picture that comes of them tests the machinery and says nothing about images.</p>"
        )
    if config.synthetic:
        found += (
            '<p class="banner" role="note"><strong>Synthetic data.</strong> These are drawn cells with a known truth, not microscope images: '
            "the scores say that the job works and what is lost here, not how real phenotypes fare.</p>"
        )
    return found


def _short(config: RunConfig, rows: list[outcome.Retrieval], truth: Sequence[outcome.TruthRow]) -> str:
    lines = charts.sentences(config, rows)
    unscored = outcome.reasons(config, rows)
    synthetic = "synthetic " if config.synthetic else ""
    for extractor in findings.extractors(config, (each.extractor for each in truth)):
        here = [each for each in truth if each.extractor == extractor]
        names = findings.sides(config, (side for each in here for side in each.cells))
        for active, what in ((True, "with an effect"), (False, "without one")):
            cells = [each.cells for each in here if (outcome.strength_of(each.strength) != 0) == active]
            counts = [
                f"{sum(c[side].retrieved for c in cells if side in c)}/{sum(c[side].scored for c in cells if side in c)} from {label(config, side)}"
                for side in names
            ]
            if cells:
                lines.append(f"{label(config, extractor)}, {synthetic}compounds {what}: retrieved {', '.join(counts)}.")
    if not lines and not unscored:
        lines = ["Nothing was scored."]
    return section("short", "In short", bullets(lines), bullets(unscored))


def _how_to_read(config: RunConfig) -> str:
    words = [*_READ]
    if config.score.normalise == "published":
        words.append(("whitening", "The published normalisation fits its whitening on the same controls that serve as negatives, which raises FR on every side: compare sides, not absolute values."))
    body = "".join(f"<dt>{esc(name)}</dt><dd>{esc(text)}</dd>" for name, text in words)
    return section("read", "How to read the numbers", f'<dl class="read">{body}</dl>')


_READ = (
    ("side", "Either image, the originals, or the name of an autoencoder, its reconstructions; identity gives back exactly what it got and shows what the pipeline itself does to a score."),
    ("random weights", "A model built without trained weights; its numbers mean nothing beyond that the job ran."),
    ("mae", "Mean absolute error per stain, as a fraction of full scale; 0 is exact, lower is better."),
    ("psnr", "Peak signal-to-noise ratio per stain in decibels, for a range of 1; higher is better, inf is exact."),
    ("ssim", "Structural similarity per stain, at most 1, higher is better. This is SSIM; the published plots show 1 - SSIM under the same name."),
    ("emd", "Earth mover's distance between the two intensity histograms of a stain, as a fraction of full scale; lower is better; blind to where the pixels are."),
    ("kld", "Divergence of the encoder's posterior from a standard normal, in nats per RGB pass; it describes the latent and is not a score; – where a model has no posterior."),
    ("mAP ↑", "Mean average precision: 1 where a compound's replicates all come before the negative controls when wells are sorted by cosine similarity; normalised mAP is 0 at chance and 1 at best."),
    ("FR ↑", "Fraction retrieved: the share of scored compounds whose mAP beats chance after correction for the number of compounds; inactive compounds keep it below 1."),
    ("R@k ↑", "Replicate recall: the share of a well's replicates among its k nearest other wells; at most k divided by the number of replicates."),
    ("own well ↑", "The share of treated wells whose reconstruction has its own original as the nearest of all originals; chance is one in the number of wells."),
    ("FID ↓", "Frechet distance between the patches' features on the originals and on a side, lower is better, in the feature space of the extractor that heads the table; it is not the TF-FID of image generation, compares within one extractor only, and grows when patches are few."),
)  # fmt: skip


def _provenance(config: RunConfig, record: Record | None) -> str:
    score = config.score
    scoring = (
        f"normalise {score.normalise}; negatives of the {score.negatives}; null by {score.null}, {score.null_size:,} draws; corrected p at most "
        f"{score.threshold:g}; wells by {score.aggregate}; controls: {score.control}; perturbation: {score.perturbation}"
    )
    pairs = [("output", config.output), ("manifest", config.manifest), ("scoring", scoring), ("seed", str(config.seed))]
    if record is None:
        return section("run", "The run", paragraph("There is no run.json: versions and weights are not known."), facts(pairs))
    image = config.image
    pairs[2:2] = [
        ("manifest sha256", record["manifest"]["sha256"]),
        ("images", f"{', '.join(image.stains)}; crop {image.crop}, patches of {image.patch} pixels; passes {_passes(config)}; {image.scaling.method} to {image.scaling.bits} bit"),
        ("arithmetic", f"{record['precision']}, {record['micro_batch']} passes per forward pass"),
    ]
    pairs += [
        ("sdvae_ray", f"{record['sdvae_ray']}, run digest {record['digest']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in record["libraries"].items())),
        ("python", f"{record['python']} on {record['platform']}"),
    ]
    for session in record["sessions"]:
        ended = f", {session['seconds']:,.0f} s, {session['errors']:,} failed in all" if "ended" in session else ", not ended"
        pairs.append(("session", f"{session['started']}: {session['fovs']:,} fields of view{ended}"))
    return section("run", "The run", facts(pairs), _weights(record))


def _passes(config: RunConfig) -> str:
    return ", ".join("+".join(triple) for triple in config.image.packing)


def _weights(record: Record) -> str:
    rows = []
    for name, found in record["weights"].items():
        said = "random weights" if found["random"] else found["source"] or "has none"
        hashes = ", ".join(f"{file} {digest[:16]}" for file, digest in found["files"].items())
        rows.append(row([cell(name), cell(said, "wrap"), cell(found["revision"] or findings.NONE, "wrap"), cell(hashes or findings.NONE, "wrap")]))
    return table("Weights", [head(name) for name in ("model", "source", "revision", "files, first 16 digits of sha256")], rows)


def _again(config: RunConfig) -> str:
    commands = "sdvae-ray run run.yaml      # encode, score and report; resumes what is there\nsdvae-ray score run.yaml    # the scores alone\nsdvae-ray report run.yaml   # this page alone"
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)
    return section(
        "again",
        "To have it again",
        paragraph("Save what is below as run.yaml; the run is a pure function of it, the manifest and the weights."),
        f"<pre>{esc(commands)}</pre><details><summary>run.yaml</summary><pre>{esc(text)}</pre></details>",
    )
