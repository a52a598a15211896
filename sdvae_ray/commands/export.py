"""The command `export`: a finished run's results in a format of other tools.

Nothing heavy is imported until the command runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdvae_ray.commands.first_line import begin
from sdvae_ray.console import print_line
from sdvae_ray.storage import absolute

if TYPE_CHECKING:
    from rich.console import Console

    from sdvae_ray.run.run import Run


def export(run: Run, form: str, output: str, console: Console, as_json: bool = False, **options: Any) -> None:
    """Write a run in a format to `output`, and print what was written. options: those of exports.contract.Request."""
    from rich.console import Console

    from sdvae_ray.exports.contract import Request
    from sdvae_ray.exports.export import export as export_run
    from sdvae_ray.exports.export import find

    lines = Console(stderr=True) if as_json else console
    find(form)  # a wrong name is said at once
    begin("export", run, lines)

    def say(line: str) -> None:
        print_line(lines, f"export: {line}")

    place = absolute(output).rstrip("/")
    exported = export_run(form, Request(run, place, say=say, **options))
    if as_json:
        console.print_json(json.dumps({"format": form, "output": place, **exported._asdict()}))
    else:
        say(f"{exported.rows} {exported.noun} -> {place}")
