"""The commands that tell and mend the state of a run: status, verify and retry, on one encoded run."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from field_files import write_fields
from rich.console import Console
from run_files import small_run

from sdvae_ray.cli.main import main
from sdvae_ray.encoding.encode import encode
from sdvae_ray.run.run import Run
from sdvae_ray.sources.manifest.manifest import write_manifest
from sdvae_ray.storage import Storage


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), capsys.readouterr().out


@pytest.fixture(scope="module")
def damaged(local_ray, tmp_path_factory) -> tuple[Run, dict[int, bytes]]:
    """A run of six FOVs; the images of two of them are damaged, one more has none. And their pixels."""
    import polars as pl

    folder = tmp_path_factory.mktemp("state")
    fields = write_fields(folder / "images", count=6)
    pixels = {number: Path(fields["uri_DNA"][number]).read_bytes() for number in (1, 3, 4)}
    for number in (1, 3):
        Path(fields["uri_DNA"][number]).write_bytes(pixels[number][:-2000])
    Path(fields["uri_DNA"][4]).unlink()
    manifest = folder / "manifest.parquet"
    write_manifest(pl.DataFrame({name: list(values) for name, values in fields.items()}), str(manifest), Storage())
    config = small_run(
        folder,
        manifest=str(manifest),
        max_error_fraction=0.5,
        autoencoders={"tiny": None},
        extractors={},
        write={"rows_per_file": 2},
    )
    encode(Run(config), Console(quiet=True))
    return Run(config), pixels


def test_status_counts_done_and_failed_by_reason_plate_and_source(damaged, capsys):
    run, _ = damaged
    code, out = run_command(capsys, "status", run.output, "--json")
    state = json.loads(out)
    assert (code, state["fovs"], state["done"], state["failed"], state["left"]) == (0, 6, 3, 3, 0)
    assert [(reason["fovs"], reason["class"]) for reason in state["reasons"]] == [(2, "damaged"), (1, "absent")]
    assert [state["plates"][0][key] for key in ("done", "failed")] == [3, 3]
    assert state["sources"][0]["name"] == "source_1"
    assert state["holder"] is None
    assert state["sessions"][0]["fovs"] == 6
    assert state["sessions"][0]["fov_per_s"] > 0
    (session,) = run.record["sessions"]
    assert session["failed"] == {"absent": 1, "damaged": 2}
    seconds = [slow["seconds_load"] for slow in session["slowest"]]
    assert len(seconds) == 5
    assert seconds == sorted(seconds, reverse=True)
    log = Path(run.output, session["log"]).read_text()
    assert f" {session['session']} " in log
    assert "encode: 6 of 6 FOVs to do" in log
    code, out = run_command(capsys, "status", run.output)
    assert code == 0
    assert "3 of 6 done, 3 failed, 0 left" in out
    assert "2 FOVs damaged, such as:" in out


def test_the_status_of_a_run_of_an_earlier_version_has_reasons_without_a_class(damaged, capsys, tmp_path):
    run, _ = damaged
    output = tmp_path / "run"
    shutil.copytree(run.output, output)
    for file in (output / "fovs").glob("*.parquet"):
        pq.write_table(pq.read_table(file).drop_columns(["error_class"]), file)
    code, out = run_command(capsys, "status", str(output), "--json")
    assert code == 0
    assert [(reason["fovs"], reason["class"]) for reason in json.loads(out)["reasons"]] == [(2, None), (1, None)]
    assert "2 FOVs, such as:" in run_command(capsys, "status", str(output))[1]


def test_verify_names_a_damaged_file_and_ends_with_1(damaged, capsys):
    run, _ = damaged
    assert run_command(capsys, "verify", run.output)[0] == 0
    file = sorted((Path(run.output) / "metrics/identity").glob("*.parquet"))[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    code, out = run_command(capsys, "verify", run.output)
    assert code == 1
    assert f"damaged: metrics/identity/{file.name}: " in out
    assert "--repair" in out
    file.write_bytes(whole)
    code, out = run_command(capsys, "verify", run.output, "--json")
    assert (code, json.loads(out)["whole"]) == (0, True)


def test_retry_computes_the_fovs_of_one_reason_and_no_others(damaged, capsys):
    run, pixels = damaged
    for number, data in pixels.items():
        name = f"A{number + 1:02d}-DNA.tiff"
        next(Path(run.output).parent.rglob("images")).joinpath("P1__2021-05-02-Measurement 1", name).write_bytes(data)
    code, out = run_command(capsys, "retry", run.output, "--reason", "no such object")
    assert code == 0, out
    assert "1 of 6 FOVs to do" in out
    assert json.loads(run_command(capsys, "status", run.output, "--json")[1])["failed"] == 2
    code, out = run_command(capsys, "retry", run.output)
    assert "2 of 6 FOVs to do" in out
    assert json.loads(run_command(capsys, "status", run.output, "--json")[1])["done"] == 6
    assert "0 of 6 FOVs to do" in run_command(capsys, "retry", run.output)[1]
