"""The command `browse`: a scored run in the browser, on this machine alone.

Nothing heavy is imported until the command runs.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from sdvae_ray.commands.first_line import begin
from sdvae_ray.console import print_line, waiting
from sdvae_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.run.run import Run


def browse(run: Run, port: int, console: Console) -> None:
    """Serve a scored run's pages on loopback until Ctrl-C; print the address, which has a token.

    Raises ConfigError without aiohttp and for a port that is taken, DataError for a run that was not scored.
    """
    if importlib.util.find_spec("aiohttp") is None:
        raise ConfigError("browse needs aiohttp: pip install 'sdvae-ray[browse]'")
    begin("browse", run, console)
    from sdvae_ray.browse.questions import Questions
    from sdvae_ray.browse.serve import serve
    from sdvae_ray.report.facts.scored import ScoredRun

    with waiting(console, "browse: reading the scores, the wells and their maps"):
        questions = Questions(ScoredRun.read(run))

    def ready(address: str) -> None:  # not logged: the token is a secret
        console.print(f"browse: {address}", markup=False, highlight=False, soft_wrap=True)
        print_line(console, "browse: on this machine alone; Ctrl-C ends it")

    serve(questions, port, ready)
    print_line(console, "browse: ended")
