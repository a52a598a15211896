"""Commands that tell and mend the state of a run: plan, status, verify and compact.

Nothing heavy is imported until a command runs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sdvae_ray.commands.first_line import begin, give, lines_of
from sdvae_ray.console import print_line, waiting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from sdvae_ray.run.run import Run


def plan(run: Run, asked: Mapping[str, Any], console: Console, as_json: bool = False) -> None:
    """Print what a run will take on clusters of several sizes, and what it has taken.

    asked: the fields of `planning.plan.Asked`.
    """
    lines = lines_of(console, as_json)
    begin("plan", run, lines)
    from functools import partial

    from sdvae_ray.planning.plan import Asked
    from sdvae_ray.planning.plan import plan as plan_of
    from sdvae_ray.report.terminal.plan import print_plan

    told = plan_of(run, Asked(**asked), partial(print_line, lines), partial(waiting, lines))
    if not as_json:
        print_plan(told, console)
    give(told, console, as_json)


def status(run: Run, console: Console, as_json: bool = False) -> None:
    """Print how far a run is, what failed and why, its sessions and its driver, as lines or as JSON."""
    from sdvae_ray.report.terminal.status import print_status
    from sdvae_ray.run.status import status as status_of

    state = status_of(run)
    if as_json:
        console.print_json(json.dumps(state))
    else:
        print_status(state, console)


def verify(run: Run, console: Console, repair: bool = False, as_json: bool = False) -> bool:
    """Read every file of a run's tables, and print what is wrong. Return whether the run is whole.

    repair: delete the damaged files, so that `encode` computes their FOVs again.
    """
    from dataclasses import asdict

    from sdvae_ray.report.terminal.status import print_verified
    from sdvae_ray.run.joined import refuse_joined
    from sdvae_ray.run.stored.verify import verify as verify_run

    refuse_joined(run, "verify")

    def say(line: str) -> None:
        if not as_json:
            print_line(console, f"verify: {line}")

    verified = verify_run(run, say, repair)
    if as_json:
        console.print_json(json.dumps({**asdict(verified), "whole": verified.is_whole}))
    else:
        print_verified(asdict(verified), console)
    return verified.is_whole


def compact(run: Run, console: Console, address: str | None = None, as_json: bool = False) -> None:
    """Give every FOV one row with all its columns, in large files; print how many files there were and are."""
    from dataclasses import asdict

    lines = lines_of(console, as_json)
    begin("compact", run, lines)
    from sdvae_ray.encoding.compact import compact as compact_run
    from sdvae_ray.run.joined import refuse_joined

    refuse_joined(run, "compact")
    done = compact_run(run, lines, address)
    if done.deleted:
        print_line(
            lines,
            f"compact: {done.fovs} FOVs in {done.after} files of each table, {done.before} before; one row per FOV",
        )
    else:
        print_line(
            lines, f"compact: nothing to do: {done.fovs} FOVs, one row per FOV, in {done.after} files of each table"
        )
    give({"output": run.output, **asdict(done)}, console, as_json)
