"""`retrieve`: any table of profiles by copairs' four lists, with the same code and floors as a run's scores."""

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import sdvae_ray
from sdvae_ray.cli.main import main
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.queries.copairs_lists import Settings, checked_settings
from sdvae_ray.queries.retrieve import retrieve
from sdvae_ray.retrieval.ranking.pair_rules import PairRules
from sdvae_ray.sources.profiles import read_profiles
from sdvae_ray.storage import Storage

STORAGE = Storage()
REFERENCE = "Metadata_control_type == 'negcon'"
ACTIVITY = PairRules(("Metadata_broad_sample",), neg_sameby=("Metadata_Plate",))


def profiles(seed: int = 0, plates: int = 3, controls: int = 8, compounds: int = 6, depth: int = 10) -> pl.DataFrame:
    """Half of the compounds have an effect; each has one well per plate, at another position on every plate."""
    random = np.random.default_rng(seed)
    effects = random.normal(0, 1, (compounds, depth)) * (np.arange(compounds) % 2)[:, None] * 4
    rows = []
    for plate in range(plates):
        order = random.permutation(controls + compounds)
        for at in range(controls + compounds):
            treated = at >= controls
            values = random.normal(0, 1, depth) + (effects[at - controls] if treated else 0)
            rows.append(
                {
                    "Metadata_Plate": f"P{plate}",
                    "Metadata_Well": f"A{order[at] + 1:02d}",
                    "Metadata_broad_sample": f"C{at - controls}" if treated else None,
                    "Metadata_control_type": None if treated else "negcon",
                    "Metadata_target": f"T{(at - controls) // 2}|X{(at - controls) % 2}" if treated else None,
                    **{f"Cells_{n}": float(value) for n, value in enumerate(values)},
                }
            )
    return pl.DataFrame(rows)


@pytest.fixture
def written(tmp_path) -> Path:
    path = tmp_path / "profiles.parquet"
    profiles().write_parquet(path)
    return path


def test_activity_finds_the_effects_and_its_floors_find_none(written):
    found = retrieve(read_profiles([str(written)], STORAGE), ACTIVITY, REFERENCE, None, Settings(null_size=2000))
    retrieved = dict(found.groups.select("compound", "retrieved").iter_rows())
    assert retrieved == {f"C{number}": number % 2 == 1 for number in range(6)}
    summary = found.summary
    assert (summary["wells"], summary["queries"], summary["references"], summary["features"]) == (42, 18, 24, 10)
    assert (summary["groups"], summary["fraction_retrieved"], summary["null"]) == (6, 0.5, "exchange")
    assert summary["fraction_retrieved_low"] <= 0.5 <= summary["fraction_retrieved_high"]
    floors = {row["quantity"]: row for row in found.floors.rows(named=True)}
    assert floors["full"]["fraction_retrieved"] == 0.5
    assert floors["full"]["mean_map"] == summary["mean_map"]
    assert floors["labels_within_all"]["fraction_retrieved"] < 0.2
    json.dumps(summary)


def test_the_lists_of_jumps_recipe_give_the_same_average_precision_as_activity(written):
    """The general ranking, with the reference index written out, against the road of the scores."""
    table = read_profiles([str(written)], STORAGE)
    settings = Settings(null="copairs", null_size=500)
    short = retrieve(table, ACTIVITY, REFERENCE, None, settings)
    far = Settings(null="copairs", null_size=500, distance="correlation")
    general = retrieve(table, ACTIVITY, REFERENCE, None, far)
    (floor,) = general.floors.rows(named=True)
    assert (floor["quantity"], floor["status"], floor["repeats"]) == ("profiles_permuted", "ok", 3)
    assert floor["mean_map"] < general.summary["mean_map"] - 0.2
    assert floor["fraction_retrieved"] < 0.2
    centred = table.features - table.features.mean(1, keepdims=True)
    same = retrieve(type(table)(table.wells, centred, table.names, []), ACTIVITY, REFERENCE, None, settings)
    np.testing.assert_allclose(
        general.groups.sort("compound")["map"], same.groups.sort("compound")["map"], rtol=1e-12
    )  # correlation is the cosine of centred profiles
    assert short.groups["map"].to_list() != general.groups["map"].to_list()
    np.testing.assert_allclose(general.groups.sort("compound")["p"], same.groups.sort("compound")["p"])


def test_rows_may_come_in_any_order_and_any_format(tmp_path):
    table = profiles()
    table.write_parquet(tmp_path / "a.parquet")
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    shuffled[:20].write_csv(tmp_path / "b.csv")
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(shuffled[20:].write_csv().encode()))
    settings = Settings(null_size=1000)
    one, other = (
        retrieve(read_profiles(names, STORAGE), ACTIVITY, REFERENCE, None, settings)
        for names in ([str(tmp_path / "a.parquet")], [str(tmp_path / name) for name in ("b.csv", "c.csv.gz")])
    )
    assert one.groups.sort("compound").equals(other.groups.sort("compound"))
    assert one.floors.equals(other.floors)


