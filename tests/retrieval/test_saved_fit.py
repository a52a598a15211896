"""A fitted normalisation through bytes and back: every bit, and nothing but what it knows."""

import io
import json
from dataclasses import fields, is_dataclass

import numpy as np
import pytest
from test_normalise import group

from sdvae_ray.errors import DataError
from sdvae_ray.retrieval.normalisation.normalise import normalise
from sdvae_ray.retrieval.normalisation.saved_fit import KINDS, from_bytes, to_bytes
from sdvae_ray.retrieval.normalisation.source import Wells
from sdvae_ray.retrieval.normalisation.transforms import Kept, Replaced

CHAINS = {
    "published": "published",
    "plate_standardise": "plate_standardise",
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
    made = normalise(x, is_control, plate, steps)
    return x, Wells(is_control, is_control, plate, plate, np.arange(len(x))), made


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
        found = x
        for step in chain:
            found = step(found, wells)
        np.testing.assert_allclose(found, made.features, rtol=0, atol=1e-9)
    assert all(array.dtype != object for array in np.load(io.BytesIO(data), allow_pickle=False).values())


def test_every_kind_is_among_the_chains():
    text = "".join(
        bytes(np.load(io.BytesIO(to_bytes(fitted(steps)[2].chain)))["chain"]).decode() for steps in CHAINS.values()
    )
    assert [kind for kind in KINDS if f'"kind": "{kind}"' not in text] == []


def test_one_well_of_a_plate_is_normalised_without_the_others():
    x, _, made = fitted("published")
    nobody = np.zeros(1, bool)
    one, found = Wells(nobody, nobody, np.array(["P1"]), np.array(["P1"]), np.zeros(1, np.int64)), x[[55]]
    for step in from_bytes(to_bytes(made.chain)):
        found = step(found, one)
    np.testing.assert_allclose(found[0], made.features[55], rtol=0, atol=1e-9)


def test_harmony_is_kept_by_name_alone_and_refused_with_the_reason():
    data = to_bytes((Kept(np.ones(3, bool)), Replaced(np.zeros((5000, 3)))))
    assert len(data) < 5000
    with pytest.raises(DataError, match="harmony .* has no fit for another well"):
        from_bytes(data)


def test_a_transform_of_another_kind_is_refused_both_ways():
    with pytest.raises(DataError, match="a fit of function cannot be stored"):
        to_bytes((lambda x, wells: x,))
    with pytest.raises(DataError, match="a fit of ndarray cannot be stored"):
        to_bytes((Kept(np.array([object()])),))
    with pytest.raises(DataError, match="of the kind 'os.system'"):
        from_bytes(npz([{"kind": "os.system", "fields": {}}]))


def npz(chain, **arrays) -> bytes:
    out = io.BytesIO()
    np.savez(out, chain=np.frombuffer(json.dumps(chain).encode(), np.uint8), **arrays)
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"rubbish" * 100,
        npz([{"kind": "kept", "fields": {"keep": {"array": "0"}}}]),  # an array that is not there
        npz([{"kind": "kept", "fields": {"kept": 1}}]),
        npz([{"fields": {}}]),
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
