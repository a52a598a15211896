"""What a user reads while the stream runs: rates of the last minute, the busy share of every stage, and what is waited for."""

import time

import pytest

from sdvae_ray.encoding.supervision.ledger import Ledger
from sdvae_ray.encoding.supervision.progress import Pace, duration

POOLS = {"load": 1, "compress": 2, "encode": 2}


def started(ledger: Ledger) -> Ledger:
    for stage, count in POOLS.items():
        for _ in range(count):
            ledger.started(stage, again=False)
    return ledger


def test_before_the_first_row_the_line_says_what_is_waited_for():
    ledger, pace = Ledger(0, list(POOLS)), Pace(100, POOLS)
    ledger.started("load", again=False)
    ledger.started("encode", again=False)
    pace.add(0, ledger.counts())
    pace.add(15, ledger.counts())
    waited = "waiting for actors to start: 1 of 1 of load, 0 of 2 of compress, 1 of 2 of encode are there"
    assert pace.said() == f"0 of 100 FOVs encoded, 0 written; {waited}"


def test_rates_and_shares_are_of_the_last_minute():
    ledger, pace = started(Ledger(5, list(POOLS))), Pace(10_000, POOLS)
    pace.add(0, ledger.counts())
    for minute in range(1, 4):  # the first minute is slow, the later ones are fast
        rows = 60 if minute == 1 else 600
        ledger.add_rows("load", rows, 6)
        ledger.add_rows("compress", rows, 90)
        ledger.add_rows("encode", rows, 60)
        ledger.add_written(f"file {minute}", rows, minute == 3, "no such object")
        pace.add(60 * minute, ledger.counts())
    assert pace.rate == 10
    assert pace.busy() == {"load": 0.1, "compress": 0.75, "encode": 0.5}
    line = "1260 of 10000 FOVs encoded, 1260 written, 1 failed, 10.00 FOV/s, about 15 min left"
    assert pace.said() == f"{line}; busy: load 10 %, compress 75 %, encode 50 %; compress is the bottleneck"


def test_a_restarted_actor_is_counted_apart():
    ledger, pace = started(Ledger(0, list(POOLS))), Pace(10, POOLS)
    ledger.started("encode", again=True)
    pace.add(0, ledger.counts())
    assert "1 actors restarted" in pace.said()
    assert ledger.counts().stages["encode"].actors == 2


def test_durations_are_read_at_a_glance():
    assert [duration(seconds) for seconds in (5, 89, 91, 3600, 5401, 100_000)] == [
        "5 s",
        "89 s",
        "2 min",
        "60 min",
        "1.5 h",
        "27.8 h",
    ]


def test_the_rate_of_a_stage_begins_when_its_newest_actor_works():
    """Two actors, ready after 10 and 30 s; then 2 FOV/s until a minute has passed."""
    now = [0.0]
    ledger = Ledger(0, ["encode"], clock=lambda: now[0])
    stage = ledger.counts().stages["encode"]
    for at, rows in ((10, 0), (12, 4), (30, 0), (34, 8), (44, 20), (60, 32)):
        now[0] = float(at)
        if rows:
            ledger.add_rows("encode", rows, 1.0)
        else:
            ledger.started("encode", again=False)
            assert stage.rate is None
    assert stage.rate == (20 + 32) / (60 - 34)
    assert ledger.counts().first_at == 12


def test_a_write_that_is_told_twice_counts_once_and_a_new_ledger_begins_with_what_is_committed():
    ledger = Ledger(3, ["encode"])
    for _ in range(2):
        assert ledger.add_written("a", 4, 1, "damaged") is None
    again = Ledger(3, ["encode"], committed=lambda: {"a": (4, 1), "b": (2, 1)})
    assert again.add_written("a", 4, 1, "damaged") is None
    counts = again.counts()
    assert (counts.encoded, counts.written, counts.errors) == (6, 6, 2)
    assert again.add_written("c", 2, 2, "damaged") is not None
    assert (ledger.counts().written, ledger.counts().errors) == (4, 1)


class Outage:
    """A ledger whose clock the test sets."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ledger = Ledger(0, ["load"], clock=lambda: self.now, wall=lambda: 1_700_000_000 + self.now)
        self.ledger.started("load", again=False)


@pytest.fixture
def outage() -> Outage:
    return Outage()


def test_an_outage_is_told_with_its_first_second_and_its_last_reason(outage):
    pace = Pace(10, {"load": 1})
    outage.now = 5
    outage.ledger.away("a", "load: refused")
    outage.now = 35
    assert outage.ledger.away("b", "write: timed out") is None
    pace.add(35, outage.ledger.counts())
    since = time.strftime("%H:%M:%S", time.localtime(1_700_000_005))
    assert pace.said() == f"0 of 10 FOVs encoded, 0 written; storage away since {since} (write: timed out)"


def test_the_seconds_of_waiting_are_those_in_which_somebody_waited(outage):
    for at, who, is_away in ((10, "a", True), (20, "b", True), (25, "a", False), (40, "b", False), (100, "a", True)):
        outage.now = at
        outage.ledger.away(who, "x") if is_away else outage.ledger.back(who)
    assert outage.ledger.counts().away.since == 1_700_000_100
    outage.now = 112
    outage.ledger.back("a")
    counts = outage.ledger.counts()
    assert (counts.waited, counts.away) == (30 + 12, None)
    pace = Pace(10, {"load": 1})
    pace.add(112, counts)
    assert "42 s waited for storage" in pace.said()


def test_a_process_that_died_while_it_waited_is_forgotten(outage):
    outage.ledger.away("a", "x")
    outage.now = 200
    assert outage.ledger.counts().away is not None
    outage.now = 301
    assert outage.ledger.counts().away is None


def test_a_stopped_run_tells_who_waits_to_stop(outage):
    outage.ledger.stop("the lease is lost")
    assert outage.ledger.away("a", "x") == "the lease is lost"
