"""The paper's fractions retrieved beside the scores of a run, or of several seeds of it, and every departure by name."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import polars as pl

from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.controls import GROUP, with_groups
from sdvae_ray.errors import DataError
from sdvae_ray.report.facts import outcome, published
from sdvae_ray.report.facts.scored import ScoredRun, Values
from sdvae_ray.report.facts.table import Column, Section, Table, text_column
from sdvae_ray.schema import BATCH_COLUMN, PLATE_COLUMN


@dataclass(frozen=True)
class Papers:
    """The printed FR that apply to a run. fractions: (extractor, group, side) -> FR; none if there is a departure. reasons: why
    other rows have no printed FR. departures: of settings and data from the published protocol."""

    fractions: dict[tuple[str, ...], float]
    reasons: list[str]
    departures: list[str]


def papers(scored: ScoredRun) -> Papers:
    """Return the printed FR that apply to the run, why other rows have none, and the run's departures from the protocol."""
    config = scored.config
    reasons: dict[str, dict[str, None]] = {}  # reason -> whose, in order
    fitting: list[Values] = []
    for row in outcome.retrieval_rows(scored):
        who, why = published.why_not(config, row["extractor"], row["side"]) or ("", "")
        if why:
            reasons.setdefault(why, {})[who] = None
        else:
            fitting.append(row)
    batches = scored.usable[BATCH_COLUMN].unique().to_list() if BATCH_COLUMN in scored.fovs.columns else []
    if fitting and not published.is_their_data(batches):
        reasons[f"its batches are not all of {published.DATA}"], fitting = {"this run": None}, []
    fractions: dict[tuple[str, ...], float] = {}
    for row in fitting:
        extractor, group, side = (row[name] for name in ("extractor", "group", "side"))
        fraction = published.printed(
            config.extractors[extractor].name, side == IMAGE_SIDE, group, config.score.aggregate
        )
        if fraction is None:
            reasons.setdefault("the authors' groups are A549 and U2OS, 24 and 48 h", {})[group] = None
        else:
            fractions[extractor, group, side] = fraction
    lines = [f"no printed FR for {', '.join(who)}: {why}" for why, who in reasons.items()]
    if not fractions:
        return Papers({}, lines, [])
    extractors, sides = (dict.fromkeys(key[index] for key in fractions) for index in (0, 2))
    apart = [*published.departures(config, extractors, sides), *departures_of_data(scored, fitting)]
    return Papers({} if apart else fractions, lines, apart)


def beside_the_paper(runs: Sequence[ScoredRun]) -> list[Values]:
    """Return one row per printed FR that applies to every run: extractor, group, side, paper, runs (their number), mean and sd of
    FR over the runs (sample sd, None for one run).

    runs: of one configuration and manifest, whose seeds differ. Raises DataError for a run that departs from the published
    protocol, with every departure by name.
    """
    of_runs = [papers(scored) for scored in runs]
    for scored, paper in zip(runs, of_runs, strict=True):
        if not paper.fractions:
            raise DataError(
                f"{scored.run.output}: the paper's figures do not stand beside this run: "
                + "; ".join([*paper.departures, *paper.reasons])
            )
    rows: list[Values] = []
    for key, printed_fraction in of_runs[0].fractions.items():
        fractions = [
            row[outcome.FRACTION]
            for scored in runs
            for row in outcome.retrieval_rows(scored)
            if (row["extractor"], row["group"], row["side"]) == key
        ]
        measured = pl.Series(fractions, dtype=pl.Float64).drop_nulls()
        names = dict(zip(("extractor", "group", "side"), key, strict=True))
        spread = measured.std() if len(measured) > 1 else None
        rows.append({**names, "paper": printed_fraction, "runs": len(measured), "mean": measured.mean(), "sd": spread})
    return rows


def papers_section(rows: Sequence[Values]) -> Section:
    """Return the rows of `beside_the_paper` as a table."""
    columns = [
        text_column("extractor", "extractor", says_once=True),
        text_column("group", "group"),
        text_column("side", "side"),
        Column("paper", "FR", 4, unit="paper"),
        Column("mean", "FR", 4, unit="mean"),
        Column("sd", "sd", 4),
        Column("runs", "runs", 0),
    ]
    brief = f"FR as printed by {published.CITATION}; of reconstructions the mean of 3 runs. sd: of our runs, n - 1."
    return Section("published", "", tables=[Table("Beside the paper", columns, list(rows))], brief=brief)


def departures_of_data(scored: ScoredRun, rows: Iterable[Values]) -> list[str]:
    """Return one line per group whose plates, compounds or controls are not those of the paper. rows: of scores/summary."""
    lines: dict[str, None] = {}
    plates = _plates_by_group(scored)
    for row in rows:
        group = row["group"]
        wanted = published.PLATES.get(published.cell_and_hours(group) or ("", 0))
        if wanted is None:
            continue
        if (names := plates.get(group, ())) != wanted:
            lines[f"{group}: plates {', '.join(names) or 'unknown'} (published: {', '.join(wanted)})"] = None
        for name, count in (("compounds_scored", published.COMPOUNDS), ("controls", published.CONTROLS)):
            if row.get(name) != count:
                lines[f"{group}: {name.replace('_', ' ')} {row.get(name)} (published: {count})"] = None
    return list(lines)


def _plates_by_group(scored: ScoredRun) -> dict[str, tuple[str, ...]]:
    columns = {PLATE_COLUMN, *scored.config.score.group}
    if not columns <= set(scored.fovs.columns):
        return {}
    named = with_groups(scored.config.score, scored.usable).group_by(GROUP).agg(pl.col(PLATE_COLUMN).unique().sort())
    return {group: tuple(plates) for group, plates in named.rows()}
