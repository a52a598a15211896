"""Kind 1 (annotation is not identity) and kind 3 (controls are counted), from a run's fields to the record of its scores."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from run_files import small_run

from sdvae_ray.commands import runs as commands
from sdvae_ray.config import RunConfig
from sdvae_ray.controls import control_counts, lines_on_controls, with_groups, with_roles
from sdvae_ray.encoding.check_score import check_score
from sdvae_ray.errors import DataError, RunError
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.sections.record import provenance
from sdvae_ray.run.annotation import replaced
from sdvae_ray.run.record import new_record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import EMBEDDINGS, ERROR, FOV_ID, KEYS, METADATA, ROW, SOURCE_DIGEST, uri_column
from sdvae_ray.scoring.inputs.annotation import current_manifest, current_metadata
from sdvae_ray.scoring.score import score
from sdvae_ray.settings.score import ScoreConfig
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.sources.manifest.scan import annotation_hash, identity_hash, scan_manifest

SILENT = Console(quiet=True)
WELLS, PLATES = 12, ("P1", "P2", "P3")  # per plate: 6 controls, 6 treated wells of 3 compounds


def manifest_table() -> pl.DataFrame:
    rows = []
    for plate in PLATES:
        for well in range(WELLS):
            keys = dict(zip(KEYS, ("s1", "b1", plate, f"A{well + 1:02d}", "1"), strict=True))
            treated = well >= WELLS // 2
            rows.append(
                {
                    FOV_ID: "/".join(keys.values()),
                    **keys,
                    "Metadata_broad_sample": f"C{well % 3}" if treated else None,
                    "Metadata_control_type": None if treated else "negcon",
                    "Metadata_only_old": "x",
                    **{uri_column(stain): f"/{plate}-{well}-{stain}.tiff" for stain in ("Mito", "AGP", "RNA", "ER", "DNA")},
                }
            )  # fmt: skip
    return pl.DataFrame(rows)


@pytest.fixture
def run(tmp_path) -> Run:
    """A run whose fields are encoded, with made embeddings of the originals: compound C1 is far from the controls."""
    table = manifest_table()
    config: RunConfig = small_run(
        tmp_path,
        autoencoders={"tiny": None},
        extractors={"latent": None, "intensity": None, "made": {"name": "intensity"}},
        metrics=[],
        score={"normalise": "plate_standardise", "null_size": 200, "floor_repeats": 1, "tasks": []},
    )
    table.write_parquet(config.manifest)
    run = Run(config)
    scanned, _ = scan_manifest(config.manifest, config.image, run.storage)
    random = np.random.default_rng(0)
    patches = random.normal(0, 1, (table.height, 2, 1, 8))
    patches[(table["Metadata_broad_sample"] == "C1").fill_null(False).to_numpy()] += 6
    rows = table.select(f"^{METADATA}.*$").to_dicts()
    columns: dict[str, Any] = {
        FOV_ID: np.array(table[FOV_ID].to_list(), object),
        ERROR: np.full(table.height, "", object),
        ROW: np.array([json.dumps(row) for row in rows], object),
        SOURCE_DIGEST: np.array(scanned[SOURCE_DIGEST].to_list(), object),
        f"{EMBEDDINGS}/made/image:embedding": patches.mean(1).astype(np.float16),
        f"{EMBEDDINGS}/made/image:patches": patches.astype(np.float16),
    }
    write_rows(config.output, "part-0", columns, run.storage)
    manifest = describe_manifest(config.manifest, table.height, run.storage)
    manifest["identity"] = identity_hash(scanned[SOURCE_DIGEST])
    manifest["annotation"] = annotation_hash(config.manifest, run.storage)
    run.write_record(new_record(config, manifest, {}, 8, "float32"))
    return run


def stored(run: Run) -> dict[str, bytes]:
    """The files that encode has written."""
    files = [*Path(run.output, "fovs").rglob("*.parquet"), *Path(run.output, "embeddings").rglob("*.parquet")]
    return {str(file): file.read_bytes() for file in files}


def corrected(table: pl.DataFrame) -> pl.DataFrame:
    """The first two controls of every plate were treated with C9 in truth."""
    wrong = pl.col("Metadata_Well").is_in(["A01", "A02"])
    return table.with_columns(
        Metadata_control_type=pl.when(~wrong).then("Metadata_control_type"),
        Metadata_broad_sample=pl.when(wrong).then(pl.lit("C9")).otherwise("Metadata_broad_sample"),
        Metadata_target=pl.lit("kinase"),
    ).drop("Metadata_only_old")


def test_a_corrected_manifest_is_joined_by_fov_id_and_both_hashes_are_recorded(local_ray, run, tmp_path):
    other = str(tmp_path / "m2.parquet")
    corrected(manifest_table()).reverse().write_parquet(other)
    encoded = stored(run)
    first = score(run, SILENT)
    assert "C9" not in first.compounds["compound"].to_list()
    second = score(run, SILENT, manifest=other)
    assert second.compounds["compound"].to_list() == ["C0", "C1", "C2", "C9"]
    assert set(second.summary["controls"]) == {12}
    told, before = run.record["scored"], run.record["manifest"]
    assert told["changed"] == {"Metadata_broad_sample": 6, "Metadata_control_type": 6}
    assert (told["added"], told["gone"], told["fovs"]) == (["Metadata_target"], ["Metadata_only_old"], 6)
    assert told["encoded_with"] == {key: before[key] for key in ("uri", "sha256", "identity", "annotation")}
    now = told["manifest"]
    assert (now["uri"], now["identity"]) == (other, before["identity"])
    assert now["sha256"] != before["sha256"]
    assert now["annotation"] != before["annotation"]
    assert [row["controls"] for row in told["controls"]] == [4, 4, 4]
    assert stored(run) == encoded
    metadata = provenance.the_run(ScoredRun.read(run)).terms["metadata"]
    assert metadata.startswith(f"of {other}, sha256 {now['sha256']}: Metadata_broad_sample, ")
    of_report = ScoredRun.read(run).fovs
    assert (of_report["Metadata_control_type"] == "negcon").sum() == 12
    third = score(run, SILENT)  # the run's own manifest again
    assert third.compounds.equals(first.compounds)
    assert (ScoredRun.read(run).fovs["Metadata_control_type"] == "negcon").sum() == 18
    assert "metadata" not in provenance.the_run(ScoredRun.read(run)).terms


def lines_of(run: Run, manifest: str | None = None) -> tuple[pl.DataFrame, list[str]]:
    said: list[str] = []
    uri = current_manifest(run, manifest, said.append).uri
    annotation = current_metadata(run, uri, run.fovs(), said.append)[0] if uri else None
    return run.fovs() if annotation is None else replaced(run.fovs(), annotation), said


def test_a_manifest_that_changed_at_its_place_is_joined_too(run):
    """A second input of the kind: one control type, corrected where the manifest lies."""
    one = pl.col(FOV_ID) == "s1/b1/P2/A01/1"
    edited = manifest_table().with_columns(
        Metadata_control_type=pl.when(one).then(pl.lit("poscon")).otherwise("Metadata_control_type")
    )
    edited.write_parquet(run.config.manifest)
    fovs, said = lines_of(run)
    assert fovs.filter(one)["Metadata_control_type"].to_list() == ["poscon"]
    assert said == [
        f"{run.config.manifest}: the metadata has changed since the fields were encoded: Metadata_control_type of 1 FOVs changed. "
        "No field is encoded again"
    ]


def test_a_manifest_of_the_same_metadata_in_another_form_changes_nothing(run):
    manifest_table().with_columns(pl.col("Metadata_control_type").fill_null("")).write_parquet(run.config.manifest)
    fovs, said = lines_of(run)
    assert fovs.equals(run.fovs())
    assert said == [f"{run.config.manifest}: its metadata is that of the encoded fields"]


def test_without_its_manifest_a_run_is_scored_by_what_was_known_at_encode(run):
    Path(run.config.manifest).unlink()
    fovs, said = lines_of(run)
    assert fovs.equals(run.fovs())
    assert said == [
        f"note: the manifest {run.config.manifest} is not there; the metadata is that of the encoded fields"
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda table: table.filter(pl.col("Metadata_Plate") != "P2"), "lacks 12 of the 36 FOVs of the run, such as s1/b1/P2/A"),
        (lambda table: table.with_columns(uri_ER=pl.col("uri_DNA")), "for 36 FOVs, such as s1/b1/P1/A01/1: it is a manifest of"),
        (lambda table: table.with_columns(channel_ER=2), "another image, plane, illumination function or scaling"),
        (lambda table: table.with_columns(Metadata_Site=1), "the column Metadata_Site is Int32, not text"),
    ],
)  # fmt: skip
def test_a_manifest_of_other_pixels_or_fields_is_refused_by_name(run, tmp_path, change, problem):
    other = str(tmp_path / "m2.parquet")
    change(manifest_table()).write_parquet(other)
    with pytest.raises(DataError) as caught:
        lines_of(run, other)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


# Controls


def counted(table: pl.DataFrame, **settings: Any) -> list[str]:
    section = ScoreConfig.model_validate(settings)
    return lines_on_controls(section, control_counts(with_roles(section, with_groups(section, table))))


def test_controls_are_counted_per_plate_and_group():
    table = manifest_table()
    assert counted(table) == ["18 negative controls and 18 treated wells on 3 plates: 6 controls per plate"]
    none = table.filter((pl.col("Metadata_Plate") != "P2") | pl.col("Metadata_control_type").is_null())
    assert counted(none) == [
        "12 negative controls and 18 treated wells on 3 plates: 0 to 6 controls per plate",
        "note: 6 of 18 queries have no negatives: no control on plate P2",
    ]
    grouped = none.with_columns(Metadata_Cell=pl.when(pl.col("Metadata_Plate") == "P2").then(pl.lit("U2OS")))
    assert counted(grouped, group=["Metadata_Cell"], negatives="group") == [
        "12 negative controls and 18 treated wells on 3 plates, 2 groups: 0 to 6 controls per plate and group",
        "note: 6 of 18 queries have no negatives: no control on group U2OS",
    ]
    sites = pl.concat([table, table.with_columns(Metadata_Site=pl.lit("2"))])
    assert counted(sites) == counted(table)


def test_an_expression_that_holds_nowhere_is_refused_by_score(run):
    with pytest.raises(DataError) as caught:
        score(run.changed("score.control=\"Metadata_control_type == 'negcontrol'\""), SILENT)
    assert str(caught.value) == (
        "score.control: Metadata_control_type == 'negcontrol' holds for none of the 36 wells, so nothing could be scored"
    )


def test_check_says_the_controls_of_the_manifest_and_refuses_an_expression_that_holds_nowhere(run):
    """Case 01: a manifest that another program made says NA where it means nothing."""
    said: list[str] = []
    table = manifest_table().with_columns(pl.col("Metadata_control_type").fill_null("NA"), note=pl.lit("x"))
    table.write_parquet(run.config.manifest)
    check_score(run, said.append)
    assert said == [
        "note: columns of the manifest that nothing reads: note",
        "note: 18 cells hold NA and count as missing: Metadata_control_type 18",
        "controls  18 negative controls and 18 treated wells on 3 plates: 6 controls per plate",
    ]
    with pytest.raises(DataError, match="holds for none of the 36 wells"):
        check_score(run.changed("score.control=\"Metadata_control_type == 'NA'\""), said.append)
    check_score(run.changed("score.control=\"Metadata_control_type == 'NA'\"", "score.missing=['-']"), said.append)


def test_a_run_of_which_nothing_could_be_scored_ends_with_1(local_ray, run, tmp_path):
    """All compounds have one well, so that none has a replicate."""
    other = str(tmp_path / "m2.parquet")
    single = pl.concat_str(pl.lit("C"), pl.int_range(pl.len()).cast(pl.String))
    manifest_table().with_columns(
        Metadata_broad_sample=pl.when(pl.col("Metadata_control_type").is_null()).then(single)
    ).write_parquet(other)
    with pytest.raises(RunError, match="nothing could be scored: ") as caught:
        commands.score(run, SILENT, None, other)
    assert caught.value.exit_code == 1
    assert run.scores().summary.height == 1  # with its reason