def test_files_are_stacked_on_what_they_share_and_what_is_not_finite_is_said(tmp_path):
    table = profiles()
    odd = table.with_columns(
        Cells_0=pl.when(pl.int_range(pl.len()) == 1).then(float("nan")).otherwise(pl.col("Cells_0")),
        Cells_1=pl.when(pl.int_range(pl.len()) == 2).then(float("inf")).otherwise(pl.col("Cells_1")),
        Cells_2=pl.lit("text"),
    )
    odd.with_columns(extra=1.0).write_csv(tmp_path / "a.csv")
    odd.write_csv(tmp_path / "b.csv")
    found = read_profiles([str(tmp_path / "a.csv"), str(tmp_path / "b.csv")], STORAGE)
    assert found.features.shape == (84, 9)
    assert "Cells_2" not in found.names
    assert found.features[1, 0] == 0
    assert np.isfinite(found.features).all()
    said = " ".join(found.notes)
    assert "extra" in said
    assert "4 values of 2 features are not finite" in said
    assert "1 columns hold no numbers" in said
    fewer = read_profiles([str(tmp_path / "b.csv")], STORAGE, prefixes=["Cells"], drop=["*_1", "Cells_9"])
    assert fewer.names == [f"Cells_{n}" for n in (0, 3, 4, 5, 6, 7, 8)]


def test_a_multilabel_target_has_a_group_per_label(written):
    table = read_profiles([str(written)], STORAGE)
    lists = PairRules(("Metadata_target",), neg_diffby=("Metadata_target",), multilabel_col="Metadata_target")
    found = retrieve(table, lists, None, REFERENCE, Settings(null_size=200))
    assert found.groups["compound"].to_list() == ["T0", "T1", "T2", "X0", "X1"]
    assert found.groups["replicates"].to_list() == [6, 6, 6, 9, 9]  # a well is a query once for each of its labels
    assert set(found.wells["n_negatives"]) == {6}  # two compounds of three wells share no label with it
    assert found.summary["null"] == "copairs"


@pytest.mark.parametrize(
    ("lists", "reference", "settings", "words"),
    [
        (PairRules(("Metadata_broad_sampel",)), REFERENCE, {}, "did you mean 'Metadata_broad_sample'"),
        (ACTIVITY, "Metadata_control == 'negcon'", {}, "did you mean 'Metadata_control_type'"),
        (ACTIVITY, "Metadata_control_type == 'poscon'", {}, "no well is a reference"),
        (ACTIVITY, None, {"null": "exchange"}, "--null exchange is for cosines and negatives that are reference wells"),
        (PairRules(("Metadata_Plate", "Metadata_Well"), neg_sameby=("Metadata_Plate",)), None, {}, "no query has both"),
    ],
)
def test_a_mistake_is_one_line(written, lists, reference, settings, words):
    table = read_profiles([str(written)], STORAGE)
    with pytest.raises((ConfigError, DataError)) as caught:
        retrieve(table, lists, reference, None, Settings(**settings))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_that_are_none_are_named(tmp_path):
    for given, words in (
        ({"null": "copair"}, "'copairs'"),
        ({"distance": "cos"}, "'cosine'"),
        ({"normalise": "no"}, "none"),
    ):
        with pytest.raises(ConfigError, match=words):
            checked_settings(given)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "y.csv").write_text("Metadata_Plate\nP1\n")
    for name, words in (
        ("x.parquet", "cannot be read"),
        ("y.csv", "no column of features"),
        ("z.csv", "does not exist"),
    ):
        with pytest.raises(DataError, match=words):
            read_profiles([str(tmp_path / name)], STORAGE)
    profiles().write_csv(tmp_path / "p.csv")
    with pytest.raises(DataError, match="no feature starts with 'Cell_'"):
        read_profiles([str(tmp_path / "p.csv")], STORAGE, prefixes=["Cell_"])
    with pytest.raises(DataError, match="no feature matches"):
        read_profiles([str(tmp_path / "p.csv")], STORAGE, drop=["Nuclei*"])


def test_the_null_by_exchange_is_of_cosines(written):
    table = read_profiles([str(written)], STORAGE)
    with pytest.raises(ConfigError, match="--null exchange is for cosines"):
        retrieve(table, ACTIVITY, REFERENCE, None, Settings(null="exchange", distance="euclidean"))
    found = retrieve(table, ACTIVITY, REFERENCE, None, Settings(null_size=200, distance="euclidean"))
    assert found.summary["null"] == "copairs"


