"""The three questions: verdicts with their margins, what is lost by name, extractors, metrics; on tables whose truth is made up."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from report_run import EVIL, Page, page_of, run_config, scored, scores_of, write_run

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig
from sdvae_ray.errors import ConfigError
from sdvae_ray.report.facts.conclude.dose_response import dose_responses
from sdvae_ray.report.facts.conclude.extractors import extractor_verdicts
from sdvae_ray.report.facts.conclude.predictors import answers, family
from sdvae_ray.report.facts.conclude.study import Rule, rule_of, studies
from sdvae_ray.report.facts.conclude.verdicts import Compound, fates, verdicts
from sdvae_ray.report.facts.conclude.words import lines_on_compounds
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.sections.answers import dose, verdict
from sdvae_ray.retrieval.significance.prediction import prediction
from sdvae_ray.run.record import with_score_settings
from sdvae_ray.run.run import Run
from sdvae_ray.run.scores import Scores
from sdvae_ray.schema import WELL_KEY
from sdvae_ray.settings.score import ConcludeConfig

GROUP = "U2OS / 48"
RULE = Rule(0.1, 0.05, declared=True)
COMPOUNDS = ["strong", EVIL, "inactive", *(f"C{number:02d}" for number in range(13))]
PLATES = ("P1", "P2", "P3")


def with_wells(
    config: RunConfig, losses: dict[str, float], spread: float = 0.01, seed: int = 0, **more: float
) -> Scores:
    """Scores of 16 compounds with two wells on each of three plates.

    losses: side -> what every compound but the first loses, with `spread`; the first, "strong", is lost by a side that loses
    anything. more: extractor -> what its originals lie below those of intensity.
    """
    random = np.random.default_rng(seed)
    wells, compounds = [], []
    true = {name: 0.9 if name == "strong" else random.uniform(0.4, 0.9) for name in COMPOUNDS}
    noise = {(name, plate, copy): random.normal(0, 0.05) for name in COMPOUNDS for plate in PLATES for copy in "AB"}
    for extractor, below in {"intensity": 0.0, **more}.items():
        for side, loss in {"image": 0.0, **(losses if extractor == "intensity" else {})}.items():
            where = {"extractor": extractor, "side": side, "group": GROUP}
            for name in COMPOUNDS:
                gone = side != "image" and loss != 0 and name == "strong"
                for plate in PLATES:
                    for copy in "AB":
                        value = true[name] + noise[name, plate, copy] - below - (0.9 if gone else loss)
                        if loss or below:
                            value += random.normal(0, spread)
                        key = dict(
                            zip(WELL_KEY, ("s", "b", plate, f"{copy}{COMPOUNDS.index(name) + 1:02d}"), strict=True)
                        )
                        place = {"compound": name, "plate": f"s/b/{plate}", "normalised_ap": value}
                        wells.append({**where, **key, **place, "ap": value})
                compounds.append({**where, "compound": name, "retrieved": not gone, "map": 0.5, "normalised_map": 0.5})
    over = [
        {"extractor": extractor, "side": "image", "group": GROUP, "floor_normalised_map": -0.1, "status": "ok"}
        for extractor in ("intensity", *more)
    ]
    tables = {"wells": pl.DataFrame(wells), "compounds": pl.DataFrame(compounds), "over_floor": pl.DataFrame(over)}
    return replace(scores_of(config), **tables)


def words(run: ScoredRun, rule: Rule = RULE) -> dict[str, str]:
    return {row.side: row.word for row in verdicts(studies([run])[0], rule)}


def test_every_word_is_given_where_the_truth_asks_for_it(made):
    losses = {"identity": 0.0, "pca": -0.4, "jpeg": 0.3}
    run = scored(made, with_wells(made, losses))
    assert words(run) == {"identity": "equivalent", "pca": "superior", "jpeg": "inferior"}
    noisy = scored(made, with_wells(made, {"jpeg": 0.001}, spread=0.3))
    assert words(noisy) == {"jpeg": "undecided"}


def test_the_margin_is_a_share_of_the_way_from_the_floor_to_the_originals(made):
    (row,) = verdicts(studies([scored(made, with_wells(made, {"identity": 0.0}))])[0], RULE)
    assert row.difference.margin == pytest.approx(0.1 * (row.ceiling + 0.1))
    assert (row.difference.compounds, row.difference.plates, row.difference.estimate) == (16, 3, 0.0)


@pytest.mark.parametrize(
    ("floor", "status", "reason"),
    [(None, "position effect unknown", "no floor: position effect unknown"), (0.95, "ok", "not above their floor")],
)
def test_without_a_margin_nothing_is_called_equivalent(made, floor, status, reason):
    scores = with_wells(made, {"identity": 0.0})
    number = pl.lit(floor, pl.Float64)
    over = scores.over_floor.with_columns(floor_normalised_map=number, status=pl.lit(status))
    (row,) = verdicts(studies([scored(made, replace(scores, over_floor=over))])[0], RULE)
    assert row.word == "undecided"
    assert reason in row.reason


def test_a_lost_compound_is_named_with_its_treatment_and_one_that_wavers_is_uncertain(made):
    scores = with_wells(made, {"jpeg": 0.001})
    # EVIL is no longer retrieved, but its AP is what it was
    gone = (pl.col("side") == "jpeg") & (pl.col("compound") == EVIL)
    compounds = scores.compounds.with_columns(retrieved=pl.col("retrieved") & ~gone)
    study = studies([scored(made, replace(scores, compounds=compounds))])[0]
    fate = {row.compound: row for row in fates(study, RULE) if row.fate != "kept"}
    assert {name: row.fate for name, row in fate.items()} == {"strong": "lost", EVIL: "undecided"}
    assert fate["strong"].name == "er_stress 1 (strong)"
    assert fate["strong"].image - fate["strong"].reconstruction == pytest.approx(0.9, abs=0.02)
    lines = verdict.lines(study, RULE)
    assert "Lost by jpeg: er_stress 1 (strong)." in lines
    assert any(line.startswith("Uncertain: jpeg no longer retrieves actin_edge 0.5") for line in lines)


def test_what_is_lost_is_told_first_by_the_extractor_that_the_run_file_names_first(made):
    names = list(made.extractors)
    assert len(names) > 1
    rows = [Compound(name, GROUP, "jpeg", "strong", "strong", 0.9, 0.0, 0.0, "lost") for name in reversed(names)]
    said = lines_on_compounds(studies([scored(made)])[0], rows)
    assert [line.partition(", ")[0].partition(":")[0] for line in said] == [f"By {name}" for name in names]


def test_a_terminal_shows_of_many_sides_only_what_is_not_kept(made):
    rows = [
        Compound("intensity", GROUP, f"side{number:02d}", name, name, 0.9, 0.8, 1.0, "kept")
        for number in range(12)
        for name in ("strong", "inactive")
    ]
    rows[6] = replace(rows[6], fate="lost")  # strong by side03
    table = verdict.fate_table(studies([scored(made)])[0], rows)
    assert [column.key for column in table.columns] == ["extractor", "compound", "side03"]
    assert [(row["compound"], row["side03"]) for row in table.rows] == [("strong", "lost")]
    few = [row for row in rows if row.side in ("side03", "side04")]
    whole = verdict.fate_table(studies([scored(made)])[0], few)
    assert (len(whole.columns), len(whole.rows)) == (2 + 2, 2)


def test_the_page_begins_with_the_verdicts_and_what_is_lost(run):
    page = Page(page_of(run, with_wells(run, {"identity": 0.0, "pca": 0.4})))
    first = page.text.partition("Is the phenotype kept?")[2].partition("Rate, distortion and phenotype")[0]
    for text in ("Lost by pca: er_stress 1 (strong).", "equivalent", "inferior", "floor"):
        assert text in first
    assert "no difference" not in page.text.replace('undecided is not "no difference"', "")


def test_runs_that_differ_in_the_seed_are_one_study_of_their_means(made):
    first = scored(made, with_wells(made, {"jpeg": 0.05}, seed=0))
    other_config = made.model_copy(update={"seed": 7, "output": made.output + "-7"})
    second = replace(first, run=Run(other_config), scores=with_wells(made, {"jpeg": 0.07}, seed=0))
    (study,) = studies([first, second])
    (row,) = verdicts(study, RULE)
    alone = [verdicts(studies([run])[0], RULE)[0].difference.estimate for run in (first, second)]
    assert row.runs == 2
    assert row.difference.estimate == pytest.approx(np.mean(alone))
    assert row.sd == pytest.approx(np.std(alone, ddof=1))
    other = {"output": made.output + "-other"}
    for change in ({"precision": "float32", "seed": 7}, {}):  # other settings; the same seed again
        third = replace(first, run=Run(made.model_copy(update=other | change)))
        assert len(studies([first, third])) == 2
    with pytest.raises(ConfigError, match="is named twice"):
        studies([first, first])


def test_extractors_are_compared_on_the_originals_and_corrected_together(made):
    run = scored(made, with_wells(made, {}, 0.01, near=0.0005, far=0.5))
    rows = {(row.extractor, row.side): row for row in extractor_verdicts(studies([run])[0], RULE)}
    assert {pair: row.word for pair, row in rows.items()} == {
        ("intensity", "near"): "equivalent",
        ("intensity", "far"): "inferior",
        ("far", "near"): "superior",
    }
    # the margin is of the longer way from floor to originals, and p is corrected for three pairs
    margins = [row.difference.margin for row in rows.values()]
    assert margins == pytest.approx([0.1 * (rows["intensity", "near"].ceiling + 0.1)] * 3, rel=0.01)
    strict = Rule(0.1, 1e-9, declared=True)
    assert {row.word for row in extractor_verdicts(studies([run])[0], strict)} == {"undecided"}


def test_a_declared_margin_holds(made, run):
    def at(margin):
        score = made.score.model_copy(update={"conclude": None if margin is None else ConcludeConfig(margin=margin)})
        return replace(scored(made), run=Run(made.model_copy(update={"score": score})))

    plain = at(None)
    assert rule_of(plain) == Rule(0.1, 0.05, declared=False)
    assert rule_of(plain, 0.3) == Rule(0.3, 0.05, declared=False)
    with pytest.raises(ConfigError, match="declared before the scores are seen"):
        rule_of(at(0.3))  # the record of the run has none
    declared = at(0.3)
    declared.record["config"]["score"]["conclude"] = {"margin": 0.3}
    assert rule_of(declared, 0.3) == rule_of(declared) == Rule(0.3, 0.05, declared=True)
    with pytest.raises(ConfigError, match="the run file declares 0.3"):
        rule_of(declared, 0.1)


def test_a_margin_that_changes_after_a_score_says_so_for_ever(made):
    def declaring(margin):
        score = made.score.model_copy(update={"conclude": ConcludeConfig(margin=margin)})
        return made.model_copy(update={"score": score})

    record = with_score_settings(Run(made).record, declaring(0.1))
    assert "margins_before" not in record  # nothing had been scored
    record = with_score_settings({**record, "scored": {}}, declaring(0.1))
    assert "margins_before" not in record
    record = with_score_settings(with_score_settings(record, declaring(0.4)), declaring(0.4))
    assert [before["margin"] for before in record["margins_before"]] == [0.1]
    rule = rule_of(replace(scored(made), run=Run(declaring(0.4)), record=record))
    assert rule == Rule(0.4, 0.05, declared=True, changed=True)
    assert rule.words.endswith("declared in the run file, changed after an earlier score")


def test_the_command_prints_and_gives_json(run, capsys):
    with_wells(run, {"identity": 0.0, "pca": 0.4}).write(run.output, Run(run).storage)
    for options in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["conclude", run.output, *options])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        if not options:
            assert "Lost by pca: er_stress 1 (strong)." in text
            assert "cannot be answered: 1 sides that change a score" in " ".join(text.split())
    answer = json.loads(text)
    (study,) = answer["studies"]
    assert {row["side"]: row["verdict"] for row in study["verdicts"]} == {"identity": "equivalent", "pca": "inferior"}
    assert [row["name"] for row in study["compounds"] if row["fate"] == "lost"] == ["er_stress 1 (strong)"]
    assert study["rule"] == {"margin": 0.1, "level": 0.05, "declared": False, "changed": False}


# --- which metric ------------------------------------------------------------------------------------------------------------


def test_a_metric_that_goes_with_the_loss_predicts_and_one_of_noise_does_not():
    random = np.random.default_rng(0)
    families = np.repeat(["jpeg", "blur", "noise", "kl"], 5)
    loss = np.tile(np.linspace(0, 1, 5), 4) + 0.05 * random.standard_normal((8, 20))
    good = prediction(np.stack([loss**3] * 2) + 0.02 * random.standard_normal((2, 8, 20)), loss, families)
    noise = prediction(random.standard_normal((2, 8, 20)), loss, families)
    assert good.predicts
    assert good.correlation > 0.9
    assert good.error < 0.2 * good.blind
    assert not noise.predicts
    assert noise.low < 0 < noise.high
    assert (good.sides, good.families, good.compounds) == (20, 4, 8)


def test_the_correlation_is_spearmans_within_compounds_and_parts():
    from scipy.stats import spearmanr

    random = np.random.default_rng(1)
    damage, loss = random.standard_normal((2, 3, 15)), random.standard_normal((3, 15))
    slow = np.array([[spearmanr(damage[part, one], loss[one]).statistic for one in range(3)] for part in range(2)])
    fast = prediction(damage, loss, np.arange(15) % 3, draws=2)
    assert fast.correlation == pytest.approx(slow.mean())
    assert fast.parts == pytest.approx(slow.mean(1))


def test_a_metric_that_is_right_within_families_alone_does_not_predict_another_family():
    families = np.repeat(["a", "b", "c"], 5)
    loss = np.tile(np.linspace(0, 1, 5), 3)[None].repeat(6, 0)
    scale = np.repeat([1.0, 100.0, 1e4], 5)
    fooled = prediction((loss + 0.01)[None] * scale, loss, families)
    assert fooled.correlation > 0.4
    assert fooled.error > fooled.blind
    assert not fooled.predicts


@pytest.fixture(scope="module")
def ladder_run(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of fifteen sides of three families."""
    folder = tmp_path_factory.mktemp("ladder")
    ladder = {
        "codecs": {"jpeg": [2, 5, 10, 20, 60]},
        "latent_bits": [],
        "blur": [0.5, 1, 2, 4, 8],
        "noise": [0.01, 0.02, 0.04, 0.08, 0.16],
    }
    config = run_config(folder, autoencoders={}, codecs={}, ladder=ladder, extractors={}, metrics=["mae", "psnr"])
    write_run(folder, config)
    return config


