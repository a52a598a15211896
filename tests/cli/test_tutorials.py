"""The tutorials of the docs, every command as it is typed, in a shell; and the notebook, on the run that they make."""

import json
import os
import re
import subprocess
import sysconfig
from pathlib import Path

import polars as pl
import pytest
import ray
import tifffile

from sdvae_ray.sources.synthetic.screen import BATCH, COMPOUNDS, PROJECT, SOURCE, write_screen

ROOT = Path(__file__).parents[2]
GALLERY = "cellpainting-gallery"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def typed(page: str, values: dict[str, str], folder: Path) -> str:
    """Types the commands of a page into one shell in `folder`, with the Ray of the tests for all; what they print.

    values: of variables, in place of the page's; and texts of the page, with what stands in their place.
    """
    script = "\n".join(re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.S | re.M))
    for name, value in values.items():
        pattern, new = (rf"^{name}=\S+", f"{name}={value}") if name.isupper() else (re.escape(name), value)
        script, count = re.subn(pattern, new, script, flags=re.M)
        assert count > 0
    script = re.sub(r"^\. \.venv.*$", "", script, flags=re.M)
    return shell(script, folder)


def shell(script: str, folder: Path) -> str:
    own = {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"}
    own["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=own, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def test_one_field_from_its_tiffs_to_a_page(local_ray, tmp_path, shared, real_field):
    (tmp_path / "field").mkdir()
    for path in (*real_field.values(), shared / "data/metadata/nfcore_BR00117035/load_data.csv"):
        (tmp_path / "field" / path.name).write_bytes(path.read_bytes())
    typed("tutorial-field.md", {}, tmp_path)
    assert (tmp_path / "run/report/index.html").stat().st_size > 100_000
    assert tifffile.imread(tmp_path / "A01.tif").shape == (5, 1024, 1024)
    sides = pl.read_parquet(tmp_path / "run/scores/metrics.parquet")["side"].unique().to_list()
    assert sorted(sides) == ["avif", "jpeg", "jpegxl", "patch_pca"]


@pytest.fixture
def gallery(s3_server, tmp_path) -> tuple[str, Path]:
    """The S3 server, whose bucket of the gallery's name holds a synthetic plate of twelve wells; and the table of its compounds."""
    import boto3

    files = write_screen(
        tmp_path / "plates", size=64, plates=2, controls=8, replicates_per_plate=2, compounds=COMPOUNDS[:2]
    )
    client = boto3.client(
        "s3",
        endpoint_url=s3_server,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_bucket(Bucket=GALLERY)
    public = {"Effect": "Allow", "Principal": "*", "Action": "s3:*"}
    public["Resource"] = [f"arn:aws:s3:::{GALLERY}", f"arn:aws:s3:::{GALLERY}/*"]
    client.put_bucket_policy(Bucket=GALLERY, Policy=json.dumps({"Version": "2012-10-17", "Statement": [public]}))
    for path in files.root.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=GALLERY, Key=str(path.relative_to(files.root)), Body=path.read_bytes())
    return s3_server, files.compound_metadata


def test_a_gallery_plate_from_load_data_to_a_page_and_a_notebook(local_ray, tmp_path, gallery):
    server, compounds = gallery
    values = {"WORKSPACE": f"s3://{GALLERY}/{PROJECT}/{SOURCE}/workspace", "BATCH": BATCH, "PLATE": "SY00000002"}
    values |= {"COMPOUNDS": str(compounds), "--anonymous": f"--anonymous --endpoint-url {server} --region us-east-1"}
    said = typed("tutorial-gallery.md", values, tmp_path)
    assert "12 FOVs" in said
    assert (tmp_path / "run/report/index.html").is_file()
    assert pl.read_parquet(tmp_path / "profiles.parquet").height == 12
    assert pl.read_parquet(tmp_path / "run/scores/compounds.parquet")["compound"].n_unique() == 2

    (tmp_path / "demo-run").mkdir()
    (tmp_path / "demo-run/run").symlink_to(tmp_path / "run")
    (tmp_path / "notebook.ipynb").write_text((ROOT / "docs/notebook.ipynb").read_text())
    shell("jupyter-execute --timeout=600 --output=executed notebook.ipynb", tmp_path)
    cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert all(output["output_type"] != "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
