"""What the runs are, and the settings, versions and weights in which they differ."""

from sdvae_ray.report.facts.runs.settings import ABSENT, differences, in_words, settings_of
from sdvae_ray.report.facts.runs.several import Runs
from sdvae_ray.report.facts.table import NONE, Column, Row, Section, Table, text_column

_LONGEST = 40  # characters of a value on the first screen


def settings_that_differ(runs: Runs, most: int) -> list[str]:
    """Return the first `most` settings of the run files that differ, each with its values in words; and how many more there are."""
    rows = _rows(runs)
    chosen = [row for row in rows if not row["key"].startswith("recorded.")][:most]
    lines = [f"{row['key']}: " + "; ".join(f"{run.letter} {_short(row[run.letter])}" for run in runs) for row in chosen]
    more = len(rows) - len(chosen)
    return [*lines, *([f"{more} more below, of settings, versions and weights"] if more else [])]


def _short(words: str) -> str:
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 1]}…"


def _rows(runs: Runs) -> list[dict[str, str]]:
    """Return one row per key that differs: `key`, and the value of every run in words under its letter."""
    found = differences([settings_of(run.scored) for run in runs])
    return [
        {"key": key}
        | {run.letter: NONE if value is ABSENT else in_words(value) for run, value in zip(runs, values, strict=True)}
        for key, values in found
    ]


def section(runs: Runs) -> Section:
    """Return the section: a table of the runs, and one of what differs."""
    columns = [
        text_column("key", "key", keeps=44),
        *(text_column(run.letter, run.letter, colour=run.colour) for run in runs),
    ]
    facts = [
        text_column("run", "run"),
        text_column("output", "output"),
        Column("fovs", "usable fields"),
        Column("seed", "seed"),
    ]
    facts += [
        text_column("manifest", "manifest, sha256"),
        text_column("digest", "run digest"),
        text_column("version", "sdvae_ray"),
    ]
    about: list[Row] = []
    for run in runs:
        record = run.scored.record or {}
        manifest = record.get("manifest", {})
        about.append(
            {
                "run": run.letter,
                "output": run.scored.run.output,
                "fovs": run.scored.usable.height,
                "seed": run.scored.config.seed,
                "manifest": f"{manifest.get('uri', NONE)}, {str(manifest.get('sha256', NONE))[:16]}",
                "digest": str(record.get("digest", NONE)),
                "version": str(record.get("sdvae_ray", NONE)),
            }
        )
    rows = _rows(runs)
    tables = [Table("The runs", facts, about)]
    lines = ["The settings, versions and weights are the same."] if not rows else []
    if rows:
        notes = [f"As the run files and run.json have them; {NONE}: not given."]
        tables.append(Table("Settings, versions and weights that differ", columns, rows, notes))
    return Section("settings", "What differs between the runs", "Settings", lines=lines, tables=tables)