def with_losses_of_the_error(config: RunConfig, times: float) -> ScoredRun:
    """The run, scored: every side loses `times` its mean absolute error, and compounds stand in the wells that the run has."""
    errors = {side: times * float(np.nanmean(Run(config).metrics(side, "mae").values)) for side in config.sides}
    scores = with_wells(config, errors, spread=1e-4)
    run = scored(config, scores)
    return scored(config, replace(scores, wells=_in_wells_of(run, scores.wells)))


def test_a_ladder_answers_which_metric_predicts_and_five_sides_do_not(ladder_run):
    run = scored(ladder_run, with_wells(ladder_run, {"jpeg_q2": 0.1}))
    (few,) = answers([run])
    assert few.reason == "1 sides that change a score, and at least 15 are wanted"
    assert dose_responses([run]) == []
    assert dose.section(run) is None
    config, run = ladder_run, with_losses_of_the_error(ladder_run, 1.0)
    (answer,) = answers([run])
    assert answer.reason == ""
    assert set(answer.metrics) == {"mae", "psnr"}
    assert answer.metrics["mae"].families == len({family(run, side) for side in config.sides}) == 3
    assert answer.metrics["mae"].correlation > 0.8
    assert answer.metrics["psnr"].correlation > 0.8  # turned: higher is better
    assert answer.parts["mae"] == list(config.image.stains)


