"""The report: one HTML file with everything in it, readable offline, on paper and in the dark."""

import re
from collections.abc import Callable
from importlib.resources import files

import polars as pl
import yaml
from rich.console import Console

from sdvae_ray.config import RunConfig
from sdvae_ray.errors import SdvaeRayError
from sdvae_ray.report.facts import findings, outcome
from sdvae_ray.report.facts.findings import NONE, label
from sdvae_ray.report.facts.reading import glossary
from sdvae_ray.report.page import beside, charts, compression, fidelity, sections, views
from sdvae_ray.report.page.markup import cell, esc, facts, head, paragraph, row, section, table
from sdvae_ray.report.pictures.choice import choose
from sdvae_ray.report.pictures.examples import Examples, load_examples
from sdvae_ray.run import record as provenance
from sdvae_ray.run.record import Record
from sdvae_ray.run.scores import Scores
from sdvae_ray.run.tables import read_fovs
from sdvae_ray.schema import ERROR, PLATE_COLUMN
from sdvae_ray.storage import Storage, join

FILE = "report/index.html"
_NAMED = 3  # sides that the heading names


def write_report(config: RunConfig, scores: Scores, storage: Storage, console: Console | None = None) -> str:
    """Writes `<output>/report/index.html` and returns its URI. What cannot be shown now is said on the page."""

    def say(text: str) -> None:
        if console is not None:
            console.print(f"report: {text}", highlight=False, markup=False, soft_wrap=True)

    record = provenance.read_record(config.output, storage)
    asked = re.findall(r"\w+", config.score.control)  # the columns of the expression are among its words
    columns = [PLATE_COLUMN, config.score.perturbation or PLATE_COLUMN, *outcome.TRUTH_COLUMNS, *asked]
    fovs = read_fovs(config.output, storage, columns)
    examples = _examples(config, scores, record, fovs.filter(pl.col(ERROR).is_null()), storage, say)
    page = render(config, scores, record, fovs, examples, storage)
    uri = join(config.output, FILE)
    storage.write_bytes(uri, page.encode())
    return uri


def _examples(
    config: RunConfig,
    scores: Scores,
    record: Record | None,
    usable: pl.DataFrame,
    storage: Storage,
    say: Callable[[str], None],
) -> Examples:
    if usable.height == 0:
        return Examples([], 0, ["No pictures: there is no usable field of view."])
    try:
        return load_examples(config, record, choose(config, scores, usable), usable, storage, say)
    except (SdvaeRayError, OSError) as error:
        return Examples([], 0, [f"No pictures: {error}"])


def render(
    config: RunConfig, scores: Scores, record: Record | None, fovs: pl.DataFrame, examples: Examples, storage: Storage
) -> str:
    """The whole page as text. `fovs`: one row per FOV that was tried, with `error` and `files`."""
    usable = fovs.filter(pl.col(ERROR).is_null())
    failed = findings.failures(fovs)
    rows = outcome.retrieval_rows(config, scores)
    truth = outcome.truth_rows(config, scores, fovs)
    distributions = charts.metric_charts(config, scores, usable, storage)
    parts = [
        _header(config, record, fovs, len(failed)),
        sections.short_section(config, scores, rows, truth, len(failed)),
        views.examples_section(config, examples),
        compression.rates_section(config, scores),
        sections.metrics_section(config, scores),
        fidelity.spectra_section(config, scores),
        sections.retrieval_section(config, scores, rows),
        beside.floors_section(config, scores),
        beside.tasks_section(config, scores),
        views.comparison_section(config, scores, rows),
        sections.truth_section(config, truth),
        views.distributions_section(config, usable, distributions, config.sides),
        fidelity.distances_section(config, scores),
        compression.sizes_section(config, usable, storage),
        compression.latents_section(config, scores),
        sections.failures_section(failed, fovs.height),
        _how_to_read(config),
        _provenance(config, record),
        _again(config),
    ]
    title = f"{_sides(config)}: does the phenotype survive?"
    style = (files("sdvae_ray.report.page") / "page.css").read_text()
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{style}</style></head>\n<body><main>{''.join(parts)}</main></body></html>\n"
    )


# --- head --------------------------------------------------------------------------------------------------------------------


def _header(config: RunConfig, record: Record | None, fovs: pl.DataFrame, failed: int) -> str:
    sides = _sides(config)
    synthetic = "synthetic " if config.synthetic else ""
    used, total = fovs.height - failed, record["manifest"]["fovs"] if record else fovs.height
    lead = (
        f"{used:,} {synthetic}fields of view went through {sides}. Originals and reconstructions were measured, embedded by "
        f"{_listed([label(config, name) for name in config.extractors])}, and asked the same question: are the replicates of a "
        "compound closer to each other than to the negative controls?"
    )
    tiles = [
        (f"{used:,} / {total:,}", f"usable {synthetic}fields of view"),
        (f"{used * config.image.patches:,}", f"patches of {config.image.patch} pixels"),
    ]
    for column, name in ((PLATE_COLUMN, "plates"), (config.score.perturbation, "perturbations")):
        if column in fovs.columns:
            known = fovs.filter(pl.col(column).is_not_null() & (pl.col(column) != ""))
            tiles.append((f"{known[column].n_unique():,}", name))
    for shelf, kind in ((config.autoencoders, "autoencoder"), (config.codecs, "codec")):
        if shelf:
            tiles.append((f"{len(shelf)}", kind if len(shelf) == 1 else f"{kind}s"))
    body = "".join(f'<div class="tile"><b>{esc(value)}</b><span>{esc(name)}</span></div>' for value, name in tiles)
    return (
        f'<p class="kicker">sdvae_ray report</p><h1>Does the phenotype survive {esc(sides)}?</h1>'
        f'<p class="lead">{esc(lead)}</p>{_banners(config)}<div class="tiles">{body}</div>{_navigation()}'
    )


