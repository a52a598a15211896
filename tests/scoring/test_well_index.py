"""The files of an index: every group has names of its own."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdvae_ray.queries.saved_index import LEVELS
from sdvae_ray.scoring.indices.well_index import _file_name

GROUPS = [
    "\u03b1",
    "\u03b2",
    "a b",
    "a_b",
    "a/b",
    "a%2Fb",
    "",
    "..",
    "fovs",
    "%66ovs",
    "patches",
    "fovs.x",
    "A" * 300,
    "A" * 301,
    "a\n",
]


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(GROUPS, 2)))
def test_two_groups_never_share_a_file(one, other):
    assert _file_name(one) != _file_name(other)


@given(st.text(max_size=400))
def test_a_group_is_a_name_of_a_file_and_no_level(group):
    name = _file_name(group)
    assert "/" not in name
    assert "\0" not in name
    assert len(f"{name}.parquet".encode()) < 256
    assert name.partition(".")[0] not in LEVELS.values()
    if group.isascii() and group.isalnum() and group not in LEVELS.values() and len(group) <= 150:
        assert name == group
