"""The plan of a run in tables: its sources, the work as planned and as spent, and clusters of several sizes."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from sdvae_ray.console import print_line

_UNKNOWN, _NOT_PRICED = "not known", "not priced"
_WORK = {  # figure -> its words, unit and the number of which one unit is made
    "fovs": ("fields of view", 1, ""),
    "encode_hours": ("encode actors", 1, "hours"),
    "load_hours": ("load", 1, "CPU-hours"),
    "compress_hours": ("codecs", 1, "CPU-hours"),
    "write_hours": ("write", 1, "CPU-hours"),
    "flop": ("networks", 1e15, "PFLOP"),
    "read_bytes": ("images in", 1e9, "GB"),
    "written_bytes": ("tables out", 1e9, "GB"),
    "reads": ("requests, GET", 1, ""),
    "looks": ("requests, HEAD", 1, ""),
    "writes": ("requests, PUT", 1, ""),
    "objects": ("objects written", 1, ""),
}


def print_plan(plan: Mapping[str, Any], console: Console) -> None:
    """Print what `planning.plan.plan` returns."""
    _print_sources(plan, console)
    _print_work(plan, console)
    _print_sizes(plan, console)
    for line in _lines(plan):
        print_line(console, line)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _print_sources(plan: Mapping[str, Any], console: Console) -> None:
    table = _table("The screen", "source", "fields", "plates", "wells", "GB in")
    for source in plan["sources"]:
        size = _number(source["bytes_in"], 1e9)
        table.add_row(source["name"], *(_number(source[key]) for key in ("fovs", "plates", "wells")), size)
    if len(plan["sources"]) > 1:
        totals = [[source[key] for source in plan["sources"]] for key in ("fovs", "plates", "wells", "bytes_in")]
        sums = [None if None in counts else sum(counts) for counts in totals]
        table.add_row("all", *(_number(value) for value in sums[:3]), _number(sums[3], 1e9))
    console.print(table)


def _print_work(plan: Mapping[str, Any], console: Console) -> None:
    spent = plan["spent"]
    table = _table("The work, on one worker", "", "planned", *(["spent"] if spent else []))
    for figure, (words, unit, name) in _WORK.items():
        if plan["planned"][figure] is None and (spent is None or spent[figure] is None) and figure == "compress_hours":
            continue
        columns = [plan["planned"], *([spent] if spent else [])]
        table.add_row(f"{words}, {name}" if name else words, *(_number(column[figure], unit) for column in columns))
    console.print(table)


def _print_sizes(plan: Mapping[str, Any], console: Console) -> None:
    on_gpu = plan["worker"]["gpus"] > 0
    sizes, plates = plan["sizes"], sum(source["plates"] for source in plan["sources"])
    table = _table("Clusters", "workers", *(str(size["workers"]) for size in sizes))
    rows = {
        "nodes": [str(size["nodes"]) for size in sizes],
        "FOV/s": [f"{size['rates'][size['limit']]:.4g}" for size in sizes],
        "limited by": [size["limit"] for size in sizes],
        "hours": [_hours(size["seconds"]) for size in sizes],
        "GPU-hours" if on_gpu else "CPU-hours": [
            _number(size["gpu_hours" if on_gpu else "cpu_hours"]) for size in sizes
        ],
        "images in, GB": [_number(size["read_bytes"], 1e9) for size in sizes],
        "dollars, on demand": [_dollars(size["on_demand"]) for size in sizes],
        "of it a plate": [_dollars(size["on_demand"], plates) for size in sizes],
        "hours on spot": [_hours(size["spot_seconds"]) for size in sizes],
        "dollars, spot": [_dollars(size["spot"]) for size in sizes],
    }
    if any("simulated" in size for size in sizes):
        simulated = [size["simulated"] for size in sizes]
        rows |= {
            "simulated on spot: hours": [_hours(result["seconds"]) for result in simulated],
            "simulated FOV/s": [f"{result['rate']:.4g}" for result in simulated],
            "busiest": [f"{result['limit']} {100 * result['busy'][result['limit']]:.0f} %" for result in simulated],
            "driver busy": [f"{100 * result['busy']['driver']:.0f} %" for result in simulated],
            "nodes lost": [str(result["lost_nodes"]) for result in simulated],
            "pieces again": [f"{100 * result['repeated']:.2g} %" for result in simulated],
        }
    for words, cells in rows.items():
        table.add_row(words, *cells)
    console.print(table)


def _lines(plan: Mapping[str, Any]) -> list[str]:
    """Return what stands under the tables: where the numbers are from, what a node needs, and what has no price."""
    rates, node, worker = plan["rates"], plan["node"], plan["worker"]
    lines = [f"{origin}: {', '.join(_given(rates, origin))}" for origin in dict.fromkeys(rates["origins"].values())]
    unit = f"{worker['gpus']:g} GPU and " if worker["gpus"] else ""
    lines.append(f"worker: {unit}{worker['cpus']:.3g} CPUs, {worker['loaders']} load actors")
    needs = ", ".join(f"{words} {_number(node[key], 1e9)} GB" for key, words in _NODE.items())
    scales = plan["scales_to"]
    lines.append(f"scales to about {scales['workers']:,.0f} workers; the {scales['limit']} limits beyond")
    lines.append(f"node, estimated: {needs}")
    first = plan["sizes"][0]
    for market in ("on_demand", "spot"):
        if missing := first[market]["not_priced"]:
            lines.append(f"{_NOT_PRICED}, {market.replace('_', ' ')}: {', '.join(missing)}")
    kept = plan["dollars_a_month"]
    lines.append(f"tables: {_NOT_PRICED if kept is None else f'{kept:,.2f} dollars'} a month")
    return lines


_NODE = {
    "memory": "memory",
    "object_store": "of it the object store",
    "weights": "disk for weights",
    "disk": "disk in all",
}


def _given(rates: Mapping[str, Any], origin: str) -> list[str]:
    """Return the quantities of one origin, with their numbers."""
    values = {f"seconds {stage}": f"{stage} {seconds:.3g} s/FOV" for stage, seconds in rates["seconds"].items()}
    values["first FOV"] = f"first FOV after {rates['first_fov']:.0f} s"
    for key, words in (("bytes_in", "in"), ("bytes_out", "out")):
        if rates[key] is not None:
            values[f"bytes {words}"] = f"{rates[key] / 1e6:.3g} MB/FOV {words}"
    return [values[quantity] for quantity, place in rates["origins"].items() if place == origin]


def _number(value: float | None, unit: float = 1.0) -> str:
    """Return a number in its unit: three digits, or all digits of a large one."""
    if value is None:
        return _UNKNOWN
    scaled = value / unit
    return f"{scaled:,.0f}" if scaled >= 1000 or scaled == int(scaled) else f"{scaled:.3g}"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.1f}" if seconds >= 360 else f"{seconds / 3600:.2g}"


def _dollars(bill: Mapping[str, Any], parts: int = 1) -> str:
    """Return the total of a bill, or of one of its equal parts; it is a least where something on the bill has no price."""
    if bill["total"] is None:
        return _NOT_PRICED
    return f"{'at least ' if bill['not_priced'] else ''}{bill['total'] / parts:,.2f}"
