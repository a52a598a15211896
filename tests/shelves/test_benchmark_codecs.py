"""The benchmark of the codecs: a row for every codec at both depths, from the bytes that are counted."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import codecs_of_a_field


def test_the_last_line_has_a_row_for_every_codec_and_depth_and_lossless_codecs_lose_nothing(capsys):
    assert codecs_of_a_field.main(["--crop", "64", "--repeats", "1"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {(row["codec"], row["depth"]): row for row in record["results"]}
    assert len(rows) == len(record["results"]) == 2 * len(codecs_of_a_field.codecs())
    for (name, depth), row in rows.items():
        assert row["exact"] == (row["psnr"] is None) == name.startswith("lossless")
        assert 0 < row["bits"] < 1.2 * depth
        assert min(row["encode"], row["decode"]) > 0