def test_the_command_prints_one_object_and_writes_its_tables(capsys, tmp_path, written):
    arguments = ["retrieve", str(written), "--pos-sameby", "Metadata_broad_sample", "--neg-sameby", "Metadata_Plate"]
    arguments += ["--reference", REFERENCE, "--null-size", "500", "--output", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert {"groups", "wells", "features", "mean_map", "fraction_retrieved", "floors"} <= found.keys()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "floors.parquet",
        "groups.parquet",
        "retrieve.json",
        "wells.parquet",
    ]


def test_the_numbers_of_jumps_recipe_on_four_real_plates(shared):
    """copairs 0.5.5 gives mean mAP 0.5677 and FR 0.6046 there; FR moves by a compound or two from null to null."""
    files = sorted((shared / "data/profiles").glob("*.csv.gz"))
    if len(files) != 4:
        pytest.skip("the four plates of profiles are not there")
    table = read_profiles([str(path) for path in files], STORAGE, drop=["*BF*", "*Brightfield*"])
    settings = Settings(null="copairs", ties="copairs", strict=True)
    found = retrieve(table, ACTIVITY, REFERENCE, None, settings)
    assert found.summary["mean_map"] == pytest.approx(0.5677, abs=5e-5)
    assert found.summary["fraction_retrieved"] == pytest.approx(0.6046, abs=3 / 306)
    assert (found.summary["groups"], found.summary["wells"], found.summary["references"]) == (306, 1536, 256)


# In Python


def test_a_notebook_scores_files_or_frames_as_the_command_does(written, capsys):
    lists = {"pos_sameby": ["Metadata_broad_sample"], "neg_sameby": ["Metadata_Plate"], "reference": REFERENCE}
    of_file = sdvae_ray.retrieve(str(written), **lists, null_size=500)
    frame = pl.read_parquet(written) if written.suffix == ".parquet" else pl.read_csv(written, infer_schema=False)
    of_frame = sdvae_ray.retrieve(frame, **lists, null_size=500)
    assert of_file.groups.equals(of_frame.groups)
    assert of_file.summary == of_frame.summary
    options = ["--pos-sameby", "Metadata_broad_sample", "--neg-sameby", "Metadata_Plate", "--reference", REFERENCE]
    with pytest.raises(SystemExit):
        main(["retrieve", str(written), *options, "--null-size", "500", "--json"])
    assert json.loads(capsys.readouterr().out) == json.loads(
        json.dumps({"profiles": [str(written)], **of_file.summary})
    )


def test_an_unknown_setting_is_one_line_with_the_nearest_name(written):
    with pytest.raises(ConfigError, match="did you mean 'null_size'"):
        sdvae_ray.retrieve([written], pos_sameby=["Metadata_broad_sample"], null_siz=500)


# What is no feature, no well and no negative


RECIPE = {"pos_sameby": ["Metadata_broad_sample"], "neg_sameby": ["Metadata_Plate"], "reference": REFERENCE}


def case(shared: Path, *names: str) -> list[str]:
    """Files of the awkward inputs; the test is skipped without them."""
    files = [shared / "data/cases" / name for name in names]
    if not all(file.exists() for file in files):
        pytest.skip("the awkward inputs are not there")
    return [str(file) for file in files]


def test_columns_that_identify_place_or_count_are_no_features(shared):
    """Case 15: FR is .667 with the features alone, and was .417 with the others."""
    files = case(shared, "15_a.csv", "15_b.csv")
    found = sdvae_ray.retrieve(files, **RECIPE, null_size=1000)
    assert found.summary["features"] == 40
    assert found.summary["fraction_retrieved"] == pytest.approx(2 / 3)
    said = "ImageNumber, Image_Count_Cells, Image_Metadata_Site, Cells_Location_Center_X"
    assert any(note.endswith(f"no features unless --features asks for them: {said}") for note in found.summary["notes"])
    assert "40 features: Cells 40" in found.summary["notes"]
    asked = read_profiles(files, STORAGE, prefixes=["Cells_F", "Image_Count"])
    assert asked.names[-1] == "Image_Count_Cells"


NO_FEATURES = (
    "ObjectNumber Cells_Number_Object_Number TableNumber Count_Nuclei Nuclei_Count Plate Site well_position Row Image_Width_DNA "
    "index level_0 Cells_0.1 Cells_1_duplicated_0"
)


@pytest.mark.parametrize("name", NO_FEATURES.split())
def test_other_names_of_no_features_are_left_out_and_said(name):
    """A second input of the kind: other programs' names, and headers that pandas or polars has read twice."""
    table = read_profiles(profiles().with_columns(pl.int_range(pl.len()).alias(name)), STORAGE)
    assert name not in table.names
    assert len(table.names) == 10
    assert any(note.endswith(f"unless --features asks for them: {name}") for note in table.notes)
    if not name.startswith("Cells_0"):
        asked = read_profiles(
            profiles().with_columns(pl.int_range(pl.len()).alias(name)), STORAGE, prefixes=["Cells_", name]
        )
        assert name in asked.names


