"""The state of a run and the result of its verification, in lines."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from sdvae_ray.console import print_line

_MOST = 10  # lines of a kind


def print_status(state: Mapping[str, Any], console: Console) -> None:
    """Print what `run.status.status` returns."""

    def say(label: str, text: str) -> None:
        print_line(console, f"{label:8} {text}")

    say("run", f"{state['output']}, manifest {state['manifest']}")
    say("fovs", f"{state['done']} of {state['fovs']} done, {state['failed']} failed, {state['left']} left")
    for reason in state["reasons"][:_MOST]:
        kind_of = f" {reason['class']}" if reason["class"] else ""
        say("reason", f"{reason['fovs']} FOVs{kind_of}, such as: {reason['example']}")
    for kind in ("sources", "plates"):
        for counts in [counts for counts in state[kind] if counts["failed"]][:_MOST]:
            say(kind[:-1], f"{counts['name']}: {counts['done']} done, {counts['failed']} failed")
    for session in state["sessions"]:
        rate = f", {session['fov_per_s']:.3g} FOV/s" if session["fov_per_s"] else ""
        end = f"ended {session['ended']}{rate}, {session['errors']} failed" if session["ended"] else "did not end"
        say("session", f"{session['session']}: {session['fovs']} FOVs, started {session['started']}, {end}")
    holder = state["holder"]
    say("driver", "none" if holder is None else f"{holder['host']}, process {holder['pid']}, holds the lease")


def print_verified(verified: Mapping[str, Any], console: Console) -> None:
    """Print what is wrong with the files of a run, and the way out. verified: the fields of `run.verify.Verified`."""
    damaged, gone, uncommitted = verified["damaged"], verified["gone"], verified["uncommitted"]
    for path, reason in list(damaged.items())[:_MOST]:
        print_line(console, f"damaged: {path}: {reason}" + ("; deleted" if path in verified["repaired"] else ""))
    for path in gone[:_MOST]:
        print_line(console, f"gone: {path}, though fovs/ commits its rows")
    for path in uncommitted[:_MOST]:
        print_line(console, f"note: {path} has no commit in fovs/: the rest of a killed write, or not of this run")
    counts = f"{verified['files']} files, {verified['fovs']} FOVs, {verified['usable']} usable"
    faults = f"{len(damaged)} damaged, {len(gone)} gone, {len(uncommitted)} without a commit"
    print_line(console, f"verify: {counts}; {faults}")
    if verified["repaired"] or gone:
        print_line(console, "verify: `sdvae-ray encode` computes their fields of view again")
    elif damaged:
        print_line(
            console, "verify: `sdvae-ray verify RUN --repair` deletes the damaged files; then `sdvae-ray encode`"
        )
