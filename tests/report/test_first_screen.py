"""The first screen answers the title: what is lost by name with a picture of it, the verdicts, what is uncertain; and the table of
compounds below it."""

import itertools
import re

import polars as pl
import pytest
from report_run import EVIL, Page, page_of, scored
from test_conclude import RULE, with_wells

from sdvae_ray.report.facts.chart import Forest, ForestRow
from sdvae_ray.report.facts.conclude.findings import findings
from sdvae_ray.report.facts.conclude.study import studies
from sdvae_ray.report.facts.conclude.verdicts import fates, verdicts
from sdvae_ray.report.facts.table import Side
from sdvae_ray.report.page.forest import forest
from sdvae_ray.report.page.labels import place_labels
from sdvae_ray.report.pictures.choice import choose
from sdvae_ray.report.sections.explore import compounds


def test_what_is_lost_is_named_and_shown_before_everything_else(run):
    html = page_of(run, with_wells(run, {"identity": 0.0, "pca": 0.4}))
    first = html[html.index('id="verdict"') : html.index('id="rates"')]
    assert "Lost by pca: er_stress 1 (strong)." in first
    assert first.index("Lost by pca") < first.index('class="verdicts"') < first.index('class="forest"')
    alts = re.findall(r'alt="([^"]*)"', first)
    assert len(alts) == 3  # original, reconstruction, difference
    assert all("strong" in alt for alt in alts)
    assert ["original" in alts[0], "by pca" in alts[1], "difference" in alts[2]] == [True] * 3


def test_the_fields_of_lost_compounds_are_chosen_first(run):
    first, *others = choose(scored(run, with_wells(run, {"identity": 0.0, "pca": 0.4})))
    assert (first.kind, first.compound, first.side) == ("lost", "strong", "pca")
    assert "lost by pca: normalised mAP 0.9" in first.why
    assert "lost" not in {choice.kind for choice in others}


def test_an_extractor_that_retrieves_nothing_does_not_answer_first(made):
    scores = with_wells(made, {"pca": 0.4}, latent=0.5)
    blind = pl.when(pl.col("extractor") == "intensity").then(pl.lit(False)).otherwise("retrieved")
    scores.compounds.replace_column(
        scores.compounds.get_column_index("retrieved"), scores.compounds.select(retrieved=blind)["retrieved"]
    )
    sides = scores.wells.filter((pl.col("extractor") == "intensity") & (pl.col("side") == "pca"))
    scores = type(scores)(
        **{**vars(scores), "wells": pl.concat([scores.wells, sides.with_columns(extractor=pl.lit("latent"))])}
    )
    (study,) = studies([scored(made, scores)])
    by_latent, by_intensity = findings(study, RULE, verdicts(study, RULE), fates(study, RULE))
    assert (by_latent.by, by_intensity.by) == ("latent, U2OS / 48", "intensity, U2OS / 48")
    assert by_latent.sees == "From the originals it retrieves 16 of 16 compounds."
    assert "it sees no phenotype here" in by_intensity.sees
    assert (by_intensity.loses, by_intensity.lost) == (False, [])


def test_a_forest_places_floor_originals_and_intervals_on_one_scale():
    rows = [ForestRow(Side("a <b>", 1), "inferior", -0.5, -0.75, -0.25, "-0.750 to -0.250")]
    drawn = forest(Forest("t", "", rows, floor=-0.5, ceiling=0.5, margin=0.125))
    ((row, marks),) = drawn.rows
    assert row is rows[0]
    assert "a &lt;b&gt;: inferior, -0.750 to -0.250" in marks

    def at(pattern: str) -> float:
        return float(re.search(pattern, marks)[1])

    zero, floor = at(r'class="zero" x1="([\d.]+)%'), at(r'class="floor" x1="([\d.]+)%')
    unit = zero - floor  # the floor lies 1 below the originals
    assert at(r'class="whisker" x1="([\d.]+)%') == pytest.approx(zero - 0.75 * unit, abs=0.02)
    assert at(r'cx="([\d.]+)%') == pytest.approx(zero - 0.5 * unit, abs=0.02)
    assert at(r'class="margin" x="[\d.]+%" width="([\d.]+)%') == pytest.approx(0.25 * unit, abs=0.02)
    assert "floor -0.50" in drawn.head
    assert "originals 0.50" in drawn.head


def test_no_label_covers_another_or_a_point():
    points = [(100.0 + 3 * number, 100.0 + number % 3, f"side_{number}") for number in range(7)]
    labels = place_labels(points, (0, 0, 400, 300))
    boxes = [
        (label.x, label.y - 10, label.x + 6.3 * len(words), label.y + 3)
        for label, (_, _, words) in zip(labels, points, strict=True)
    ]
    marks = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    for one, other in [*itertools.combinations(boxes, 2), *itertools.product(boxes, marks)]:
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    assert all(left >= 0 and right <= 400 for left, _, right, _ in boxes)


def test_compounds_stand_in_a_table_from_the_worst_fate_down_with_what_is_gained(made):
    scores = with_wells(made, {"identity": 0.0, "pca": 0.01})
    gained = {"extractor": "intensity", "group": "U2OS / 48", "compound": "new", "map": 0.5, "normalised_map": 0.25}
    rows = [{**gained, "side": side, "retrieved": side == "pca"} for side in ("image", "pca", "identity")]
    scores = type(scores)(
        **{**vars(scores), "compounds": pl.concat([scores.compounds, pl.DataFrame(rows)], how="diagonal")}
    )
    (table,) = compounds.section(scored(made, scores)).tables
    assert [row["key"] for row in table.rows[:2]] == ["strong", "new"]
    assert [(row["fate"], row["pca"].words) for row in table.rows[:2]] == [("lost", "lost"), ("gained", "gained")]
    assert table.rows[1]["identity"] == "–"
    assert {row["fate"] for row in table.rows[2:]} <= {"weakened", "undecided", "kept"}
    assert EVIL in [row["key"] for row in table.rows]


def test_the_page_links_the_compounds_of_its_pictures(run):
    html = page_of(run, with_wells(run, {"identity": 0.0, "pca": 0.4}))
    assert '<tr class="" data-compound="strong">' in html
    assert re.search(r'<article class="example" id="picture-1" data-compound="strong">', html)
    assert EVIL in Page(html).text
