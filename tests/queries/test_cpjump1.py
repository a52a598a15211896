"""CHAMMI-75's CPJUMP1 benchmark: the authors' numbers, as copairs gives them by the calls of their evaluation."""

import json

import numpy as np
import polars as pl
import pytest

from sdvae_ray.cli.main import main
from sdvae_ray.errors import DataError
from sdvae_ray.queries.cpjump1 import PLATES, Benchmark, cpjump1
from sdvae_ray.sources.profiles import read_profiles
from sdvae_ray.storage import Storage

DRAWS = (2_000, 2_000)
COMPOUNDS, CONTROLS, DEPTH = 16, 12, 12
COMPOUND, TARGET = "Metadata_broad_sample", "Metadata_matching_target"


def profiles() -> pl.DataFrame:
    """Seven plates; compounds 0 to 11 have the effect of one of three targets, 12 to 15 have none."""
    random = np.random.default_rng(3)
    effects = random.normal(0, 1, (3, DEPTH)) * 4
    rows = []
    for plate in (*PLATES, "BR00116991"):
        for at in range(CONTROLS + COMPOUNDS):
            number = at - CONTROLS
            effect = effects[number % 3] + random.normal(0, 0.3, DEPTH) if 0 <= number < 12 else 0
            values = random.normal(0, 1, DEPTH) + effect
            rows.append(
                {
                    "Metadata_Plate": plate,
                    "Metadata_Well": f"A{at + 1:02d}",
                    COMPOUND: f"C{number:02d}" if number >= 0 else None,
                    "Metadata_control_type": "negcon" if number < 0 else None,
                    **{f"Cells_{n}": float(value) for n, value in enumerate(values)},
                    "Cells_Texture_HighZBF": float(at),
                }
            )
    return pl.DataFrame(rows)


TARGETS = pl.DataFrame(
    {
        "broad_sample": [f"C{number:02d}" for number in range(COMPOUNDS)],
        "target_list": [
            f"T{number % 3}|ALONE{number}" if number % 2 else f"T{number % 3}" for number in range(COMPOUNDS)
        ],
    }
)


@pytest.fixture(scope="module")
def benchmark() -> Benchmark:
    return cpjump1(read_profiles(profiles(), Storage()), TARGETS, DRAWS)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """The numbers by copairs, from the calls of the released evaluation."""
    copairs = pytest.importorskip("copairs.map", reason="copairs is a test dependency")
    matching = pytest.importorskip("copairs.matching")
    cache = tmp_path_factory.mktemp("copairs")
    table = profiles().filter(pl.col("Metadata_Plate").is_in(PLATES)).to_pandas()
    table.loc[table["Metadata_control_type"] == "negcon", COMPOUND] = "DMSO"
    features = [name for name in table.columns if not name.startswith("Metadata") and "ZBF" not in name]
    reference = "Metadata_reference_index"
    table = matching.assign_reference_index(
        table, "Metadata_control_type == 'negcon'", reference_col=reference, default_value=-1
    )
    ap = copairs.average_precision(
        table.filter(regex="^Metadata"),
        table[features].values,
        [COMPOUND],
        [],
        ["Metadata_Plate"],
        [reference],
        progress_bar=False,
    )
    ap = ap[ap["Metadata_control_type"] != "negcon"]
    settings = {"threshold": 0.05, "seed": 0, "progress_bar": False, "cache_dir": cache}
    activity = copairs.mean_average_precision(ap, [COMPOUND], DRAWS[0], **settings)
    active = activity[activity["below_corrected_p"]][COMPOUND]
    consensus = table[table[COMPOUND].isin(active)].groupby(COMPOUND, as_index=False)[features].median()
    lists = dict(TARGETS.iter_rows())
    consensus[TARGET] = consensus[COMPOUND].map(lists).str.split("|")
    targets = copairs.multilabel.average_precision(
        consensus[[COMPOUND, TARGET]],
        consensus[features].values,
        [TARGET],
        [],
        [],
        [TARGET],
        multilabel_col=TARGET,
        progress_bar=False,
    )
    return activity.set_index(COMPOUND), copairs.mean_average_precision(
        targets, [TARGET], DRAWS[1], **settings
    ).set_index(TARGET)


