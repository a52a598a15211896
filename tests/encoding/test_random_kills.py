"""Commands that are killed at random moments, driver and Ray at once: run again until they end, they leave the undisturbed tables.

Real processes, none of our code is replaced. The seed is fixed; the moments are not, because machines differ.
"""

import random
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from field_files import write_fields
from processes import kill_session
from run_files import PCA, merged, small_run
from straight_line import expected_values, stored_values, write_manifest

from sdvae_ray.config import RunConfig
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID

pytestmark = pytest.mark.slow
COUNT, KILLS, SEED = 12, 20, 7
FEW = {"autoencoders": PCA, "metrics": ["mae"]}
MORE = merged(FEW, {"metrics": ["mae", "ssim", "psnr"], "extractors": {"pixels": {"name": "intensity"}}})
TREATMENTS = ("DMSO", "DMSO", "one", "two")  # of the wells, in turn
SCORE = {
    "perturbation": "Metadata_treatment",
    "control": "Metadata_treatment == 'DMSO'",
    "tasks": [],
    "null_size": 200,
}


class Commands:
    """Runs commands of the package, and kills some of them with everything that they started."""

    def __init__(self) -> None:
        self.random = random.Random(SEED)
        self.kills = 0

    def end(self, *arguments: str, kills: int) -> None:
        """Runs a command until it ends by itself, after `kills` kills at random moments of its time."""
        usual = 60.0
        while True:
            start, moment = time.monotonic(), self.random.uniform(0.5, usual) if kills else 600.0
            process = subprocess.Popen(
                [sys.executable, "-m", "sdvae_ray.cli.main", *arguments],
                start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            try:
                said, _ = process.communicate(timeout=moment)
            except subprocess.TimeoutExpired:
                kill_session(process.pid)
                process.communicate()
                self.kills, kills = self.kills + 1, kills - 1
                continue
            assert process.returncode == 0, said
            if not kills:
                return
            usual = min(usual, time.monotonic() - start)  # it was over before its kill: the next kill comes earlier
            if "0 of" in said or "nothing to do" in said:
                return  # it has no more work to be killed in


def run_file(folder: Path, manifest: Path, changes: dict) -> tuple[RunConfig, str]:
    """A run of one FOV a file, and its run file."""
    config = small_run(folder, manifest=str(manifest), write={"rows_per_file": 1}, score=SCORE, **changes)
    path = folder / "run.yaml"
    path.write_text(config.model_dump_json())
    return config, str(path)


def test_twenty_kills_over_encode_extend_compact_retry_and_score_lose_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    fields = write_fields(tmp_path / "images", count=COUNT)
    damaged = Path(fields["uri_ER"][3])
    pixels = damaged.read_bytes()
    damaged.write_bytes(pixels[:-2000])
    manifest = write_manifest(tmp_path / "manifest.parquet", fields)
    treatments = pl.Series("Metadata_treatment", TREATMENTS * (COUNT // len(TREATMENTS)))
    pl.read_parquet(manifest).with_columns(treatments).write_parquet(manifest, row_group_size=4)
    allowed = {"max_error_fraction": 0.5}
    commands = Commands()

    _, few = run_file(tmp_path, manifest, FEW | allowed)
    commands.end("encode", few, kills=6)
    foreign = tmp_path / "run/metrics/pca/mine.parquet"
    pq.write_table(pa.table({"x": [1]}), foreign)

    config, more = run_file(tmp_path, manifest, MORE | allowed)
    commands.end("encode", more, "--extend", kills=5)
    damaged.write_bytes(pixels)
    commands.end("retry", more, kills=3)
    foreign_bytes = foreign.read_bytes()
    foreign.unlink()  # compaction reads whole tables
    commands.end("compact", more, kills=3)
    foreign.write_bytes(foreign_bytes)
    commands.end("score", more, kills=3)
    print(f"{commands.kills} kills")
    assert commands.kills >= KILLS / 2, "most commands ended before their kill"

    run = Run(config)
    fovs = run.fovs([])
    assert (fovs.height, fovs[ERROR].null_count()) == (COUNT, COUNT)
    assert stored_values(config) == expected_values(config)
    for table in ("fovs", *run.tables()):
        files = [file for file in (tmp_path / "run" / table).glob("*.parquet") if file != foreign]
        ids = [fov for file in files for fov in pl.read_parquet(file, columns=[FOV_ID])[FOV_ID]]
        assert len(ids) == len(set(ids)) == COUNT, table
    assert foreign.read_bytes() == foreign_bytes
    assert run.scores().summary["compounds_scored"].sum() > 0
