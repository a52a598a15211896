"""A run of several packings in its scores and report: every number has the name of its own RGB pass, and leakage has a table."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from report_run import run_config, scores_of, write_run

from sdvae_ray.controls import with_groups
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Beside
from sdvae_ray.report.sections.images import latents, leakage, metrics
from sdvae_ray.report.sections.record import provenance
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.plates import in_threads
from sdvae_ray.scoring.inputs.fovs import Fovs
from sdvae_ray.scoring.metric_distributions import metric_distributions
from sdvae_ray.scoring.score import bands

STAINS = ["Mito", "AGP", "RNA", "ER", "DNA"]
PASSES = ["Mito+AGP+RNA", "RNA+ER+DNA"]
TINY = {"name": "diffusers_kl", "random": True, "architecture": "tiny"}


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> ScoredRun:
    folder = tmp_path_factory.mktemp("packings")
    config = run_config(
        folder,
        autoencoders={"tiny": TINY, "alone": {**TINY, "packing": "grey"}, "identity": {"name": "identity"}},
        codecs={"jpeg": {"name": "jpeg", "quality": 30}},
        extractors={},
        metrics=["kld", "leakage", "psnr"],
    )
    write_run(folder, config)
    run = Run(config)
    fovs = Fovs.of(with_groups(config.score, run.fovs()))
    values = metric_distributions(run, fovs, bands(run), in_threads)
    return ScoredRun.read(run, replace(scores_of(config, ("image", "tiny", "alone")), metrics=values))


def parts(scored: ScoredRun, side: str, metric: str) -> list[str]:
    rows = scored.scores.metrics.filter((pl.col("side") == side) & (pl.col("metric") == metric))
    return rows["part"].unique(maintain_order=True).to_list()


def test_divergences_have_the_names_of_the_passes_of_their_side(scored):
    assert parts(scored, "tiny", "kld") == PASSES
    assert parts(scored, "alone", "kld") == STAINS
    assert parts(scored, "alone", "psnr") == parts(scored, "tiny", "psnr") == STAINS
    section = metrics.distributions(scored)
    (divergence,) = (chart for chart in section.charts if chart.title.startswith("kld"))
    shown = {part: [strip.side.text for strip in strips] for part, strips in divergence.parts}
    tiny, alone = "tiny (random weights)", "alone (random weights)"
    assert shown == {part: [tiny] for part in PASSES} | {part: [alone] for part in STAINS}


def test_the_mean_of_decibels_is_that_of_all_patches_together(scored):
    """A patch that is reconstructed exactly counts with an error of 0."""
    run = Run(scored.config)
    rows = scored.scores.metrics.filter((pl.col("side") == "tiny") & (pl.col("metric") == "psnr"))
    _, values = run.metrics("tiny", "psnr")
    errors = np.mean(10.0 ** (-values.astype(float) / 10), axis=(0, 1))
    np.testing.assert_allclose(rows["mean"], -10 * np.log10(errors))
    assert (rows["mean"] < values.mean((0, 1))).all()  # of decibels, the louder errors count more


def test_leakage_has_a_row_per_side_that_names_the_stain_it_comes_from(scored):
    rows = scored.scores.metrics.filter(pl.col("metric") == "leakage")
    assert rows["band"].unique(maintain_order=True).to_list() == STAINS
    own = rows.filter(pl.col("part") == pl.col("band"))
    assert own["patches"].to_list() == [0] * own.height
    section = leakage.section(scored)
    (table,) = section.tables
    assert [column.heading for column in table.columns] == ["side", *STAINS]
    assert [row["side"].text for row in table.rows] == ["tiny (random weights)", "alone (random weights)", "jpeg"]
    for row in table.rows:
        side = row["side"].text.split()[0]
        for stain in STAINS:
            strongest = row[stain]
            assert isinstance(strongest, Beside)
            medians = rows.filter((pl.col("side") == side) & (pl.col("part") == stain))
            known = dict(medians.drop_nulls("median").select("band", "median").iter_rows())
            assert known[strongest.words] == strongest.value
            assert abs(strongest.value) == max(map(abs, known.values()))
    assert metrics.spectra(scored) is None  # its bands are no wavelengths
    assert "leakage" not in {column.key for column in metrics.means(scored).tables[0].columns}


def test_the_report_says_which_packing_a_side_has_and_what_it_costs(scored):
    (sizes,) = latents.sizes(scored).tables
    rows = {row["side"].text.split()[0]: row for row in sizes.rows}
    assert rows["tiny"]["passes"] == 2
    assert rows["alone"]["passes"] == 5
    assert rows["alone"]["bits"] == 2.5 * rows["tiny"]["bits"]
    said = provenance.the_run(scored).terms["packings"]
    assert said == f"alone: {', '.join(STAINS)}; a stain of several triples is read back from the first"
