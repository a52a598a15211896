"""The benchmark of reads from a bucket: what it prints."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("s3fs")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import object_reads


def test_the_last_line_has_the_core_time_of_a_request_for_every_size_and_number_of_threads(capsys):
    assert object_reads.main(["--sizes", "1000", "5000", "--total", "20000", "--repeats", "1"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["benchmark"] == "object_reads"
    assert [(row["bytes"], row["threads"]) for row in record["results"]] == [(1000, 1), (1000, 8), (5000, 1), (5000, 8)]
    assert all(row["core_ms_per_request"]["s3fs"] > 0 for row in record["results"])
