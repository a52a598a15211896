"""Places for the labels of points, so that no label covers another label or a point."""

from collections.abc import Sequence
from dataclasses import dataclass

_CHAR, _HEIGHT = 6.3, 13.0  # pixels of a character and of a line at 11 px, about
_NEAR = 9.0  # pixels between a point and its label
_STEP = 7.0


@dataclass(frozen=True)
class Label:
    """A label at (x, y), the left end of its base line. near: the x of the end of it that is nearer to the point. is_far: a line
    from the point to the label is wanted."""

    x: float
    y: float
    near: float
    is_far: bool


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: "_Box") -> float:
        """Return the area that two boxes share, in square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def place_labels(
    points: Sequence[tuple[float, float, str]],
    frame: tuple[float, float, float, float],
    written: Sequence[tuple[float, float, str]] = (),
) -> list[Label]:
    """Return one label per point (x, y, words). frame: (left, top, right, bottom) that the labels stay within. written: (x, y,
    words) of texts that are there already, by their left ends and base lines.

    A label takes the nearest of the places around its point that covers nothing; if none is free, the one that covers least.
    """
    marks = [_Box(x - 6, y - 6, x + 6, y + 6) for x, y, _ in points]
    taken = [_Box(x, y - 10, x + _CHAR * len(words), y + 3) for x, y, words in written]
    labels: dict[int, Label] = {}
    for number in sorted(range(len(points)), key=lambda number: (points[number][1], points[number][0])):
        x, y, words = points[number]
        width = _CHAR * len(words)
        best = min(
            (
                (sum(box.overlap(other) for other in (*taken, *marks)) + 50 * _outside(box, frame), rank, box)
                for rank, box in enumerate(_places(x, y, width))
            ),
            key=lambda place: place[:2],
        )
        _, rank, box = best
        taken.append(box)
        near = box.left if box.left > x else box.right
        labels[number] = Label(box.left, box.bottom - 3, near, rank >= 4)
    return [labels[number] for number in range(len(points))]


def _places(x: float, y: float, width: float) -> list[_Box]:
    """Return places around a point: at its right, left, above, below, then farther away."""
    places = [(x + _NEAR, y), (x - _NEAR - width, y), (x - width / 2, y - 14), (x - width / 2, y + 14)]
    for far in range(2, 12):
        for sign in (-1, 1):
            places += [(x + _NEAR, y + sign * far * _STEP), (x - _NEAR - width, y + sign * far * _STEP)]
    return [_Box(left, middle - _HEIGHT / 2, left + width, middle + _HEIGHT / 2) for left, middle in places]


def _outside(box: _Box, frame: tuple[float, float, float, float]) -> float:
    """Return by how many pixels a box leaves the frame."""
    left, top, right, bottom = frame
    return (
        max(0.0, left - box.left)
        + max(0.0, top - box.top)
        + max(0.0, box.right - right)
        + max(0.0, box.bottom - bottom)
    )
