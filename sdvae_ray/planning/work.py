"""The work of a run, whatever the cluster: hours of every stage, operations, requests, bytes and objects; planned and spent."""

from collections.abc import Mapping

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.columns import run_columns
from sdvae_ray.planning.census import Census
from sdvae_ray.planning.pieces import files_of_a_table
from sdvae_ray.planning.rates import Rates
from sdvae_ray.run.cost import Costs, recorded
from sdvae_ray.run.record import Record
from sdvae_ray.run.traffic import recorded_traffic
from sdvae_ray.schema import SEPARATOR

Figures = dict[str, float | None]  # figure -> its value; None: not known

FIGURES = {  # figure -> its unit, in the order of the table
    "fovs": "FOVs",
    "encode_hours": "hours of encode actors",
    "load_hours": "CPU-hours",
    "compress_hours": "CPU-hours",
    "write_hours": "CPU-hours",
    "flop": "operations",
    "read_bytes": "bytes",
    "written_bytes": "bytes",
    "reads": "GET requests",
    "looks": "HEAD requests",
    "writes": "PUT requests",
    "objects": "objects",
}


def planned(
    config: RunConfig, census: Census, rates: Rates, flop: Mapping[str, int] | None, loaders: int = 1, nodes: int = 1
) -> Figures:
    """Return the figures of a whole run. flop: part -> operations of a call; None: not counted.

    loaders, nodes: of the cluster. Every load actor asks for the version of the functions of its fields, and the first of its node
    reads them; every load actor reads the footers of its shards.
    """
    fovs = int(census.total("fovs") or 0)
    seconds = {f"{stage}_hours": fovs * value / 3600 for stage, value in rates.seconds.items()}
    return {
        "fovs": fovs,
        **{figure: seconds.get(figure) for figure in FIGURES if figure.endswith("_hours")},
        "flop": None if flop is None else fovs * flop_of_a_fov(config, flop),
        **_read(census, rates, fovs, loaders, nodes),
        **_written(config, rates, fovs),
    }


def _read(census: Census, rates: Rates, fovs: int, loaders: int, nodes: int) -> Figures:
    pieces = -(-census.pieces // 1)
    functions, shards = census.total("functions") or 0, census.total("shards") or 0
    seen, copies = min(loaders, pieces), min(nodes, loaders, pieces)
    footers = min(loaders, -(-(census.total("row_groups") or 0) // shards)) if shards else 0
    images = census.total("bytes_in")
    if images is None and rates.bytes_in is not None:
        whole: float | None = rates.bytes_in * fovs  # what a run measured has the functions within it
    elif images is None:
        whole = None
    else:
        whole = images + copies * (census.total("function_bytes") or 0) + footers * (census.total("footer_bytes") or 0)
    groups, footer_reads = census.total("group_reads") or 0, census.total("footer_reads") or 0
    reads = (census.total("files") or 0) + copies * functions + groups + footers * footer_reads
    return {
        "read_bytes": None if whole is None else round(whole),
        "reads": None if shards and not groups else round(reads),
        "looks": round(seen * functions),
    }


def _written(config: RunConfig, rates: Rates, fovs: int) -> Figures:
    """Return the figures of the tables: one object of every table per write, each by one request."""
    objects = files_of_a_table(config, fovs) * len(tables_of(config))
    size = None if rates.bytes_out is None else round(rates.bytes_out * fovs)
    return {"written_bytes": size, "writes": objects, "objects": objects}


def tables_of(config: RunConfig) -> set[str]:
    """Return the tables of a run: fovs and the data tables."""
    return {"fovs", *(name.rpartition(SEPARATOR)[0] for name in run_columns(config))}


def flop_of_a_fov(config: RunConfig, flop: Mapping[str, int]) -> int:
    """Return the operations of a FOV: every autoencoder once, every extractor once for the originals and once for every side."""
    sides = 1 + len(config.sides)
    return sum(operations * (sides if part.startswith("extract ") else 1) for part, operations in flop.items())


def spent(record: Record | None, flop: Mapping[str, int] | None) -> Figures | None:
    """Return the same figures as run.json tells them, over all sessions; None if nothing was encoded yet."""
    streams = [stages for session in (record or {}).get("sessions", []) for stages in session.get("stages", [])]
    if not streams:
        return None
    traffic, costs = recorded_traffic(record), recorded(record)
    figures: Figures = dict.fromkeys(FIGURES)
    figures["fovs"] = sum(stages["encode"]["rows"] for stages in streams)
    for stage in ("encode", "load", "compress"):
        if any(stage in stages for stages in streams):
            hours = sum(stages[stage]["seconds"] for stages in streams if stage in stages) / 3600
            figures[f"{stage}_hours"] = hours
    figures["flop"] = None if flop is None or not costs else _flop_spent(costs, flop)
    if traffic is not None:
        figures |= {figure: getattr(traffic, figure) for figure in ("read_bytes", "written_bytes", "reads", "looks")}
        figures |= {"writes": traffic.writes, "objects": traffic.objects}
    return figures


def _flop_spent(costs: Costs, flop: Mapping[str, int]) -> int:
    """Return the operations of all calls that a run counted."""
    return sum(cost.calls * flop.get(part, 0) for part, cost in costs.items())
