"""What is told while a process waits for storage: a process of the stream tells the ledger, and the driver its user."""

import time
import uuid
from typing import Any

from rich.console import Console

from sdvae_ray.console import print_line
from sdvae_ray.encoding.supervision.ledger import answer
from sdvae_ray.engine.files.patience import Patience
from sdvae_ray.errors import RunError
from sdvae_ray.run.run import Run

_LONGEST = 160  # characters of a reason in the line of each minute


class LedgerReport:
    """A report of an actor or a task to the ledger. ledger: the handle of a Ledger actor. stage: of the stream, or `write`."""

    def __init__(self, ledger: Any, stage: str) -> None:
        self.ledger, self.stage, self.who = ledger, stage, uuid.uuid4().hex

    def away(self, reason: str) -> None:
        """Tell that this process waits, and why. Raises RunError if the run has been stopped meanwhile."""
        if refusal := answer(self.ledger.away.remote(self.who, f"{self.stage}: {reason}"[:_LONGEST])):
            raise RunError(refusal)

    def back(self) -> None:
        """Tell that this process waits no longer."""
        self.ledger.back.remote(self.who)


def patience_of(run: Run, ledger: Any, stage: str) -> Patience:
    """Return the patience of a process of the stream, which tells the ledger of outages; outside a stream there is none."""
    if ledger is None:
        return Patience(0)
    return Patience(run.config.storage.patience_minutes, LedgerReport(ledger, stage))


class PrintedReport:
    """The report of the driver, which waits for storage after the stream: a line when storage goes away."""

    def __init__(self, console: Console) -> None:
        self.console, self.is_away = console, False

    def away(self, reason: str) -> None:
        """Print since when storage is away, once per outage."""
        if not self.is_away:
            print_line(self.console, f"encode: storage away since {time.strftime('%H:%M:%S')} ({reason})")
        self.is_away = True

    def back(self) -> None:
        """Hear that the outage is over."""
        self.is_away = False
