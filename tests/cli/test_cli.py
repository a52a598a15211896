"""The command line as a user meets it: exit codes, one line for a mistake, a quick --help."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from sdvae_ray.cli.main import main
from sdvae_ray.commands.demo import demo_run
from sdvae_ray.sources.synthetic.screen import COMPOUNDS, write_screen


@pytest.fixture
def run_file(tmp_path, small_run_config) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(json.loads(small_run_config().model_dump_json())))
    return path


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """(exit code, what stands on stderr) of a command that ends by itself."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("encode.batch_fov=3", "unknown key 'encode.batch_fov'; did you mean 'batch_fovs'?"),
        ("image.crop=100", "crop 100 is not a multiple of patch 64"),
        ("metrics=[ssmi]", "no 'ssmi' on the shelf of metrics; did you mean 'ssim'?"),
        ("autoencoders.tiny.name=diffuser_kl", "did you mean 'diffusers_kl'?"),
        ("autoencoders.tiny.architectur=sd1", "has no option 'architectur'; did you mean 'architecture'?"),
        ("autoencoders.tiny={name: diffusers_kl, source: /nowhere}", "no such weights: /nowhere"),
        ("seed", "key=value is wanted"),
    ],
)
def test_a_mistake_in_the_run_file_is_one_line_and_exit_code_2(capsys, run_file, write_fields, change, words):
    pl.DataFrame({k: v.tolist() for k, v in write_fields().items()}).write_parquet(run_file.parent / "manifest.parquet")
    code, said = failure(capsys, "encode", str(run_file), "--set", change)
    assert code == 2
    assert words in said
    assert said.count("\n") == 1


def test_a_missing_run_file_is_named(capsys, tmp_path):
    code, said = failure(capsys, "run", str(tmp_path / "none.yaml"))
    assert (code, said.count("\n")) == (2, 1)
    assert "none.yaml" in said


def test_a_missing_manifest_is_named(capsys, run_file):
    code, said = failure(capsys, "encode", str(run_file))
    assert (code, said.count("\n")) == (2, 1)
    assert "manifest.parquet" in said


def test_an_unreachable_bucket_is_one_line(capsys, run_file):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    arguments = ("--set", f"storage.endpoint_url=http://127.0.0.1:{port}", "--set", "storage.anonymous=true")
    code, said = failure(capsys, "encode", str(run_file), *arguments, "--set", "manifest=s3://bucket/manifest.parquet")
    assert (code, said.count("\n")) == (2, 1)
    assert "s3://bucket/manifest.parquet" in said


def test_scoring_what_was_never_encoded_says_so(capsys, run_file):
    code, said = failure(capsys, "score", str(run_file))
    assert (code, said.count("\n")) == (2, 1)
    assert "encode" in said


def test_an_unknown_option_is_one_line(capsys):
    code, said = failure(capsys, "demo", "--ouput", "x")
    assert (code, said.count("\n")) == (2, 1)


def test_the_demo_is_a_run_of_the_package_with_all_files_under_its_output(capsys, tmp_path):
    run = demo_run(str(tmp_path / "demo"), ["synthetic.plates=1"])
    assert (run.output, run.config.synthetic.folder) == (str(tmp_path / "demo/run"), str(tmp_path / "demo/plates"))
    assert (run.config.manifest, run.config.synthetic.plates) == (str(tmp_path / "demo/manifest.parquet"), 1)
    code, said = failure(capsys, "demo", "--output", str(tmp_path / "demo"), "--set", "metrics=[ssmi]")
    assert (code, said.count("\n")) == (2, 1)
    assert "did you mean 'ssim'?" in said
    assert not (tmp_path / "demo").exists()  # nothing was drawn


