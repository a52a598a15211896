"""Well positions on a plate: the row and the column that a name such as "A01" says."""

import re

import numpy as np
from numpy.typing import NDArray

from sdvae_ray.retrieval.arrays import Ints

Texts = NDArray[np.str_]

_NAME = re.compile(r"([A-Za-z]{1,2})0*(\d{1,3})")  # of a well: "A01", "AF48"
_FAR = 10_000  # rows between positions whose names say nothing: two of these are the same or far apart


def place_of(name: str) -> tuple[int, int] | None:
    """Return the row and the column that a well's name says, counted from 0; None for a name of another form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    row = 0
    for letter in match[1].upper():
        row = 26 * row + ord(letter) - ord("A") + 1
    return row - 1, int(match[2]) - 1


def coordinates(position: Texts) -> Ints:
    """Return the row and column of every position (W,), counted from 0, as (W, 2). A name that says neither gets a row of its own,
    far from all others."""
    names, number = np.unique(position, return_inverse=True)
    places = np.empty((len(names), 2), dtype=np.int64)
    for at, name in enumerate(names.tolist()):
        places[at] = place_of(name) or (_FAR * (at + 1), 0)
    return places[number]


def rows_and_columns(position: Texts) -> tuple[Texts, Texts]:
    """Return the row ("A") and the column ("1") of every position (W,) as text, (W,) each; "" if a name says neither."""
    names, number = np.unique(position, return_inverse=True)
    matches = [_NAME.fullmatch(name) for name in names.tolist()]
    row = np.array([match[1].upper() if match else "" for match in matches], dtype=str)
    column = np.array([match[2] if match else "" for match in matches], dtype=str)
    return row[number], column[number]
