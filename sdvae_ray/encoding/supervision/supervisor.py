"""The driver's side of a stream: it starts the ledger, shows the progress, and stops a stream that hangs or has lost its lease."""

import _thread
import functools
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from rich.console import Console

from sdvae_ray.cluster.counters import Counters
from sdvae_ray.encoding.actors import writes_before
from sdvae_ray.encoding.supervision.ledger import Counts, Ledger, Stage, answer
from sdvae_ray.encoding.supervision.progress import shown
from sdvae_ray.encoding.supervision.watch import Watch
from sdvae_ray.errors import RunError
from sdvae_ray.run.driver.lease import Lease
from sdvae_ray.run.run import Run

_ANSWER = 10.0  # seconds that the driver waits for the ledger; then the last counts serve


class Supervisor:
    """The ledger of one stream (`ledger`, the handle of a Ray actor) and what the driver does by its counts.

    session: of the files that the stream writes. allowed_errors: FOVs that may fail. pools: stage -> the number of its actors.
    """

    def __init__(self, run: Run, session: str, allowed_errors: int, pools: Mapping[str, int]) -> None:
        self.pools = dict(pools)
        self.ledger = _start_ledger(run, session, allowed_errors, list(pools))
        self._last = Counts(stages={name: Stage() for name in pools})
        self._stopped: str | None = None

    def counts(self) -> Counts:
        """Return the counts of the ledger; those of its last answer if it does not answer now."""
        self._last = answer(self.ledger.counts.remote(), _ANSWER) or self._last
        return self._last

    def end(self) -> None:
        """End the processes of the stream.

        Ray Data lets its actors go and leaves them to the count of references, which an exception in flight holds up: they would
        keep the CPUs of the next stream.
        """
        with suppress(Exception):  # of a Ray that is gone itself; the error of the stream is the one to tell
            for actor in [*(answer(self.ledger.actors.remote(), _ANSWER) or []), self.ledger]:
                ray.kill(actor)

    @contextmanager
    def watched(
        self, console: Console, total: int, batches: Mapping[str, int], rows_per_file: int, lease: Lease
    ) -> Iterator[None]:
        """A block in which the stream runs. It ends with a RunError soon after the stream hangs or the lease is lost.

        total: FOVs of the stream. batches: stage -> FOVs of one call of an actor. rows_per_file: FOVs that a write waits for.
        """
        watch, start = Watch(total, self.pools, batches, rows_per_file), time.monotonic()

        def look() -> tuple[Counts, str | None]:
            """Return the counts, and what the watch says of them; a stream that hangs is stopped."""
            counts = self.counts()
            watch.look(time.monotonic() - start, counts)
            if reason := watch.verdict():
                self._stop(reason)
            return counts, watch.said()

        lease.on_lost = lambda: self._stop(lease.loss)
        try:
            with shown(console, "encode", total, self.pools, look):
                yield
        except KeyboardInterrupt:
            if self._stopped:
                raise RunError(self._stopped) from None
            raise
        finally:
            lease.on_lost = lambda: None

    def _stop(self, reason: str) -> None:
        """Let no further write begin, and interrupt the driver."""
        if self._stopped is None:
            self._stopped = reason
            self.ledger.stop.remote(reason)
            _thread.interrupt_main()


def _start_ledger(run: Run, session: str, allowed_errors: int, stages: list[str]) -> Any:
    """Return the handle of a Ledger on the driver's node. It starts again as often as it dies, and counts what is committed."""
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    lasting = ray.remote(Ledger).options(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=node)
    committed, counters = functools.partial(writes_before, run, session), functools.partial(Counters, run.output)
    return lasting.remote(allowed_errors, stages, committed, counters)
