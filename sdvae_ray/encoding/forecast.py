"""What a run will take on the cluster at hand: the stages' seconds per FOV and the sizes of the pools give a rate, a bottleneck,
hours and dollars. Clusters that are not at hand are planned in sdvae_ray.planning.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sdvae_ray.cluster.pools import Pools
from sdvae_ray.settings.pools import ClusterConfig


@dataclass(frozen=True)
class Forecast:
    """The cost of `fovs` FOVs.

    rates       stage -> FOVs per second of its whole pool
    bottleneck  the stage with the lowest rate
    feeding     stage before encode -> actors that one encode actor needs, a real number
    seconds     of the stream, without the start of the actors
    gpu_hours, cpu_hours  that the pools hold while the stream lasts
    dollars     of the hours, by the prices of the run file; None without prices
    """

    fovs: int
    rates: dict[str, float]
    bottleneck: str
    feeding: dict[str, float]
    seconds: float
    gpu_hours: float
    cpu_hours: float
    dollars: float | None

    @property
    def rate(self) -> float:
        """Return the FOVs per second of the stream."""
        return self.rates[self.bottleneck]


def forecast(fovs: int, seconds: Mapping[str, float], pools: Pools, prices: ClusterConfig) -> Forecast:
    """Return the forecast for `fovs` FOVs. seconds: stage -> seconds of work of one actor per FOV, above 0."""
    rates = {name: pool.most / seconds[name] for name, pool in pools.stages.items()}
    bottleneck = min(rates, key=lambda name: rates[name])
    hours = fovs / rates[bottleneck] / 3600
    gpu_hours, cpu_hours = hours * pools.most_gpus, hours * pools.most_cpus
    feeding = {name: seconds[name] / seconds["encode"] for name in pools.stages if name != "encode"}
    spent = dollars(gpu_hours, cpu_hours, prices)
    return Forecast(fovs, rates, bottleneck, feeding, 3600 * hours, gpu_hours, cpu_hours, spent)


def dollars(gpu_hours: float, cpu_hours: float, prices: ClusterConfig) -> float | None:
    """Return the price of GPU-hours and CPU-hours. A kind of hour without a price counts 0; None if neither has a price."""
    if prices.dollars_per_gpu_hour is None and prices.dollars_per_cpu_hour is None:
        return None
    return gpu_hours * (prices.dollars_per_gpu_hour or 0) + cpu_hours * (prices.dollars_per_cpu_hour or 0)