def test_active_compounds_are_those_of_copairs(benchmark, theirs):
    groups = benchmark.activity.groups
    known = theirs[0].loc[groups["compound"].to_list()]
    np.testing.assert_allclose(groups["map"], known["mean_average_precision"], rtol=0, atol=1e-6)
    assert groups["retrieved"].to_list() == known["below_corrected_p"].to_list()
    assert benchmark.summary["active_fraction"] == pytest.approx(known["below_corrected_p"].mean())
    assert 0.5 < benchmark.summary["active_fraction"] < 1
    active = known[known["below_corrected_p"]]["mean_average_precision"]
    assert benchmark.summary["active_map_all_inactive_0"] == pytest.approx(active.sum() / len(known), abs=1e-6)
    assert benchmark.summary["active_map_active"] == pytest.approx(active.mean(), abs=1e-6)


def test_consistent_targets_are_those_of_copairs(benchmark, theirs):
    groups = benchmark.consistency
    known = theirs[1].loc[groups["compound"].to_list()]
    assert len(known) == len(theirs[1]) == groups.height == 3
    np.testing.assert_allclose(groups["map"], known["mean_average_precision"], rtol=0, atol=1e-6)
    assert groups["retrieved"].to_list() == known["below_corrected_p"].to_list()
    assert benchmark.summary["consistent_fraction"] == 1
    assert benchmark.summary["targets"] == 3 + 8  # those of one compound are counted among all
    assert benchmark.summary["consistent_fraction_of_all_targets"] == pytest.approx(3 / 11)
    whole = known["mean_average_precision"].sum() / 11
    assert benchmark.summary["consistent_map_all_others_0"] == pytest.approx(whole, abs=1e-6)


@pytest.mark.slow
def test_what_departs_from_the_protocol_is_named(benchmark):
    assert benchmark.summary["features"] == DEPTH
    assert benchmark.summary["brightfield_features_left_out"] == 1
    other, draws = benchmark.summary["departures"]
    assert other == "plates that are not of the benchmark were left out: BR00116991"
    assert draws == "nulls of 2,000 and 2,000 draws (published: 100,000 and 20,000)"
    fewer = read_profiles(profiles().filter(pl.col("Metadata_Plate").is_in(PLATES[:3])), Storage())
    line = cpjump1(fewer, TARGETS, DRAWS).summary["departures"][0]
    assert line == "3 of 7 plates: without BR00117013, BR00117024, BR00117025, BR00117026"


def test_without_a_plate_or_targets_of_the_benchmark_there_is_no_number():
    elsewhere = read_profiles(profiles().with_columns(Metadata_Plate=pl.lit("P1")), Storage())
    with pytest.raises(DataError, match="no well is on a plate of the benchmark"):
        cpjump1(elsewhere, TARGETS, DRAWS)
    table = read_profiles(profiles(), Storage())
    with pytest.raises(DataError, match="no column target_list"):
        cpjump1(table, TARGETS.rename({"target_list": "targets"}), DRAWS)
    with pytest.raises(DataError, match="for none of the compounds"):
        cpjump1(table, TARGETS.with_columns(broad_sample=pl.lit("X")), DRAWS)


@pytest.mark.slow
def test_the_command_prints_the_numbers_and_no_figure_that_was_not_checked(tmp_path, capsys, benchmark):
    profiles().write_parquet(tmp_path / "profiles.parquet")
    TARGETS.write_csv(tmp_path / "targets.tsv", separator="\t")
    command = ["cpjump1", str(tmp_path / "profiles.parquet"), "--targets", str(tmp_path / "targets.tsv")]
    command += ["--null-size", "2000", "2000"]
    with pytest.raises(SystemExit, match="0"):
        main(command)
    text = " ".join(capsys.readouterr().out.split())
    assert f"active fraction {benchmark.summary['active_fraction']:.4f}" in text
    assert "departs from the protocol: nulls of 2,000 and 2,000 draws" in text
    assert "printed rows are left out" in text
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert printed["active_fraction"] == benchmark.summary["active_fraction"]
    assert {row["quantity"] for row in printed["floors"]} >= {"full", "posing"}
