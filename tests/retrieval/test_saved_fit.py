"""A fitted normalisation through bytes and back: every bit, and no other object."""

import io
import json
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from test_normalise import group, places

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.contract import Affine, Corrected, Map, apply
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.normalisation.saved_fit import from_bytes, to_bytes
from sdvae_ray.retrieval.normalisation.shelf import find_step, step_names
from sdvae_ray.retrieval.normalisation.wells import Wells

CHAINS = {
    **{name: [name] for name in step_names() if not hasattr(find_step(name), "NO_FIT")},
    "published": "published",
    "none": "none",
    "tvn": [{"tvn": {"components": 8}}],
    "sphere_by_plate": [{"sphere": {"per": "plate"}}],
    "sphere": [
        "mad_robustize",
        {"sphere": {"method": "ZCA", "epsilon": 0.1}},
        {"variance_threshold": {"threshold": 1e-9}},
    ],
}


def fitted(steps):
    """(profiles, their wells, what they are normalised to)."""
    x, is_control, plate = group()
    x[:, 3] = 0.1  # constant
    made = normalise(x, is_control, plate, steps, position=places())
    return x, Wells(is_control, is_control, plate, plate, np.arange(len(x)), places()), made


def equal(a, b) -> bool:
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if is_dataclass(a):
        return type(a) is type(b) and all(equal(getattr(a, one.name), getattr(b, one.name)) for one in fields(a))
    return bool(a == b)


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_comes_back_to_the_bit_and_does_the_same(name):
    x, wells, made = fitted(CHAINS[name])
    data = to_bytes(made.chain)
    again = from_bytes(data)
    assert equal(made.chain, again)
    assert to_bytes(again) == data
    for chain in (made.chain, again):
        np.testing.assert_allclose(apply(chain, x, wells), made.features, rtol=0, atol=1e-9)
    assert all(array.dtype != object for array in np.load(io.BytesIO(data), allow_pickle=False).values())


def test_one_well_of_a_plate_is_normalised_without_the_others():
    x, _, made = fitted("published")
    nobody = np.zeros(1, bool)
    one = Wells(nobody, nobody, np.array(["P1"]), np.array(["P1"]), np.zeros(1, np.int64), np.array([""]))
    profile = apply(from_bytes(to_bytes(made.chain)), x[[55]], one)
    np.testing.assert_allclose(profile[0], made.features[55], rtol=0, atol=1e-9)


def test_of_harmony_the_reason_alone_is_kept_and_the_fit_is_refused_with_it():
    reason = find_step("harmony").NO_FIT
    data = to_bytes((Affine("group", {"group": Map(np.zeros(3))}), Corrected(np.zeros((5000, 3)), reason)))
    assert len(data) < 5000
    with pytest.raises(DataError, match="harmony .* has no fit for another well"):
        from_bytes(data)


def test_a_step_that_is_no_map_is_a_bug_of_ours_and_not_of_the_data():
    with pytest.raises(TypeError, match="a function in a fitted chain has no stored form"):
        to_bytes((lambda x, wells: x,))
    with pytest.raises(TypeError, match="a ndarray in a fitted chain has no stored form"):
        to_bytes((Affine("group", {"group": Map(np.array([object()]))}),))


def npz(chain, **arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, chain=np.frombuffer(json.dumps(chain).encode(), np.uint8), **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish" * 100,
        npz(
            [{"by": "group", "keep": None, "maps": {"group": {"offset": {"array": "0"}}}}]
        ),  # an array that is not there
        npz([{"by": "group", "keep": None, "maps": {"group": {"ofset": 1}}}]),
        npz([{"by": "plates", "keep": None, "maps": {"P1": {"offset": 1}}}]),
        npz([{"by": "plate", "keep": None, "maps": {}}]),
        npz([{"kind": "located", "fields": {}}]),  # an earlier version
        npz([None]),
        npz({"by": {}}),
        npz(3),
        npz([], more=np.array([{}], object)),  # a pickle
        to_bytes(fitted("published")[2].chain)[:-30],
    ],
)
def test_rubbish_is_one_line(data):
    with pytest.raises(DataError, match="no readable fit") as caught:
        from_bytes(data)
    assert "\n" not in str(caught.value)


def test_a_flipped_byte_is_refused_or_changes_nothing():
    chain = fitted([{"tvn": {"components": 3}}])[2].chain
    data = to_bytes(chain)
    random, refused = np.random.default_rng(0), 0
    places = [*range(200), *range(len(data) - 1500, len(data)), *random.integers(0, len(data), 400).tolist()]
    for at in places:
        damaged = bytearray(data)
        damaged[at] ^= int(random.integers(1, 256))
        try:
            assert equal(chain, from_bytes(bytes(damaged)))
        except DataError:
            refused += 1
    assert refused > len(places) // 2
