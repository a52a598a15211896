"""The command line of `export`: bad input is one line that names what is allowed."""

import importlib.util
from pathlib import Path

import pytest

from sdvae_ray.cli.main import main
from sdvae_ray.exports.export import find, names


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a refused command says: one line."""
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2, said
    assert said.startswith("error: ")
    return " ".join(said.split())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--to anndta -o x.h5ad", "no format 'anndta'; did you mean 'anndata'? (allowed: anndata, csv, datasets, "),
        ("--to anndata -o x.csv", "anndata writes .h5ad, and --output is"),
        ("--to npz -o out --side tiny --level fov", "npz takes no --level (it takes --side, --plate, --text)"),
        ("--to csv -o x.csv --text {x}", "csv takes no --text"),
        ("--to csv -o x.csv --extractor intensty", "no embeddings of extractor 'intensty'; did you mean 'intensity'?"),
        ("--to csv -o x.csv --extractor intensity --side jpg", "of side 'jpg'; did you mean 'jpeg'?"),
        ("--to csv -o x.csv --extractor intensity --plate P3", "no plate 'P3' in the run; did you mean"),
        ("--to anndata -o x.h5ad --extractor latent", "identity has other features of latent than tiny"),
        ("--to npz -o out", "--side is wanted, this run has several (allowed: pca, tiny)"),
        ("--to npz -o out --side jpeg", "that is a codec, of which the run keeps sizes and no files"),
        ("--to npz -o out --side tiny --side pca", "one --side is wanted"),
        ("--to npz -o out --side tiny --text {nme}", "the run has no Metadata_nme"),
        ("--to npz -o out --side tiny --text {Well", "expected '}'"),
        ("--to npz -o out --side tiny --text {Well.__class__}", "the run has no Metadata_Well.__class__"),
        ("--to ome_zarr -o p.zarr --side pca", "one --plate is wanted: source_1/batch 1/P1, source_1/batch 1/P2"),
    ],
)
def test_bad_input_is_one_line(shared_run, capsys, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, shared_run.output, *options.split())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_files_is_left_alone(shared_run, capsys, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    assert "there are files in" in refused(capsys, shared_run.output, "--to", "npz", "-o", str(tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_run_that_was_not_scored_has_no_wells_and_says_so(run, capsys, tmp_path):
    import shutil

    shutil.rmtree(Path(run.output) / "profiles")
    said = refused(capsys, run.output, "--to", "csv", "-o", str(tmp_path / "x.csv"), "--extractor", "intensity")
    assert "run `sdvae-ray score` first" in said
    assert not (tmp_path / "x.csv").exists()


def test_a_library_that_is_not_installed_is_one_line(shared_run, capsys, tmp_path, monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "anndata" else find_spec(name))
    said = refused(capsys, shared_run.output, "--to", "anndata", "-o", str(tmp_path / "x.h5ad"))
    assert "anndata needs anndata: pip install 'sdvae-ray[export]'" in said


@pytest.mark.parametrize("name", names())
def test_every_format_keeps_the_contract_and_stands_in_the_documentation(name):
    form = find(name)
    assert callable(form.export)
    assert set(form.TAKES) <= {"level", "extractor", "side", "plate", "text"}
    assert form.__doc__.strip().partition("\n")[0].endswith(".")
    assert f"| `{name}` |" in (Path(__file__).parents[2] / "docs/export.md").read_text()


def test_an_export_goes_to_a_bucket(shared_run, capsys, s3):
    keys = ["--anonymous", "--endpoint-url", s3.endpoint, "--region", s3.config.region]
    with pytest.raises(SystemExit) as ended:
        main(
            ["export", shared_run.output, "--to", "csv", "-o", f"{s3.prefix}/x.csv", "--extractor", "intensity", *keys]
        )
    assert ended.value.code == 0, capsys.readouterr().err
    assert s3.storage.read_bytes(f"{s3.prefix}/x.csv").startswith(b"Metadata_Source,")