def test_a_relative_output_is_refused_in_a_submitted_job(capsys, run_file, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    code, said = failure(capsys, "encode", str(run_file), "--set", "output=runs/here")
    assert code == 2
    assert "runs/here is relative" in said


def test_help_imports_neither_torch_nor_ray():
    program = (
        "import sys\n"
        "from sdvae_ray.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as ended:\n"
        "    heavy = {'torch', 'ray', 'polars', 'diffusers', 'faiss'} & set(sys.modules)\n"
        "    sys.exit(f'imported {heavy}' if heavy else ended.code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "manifest" in done.stdout


def test_models_lists_every_file_of_the_shelves(capsys):
    with pytest.raises(SystemExit):
        main(["models"])
    said = capsys.readouterr().out
    root = Path(__file__).parents[2] / "sdvae_ray"
    for shelf in ("autoencoders", "extractors", "metrics"):
        for file in (root / shelf).glob("[!_]*.py"):
            assert f"  {file.stem} " in said


def test_the_manifest_command_joins_a_screen_of_both_header_forms(capsys, tmp_path):
    files = write_screen(tmp_path / "plates", size=64, controls=2, replicates_per_plate=1, compounds=COMPOUNDS[:2])
    arguments = ["manifest", *map(str, files.load_data), "--platemap", str(files.barcode_platemap)]
    arguments += ["--metadata", str(files.compound_metadata), "--metadata", str(files.experiment_metadata)]
    for before, after in files.rewrites:
        arguments += ["--rewrite", f"{before}={after}"]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--output", str(tmp_path / "manifest.parquet")])
    assert ended.value.code == 0
    assert "manifest: 8 FOVs, 8 wells, 2 plates" in capsys.readouterr().out
    table = pl.read_parquet(tmp_path / "manifest.parquet")
    assert all(Path(uri).is_file() for uri in table["uri_DNA"].to_list() + table["illum_ER"].to_list())
    assert (table["Metadata_control_type"] == "negcon").sum() == 4
    assert table["Metadata_Cell_type"].unique().to_list() == ["U2OS"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What stands on stdout of a command that ends with exit code 0."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_alone_the_command_says_what_to_do_next(capsys):
    text = said(capsys)
    for command in ("sdvae-ray demo", "sdvae-ray manifest", "sdvae-ray check RUN", "sdvae-ray run RUN", "-h"):
        assert command in text


OF_A_RUN = (
    "check",
    "bench",
    "encode",
    "status",
    "retry",
    "verify",
    "score",
    "report",
    "run",
    "search",
    "browse",
    "decode",
    "export",
)
OTHERS = ("demo", "init", "manifest", "photographs", "pack", "retrieve", "compare", "models")


@pytest.mark.parametrize("command", OF_A_RUN + OTHERS)
def test_every_command_has_a_short_help_and_the_options_of_its_kind(capsys, command):
    text = said(capsys, command, "-h")
    storage = command not in ("demo", "models")
    of_a_run = command in OF_A_RUN
    for option in ("--anonymous", "--endpoint-url", "--region", "--profile"):
        assert (option in text) == storage
    assert ("or the output folder of a run" in " ".join(text.split())) == (of_a_run or command == "compare")
    assert ("--set" in text) == (of_a_run or command == "demo")


def test_shell_completion_can_be_installed(capsys):
    assert "--install-completion" in said(capsys, "-h")


def test_an_output_folder_stands_for_its_run_file(capsys, run_file, small_run_config):
    config = small_run_config()
    record = {"config": json.loads(config.model_dump_json()), "manifest": {"uri": config.manifest}}
    record |= {"weights": {}, "sessions": []}
    folder = Path(config.output)
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(record))
    by_folder = failure(capsys, "score", str(folder))
    assert by_folder == failure(capsys, "score", str(run_file))
    assert "no usable FOVs" in by_folder[1]


def test_storage_options_are_laid_over_the_run_file(capsys, run_file):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    arguments = ("--anonymous", "--endpoint-url", endpoint, "--set", "manifest=s3://bucket/manifest.parquet")
    code, text = failure(capsys, "encode", str(run_file), *arguments)
    assert (code, text.count("\n")) == (2, 1)
    assert endpoint in text
