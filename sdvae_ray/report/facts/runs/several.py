"""Several runs with a letter and a colour each, and which of their numbers may be compared."""

import functools
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from sdvae_ray.errors import ConfigError
from sdvae_ray.report.facts.conclude.study import rule_of, studies
from sdvae_ray.report.facts.conclude.words import listed
from sdvae_ray.report.facts.runs.settings import differences
from sdvae_ray.report.facts.scored import ScoredRun, Values, in_order_of
from sdvae_ray.report.facts.table import Side

_COLOURS = 11  # of the page's style sheet, beside the originals'
_NAMED = 6  # settings that a line names
_ADDED = {"conclude", "fov_index", "distributions", "tasks", "transfer", "recall_at", "floor_repeats", "sets"}
_METRICS = "metrics, rates and distances"
_SHELVES = ("autoencoders", "codecs", "extractors", "metrics")


@dataclass(frozen=True)
class NamedRun:
    """A run of a comparison. letter: A, B, ... as they were named. colour: of its marks in charts, by number."""

    letter: str
    scored: ScoredRun
    colour: int

    def side(self, name: str) -> Side:
        """Return a side of this run: its label with the run's letter, in the run's colour."""
        return Side(f"{self.scored.label(name)} · {self.letter}", self.colour)

    @property
    def legend(self) -> Side:
        """Return the run for a legend: its letter and where it is."""
        return Side(f"{self.letter}: {self.scored.run.output}", self.colour)


Runs = Sequence[NamedRun]


def named(runs: Sequence[ScoredRun]) -> list[NamedRun]:
    """Return the runs with their letters. Raises ConfigError for a run that is named twice, and for more runs than letters."""
    studies(runs)  # names a run that is there twice
    letters = string.ascii_uppercase
    if len(runs) > len(letters):
        raise ConfigError(f"{len(runs)} runs: a page compares {len(letters)} at most")
    return [NamedRun(letters[place], run, 1 + place % _COLOURS) for place, run in enumerate(runs)]


def letters(runs: Runs) -> str:
    """Return the letters of runs as `A, B and C`."""
    return listed([run.letter for run in runs])


def sides_of(runs: Runs) -> list[str]:
    """Return the sides that a run has, in the order of the run files."""
    return list(dict.fromkeys(side for run in runs for side in run.scored.config.sides))


def extractors_of(runs: Runs) -> list[str]:
    """Return the extractors that a run was scored with, in the order of the run files."""
    tables = (run.scored.scores.summary for run in runs)
    names = [name for table in tables if table.height for name in table["extractor"].to_list()]
    known = dict.fromkeys(name for run in runs for name in run.scored.config.extractors)
    return in_order_of(names, list(known))


# --- what may be compared ------------------------------------------------------------------------------------------------------


def of_same_pixels(runs: Runs) -> list[list[NamedRun]]:
    """Return the runs in sets whose metrics, rates and distances may be compared: one manifest, one way to read its images."""
    return _alike(runs, _pixels)


def of_same_question(runs: Runs, extractor: str) -> list[list[NamedRun]]:
    """Return the runs that have an extractor, in sets whose FR, mAP and verdicts by it may be compared: the same pixels,
    metadata, rules of `score`, and the same extractor with the same weights."""
    having = [run for run in runs if extractor in extractors_of([run])]
    return _alike(having, lambda run: _question(run, extractor))


def _alike(runs: Runs, basis: Callable[[NamedRun], Values]) -> list[list[NamedRun]]:
    sets: list[list[NamedRun]] = []
    for run in runs:
        same = next((others for others in sets if basis(others[0]) == basis(run)), None)
        if same is None:
            sets.append([run])
        else:
            same.append(run)
    return sets


def _pixels(run: NamedRun) -> Values:
    scored = run.scored
    known = (scored.record or {}).get("manifest", {}).get("sha256")
    image = scored.config.image.model_dump(mode="json", exclude={"packing"})  # each autoencoder has passes of its own
    return {"manifest": known or f"unknown: {scored.run.output} has no run.json", "image": image}


