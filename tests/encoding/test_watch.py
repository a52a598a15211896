"""What is said, and done, when nothing moves in a stream."""

import pytest
import ray

from sdvae_ray.encoding.supervision import supervisor
from sdvae_ray.encoding.supervision.ledger import Ledger, answer
from sdvae_ray.encoding.supervision.progress import Pace
from sdvae_ray.encoding.supervision.watch import Watch

POOLS = {"load": 1, "compress": 1, "encode": 2}
BATCHES = {"load": 4, "compress": 4, "encode": 8}
MINUTE, HOUR = 60.0, 3600.0


@pytest.fixture
def ledger() -> Ledger:
    """A ledger whose actors are all there."""
    counted = Ledger(0, list(POOLS))
    for stage, actors in POOLS.items():
        for _ in range(actors):
            counted.started(stage, again=False)
    return counted


def watched(ledger: Ledger, idle: float) -> Watch:
    """A watch over 100 FOVs that last saw a move `idle` seconds ago."""
    watch = Watch(100, POOLS, BATCHES, rows_per_file=16)
    watch.look(10, ledger.counts())
    watch.look(10 + idle, ledger.counts())
    return watch


@pytest.mark.parametrize(
    ("loaded", "compressed", "encoded", "written", "stage"),
    [
        (0, 0, 0, 0, "load"),
        (40, 40, 40, 32, "load"),  # the last 8 wait for more rows of their file
        (40, 36, 36, 32, "compress"),
        (40, 40, 36, 32, "encode"),
        (40, 36, 32, 32, "encode"),
        (40, 40, 40, 16, "write"),
        (100, 100, 100, 96, "write"),
    ],
)
def test_the_stage_that_holds_the_stream_is_the_last_one_with_work(ledger, loaded, compressed, encoded, written, stage):
    for name, rows in (("load", loaded), ("compress", compressed), ("encode", encoded)):
        ledger.add_rows(name, rows, 1.0)
    ledger.add_written("a", written, 0, None)
    watch = watched(ledger, 6 * MINUTE)
    assert watch.stage == stage
    assert watch.said() == f"nothing has moved for 6 min, {stage} is waited for"
    assert watch.verdict() is None


def test_a_stream_that_moves_is_not_spoken_of(ledger):
    watch = watched(ledger, 4 * MINUTE)
    assert watch.said() is None
    watch.look(15 * MINUTE, ledger.counts())
    assert watch.said() is not None
    ledger.add_rows("load", 1, 1.0)
    watch.look(16 * MINUTE, ledger.counts())
    assert (watch.said(), watch.idle) == (None, 0)


@pytest.mark.parametrize(("seconds", "limit"), [(1.0, HOUR), (100.0, 20 * 8 * 100)])
def test_a_stage_may_take_twenty_of_its_batches_and_at_least_an_hour(ledger, seconds, limit):
    ledger.add_rows("load", 40, 1.0)
    ledger.add_rows("compress", 40, 1.0)
    ledger.add_rows("encode", 10, 10 * seconds)
    ledger.add_written("a", 10, 0, None)
    assert watched(ledger, limit - 1).verdict() is None
    verdict = watched(ledger, limit).verdict()
    assert verdict == (
        f"nothing has moved for {limit / 60:.0f} min, encode is waited for with 2 of 2 actors there: "
        "its processes hang; run again, what is committed stays"
    )


def test_the_first_batch_may_take_six_hours(ledger):
    assert watched(ledger, 6 * HOUR - 1).verdict() is None
    assert watched(ledger, 6 * HOUR).verdict() is not None


def test_the_wait_for_a_node_has_no_end():
    ledger = Ledger(0, list(POOLS))
    ledger.started("load", again=False)
    ledger.add_rows("load", 40, 1.0)
    ledger.started("compress", again=False)
    ledger.add_rows("compress", 40, 1.0)
    watch = watched(ledger, 100 * HOUR)
    assert (watch.stage, watch.verdict()) == ("encode", None)


def test_an_outage_of_storage_is_not_a_stage_that_hangs(ledger):
    ledger.add_rows("load", 4, 1.0)
    ledger.away("load", "timed out")
    assert watched(ledger, 7 * HOUR).verdict() is None


class Mute:
    """A ledger that never answers."""

    def counts(self) -> None:
        import time

        time.sleep(3600)


def test_nobody_waits_long_for_a_ledger_that_is_mute_or_lost(local_ray, monkeypatch):
    mute = ray.remote(Mute).options(num_cpus=0).remote()
    assert answer(mute.counts.remote(), 0.5) is None
    monkeypatch.setattr(supervisor, "_start_ledger", lambda *_: mute)
    monkeypatch.setattr(supervisor, "_ANSWER", 0.2)
    counts = supervisor.Supervisor(None, "aaaaaaaa", 0, POOLS).counts()  # type: ignore[arg-type]
    pace = Pace(100, POOLS)
    pace.add(0, counts)
    assert "0 of 100 FOVs encoded, 0 written; waiting for actors to start" in pace.said()
    assert Watch(100, POOLS, BATCHES, 16).verdict() is None
    ray.kill(mute)
    assert answer(mute.counts.remote()) is None
