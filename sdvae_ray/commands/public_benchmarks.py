"""The two public benchmarks: profiles in, the protocol's numbers out, as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def cpjump1(
    profiles: Sequence[str],
    targets: str,
    storage: Mapping[str, Any],
    console: Console,
    features: Sequence[str] = (),
    null_sizes: tuple[int, int] | None = None,
    as_json: bool = False,
) -> None:
    """Print CHAMMI-75's CPJUMP1 benchmark of profiles. targets: the table of targets, tab-separated or Parquet."""
    from sdvae_ray.queries.cpjump1 import cpjump1
    from sdvae_ray.report.facts.public_benchmarks import cpjump1_section
    from sdvae_ray.report.terminal.tables import print_section
    from sdvae_ray.sources.profiles import read_profiles
    from sdvae_ray.sources.tables import read_columns
    from sdvae_ray.storage import Storage

    place = Storage.of(storage)
    benchmark = cpjump1(read_profiles(profiles, place, features), read_columns(targets, place), null_sizes)
    if as_json:
        floors = [] if benchmark.exchange.floors is None else benchmark.exchange.floors.to_dicts()
        console.print_json(json.dumps({**benchmark.summary, "floors": floors}))
    else:
        print_section(cpjump1_section(benchmark), console)


def stringency(
    profiles: Sequence[str],
    perturbation: str,
    control: str | None,
    exclude: str | None,
    storage: Mapping[str, Any],
    console: Console,
    features: Sequence[str] = (),
    as_json: bool = False,
) -> None:
    """Print MorphoHELM's ladder of stringency of profiles."""
    from sdvae_ray.queries.stringency import stringency
    from sdvae_ray.report.facts.public_benchmarks import stringency_section
    from sdvae_ray.report.terminal.tables import print_section
    from sdvae_ray.sources.profiles import read_profiles
    from sdvae_ray.storage import Storage

    ladder = stringency(read_profiles(profiles, Storage.of(storage), features), perturbation, control, exclude)
    if as_json:
        console.print_json(json.dumps({**ladder.facts, "rungs": ladder.rungs.to_dicts()}))
    else:
        print_section(stringency_section(ladder), console)
