"""Control wells that pose as compounds and stand on their plates as the compounds' own wells do.

A compound whose wells lie side by side shares what its corner of the plate does to cells; a compound at one position of all plates
shares what that position does. So controls pose with the compound's geometry: on the same plates, as far apart. Poses are placed
on the controls one after the other, by the patterns of the compounds in random order, until no pattern has room.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from sdvae_ray.randomness import block_generator
from sdvae_ray.retrieval.arrays import Ints
from sdvae_ray.retrieval.positions import Texts, coordinates
from sdvae_ray.retrieval.tasks.well_table import POSITION

Pattern = tuple[tuple[str, int, int], ...]  # for each well: its plate, and its rows and columns from the first well

_PATTERNS = 512  # compounds whose patterns are tried, at most
# a pattern and its mirror images and quarter turns: wells are as far apart in all of them
_TURNS = [
    np.array(turn)
    for turn in (
        [[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 0], [0, -1]], [[0, -1], [1, 0]],
        [[-1, 0], [0, 1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, -1], [-1, 0]],
    )
]  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """Control wells that pose as one compound. rows: (R,) of the table of wells. label: its plates and positions."""

    rows: Ints
    label: str


@dataclass(frozen=True)
class Unit:
    """Poses at the same positions, on one set of plates or on several. No two units share a position."""

    positions: tuple[str, ...]
    poses: tuple[Pose, ...]


def place_poses(wells: pl.DataFrame, seed: int, name: str, repeat: int) -> list[Unit]:
    """Return the units of control wells that pose as the compounds of `wells`; empty if there is no room for any pattern.

    wells: treated and control wells of one group in the order of their names, see `checked_wells`, with POSITION. A pose has a
    compound's number of wells on each of the compound's plates. A well stands at the compound's own distance from the first well:
    exactly there if that is the same or the next position, else off by at most half of the distance. seed, name, repeat: key the
    draws.
    """
    position, plate = (wells[column].to_numpy().astype(str) for column in (POSITION, "plate"))
    places = coordinates(position)
    treated, control = wells["is_treated"].to_numpy(), wells["is_control"].to_numpy()
    patterns = _patterns(wells["compound"].to_numpy()[treated], plate[treated], places[treated])
    if not patterns or not control.any():
        return []
    random = block_generator(seed, "floors", "poses", name, block=repeat)
    chosen = [patterns[at] for at in random.permutation(len(patterns))[:_PATTERNS]]
    free = _Free(np.flatnonzero(control), plate, places, position)
    units = []
    distinct = list(dict.fromkeys(chosen))
    full: set[Pattern] = set()
    while len(full) < len(distinct):
        for pattern in chosen:
            if pattern in full:
                continue
            rows = free.rows_for(pattern, random)
            if rows is None:
                full.add(pattern)
                continue
            offsets = [offset for _, *offset in pattern]
            alike = [other for other in distinct if other != pattern and [offset for _, *offset in other] == offsets]
            others = (free.rows_at(position[rows], [place for place, *_ in other]) for other in alike)
            poses = [rows, *(other for other in others if other is not None)]
            positions = np.unique(position[rows])
            units.append(
                Unit(tuple(positions.tolist()), tuple(Pose(pose, _label(plate, position, pose)) for pose in poses))
            )
            free.remove(positions)
    return units


class _Free:
    """The control wells that no pose has taken: their rows of the table by plate, with their places."""

    def __init__(self, controls: Ints, plate: Texts, places: Ints, position: Texts) -> None:
        self.rows = {name: controls[plate[controls] == name] for name in np.unique(plate[controls]).tolist()}
        self.places, self.position = places, position

    def remove(self, positions: Texts) -> None:
        self.rows = {name: rows[~np.isin(self.position[rows], positions)] for name, rows in self.rows.items()}

    def rows_for(self, pattern: Pattern, random: np.random.Generator) -> Ints | None:
        """Return free controls (R,) that stand as the pattern does; None if there are none."""
        if any(plate not in self.rows for plate, *_ in pattern):
            return None
        offsets = np.array([offset for _, *offset in pattern])
        turns = [_TURNS[at] for at in random.permutation(len(_TURNS))] if offsets.any() else _TURNS[:1]
        starts = self.rows[pattern[0][0]][random.permutation(len(self.rows[pattern[0][0]]))]
        tolerance = np.abs(offsets).max(axis=1) // 2
        for off in [np.zeros_like(tolerance), tolerance][: 1 + tolerance.any()]:  # first exactly, then nearly
            for first in starts:
                for turn in turns:
                    rows = self._near(pattern, self.places[first] + offsets @ turn.T, off)
                    if rows is not None:
                        return rows
        return None

    def _near(self, pattern: Pattern, targets: Ints, tolerance: Ints) -> Ints | None:
        chosen: list[int] = []
        for (plate, *_), target, off in zip(pattern, targets, tolerance, strict=True):
            rows = self.rows[plate]
            distance = np.abs(self.places[rows] - target).max(axis=1)
            distance[np.isin(rows, chosen)] = np.iinfo(np.int64).max
            nearest = int(np.argmin(distance)) if len(rows) else -1
            if nearest < 0 or distance[nearest] > off:
                return None
            chosen.append(int(rows[nearest]))
        return np.array(chosen)

    def rows_at(self, positions: Texts, plates: Sequence[str]) -> Ints | None:
        """Return the free controls at these positions of these plates, pair by pair; None if one of them is missing."""
        chosen = []
        for name, plate in zip(positions.tolist(), plates, strict=True):
            rows = self.rows.get(plate, np.empty(0, dtype=np.int64))
            at = rows[self.position[rows] == name]
            if not len(at):
                return None
            chosen.append(int(at[0]))
        return np.array(chosen)


def _patterns(compound: Texts, plate: Texts, places: Ints) -> list[Pattern]:
    """Return the pattern of every compound of two wells or more, in the order of their names."""
    return [
        tuple((str(plate[row]), *(int(step) for step in places[row] - places[rows[0]])) for row in rows)  # type: ignore[misc]
        for rows in _rows_by_compound(compound, plate, places)
        if len(rows) > 1
    ]


def _rows_by_compound(compound: Texts, plate: Texts, places: Ints) -> Iterator[Ints]:
    order = np.lexsort((places[:, 1], places[:, 0], plate, compound.astype(str)))
    yield from np.split(
        order, np.flatnonzero(np.diff(np.unique(compound[order].astype(str), return_inverse=True)[1])) + 1
    )


def _label(plate: Texts, position: Texts, rows: Ints) -> str:
    return " ".join(f"{plate[row]}/{position[row]}" for row in rows)


def shuffled_labels(poses: Sequence[Pose], plate: Texts, seed: int, name: str, repeat: int) -> dict[int, str]:
    """Return row -> label, in which wells of different poses have one label: the poses without their geometry.

    A label keeps its number of wells on every plate. Poses with the same numbers of wells on the same plates stand in one random
    order; the t-th well of a pose on plate number j gets the label of the pose that is j + t further on in this order.
    """
    alike: dict[tuple[str, ...], list[Pose]] = {}
    for pose in poses:
        alike.setdefault(tuple(sorted(plate[pose.rows].tolist())), []).append(pose)
    labels: dict[int, str] = {}
    for number, (plates, group) in enumerate(sorted(alike.items())):
        random = block_generator(seed, "floors", "shuffled", name, number, block=repeat)
        order = [group[at] for at in random.permutation(len(group))]
        names = sorted(set(plates))
        for at, pose in enumerate(order):
            seen = dict.fromkeys(names, 0)
            for row in pose.rows.tolist():
                own = str(plate[row])
                labels[row] = order[(at + names.index(own) + seen[own]) % len(order)].label
                seen[own] += 1
    return labels
