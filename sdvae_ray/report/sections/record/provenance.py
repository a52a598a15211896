"""The settings, versions and weights of the run, and how to repeat it."""

import yaml

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import NONE, Section, Table, text_column
from sdvae_ray.run.record import Record
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.settings.packing import pass_names

_WEIGHTS = [
    text_column("model", "model"),
    text_column("source", "source"),
    text_column("revision", "revision"),
    text_column("files", "files, first 16 digits of sha256"),
]
_COMMANDS = (
    "sdvae-ray run run.yaml      # encode, score and report; what is there is not computed again\n"
    "sdvae-ray score run.yaml    # the scores alone\n"
    "sdvae-ray report run.yaml   # this page alone"
)


def the_run(scored: ScoredRun) -> Section:
    """Return the section. terms: settings and versions. tables: the weights."""
    head, record, facts = ("run", "The run", "The run"), scored.record, _settings(scored)
    if record is None:
        missing = "There is no run.json: versions and weights are not known."
        return Section(*head, lead=missing, terms=facts, template="provenance.html")
    weights = [_weights(name, weights) for name, weights in record["weights"].items()]
    facts |= {
        "arithmetic": f"{record['precision']}, {record['micro_batch']} passes per forward pass",
        "sdvae_ray": f"{record['sdvae_ray']}, run digest {record['digest']}",
        "libraries": ", ".join(f"{name} {version}" for name, version in record["libraries"].items()),
        "python": f"{record['python']} on {record['platform']}",
        "sessions": "; ".join(_sessions(record)),
    }
    return Section(*head, terms=facts, tables=[Table("Weights", _WEIGHTS, weights)], template="provenance.html")


def _settings(scored: ScoredRun) -> dict[str, str]:
    config, record = scored.config, scored.record
    score, image = config.score, config.image
    return {
        "output": config.output,
        "manifest": config.manifest,
        "manifest sha256": record["manifest"]["sha256"] if record else NONE,
        **_corrected_metadata(record or {}),
        "images": f"{', '.join(image.stains)}; crop {image.crop}, patches of {image.patch} pixels; RGB passes "
        f"{', '.join(image.passes)}",
        **_policies(image),
        **_packings(config),
        "scaling": f"{image.scaling.method} to {image.scaling.bits} bit",
        "wells": f"{score.aggregate} over fields; controls: {score.control}; perturbation: {score.perturbation}",
        "normalisation": score.normalise if isinstance(score.normalise, str) else str(list(score.normalise)),
        "negatives, null": f"of the {score.negatives}; by {score.null}, {score.null_size:,} draws",
        "retrieved": f"corrected p at most {score.threshold:g}",
        "seed": f"{config.seed}",
    }


def _policies(image: ImageConfig) -> dict[str, str]:
    """Return the crops, resamplings and divisors of a run with policies, in words."""
    if image.policies is None:
        return {}
    words = []
    for value, own in image.policies.values.items():
        policy = image.every_policy[value]
        parts = [f"crop {policy.crop}", f"{policy.patches} patches"]
        parts += [f"resampled from {own.pixel_um:g} to {image.pixel_um:g} µm"] if policy.zoom is not None else []
        parts += [f"divisor {policy.divisor:g}"] if own.divisor is not None else []
        words.append(f"{value}: {', '.join(parts)}")
    return {f"policies by {image.policies.column}": "; ".join(words)}


def _packings(config: RunConfig) -> dict[str, str]:
    """Return the RGB passes of the autoencoders that have a packing of their own, in words."""
    words = [
        f"{name}: {', '.join(pass_names(config.triples(name)))}; a stain of several triples is read back from the {settings.unpack}"
        for name, settings in config.autoencoders.items()
        if config.triples(name) != config.image.triples or settings.unpack != "first"
    ]
    return {"packings": ". ".join(words)} if words else {}


def _corrected_metadata(record: Record) -> dict[str, str]:
    """Return the manifest whose metadata the scores took, where it is not the metadata at encode."""
    told = record.get("scored", {})
    columns = [*told.get("changed", {}), *told.get("added", []), *told.get("gone", [])]
    if not columns:
        return {}
    manifest = told["manifest"]
    changed = f"{', '.join(columns)} changed after encode, for {told['fovs']:,} fields of view"
    return {"metadata": f"of {manifest['uri']}, sha256 {manifest['sha256']}: {changed}"}


def _sessions(record: Record) -> list[str]:
    lines = []
    for session in record["sessions"]:
        end = f", {session['seconds']:,.0f} s, {session['errors']:,} failed" if "ended" in session else ", not ended"
        lines.append(f"{session['started']}: {session['fovs']:,} fields of view{end}")
    return lines


def _weights(name: str, weights: Record) -> dict[str, str]:
    return {
        "model": name,
        "source": "random weights" if weights["random"] else weights["source"] or "needs none",
        "revision": weights["revision"] or NONE,
        "files": ", ".join(f"{file} {digest[:16]}" for file, digest in weights["files"].items()) or NONE,
    }


def again(scored: ScoredRun) -> Section:
    """Return the section. content: the commands, and the text of the run file."""
    text = yaml.safe_dump(scored.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    lead = "Save the text under run.yaml as a file of that name; results follow from it, the manifest and the weights."
    return Section("again", "To have it again", "Again", lead=lead, template="again.html", content=(_COMMANDS, text))
