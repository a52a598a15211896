"""Several runs scored as one: the scores are those of one run with all plates, and what does not agree is refused by name."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal
from rich.console import Console
from run_files import small_run

from sdvae_ray.commands import runs as commands
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.run.joined import join_runs, refuse_joined
from sdvae_ray.run.record import new_record
from sdvae_ray.run.run import Run
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import EMBEDDINGS, ERROR, FOV_ID, KEYS, ROW, fov_id
from sdvae_ray.scoring.score import score
from sdvae_ray.sources.manifest.describe import describe_manifest

SILENT = Console(quiet=True)
WELLS, SITES = 24, 2  # of a plate: 16 controls, and two wells of four compounds
SCORE = {"normalise": "plate_standardise", "null_size": 200, "floor_repeats": 0, "tasks": []}


def run_of(folder: Path, plates: tuple[str, ...], **changes: object) -> Run:
    """A finished run of some plates; the embeddings of a plate are the same in every run."""
    folder.mkdir()
    settings = {"extractors": {"made": {"name": "intensity"}}, "metrics": [], "score": SCORE, **changes}
    config = small_run(folder, autoencoders={"tiny": None}, **settings)
    for plate in plates:
        random = np.random.default_rng(int(plate[1:]))
        rows = []
        for at in range(WELLS):
            compound = None if at < 16 else f"C{at % 4}"
            keys = dict(zip(KEYS, ("s", "b", plate, f"{'ABCD'[at // 6]}{at % 6 + 1:02d}"), strict=False))
            known = {"Metadata_broad_sample": compound, "Metadata_control_type": None if compound else "negcon"}
            rows += [{**keys, **known, "Metadata_Site": str(site)} for site in range(SITES)]
        patches = random.normal(0, 1, (len(rows), 2, 1, 6))
        patches[[row["Metadata_broad_sample"] == "C1" for row in rows]] += 5
        columns = {FOV_ID: np.array([fov_id(row) for row in rows], object), ERROR: np.full(len(rows), "", object)}
        columns[ROW] = np.array([json.dumps(row) for row in rows], object)
        columns[f"{EMBEDDINGS}/made/image:embedding"] = patches.mean(1).astype(np.float16)
        columns[f"{EMBEDDINGS}/made/image:patches"] = patches.astype(np.float16)
        write_rows(config.output, f"part-{plate}", columns, Run(config).storage)
    pl.DataFrame({FOV_ID: plates}).write_parquet(config.manifest)
    run = Run(config)
    manifest = describe_manifest(config.manifest, len(plates) * WELLS * SITES, run.storage)
    run.write_record(new_record(config, manifest, {}, 8, "float32"))
    return run


def test_joined_runs_have_the_scores_of_one_run_with_all_plates(local_ray, tmp_path):
    whole = run_of(tmp_path / "whole", ("P1", "P2", "P3"))
    members = [run_of(tmp_path / "a", ("P1", "P3")), run_of(tmp_path / "b", ("P2",))]
    joined = join_runs(members, str(tmp_path / "joined"))
    alone, together = score(whole, SILENT), score(joined, SILENT)
    for table in ("summary", "compounds", "wells", "distributions", "references"):
        assert_frame_equal(getattr(alone, table), getattr(together, table), check_exact=table != "references")
    opened = Run.open(joined.output)
    assert opened.scores().compounds.equals(together.compounds)
    assert opened.fovs().height == 3 * WELLS * SITES
    assert opened.record["joined"] == [run.output for run in members]
    assert not Path(members[0].output, "scores").exists()
    assert join_runs(members, joined.output).record["scored"]  # again: the same folder


def test_a_well_of_two_runs_is_refused_by_name(tmp_path):
    members = [run_of(tmp_path / "a", ("P1", "P3")), run_of(tmp_path / "b", ("P2", "P3"))]
    with pytest.raises(DataError) as caught:
        score(join_runs(members, str(tmp_path / "joined")), SILENT)
    assert str(caught.value) == (
        f"the well s/b/P3/A01 stands in {members[0].output} and in {members[1].output}: a joined score takes every well once"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 1}, "has seed = 1, and"),
        ({"score": {**SCORE, "null_size": 300}}, "has score.null_size = 300, and"),
        ({"image": {"crop": 192, "patch": 64}}, "has image.crop = 192, and"),
    ],
)
def test_runs_of_different_settings_are_refused_by_the_first_that_differs(tmp_path, changes, words):
    members = [run_of(tmp_path / "a", ("P1",)), run_of(tmp_path / "b", ("P2",), **changes)]
    with pytest.raises(ConfigError) as caught:
        join_runs(members, str(tmp_path / "joined"))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "joined").exists()


def test_a_joined_run_stands_in_a_folder_of_its_own_and_is_not_encoded(tmp_path):
    members = [run_of(tmp_path / "a", ("P1",)), run_of(tmp_path / "b", ("P2",))]
    with pytest.raises(ConfigError, match="is one of the joined runs"):
        join_runs(members, members[1].output)
    with pytest.raises(ConfigError, match="is named twice"):
        join_runs([members[0], members[0]], str(tmp_path / "joined"))
    with pytest.raises(ConfigError, match="holds another run"):
        join_runs(members, run_of(tmp_path / "c", ("P4",)).output)
    joined = join_runs(members, str(tmp_path / "joined"))
    with pytest.raises(ConfigError, match="joins runs itself"):
        join_runs([joined, members[0]], str(tmp_path / "more"))
    with pytest.raises(ConfigError, match="joins 2 runs; encode one of them, such as"):
        refuse_joined(joined, "encode")


def test_several_runs_need_an_output_and_one_run_takes_none(tmp_path):
    places = [run_of(tmp_path / name, (f"P{at}",)).output for at, name in enumerate("ab", 1)]
    with pytest.raises(ConfigError, match="2 runs are joined in a folder of their own: --output names it"):
        commands.opened(places, [], {}, None)
    with pytest.raises(ConfigError, match="one run is scored in its own folder"):
        commands.opened(places[:1], [], {}, str(tmp_path / "joined"))
    joined = commands.opened(places, ["score.null_size=300"], {}, str(tmp_path / "joined"))
    assert joined.config.score.null_size == 300
    assert joined.record["config"]["output"] == str(tmp_path / "joined")
