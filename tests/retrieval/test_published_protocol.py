"""The published retrieval from profiles to fraction retrieved, against scikit-learn and copairs; and what its fit leaks."""

import io
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sdvae_ray.retrieval.floors.control_floors import floors
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.significance.chance import Chance
from sdvae_ray.retrieval.tasks.activity import phenotypic_activity

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import leak_figure
from floors import KEY, noise

PLATES, WELLS, CONTROLS, FEATURES = 4, 384, 64, 1920  # CPJUMP1's group, with five stains of 384 features
DRAWS, THRESHOLD = 100_000, 0.05
PUBLISHED = {"null": "copairs", "ties": "copairs", "strict": True}  # negatives: of the group


@pytest.fixture(scope="module")
def group():
    """Profiles (1536, 1920) and wells: 320 compounds of one well a plate, many without effect."""
    random = np.random.default_rng(0)
    position = np.tile(np.arange(WELLS), PLATES)
    latent = random.normal(size=(PLATES * WELLS, 60)) * np.geomspace(5, 0.2, 60)
    x = latent @ random.normal(size=(60, FEATURES)) + 0.5 * random.normal(size=(PLATES * WELLS, FEATURES)) + 10
    strength = np.clip((np.arange(WELLS) - 180) / 400, 0, None)  # of 320 compounds, 116 have none
    x += (strength[:, None] * random.normal(size=(WELLS, FEATURES)))[position]
    wells = pl.DataFrame(
        {
            "plate": np.repeat([f"P{plate}" for plate in range(PLATES)], WELLS),
            "position": [f"W{at:03d}" for at in position],
            "compound": np.where(position < CONTROLS, "DMSO", [f"C{at:03d}" for at in position]),
            "is_control": position < CONTROLS,
        }
    )
    return x, wells.with_columns(well_id=pl.col("plate") + "/" + pl.col("position"), group=pl.lit("A549 24 h"))


@pytest.fixture(scope="module")
def theirs(group, tmp_path_factory):
    """As the authors' notebooks have it: (the space, AP of every treated well, mAP and p of every compound)."""
    copairs = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    x, wells = group
    control, plate = wells["is_control"].to_numpy(), wells["plate"].to_numpy()
    pipeline = make_pipeline(StandardScaler(), PCA(256, whiten=True), VarianceThreshold(1e-6)).fit(x[control])
    space = pipeline.transform(x)
    for name in np.unique(plate):
        on = plate == name
        space[on] = StandardScaler().fit(space[on & control]).transform(space[on])
    meta = wells.select("well_id", "compound", "is_control").to_pandas()
    scored = copairs.average_precision(meta, space, ["compound"], [], [], ["is_control"], progress_bar=False)
    scored = scored[~scored["is_control"]]
    cache = tmp_path_factory.mktemp("copairs")
    compounds = copairs.mean_average_precision(
        scored, ["compound"], DRAWS, THRESHOLD, 0, progress_bar=False, cache_dir=cache
    )
    return space, scored.set_index("well_id")["average_precision"], compounds.set_index("compound")


@pytest.fixture(scope="module")
def ours(group):
    x, wells = group
    made = normalise(x, wells["is_control"].to_numpy(), wells["plate"].to_numpy(), "published")
    return made, phenotypic_activity(
        made.features, wells, Chance(null_size=DRAWS, threshold=THRESHOLD, **PUBLISHED), negatives="group"
    )


def test_the_space_keeps_as_many_components(ours, theirs):
    assert ours[0].features.shape == theirs[0].shape == (1536, 255)  # the last of 256 is rounding error


def test_ap_of_every_well_is_that_of_scikit_learn_and_copairs(ours, theirs):
    found = ours[1].wells
    assert found.height == 1280
    assert (found["n_positives"] == 3).all()
    assert (found["n_negatives"] == 256).all()
    assert_allclose(found["ap"], theirs[1][found["well_id"].to_list()], rtol=0, atol=1e-6)