def test_a_header_that_stands_twice_is_refused_as_in_a_manifest(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("Metadata_Plate,Cells_1,Cells_1\nP1,1,2\n")
    with pytest.raises(DataError, match="row 1: the column 'Cells_1' stands twice in the header"):
        read_profiles(str(file), STORAGE)


def test_a_column_of_numbers_and_text_is_left_out_with_the_text(tmp_path):
    file = tmp_path / "p.csv"
    file.write_text("Metadata_Plate,Cells_1,Cells_2\nP1,1,NA\nP1,high,2\n")
    table = read_profiles(str(file), STORAGE)
    assert table.names == ["Cells_2"]
    assert table.features.tolist() == [[0], [2]]
    assert any("Cells_1 ('high' in" in note and "row 3" in note for note in table.notes)


def test_queries_without_negatives_are_said_with_their_plate(shared):
    """Case 17."""
    found = sdvae_ray.retrieve(case(shared, "17_a.csv", "17_b.csv"), **RECIPE, null_size=200)
    assert "24 of 48 queries have no negatives: no reference among P2" in found.summary["notes"]
    assert found.summary["plates"] == [
        {"plate": "P1", "references": 16, "queries": 24, "queries_without_negatives": 0},
        {"plate": "P2", "references": 0, "queries": 24, "queries_without_negatives": 24},
    ]


def test_where_no_query_has_negatives_nothing_is_scored_and_the_code_is_2(tmp_path, capsys):
    """A second input of the kind: the references are on a plate of their own."""
    frame = profiles().with_columns(
        Metadata_Plate=pl.when(pl.col("Metadata_control_type") == "negcon")
        .then(pl.lit("Q"))
        .otherwise("Metadata_Plate"),
        Metadata_Well=pl.concat_str(pl.lit("A"), pl.int_range(pl.len()).cast(pl.String)),
    )
    frame.write_csv(tmp_path / "p.csv")
    options = ["--pos-sameby", "Metadata_broad_sample", "--neg-sameby", "Metadata_Plate", "--reference", REFERENCE]
    with pytest.raises(SystemExit) as ended:
        main(["retrieve", str(tmp_path / "p.csv"), *options])
    assert ended.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error == "error: nothing could be scored; 18 of 18 queries have no negatives: no reference among P0, P1, P2"


def test_words_for_nothing_are_no_compound_and_no_control(written):
    frame = pl.read_parquet(written).with_columns(
        pl.col("Metadata_broad_sample", "Metadata_control_type", "Metadata_target").fill_null("NA")
    )
    found = sdvae_ray.retrieve(frame, **RECIPE, null_size=200)
    assert found.groups["compound"].to_list() == [f"C{number}" for number in range(6)]
    assert any("hold NA and count as missing" in note for note in found.summary["notes"])
    named = sdvae_ray.retrieve(frame, **RECIPE, null_size=200, missing=["-"])
    assert not any("count as missing" in note for note in named.summary["notes"])


def test_a_well_that_stands_twice_is_refused_or_said_with_both_rows(tmp_path):
    table = profiles()
    table.write_csv(tmp_path / "a.csv")
    other = table.with_columns(Metadata_Well=pl.col("Metadata_Well").str.replace("A0", "a"))
    other.write_csv(tmp_path / "b.csv")  # the same wells in another form
    well, files = table["Metadata_Well"][0], [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    with pytest.raises(DataError) as caught:
        sdvae_ray.retrieve(files, **RECIPE)
    assert str(caught.value) == (
        f"{files[1]}, row 2: the well P0/{well} is already in {files[0]}, row 2, with the same features"
    )
    other.with_columns(pl.col("^Cells_.*$") + 1).write_csv(tmp_path / "b.csv")
    found = sdvae_ray.retrieve(files, **RECIPE, null_size=200)
    assert (
        f"42 wells stand in several rows, and every row is a profile of its own, such as P0/{well} in {files[0]}, row 2 and "
        f"{files[1]}, row 2"
    ) in found.summary["notes"]
    assert f"P0/{table['Metadata_Well'][8]} ({files[0]}, row 10)" in found.wells["well_id"].to_list()


def test_a_well_without_a_name_gets_no_invented_one(tmp_path):
    profiles().drop("Metadata_Well").write_csv(tmp_path / "p.csv")
    found = sdvae_ray.retrieve(str(tmp_path / "p.csv"), **RECIPE, null_size=200)
    assert f"{tmp_path}/p.csv, row 10" in found.wells["well_id"].to_list()
