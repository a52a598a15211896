"""A discrete-event simulation of a stream: pieces of work go from the driver through load, encode and write on nodes that may go.

The driver hands out pieces one after another. A load actor takes one piece, for the longer of its CPU time and of its requests,
which eight readers make one after another. Load actors run ahead of the encode actors of their node by a few pieces. A write
gathers the rows of a file, and commits them after its CPU time and one request per table. A spot node lives for an exponential
time. The pieces that it held and had not committed are work again, as Ray computes lost blocks again, and a new node comes after a
pause. Not simulated are how Ray places work, memory, and throttling by the storage.
"""

import heapq
import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from sdvae_ray.config import RunConfig
from sdvae_ray.planning.clusters import Worker
from sdvae_ray.planning.pieces import piece_size, rows_per_file
from sdvae_ray.planning.rates import Rates
from sdvae_ray.planning.work import Figures, tables_of

_READERS = 8  # requests in flight of one load actor
_AHEAD = 2  # pieces per encode actor that may be loaded and wait


@dataclass(frozen=True)
class Stream:
    """A stream to simulate, in seconds.

    pieces, fovs     pieces of work, and FOVs in each
    nodes, encoders, loaders  nodes; encode and load actors of each
    load, encode, write       of one piece on one actor; load and write without requests
    driver           of one piece on the driver
    requests, tables requests of one reader for a piece; requests of a write
    latency, spread  median of one request, standard deviation of its logarithm
    pieces_per_write pieces whose rows make a file
    start            until a node works
    losses           per node and second
    replacement      until a lost node works again
    """

    pieces: int
    fovs: float
    nodes: int
    encoders: int
    loaders: int
    load: float
    encode: float
    write: float
    driver: float
    requests: int
    tables: int
    latency: float
    spread: float
    pieces_per_write: int
    start: float = 0.0
    losses: float = 0.0
    replacement: float = 300.0


@dataclass(frozen=True)
class Simulated:
    """What a simulated stream took.

    seconds       until the last commit
    rate          FOVs per second, start included
    busy          driver, load and encode -> share of the time that they worked, of the nodes that were there
    node_hours    that nodes were there
    lost_nodes    nodes that were taken
    repeated      share of the pieces that were loaded again because their node was taken
    limit         the busiest
    """

    seconds: float
    rate: float
    busy: dict[str, float]
    node_hours: float
    lost_nodes: int
    repeated: float
    limit: str


@dataclass
class _Node:
    """One node: its pieces by state, its free actors, when it came, and how often it was lost."""

    loading: int = 0
    loaded: int = 0
    encoding: int = 0
    gathered: int = 0
    writing: int = 0
    there: bool = False
    since: float = 0.0
    lives: int = 0


@dataclass
class _Run:
    stream: Stream
    random: np.random.Generator
    nodes: list[_Node]
    left: int
    events: list[tuple[float, int, str, int, int, int]] = field(default_factory=list)
    counter: int = 0
    done: int = 0
    loads: int = 0
    driver_free: float = 0.0
    held: float = 0.0
    lost: int = 0
    worked: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def at(self, time: float, kind: str, node: int, pieces: int = 0) -> None:
        self.counter += 1
        heapq.heappush(self.events, (time, self.counter, kind, node, self.nodes[node].lives, pieces))

    def waited(self, readers: int, requests: int) -> float:
        """Return the seconds until the slowest of some readers has made its requests, one after another; lognormal latencies."""
        latencies = np.exp(self.stream.spread * self.random.standard_normal((readers, requests)))
        return self.stream.latency * float(latencies.sum(1).max())

    def feed(self, now: float, number: int) -> None:
        """Give a node all the work that its free actors can take."""
        node, stream = self.nodes[number], self.stream
        while node.loaded and node.encoding < stream.encoders:
            node.loaded, node.encoding = node.loaded - 1, node.encoding + 1
            self.at(now + stream.encode, "encoded", number)
        room = stream.loaders + _AHEAD * stream.encoders
        while self.left and node.loading < stream.loaders and node.loading + node.loaded < room:
            node.loading, self.left, self.loads = node.loading + 1, self.left - 1, self.loads + 1
            self.driver_free = max(now, self.driver_free) + stream.driver
            self.worked["driver"] += stream.driver
            waited = self.waited(_READERS, stream.requests)
            self.at(self.driver_free + max(stream.load, waited), "loaded", number)
        last = not self.left and not (node.loading or node.loaded or node.encoding)
        if node.gathered >= stream.pieces_per_write or (last and node.gathered):
            node.writing, pieces, node.gathered = node.writing + node.gathered, node.gathered, 0
            seconds = stream.write * pieces + self.waited(1, stream.tables)
            self.at(now + seconds, "written", number, pieces)

    def step(self, now: float, kind: str, number: int, pieces: int) -> None:
        """Take one event of a node that is there."""
        node, stream = self.nodes[number], self.stream
        if kind == "loaded":
            node.loading, node.loaded = node.loading - 1, node.loaded + 1
            self.worked["load"] += stream.load
        elif kind == "encoded":
            node.encoding, node.gathered = node.encoding - 1, node.gathered + 1
            self.worked["encode"] += stream.encode
        elif kind == "written":
            node.writing, self.done = node.writing - pieces, self.done + pieces
        elif kind == "came":
            node.there, node.since = True, now
            if stream.losses:
                self.at(now + self.random.exponential(1 / stream.losses), "taken", number)
        elif kind == "taken":
            self.left += node.loading + node.loaded + node.encoding + node.gathered + node.writing
            self.held, self.lost = self.held + now - node.since, self.lost + 1
            self.nodes[number] = node = _Node(lives=node.lives + 1)
            self.at(now + stream.replacement, "came", number)
            for other, neighbour in enumerate(self.nodes):  # its work is for whoever is free
                if neighbour.there:
                    self.feed(now, other)
        if node.there:
            self.feed(now, number)


