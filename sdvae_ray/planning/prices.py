"""Dollars by the price table of a run file. What has no price is named, and never counts as 0 dollars."""

from dataclasses import dataclass

from sdvae_ray.config import RunConfig
from sdvae_ray.planning.clusters import Size, Worker
from sdvae_ray.planning.work import Figures


@dataclass(frozen=True)
class Bill:
    """The dollars of a run.

    items       what is paid for -> dollars, of what has a price
    not_priced  what is paid for and has no price
    """

    items: dict[str, float]
    not_priced: tuple[str, ...]

    @property
    def total(self) -> float | None:
        """Return the sum of the items, while the compute has a price; else None."""
        return None if "compute" in self.not_priced else sum(self.items.values())


def bill(config: RunConfig, work: Figures, size: Size, worker: Worker, spot: bool) -> Bill:
    """Return the bill of a run on one size of cluster. A GPU-hour has its CPUs in its price; without GPUs the CPUs are paid."""
    cluster, storage = config.cluster, config.storage
    by_gpu, by_cpu = (
        (cluster.spot_dollars_per_gpu_hour, cluster.spot_dollars_per_cpu_hour)
        if spot
        else (cluster.dollars_per_gpu_hour, cluster.dollars_per_cpu_hour)
    )
    gpu_hours, cpu_hours = (size.spot_gpu_hours, size.spot_cpu_hours) if spot else (size.gpu_hours, size.cpu_hours)
    asked = work["reads"], work["looks"]
    reads = None if None in asked else sum(value or 0 for value in asked)
    gigabytes = None if work["read_bytes"] is None else work["read_bytes"] / 1e9
    lines = {
        "compute": (gpu_hours, by_gpu) if worker.gpus else (cpu_hours, by_cpu),
        "read requests": (None if reads is None else reads / 1000, storage.dollars_per_1000_reads),
        "write requests": (None if work["writes"] is None else work["writes"] / 1000, storage.dollars_per_1000_writes),
        "bytes in": (gigabytes, storage.dollars_per_gb_read),
    }
    items = {
        name: amount * price for name, (amount, price) in lines.items() if amount is not None and price is not None
    }
    return Bill(items, tuple(name for name in lines if name not in items))


def month(config: RunConfig, work: Figures) -> float | None:
    """Return the dollars of keeping the tables for a month; None without a price, or if their size is not known."""
    price, size = config.storage.dollars_per_gb_month, work["written_bytes"]
    return None if price is None or size is None else size / 1e9 * price
