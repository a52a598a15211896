"""A watch on the stream: which stage holds it when nothing moves, and when the waiting has no end. It knows nothing of Ray."""

from collections.abc import Mapping

from sdvae_ray.encoding.supervision.ledger import Counts, Stage

_QUIET = 300.0  # seconds without a move after which the user hears of it
_LEAST = 3600.0  # seconds without a move that every stage may take
_UNMEASURED = 6 * 3600.0  # the same for a stage through which no FOV has passed yet
_BATCHES = 20  # times the measured time of a batch that a stage may take


class Watch:
    """Looks at the counts of a stream, again and again.

    total: FOVs of the stream. pools: stage -> the number of actors that the stage will have. batches: stage -> FOVs of one call of
    an actor. rows_per_file: FOVs that a write waits for.
    """

    def __init__(self, total: int, pools: Mapping[str, int], batches: Mapping[str, int], rows_per_file: int) -> None:
        self.total, self.pools, self.batches, self.rows_per_file = total, pools, batches, rows_per_file
        self._seen: tuple[object, ...] = ()
        self._since = self._now = 0.0
        self._counts = Counts(stages={name: Stage() for name in pools})

    def look(self, seconds: float, counts: Counts) -> None:
        """Take the counts at a time in seconds, which only grows.

        An outage of storage counts as a move, because an outage has a limit of its own.
        """
        stages = tuple((stage.actors, stage.restarts, stage.rows) for stage in counts.stages.values())
        moves = (stages, counts.encoded, counts.written)
        if moves != self._seen or counts.away:
            self._since = seconds
        self._seen, self._now, self._counts = moves, seconds, counts

    @property
    def idle(self) -> float:
        """Return the seconds in which nothing has moved."""
        return self._now - self._since

    @property
    def stage(self) -> str:
        """Return the stage that holds the others: the last one with work before it, `write` included."""
        names = list(self._counts.stages)
        unwritten = self._counts.encoded - self._counts.written
        if unwritten >= self.rows_per_file or (unwritten and self._counts.encoded >= self.total):
            return "write"
        rows = [self._counts.stages[name].rows for name in names]
        waiting = [name for name, before, own in zip(names[1:], rows, rows[1:], strict=False) if before > own]
        return waiting[-1] if waiting else names[0]

    @property
    def limit(self) -> float | None:
        """Return the seconds that `stage` may take without a move; None while some of its actors have not started."""
        if (stage := self._counts.stages.get(self.stage)) is None:  # a write
            return _LEAST
        if stage.actors < self.pools[self.stage]:
            return None
        if not stage.rows:
            return _UNMEASURED
        return max(_LEAST, _BATCHES * self.batches.get(self.stage, 1) * stage.seconds / stage.rows)

    def said(self) -> str | None:
        """Return what nothing moves for, and since when; None while the stream moves."""
        if self.idle < _QUIET:
            return None
        return f"nothing has moved for {self.idle / 60:.0f} min, {self.stage} is waited for"

    def verdict(self) -> str | None:
        """Return why the stream is to be stopped; None: it is not."""
        limit = self.limit
        if limit is None or self.idle < limit:
            return None
        stage = self._counts.stages.get(self.stage)
        there = f" with {stage.actors} of {self.pools[self.stage]} actors there" if stage else ""
        return f"{self.said()}{there}: its processes hang; run again, what is committed stays"
