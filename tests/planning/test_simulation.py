"""The simulated stream beside closed forms: the slowest stage without losses, and the share of the time that nodes are there."""

from dataclasses import replace

import pytest

from sdvae_ray.planning.simulation import Stream, simulate

PLAIN = Stream(
    pieces=4000,
    fovs=64,
    nodes=4,
    encoders=1,
    loaders=2,
    load=4.0,
    encode=5.0,
    write=0.5,
    driver=0.04,
    requests=0,
    tables=3,
    latency=0.03,
    spread=0.0,
    pieces_per_write=4,
)


@pytest.mark.parametrize(
    ("changes", "seconds", "limit"),
    [
        ({}, 4000 * 5.0 / 4, "encode"),
        ({"nodes": 1, "encoders": 4, "loaders": 8}, 4000 * 5.0 / 4, "encode"),
        ({"load": 20.0}, 4000 * 20.0 / 8, "load"),
        ({"driver": 3.0}, 4000 * 3.0, "driver"),
        ({"requests": 40, "latency": 1.0}, 4000 * 40.0 / 8, None),  # its requests keep a load actor for 40 s
    ],
)
def test_without_losses_the_slowest_stage_decides(changes, seconds, limit):
    """The stream is longer than its slowest stage by its first piece and its last write: here less than a hundredth."""
    result = simulate(replace(PLAIN, **changes))
    assert seconds < result.seconds < 1.01 * seconds + 60
    assert (result.lost_nodes, result.repeated) == (0, 0)
    assert result.rate == pytest.approx(4000 * 64 / result.seconds)
    if limit:
        assert result.limit == limit
        assert result.busy[limit] > 0.98


def test_a_single_piece_takes_every_stage_once():
    one = replace(PLAIN, pieces=1, start=100.0)
    assert simulate(one).seconds == pytest.approx(100 + 0.04 + 4.0 + 5.0 + 0.5 + 3 * 0.03)


def test_with_losses_nodes_work_for_the_share_of_the_time_that_they_are_there():
    """Mean life L and pause R: a share L / (L + R), less the few seconds of work that a loss repeats. 30 nodes and some 150 losses
    give the share to three hundredths.
    """
    losses = replace(PLAIN, pieces=30_000, nodes=30, losses=1 / 1000, replacement=250.0, pieces_per_write=1)
    result = simulate(losses, seed=3)
    alone = simulate(replace(losses, losses=0.0)).seconds
    share = 1000 / 1250
    assert result.lost_nodes > 100
    assert 0 < result.repeated < 0.05
    assert alone / result.seconds == pytest.approx(share, abs=0.03)
    assert result.node_hours == pytest.approx(share * 30 * result.seconds / 3600, rel=0.03)
    assert simulate(losses, seed=3) == result
    assert simulate(losses, seed=4) != result


def test_longer_files_repeat_more_work():
    losses = replace(PLAIN, pieces=5000, nodes=8, losses=1 / 500, replacement=100.0)
    few, many = (simulate(replace(losses, pieces_per_write=count), seed=1).repeated for count in (1, 16))
    assert many > 1.5 * few > 0