def simulate(stream: Stream, seed: int = 0) -> Simulated:
    """Return what a stream takes, from its start to the commit of its last piece. The same seed gives the same result."""
    run = _Run(stream, np.random.default_rng(seed), [_Node() for _ in range(stream.nodes)], stream.pieces)
    for number in range(stream.nodes):
        run.at(stream.start, "came", number)
    now = 0.0
    while run.done < stream.pieces:
        now, _, kind, number, life, pieces = heapq.heappop(run.events)
        if life == run.nodes[number].lives:
            run.step(now, kind, number, pieces)
    held = run.held + sum(now - node.since for node in run.nodes if node.there)
    busy = {
        "driver": run.worked["driver"] / now,
        "load": run.worked["load"] / (held * stream.loaders),
        "encode": run.worked["encode"] / (held * stream.encoders),
    }
    return Simulated(
        seconds=now,
        rate=stream.pieces * stream.fovs / now,
        busy=busy,
        node_hours=held / 3600,
        lost_nodes=run.lost,
        repeated=run.loads / stream.pieces - 1,
        limit=max(busy, key=lambda name: busy[name]),
    )


def stream_of(config: RunConfig, rates: Rates, work: Figures, worker: Worker, workers: int) -> Stream:
    """Return the stream of a run on spot nodes. The codecs of a run count as loading, on the CPUs beside the encode actors."""
    plan, fovs = config.plan, int(work["fovs"] or 0)
    nodes = math.ceil(workers / plan.gpus_per_node)
    encoders = min(workers, plan.gpus_per_node)
    size = piece_size(fovs, workers * worker.loaders)
    of_a_piece = fovs / max(1, -(-fovs // size))
    feeding = rates.seconds["load"] + rates.seconds.get("compress", 0.0)
    if plan.cpus_per_worker is not None:  # fewer CPUs than actors slow the actors down
        feeding = max(feeding, worker.loaders * rates.cpu_seconds / worker.feeding)
    files = (work["reads"] or len(config.image.stains) * fovs) / fovs
    return Stream(
        pieces=-(-fovs // size),
        fovs=of_a_piece,
        nodes=nodes,
        encoders=encoders,
        loaders=encoders * worker.loaders,
        load=feeding * of_a_piece,
        encode=rates.seconds["encode"] * of_a_piece,
        write=rates.seconds.get("write", 0.0) * of_a_piece,
        driver=plan.driver_seconds_per_1000_fovs / 1000 * of_a_piece,
        requests=math.ceil(files * of_a_piece / _READERS),
        tables=len(tables_of(config)),
        latency=plan.latency_ms / 1000,
        spread=plan.latency_spread,
        pieces_per_write=max(1, round(rows_per_file(config, fovs) / of_a_piece)),
        start=rates.first_fov,
        losses=plan.spot_losses_per_hour / 3600,
        replacement=60 * plan.replacement_minutes,
    )
