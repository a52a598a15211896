"""A trial: a few fields of the manifest, and then the rest by the same command without --limit."""

import json

import numpy as np
import polars as pl
import pytest
from straight_line import BROKEN

from sdvae_ray.cli.main import main
from sdvae_ray.encoding.pending import pending
from sdvae_ray.encoding.start import checked_manifest
from sdvae_ray.run.run import Run


def test_a_trial_computes_its_fields_and_leaves_the_rest_to_the_next_run(
    local_ray, first_run, config, capsys, tmp_path
):
    file = tmp_path / "run.yaml"
    file.write_text(config.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(["encode", str(file), "--limit", "3", "--json"])
    said = capsys.readouterr()
    assert ended.value.code == 0, said.err
    told = json.loads(said.out)
    assert (told["fovs"], told["computed"]) == (3, 3)
    assert "a trial, 3 of 11 FOVs" in " ".join(said.err.split())
    run = Run(config)
    keys = checked_manifest(run)
    spread = keys["fov_id"][np.linspace(0, 10, 3).astype(int).tolist()].to_list()
    assert sorted(run.fovs()["fov_id"]) == sorted(spread)
    assert run.record["sessions"][-1]["limit"] == 3
    assert run.record["manifest"]["fovs"] == 11
    (rest,) = pending(run, keys)
    usable = set(run.fovs().filter(pl.col("error").is_null())["fov_id"])
    assert usable == set(spread) - {keys["fov_id"][BROKEN]}
    assert set(rest.keys["fov_id"]) == set(keys["fov_id"]) - usable  # the failed one too
