"""The count of a run: FOVs encoded, committed and failed, and the work of every stage.

The module imports nothing large, so that its actor starts at once.
"""

from dataclasses import dataclass, field


@dataclass
class Stage:
    """The work of one stage since the start of the stream.

    actors    actors that have started, without restarts
    restarts  actors that were started again
    rows      FOVs that passed the stage
    seconds   of work, summed over the actors
    """

    actors: int = 0
    restarts: int = 0
    rows: int = 0
    seconds: float = 0.0


@dataclass
class Counts:
    """FOVs encoded, written and failed, the last error, and the stages by name."""

    encoded: int = 0
    written: int = 0
    errors: int = 0
    last_error: str | None = None
    stages: dict[str, Stage] = field(default_factory=dict)


class Ledger:
    """A Ray actor that keeps the Counts of a run. Its answer stops a run with too many failed FOVs."""

    def __init__(self, allowed_errors: int, stages: list[str]) -> None:
        self.allowed_errors = allowed_errors
        self.state = Counts(stages={stage: Stage() for stage in stages})

    def started(self, stage: str, again: bool) -> None:
        """Counts an actor that is ready. again: it took the place of a dead one."""
        counted = self.state.stages[stage]
        counted.restarts, counted.actors = counted.restarts + again, counted.actors + (not again)

    def add_rows(self, stage: str, rows: int, seconds: float) -> None:
        """Counts rows that an actor of a stage finished, and its seconds of work on them."""
        counted = self.state.stages[stage]
        counted.rows, counted.seconds = counted.rows + rows, counted.seconds + seconds
        if stage == "encode":
            self.state.encoded += rows

    def add_written(self, rows: int, errors: int, example: str | None) -> bool:
        """Counts one write; False where more rows have failed than `allowed_errors`. example: the error of one failed row."""
        state = self.state
        state.written, state.errors = state.written + rows, state.errors + errors
        state.last_error = example or state.last_error
        return state.errors <= self.allowed_errors

    def counts(self) -> Counts:
        """The counts so far."""
        return self.state