def _question(run: NamedRun, extractor: str) -> Values:
    scored, record = run.scored, run.scored.record or {}
    score = scored.config.score.model_dump(mode="json", exclude=_ADDED)
    metadata = record.get("scored", {}).get("manifest", {}).get("sha256")
    settings = scored.config.extractors.get(extractor)
    weights = record.get("weights", {}).get(extractor, {}).get("files")
    how = (
        None if settings is None else settings.model_dump(mode="json", exclude={"keep_patches", "source", "subfolder"})
    )
    changed: Values = {"metadata": metadata} if record.get("scored", {}).get("changed") else {}
    changed["passes"] = [list(triple) for triple in scored.config.image.triples]  # an extractor may see stains as RGB
    return {**_pixels(run), **changed, "score": score, f"extractors.{extractor}": how, f"weights.{extractor}": weights}


def what_may_be_compared(runs: Runs) -> tuple[list[str], list[str]]:
    """Return (warnings, lines): which numbers may not be compared, with the settings that differ; and which may."""
    topics: dict[str, tuple[list[list[NamedRun]], Callable[[NamedRun], Values]]]
    topics = {_METRICS: (of_same_pixels(runs), _pixels)}
    for extractor in extractors_of(runs):
        topics[extractor] = (of_same_question(runs, extractor), functools.partial(_question, extractor=extractor))
    by_sets: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for what, (sets, basis) in topics.items():
        keys = [key for key, _ in differences([basis(alike[0]) for alike in sets])]
        by_sets.setdefault(tuple(letters(alike) for alike in sets), {})[what] = keys
    warnings, lines = [], []
    for named_sets, found in by_sets.items():
        by = [name for name in found if name != _METRICS]
        scores = [f"FR, mAP and verdicts by {listed(by)}"] if by else []
        what = "; ".join([*(name for name in found if name == _METRICS), *scores])
        if len(named_sets) > 1:
            keys = list(dict.fromkeys(key for keys in found.values() for key in keys))
            warnings.append(f"{' | '.join(named_sets)} may not be compared by {what}: {_that_differ(keys)}.")
        if together := [one for one in named_sets if " and " in one]:
            lines.append(f"{'; '.join(together)} may be compared by {what}.")
    return [*warnings, *_other_doubts(runs)], lines


def _that_differ(keys: Sequence[str]) -> str:
    shown = [*keys[:_NAMED], *([f"{len(keys) - _NAMED} more"] if len(keys) > _NAMED else [])]
    return f"{listed(shown)} {'differs' if len(keys) == 1 else 'differ'}"


def _other_doubts(runs: Runs) -> Iterator[str]:
    """Yield what else stands between the numbers of the runs: names with several meanings, margins, fields, drawn images."""
    for shelf in _SHELVES:
        shelves = {run.letter: getattr(run.scored.config, shelf) for run in runs}
        for name in dict.fromkeys(name for models in shelves.values() for name in models):
            settings = {
                letter: models[name].model_dump(mode="json") for letter, models in shelves.items() if name in models
            }
            if keys := [key for key, _ in differences(list(settings.values()))]:
                yield f"{name} of {listed(list(settings))} is not the same: {shelf}.{name}: {_that_differ(keys)}."
    rules = {run.letter: rule_of(run.scored) for run in runs}
    if len({(rule.margin, rule.level) for rule in rules.values()}) > 1:
        words = "; ".join(f"{letter}: margin {rule.margin:g} at level {rule.level:g}" for letter, rule in rules.items())
        yield f"The words of the verdicts are by different rules. {words}."
    if len({run.scored.usable.height for run in runs}) > 1:
        counts = ", ".join(f"{run.letter} {run.scored.usable.height:,}" for run in runs)
        yield f"The runs have different numbers of usable fields of view: {counts}."
    drawn = [run for run in runs if run.scored.is_synthetic]
    if drawn and len(drawn) < len(runs):
        yield f"The images of {letters(drawn)} are synthetic, the others are not."