def test_map_p_and_fraction_retrieved_are_theirs_within_monte_carlo_error(group, ours, theirs):
    compounds = ours[1].compounds
    known = theirs[2].loc[compounds["compound"].to_list()]
    assert compounds.height == len(known) == 320
    assert_allclose(compounds["map"], known["mean_average_precision"], rtol=0, atol=1e-6)
    p = known["p_value"].to_numpy()
    error = 5 * np.sqrt(2 * p * (1 - p) / DRAWS) + 2 / DRAWS  # both are draws
    assert (np.abs(compounds["p"].to_numpy() - p) <= error).all()
    # the null's own error, over seeds: of every verdict, and of the fraction
    x, verdict = ours[0].features, known["below_corrected_p"].to_numpy()
    chances = [Chance(null_size=DRAWS, seed=seed, **PUBLISHED) for seed in range(20)]
    again = [phenotypic_activity(x, group[1], chance, negatives="group").compounds for chance in chances]
    verdicts = np.stack([each["retrieved"].to_numpy() for each in again])
    agreed = (verdicts == verdicts[0]).all(axis=0)
    assert agreed.mean() > 0.9
    assert_array_equal(verdict[agreed], verdicts[0][agreed])
    fractions = verdicts.mean(axis=1)
    assert abs(verdict.mean() - fractions.mean()) <= 4 * fractions.std() + 1 / 320
    assert 0.2 < verdict.mean() < 0.8  # some are retrieved and some are not: the comparison says something


@pytest.fixture(scope="module")
def half(group):
    """The group's profiles as the authors hold them, in float16; and scikit-learn's and copairs' AP of them."""
    copairs = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    x, wells = group
    profiles = x.astype(np.float16)
    control, plate = wells["is_control"].to_numpy(), wells["plate"].to_numpy()
    pipeline = make_pipeline(StandardScaler(), PCA(256, whiten=True), VarianceThreshold(1e-6)).fit(profiles[control])
    space = pipeline.transform(profiles)
    for name in np.unique(plate):
        on = plate == name
        space[on] = StandardScaler().fit(space[on & control]).transform(space[on])
    meta = wells.select("well_id", "compound", "is_control").to_pandas()
    scored = copairs.average_precision(meta, space, ["compound"], [], [], ["is_control"], progress_bar=False)
    return profiles, pipeline[0], scored[~scored["is_control"]].set_index("well_id")["average_precision"]


def test_the_scaler_of_profiles_in_float16_is_scikit_learns_to_the_last_bit(group, half):
    profiles, scaler, _ = half
    step = {"standardise": {"precision": "float16"}}
    control, plate = group[1]["is_control"].to_numpy(), group[1]["plate"].to_numpy()
    standardised = normalise(profiles, control, plate, [step]).features
    theirs = scaler.transform(profiles)
    assert theirs.dtype == np.float16
    assert standardised.dtype == np.float64
    assert_array_equal(standardised, theirs)
    assert (standardised != normalise(profiles, control, plate, ["standardise"]).features).any()


def test_ap_of_profiles_in_float16_is_that_of_scikit_learn_and_copairs(group, half):
    profiles, _, theirs = half
    wells = group[1]
    control, plate = wells["is_control"].to_numpy(), wells["plate"].to_numpy()
    space = normalise(profiles, control, plate, "published_float16").features
    scored = phenotypic_activity(space, wells, Chance(null_size=100, **PUBLISHED), negatives="group").wells
    assert_allclose(scored["ap"], theirs[scored["well_id"].to_list()], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rank", [200, 250, 300])
def test_on_pure_noise_the_published_fit_retrieves_and_the_other_half_does_not(rank):
    x, wells = noise(rank, seed=0)
    assert leak_figure.effective_rank(x) == pytest.approx(rank, rel=0.02)
    found = floors(
        x, wells, "published", Chance(**PUBLISHED), position="position", key=KEY, negatives="group", repeats=1
    )
    fraction = dict(found.select("quantity", "fraction_retrieved").iter_rows())
    assert fraction["full"] > 0.4
    assert fraction["half_other"] <= 0.05
    assert fraction["labels_within_all"] > 0.2  # and no label was true


def test_the_figure_draws_every_quantity_at_every_rank():
    rows = [{"rank": r, "full": r / 600, "half_same": 0.1, "half_other": 0.0} for r in (32, 250, 600)]
    svg = leak_figure.figure(rows, seeds=1)
    root = ElementTree.fromstring(svg)
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert len(lines) == len(leak_figure.SERIES) == 3
    assert all(len(line.attrib["points"].split()) == 3 for line in lines)
    words = " ".join(text for text in root.itertext())
    for name in leak_figure.SERIES.values():
        assert name in words


def test_the_figures_script_writes_what_it_computed(tmp_path, monkeypatch, capsys):
    row = {"rank": 250, "full": 0.9, "half_same": 0.1, "half_other": 0.0}
    monkeypatch.setattr(leak_figure, "on_noise", lambda console, repeats, seeds: {"noise": [row, {**row, "rank": 400}]})
    leak_figure.main(["--output", str(tmp_path / "leak.svg")], Console(file=io.StringIO()))
    assert (tmp_path / "leak.svg").read_text().startswith("<svg")
    assert '"rank": 250' in capsys.readouterr().out.splitlines()[-1]
