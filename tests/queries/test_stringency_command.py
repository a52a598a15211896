"""MorphoHELM's ladder of stringency, against a slow form that ranks one query at a time."""

import json

import numpy as np
import polars as pl
import pytest

from sdvae_ray.cli.main import main
from sdvae_ray.errors import ConfigError, DataError
from sdvae_ray.queries.stringency import RUNGS, one_query_per_compound, stringency
from sdvae_ray.sources.profiles import read_profiles
from sdvae_ray.storage import Storage

COMPOUND, CONTROL = "Metadata_JCP2022", "Metadata_JCP2022 == 'JCP2022_033924'"
PLACES = ["Metadata_Source", "Metadata_Batch", "Metadata_Plate", "Metadata_Well"]


def profiles(depth: int = 6) -> pl.DataFrame:
    """Three sources of two batches of a plate: compounds 0 to 7 keep their well but in the third source; a position and a source
    effect are drawn in."""
    random = np.random.default_rng(5)
    effect, position, source_effect = (random.normal(0, size, (12, depth)) for size in (1.0, 0.7, 0.7))
    rows = []
    for source in range(3):
        for batch in range(2):
            for at in range(12):
                well = (at + 5) % 12 if source == 2 else at
                values = position[well] + source_effect[source] + random.normal(0, 1, depth)
                compound = "JCP2022_033924" if at >= 9 else f"C{at}"
                if compound == "C8" and (source, batch) != (0, 0):
                    continue  # a compound of one well
                values += effect[at] if at < 8 else 0
                names = [f"s{source}", f"s{source}b{batch}", f"s{source}b{batch}p", f"A{well + 1:02d}"]
                rows.append(
                    {**dict(zip(PLACES, names, strict=True)), COMPOUND: compound}
                    | {f"PC_{n}": float(v) for n, v in enumerate(values)}
                )
    return pl.DataFrame(rows).sample(fraction=1, shuffle=True, seed=1)


def slow(table: pl.DataFrame, differing: tuple[str, ...]) -> tuple[float, int, float, int]:
    """(mAP over one query a compound, their number, recall@1 over all wells, their number), one query at a time."""
    table = table.filter(pl.col(COMPOUND) != "JCP2022_033924")
    x = table.select(pl.selectors.starts_with("PC_")).to_numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    compounds = table[COMPOUND].to_numpy()
    random = np.random.RandomState(42)
    names = sorted(name for name in set(compounds) if (compounds == name).sum() >= 2)
    queries = [random.choice(np.flatnonzero(compounds == name)) for name in names]
    aps, hits = [], []
    for query in range(len(x)):
        candidate = np.arange(len(x)) != query
        for name in differing:
            candidate &= table[name].to_numpy() != table[name][query]
        positive = compounds == compounds[query]
        if not (candidate & positive).any():
            continue
        order = np.flatnonzero(candidate)[np.argsort(-(x[candidate] @ x[query]))]
        hit = positive[order]
        hits.append(hit[0])
        if query in queries:
            aps.append((np.arange(1, hit.sum() + 1) / (np.flatnonzero(hit) + 1)).mean())
    return float(np.mean(aps)), len(aps), float(np.mean(hits)), len(hits)


@pytest.mark.parametrize("rung", RUNGS)
def test_every_rung_is_that_of_the_slow_form(rung):
    ladder = stringency(read_profiles(profiles(), Storage()), COMPOUND, CONTROL)
    row = ladder.rungs.row(by_predicate=pl.col("rung") == rung, named=True)
    mean, queries, recall, eligible = slow(profiles(), RUNGS[rung])
    assert (row["queries"], row["recall_queries"]) == (queries, eligible)
    assert row["map"] == pytest.approx(mean, abs=1e-12)
    assert row["recall_at_1"] == pytest.approx(recall, abs=1e-12)
    assert row["status"] == "ok"
    assert row["permuted_map"] < row["map_all_wells"]
    assert ladder.facts["compounds"] == 9
    assert ladder.facts["compounds_of_one_well"] == 1


def test_a_position_effect_falls_off_the_ladder_where_the_layout_has_to_differ():
    """Without a compound effect, replicates in one position look alike until the position has to differ."""
    table = profiles()
    random = np.random.default_rng(0)
    position = random.normal(0, 3, (12, 6))
    wells = table["Metadata_Well"].str.slice(1).cast(pl.Int64).to_numpy() - 1
    drawn = position[wells] + random.normal(0, 1, (len(wells), 6))
    table = table.with_columns(pl.Series(f"PC_{n}", drawn[:, n]) for n in range(6))
    rungs = dict(
        stringency(read_profiles(table, Storage()), COMPOUND, CONTROL).rungs.select("rung", "map_all_wells").iter_rows()
    )
    assert rungs["not same batch"] > 2 * rungs["not same layout"]
    assert rungs["not same layout"] < 0.2  # as by chance


def test_a_rung_whose_column_or_positives_are_missing_says_so():
    table = profiles().drop("Metadata_Source").with_columns(Metadata_Batch=pl.lit("one"))
    statuses = dict(
        stringency(read_profiles(table, Storage()), COMPOUND, CONTROL).rungs.select("rung", "status").iter_rows()
    )
    assert statuses["not same source"] == statuses["not same source, layout"] == "no column Metadata_Source"
    assert statuses["not same batch"] == "no compound has a well to be found here"
    assert statuses["no restriction"] == "ok"


def test_the_queries_are_those_that_the_authors_draw():
    compounds = ["b", "a", "b", "c", "a", "a"]
    random = np.random.RandomState(42)
    expected = [random.choice([1, 4, 5]), random.choice([0, 2])]  # a, then b; c has one well
    assert np.flatnonzero(one_query_per_compound(compounds)).tolist() == sorted(expected)


def test_profiles_without_replicates_or_without_the_column_are_refused():
    table = read_profiles(profiles().unique(COMPOUND), Storage())
    with pytest.raises(DataError, match="has two wells"):
        stringency(table, COMPOUND, CONTROL)
    with pytest.raises(ConfigError, match="Metadata_JCP"):
        stringency(table, "Metadata_JCP", None)


def test_the_command_prints_every_rung_in_per_cent(tmp_path, capsys):
    profiles().write_parquet(tmp_path / "profiles.parquet")
    with pytest.raises(SystemExit, match="0"):
        main(["stringency", str(tmp_path / "profiles.parquet")])
    text = " ".join(capsys.readouterr().out.split())
    assert f"no restriction {100 * slow(profiles(), ())[0]:.2f}" in text
    assert "printed rows are left out" in text
    with pytest.raises(SystemExit, match="0"):
        main(["stringency", str(tmp_path / "profiles.parquet"), "--json"])
    assert [row["rung"] for row in json.loads(capsys.readouterr().out)["rungs"]] == list(RUNGS)
