"""Kind: a file is not what it is called, and QC is read by someone: what is wrong per plate and stain, and rules that exclude."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from sdvae_ray.engine.files.quality import QC, RAW_QC
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.quality import findings, in_lines, qc_rule, quality_of, quality_table, scaling_notes
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.table_files import committed_files
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, PLATE_KEY, ROW, WELL_KEY, fov_id
from sdvae_ray.scoring.inputs.fields import Fields, fields_to_score
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.storage import Storage

STAINS = ("Mito", "AGP", "RNA", "ER", "DNA")
NAMES = [*QC, *RAW_QC]
FOVS = 12  # of a plate; the last of the second plate has failed


def fields_of(run: Run, console: Console | None = None) -> Fields:
    """The fields of a run that are scored."""
    return fields_to_score(run, committed_files(run.output, run.storage), None, console or Console(quiet=True))


def numbers() -> dict[str, np.ndarray]:
    """The QC columns of two plates of sound images: (24, 5)."""
    random = np.random.default_rng(0)
    shape = (2 * FOVS, len(STAINS))
    sound = {
        "qc_mean": random.normal(0.2, 0.01, shape),
        "qc_saturated": np.zeros(shape),
        "qc_zero": np.full(shape, 0.1),
        "qc_raw_max": np.full(shape, 60_000.0),
    }
    checksums = random.permutation(shape[0] * shape[1]).reshape(shape).astype(np.uint32)
    return {name: values.astype(np.float32) for name, values in sound.items()} | {"qc_raw_crc32": checksums}


def store(run: Run, qc: dict[str, np.ndarray]) -> list[str]:
    """Write the rows of fovs/ in two files; return the fov_ids."""
    rows = [
        dict(zip(KEYS, ("s", "b", f"P{1 + n // FOVS}", f"A{1 + n % FOVS:02d}", "1"), strict=True))
        for n in range(2 * FOVS)
    ]
    rows = [row | {"Metadata_broad_sample": "x", "Metadata_control_type": "negcon"} for row in rows]
    errors = np.array([""] * (2 * FOVS - 1) + ["no such object"], object)
    ids = np.array([fov_id(row) for row in rows], object)
    columns: dict[str, Any] = {FOV_ID: ids, ERROR: errors, ROW: np.array(list(map(json.dumps, rows)), object), **qc}
    columns["embeddings/made/image:embedding"] = np.ones((2 * FOVS, 3), np.float16)
    for part in range(2):
        chosen = slice(part * FOVS, (part + 1) * FOVS)
        write_rows(run.output, f"part-{part}", {name: values[chosen] for name, values in columns.items()}, Storage())
    return ids.tolist()


@pytest.fixture
def run(small_run_config) -> Run:
    return Run(small_run_config())


def quality(run: Run) -> pl.DataFrame:
    return quality_table(run.fovs([*PLATE_KEY, *NAMES]), STAINS)


def found(run: Run) -> list[tuple[Any, ...]]:
    columns = ("Metadata_Plate", "stain", "finding", "fovs", "of", "example")
    wrong = findings(quality(run), STAINS)
    by_plate = quality_of(run.fovs([*WELL_KEY, *NAMES]), STAINS)
    assert by_plate.wrong.equals(wrong)
    assert by_plate.fovs == quality(run).height
    return list(wrong.select(columns).iter_rows())


def test_sound_images_have_no_finding_and_their_numbers_come_back(run):
    qc = numbers()
    ids = store(run, qc)
    table = quality(run)
    assert table[FOV_ID].to_list() == ids[:-1]
    for name in NAMES:
        np.testing.assert_array_equal(table.select(f"{name}_{stain}" for stain in STAINS).to_numpy(), qc[name][:-1])
    assert found(run) == []
    assert scaling_notes(table, ImageConfig()) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"qc_raw_max": 0, "qc_zero": 1, "qc_mean": 0}, "all zero in the file"),
        ({"qc_zero": 1, "qc_mean": 0}, "all zero after scaling"),
        ({"qc_saturated": 0.02}, "more than 1% saturated"),
        ({"qc_mean": 0.9}, "unlike the rest of its plate"),
    ],
)
def test_qc_kind_a_finding_is_told_by_plate_and_stain_with_its_count(run, changes, finding):
    qc = numbers()
    for name, value in changes.items():
        qc[name][[FOVS + 2, FOVS + 5], 3] = value
    ids = store(run, qc)
    assert found(run) == [("P2", "ER", finding, 2, FOVS - 1, ids[FOVS + 2])]
    assert in_lines(findings(quality(run), STAINS)) == [
        f"plate P2, ER: 2 of 11 FOVs {finding}, such as {ids[FOVS + 2]}"
    ]


def test_qc_kind_equal_stains_are_told_unless_they_are_black(run):
    qc = numbers()
    qc["qc_raw_crc32"][4, 1] = qc["qc_raw_crc32"][4, 0]
    qc["qc_raw_crc32"][6, 2] = qc["qc_raw_crc32"][6, 3]
    qc["qc_raw_max"][6, 2:4] = 0
    ids = store(run, qc)
    equal = [row for row in found(run) if row[2] == "equal to another stain"]
    assert equal == [("P1", stain, "equal to another stain", 1, FOVS, ids[4]) for stain in ("Mito", "AGP")]
    (line,) = [line for line in in_lines(findings(quality(run), STAINS)) if "equal" in line]
    assert line.startswith("plate P1, Mito, AGP: 1 of 12 FOVs equal")


def test_qc_kind_many_findings_are_a_few_lines(run):
    qc = numbers()
    for stain in range(5):
        qc["qc_saturated"][: stain + 1, stain] = 0.5
        qc["qc_raw_max"][FOVS : FOVS + stain + 1, stain] = 0
    store(run, qc)
    lines = in_lines(findings(quality(run), STAINS), most=3)
    assert len(lines) == 4
    assert lines[-1].startswith("7 more findings")


def test_a_run_without_the_newer_columns_has_the_findings_of_the_others(run):
    qc = {name: values for name, values in numbers().items() if name in QC}
    qc["qc_zero"][0, 0] = 1
    ids = store(run, qc)
    assert found(run) == [("P1", "Mito", "all zero after scaling", 1, FOVS, ids[0])]
    assert scaling_notes(quality(run), ImageConfig()) == []
    with pytest.raises(ConfigError, match="this run has no qc_raw_max_.*: it was encoded by an earlier version"):
        fields_of(run.changed("score.exclude_qc=qc_raw_max == 0"))


def test_a_run_that_has_no_row_yet_has_no_finding(run):
    assert findings(quality(run), STAINS).height == 0
    assert quality_of(run.fovs([*WELL_KEY, *NAMES]), STAINS).wrong.height == 0


def test_the_mean_of_a_well_and_the_largest_pixel_are_those_of_all_plates(run):
    qc = numbers()
    qc["qc_raw_max"][20, 4] = 65_000
    store(run, qc)
    quality_by_plate = quality_of(run.fovs([*WELL_KEY, *NAMES]), STAINS)
    assert quality_by_plate.largest.drop(PLATE_KEY).max().row(0) == (60_000.0,) * 4 + (65_000.0,)
    means = quality_by_plate.means.select("qc_mean_Mito").to_series().to_numpy()
    np.testing.assert_allclose(means, qc["qc_mean"][:-1, 0], rtol=1e-6)


# Rules


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("qc_saturated_ER > 0.01", {2}),
        ("qc_saturated > 0.01", {2, 7}),
        ("qc_saturated > 0.01 and not qc_saturated_ER > 0.01", {7}),
        ("qc_mean_DNA < 0.1 or qc_saturated_ER >= 0.5", {2, 9}),
        ("qc_deviation > 8 or qc_deviation < -8", {9}),
        ("qc_equal == 1", {4}),
        ("qc_raw_max != 60000", set()),
    ],
)
def test_qc_kind_a_rule_leaves_fovs_out_of_the_scores_with_counts(run, rule, expected):
    qc = numbers()
    qc["qc_saturated"][2, 3], qc["qc_saturated"][7, 0], qc["qc_mean"][9, 4] = 0.5, 0.2, 0.0
    qc["qc_raw_crc32"][4, 1] = qc["qc_raw_crc32"][4, 0]
    ids = store(run, qc)
    changed = run.changed(f"score.exclude_qc={rule}")
    console = Console(record=True, width=200)
    fields = fields_of(changed, console)
    plates = {"P1": len(expected)} if expected else {}
    assert fields.excluded == {"rule": rule, "fovs": len(expected), "of": 2 * FOVS - 1, "plates": plates}
    assert f"{len(expected)} of 23 FOVs are left out by score.exclude_qc ({rule})" in console.export_text()
    scored = fields.fovs.table()[FOV_ID].to_list()
    assert scored == [fov for number, fov in enumerate(ids[:-1]) if number not in expected]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("qc_satured > 0.1", "no 'qc_satured'; did you mean 'qc_saturated'"),
        ("qc_zero_DAN > 0.1", "did you mean 'qc_zero_DNA'"),
        ("qc_raw_crc32 == 1", "there is no 'qc_raw_crc32'"),
        ("qc_zero == 'DNA'", "is not a comparison of a column with a number"),
        ("0.1 < qc_zero < 0.2", "is not a comparison of a column with a number"),
        ("__import__('os')", "is not a comparison of a column with a number"),
        ("qc_zero >", "cannot read"),
    ],
)
def test_qc_kind_a_rule_that_cannot_be_followed_is_refused(rule, words):
    with pytest.raises(ConfigError) as caught:
        qc_rule(rule, STAINS, "score.exclude_qc")
    assert str(caught.value).startswith("score.exclude_qc: ")
    assert words in str(caught.value)


def test_qc_kind_a_rule_that_leaves_nothing_is_refused(run):
    store(run, numbers())
    with pytest.raises(DataError, match="leaves out all 23 usable FOVs"):
        fields_of(run.changed("score.exclude_qc=qc_zero < 0.5"))


def test_no_rule_leaves_nothing_out(run, tmp_path: Path):
    store(run, numbers())
    fields = fields_of(run)
    assert (fields.excluded, fields.fovs.height) == (None, 2 * FOVS - 1)
