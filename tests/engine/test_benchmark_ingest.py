"""The benchmark of the load stage on one small field: what it prints."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import ingest

SMALL = ["--size=272", "--crop=256", "--fovs=1", "--repeats=1"]


def test_the_last_line_has_the_rates_of_both_kinds_of_files_with_and_without_illumination(capsys):
    assert ingest.main(SMALL) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["benchmark"] == "ingest"
    settings = [(result["kind"], result["illumination"]) for result in record["results"]]
    assert settings == [("lzw", False), ("lzw", True), ("uncompressed", False), ("uncompressed", True)]
    for result in record["results"]:
        assert set(result["parts_core_ms_per_fov"]) == {"decode", "scale", "tile", "QC"}
        assert all(share > 0 for share in result["parts_core_ms_per_fov"].values())
        megabytes = 5 * 272 * 272 * 2 / 1e6
        for name, rate in result["mb_per_core_s"].items():
            assert rate == pytest.approx(megabytes / result["core_ms_per_fov"][name] * 1e3, rel=1e-3)