def _sides(config: RunConfig) -> str:
    if len(config.sides) <= _NAMED:
        return _listed([label(config, side) for side in config.sides])
    shelves = ((config.autoencoders, "autoencoders"), (config.codecs, "codecs"))
    return _listed([f"{len(shelf)} {kind if len(shelf) > 1 else kind[:-1]}" for shelf, kind in shelves if shelf])


def _navigation() -> str:
    names = {
        "short": "In short",
        "examples": "Pictures",
        "rates": "Rate and phenotype",
        "metrics": "Quality",
        "retrieval": "Retrieval",
        "floors": "Floors",
        "fr": "Comparison",
    }
    names |= {
        "distributions": "Per stain",
        "failures": "Failures",
        "read": "How to read",
        "run": "The run",
        "again": "Again",
    }
    links = "".join(f'<a href="#{anchor}">{esc(name)}</a>' for anchor, name in names.items())
    return f'<nav aria-label="Sections">{links}</nav>'


def _banners(config: RunConfig) -> str:
    found = ""
    if config.random_weights:
        found += (
            f'<p class="banner warn" role="note"><strong>Random weights: {esc(", ".join(config.random_weights))}.</strong> '
            "Built without trained weights: every number and picture that comes of them tests the machinery and says nothing "
            "about images.</p>"
        )
    if config.synthetic:
        found += (
            '<p class="banner" role="note"><strong>Synthetic data.</strong> These are drawn cells with a known truth, not '
            "microscope images: they show that the job works and what is lost on them, not how real phenotypes fare.</p>"
        )
    return found


def _listed(names: list[str]) -> str:
    return " and ".join(", ".join(names).rsplit(", ", 1))


# --- tail --------------------------------------------------------------------------------------------------------------------


def _how_to_read(config: RunConfig) -> str:
    body = "".join(f"<dt>{esc(term)}</dt><dd>{esc(text)}</dd>" for term, text in glossary(config).items())
    return section("read", "How to read the numbers", f'<dl class="read">{body}</dl>')


def _provenance(config: RunConfig, record: Record | None) -> str:
    score, image = config.score, config.image
    passes = ", ".join(image.passes)
    pairs = [
        ("output", config.output),
        ("manifest", config.manifest),
        ("manifest sha256", record["manifest"]["sha256"] if record else NONE),
        (
            "images",
            f"{', '.join(image.stains)}; crop {image.crop}, patches of {image.patch} pixels; RGB passes {passes}",
        ),
        ("scaling", f"{image.scaling.method} to {image.scaling.bits} bit"),
        ("wells", f"{score.aggregate} over fields; controls: {score.control}; perturbation: {score.perturbation}"),
        ("normalisation", score.normalise if isinstance(score.normalise, str) else str(list(score.normalise))),
        ("negatives, null", f"of the {score.negatives}; by {score.null}, {score.null_size:,} draws"),
        ("retrieved", f"corrected p at most {score.threshold:g}"),
        ("seed", f"{config.seed}"),
    ]
    if record is None:
        missing = "There is no run.json: versions and weights are not known."
        return section("run", "The run", paragraph(missing), facts(pairs))
    pairs += [
        ("arithmetic", f"{record['precision']}, {record['micro_batch']} passes per forward pass"),
        ("sdvae_ray", f"{record['sdvae_ray']}, run digest {record['digest']}"),
        ("libraries", ", ".join(f"{name} {version}" for name, version in record["libraries"].items())),
        ("python", f"{record['python']} on {record['platform']}"),
    ]
    for session in record["sessions"]:
        end = f", {session['seconds']:,.0f} s, {session['errors']:,} failed" if "ended" in session else ", not ended"
        pairs.append(("session", f"{session['started']}: {session['fovs']:,} fields of view{end}"))
    return section("run", "The run", facts(pairs), _weights(record))


def _weights(record: Record) -> str:
    rows = []
    for name, found in record["weights"].items():
        source = "random weights" if found["random"] else found["source"] or "needs none"
        hashes = ", ".join(f"{file} {digest[:16]}" for file, digest in found["files"].items())
        texts = [source, found["revision"] or NONE, hashes or NONE]
        rows.append(row([cell(name), *(cell(text, "wrap") for text in texts)]))
    heads = ("model", "source", "revision", "files, first 16 digits of sha256")
    return table("Weights", [head(name) for name in heads], rows)


def _again(config: RunConfig) -> str:
    commands = (
        "sdvae-ray run run.yaml      # encode, score and report; what is there is not computed again\n"
        "sdvae-ray score run.yaml    # the scores alone\n"
        "sdvae-ray report run.yaml   # this page alone"
    )
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    return section(
        "again",
        "To have it again",
        paragraph(
            "Save the text under run.yaml as a file of that name; results follow from it, the manifest and the weights."
        ),
        f"<pre>{esc(commands)}</pre><details><summary>run.yaml</summary><pre>{esc(text)}</pre></details>",
    )
