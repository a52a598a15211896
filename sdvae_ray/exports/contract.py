"""The contract of a format: what it is asked for, and what it says that it wrote. A format is one file of `formats`.

A module of `formats` offers `export(request)` and these constants; its first line of documentation is its help:

SUFFIXES  how the name of its file may end; () for a format that fills a folder
NEEDS     the libraries that it imports, which the extra `export` installs
TAKES     the options of a request that it reads, of `OPTIONS`
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from sdvae_ray.run.run import Run

Level = Literal["well", "fov"]
OPTIONS = ("level", "extractor", "side", "plate", "text")
TABLES = frozenset({"level", "extractor", "side", "plate"})  # options of a table of profiles
LATENTS = frozenset({"side", "plate", "text"})  # options of latents to train on


@dataclass(frozen=True)
class Request:
    """What a format is asked for. An option that was not given is None, or empty.

    output     a path or URI, absolute
    level      the rows of a table: wells (default) or fields of view
    extractor  default: the run's first
    sides      of the run, in order; () for the format's own choice
    plates     Metadata_Plate, or source/batch/plate; (): all
    text       template of the text of a treatment, such as "{pert_iname} on {Cell_type}"
    say        takes lines of progress
    """

    run: Run
    output: str
    level: Level | None = None
    extractor: str | None = None
    sides: Sequence[str] = ()
    plates: Sequence[str] = ()
    text: str | None = None
    say: Callable[[str], None] = field(default=lambda line: None)


class Exported(NamedTuple):
    """What was written. rows: how many; noun: of what. files: paths under the output, or its own name. facts: of the run."""

    rows: int
    noun: str
    files: list[str]
    facts: dict[str, Any]


class Format(Protocol):
    """A module of `formats`."""

    SUFFIXES: tuple[str, ...]
    NEEDS: tuple[str, ...]
    TAKES: frozenset[str]

    def export(self, request: Request) -> Exported:
        """Write the request's output. Raises DataError for what the run does not have, ConfigError for an option."""
        ...