def test_a_phenotype_falls_with_the_dose_and_the_dose_of_half_is_found(ladder_run):
    run = with_losses_of_the_error(ladder_run, 4.0)
    curves = dose_responses([run])
    assert {(curve.metric, len(curve.sides), curve.compounds) for curve in curves} <= {("mae", 15, 1), ("psnr", 15, 1)}
    assert len(curves) == 6
    rising = -1 if curves[0].metric == "psnr" else 1
    for curve in curves:
        assert (np.diff(rising * np.array(curve.doses)) >= 0).all()
        assert (np.diff(curve.fit) <= 1e-12).all()
        assert np.abs(np.array(curve.fit) - curve.responses).max() < 0.4
        if curve.half is not None:
            fitted = np.interp(rising * curve.half, rising * np.array(curve.doses), curve.fit)
            assert fitted == pytest.approx(curve.image / 2, abs=1e-6)
    assert sum(curve.half is not None for curve in curves) >= 3
    section = dose.section(run)
    assert [row["half"] for row in section.tables[0].rows] == [curve.half for curve in curves]
    (chart,) = section.charts
    assert len(chart.curves) == 6
    assert all(len(line.values) == len(chart.bands) == 7 for line in chart.curves)
    assert max(value for line in chart.curves for value in line.values) < 1.2
    assert 'id="dose"' in page_of(ladder_run, run.scores)


def _in_wells_of(run: ScoredRun, wells: pl.DataFrame) -> pl.DataFrame:
    """The compounds of the made-up table, in the wells of the fields of view that the run has: one compound a well."""
    places = run.usable.select(WELL_KEY).unique(maintain_order=True).head(6)
    names = [name for name in COMPOUNDS if name != "strong"][: places.height]
    table = wells.filter(pl.col("compound").is_in(names)).drop(WELL_KEY)
    return table.join(places.with_columns(compound=pl.Series(names)), on="compound")
