"""`ladder` of a run file: sides of rising damage, plain autoencoders and codecs to everything below."""

import pytest

from sdvae_ray.errors import ConfigError
from sdvae_ray.runfile import load_run, parse_run

RAW = {
    "manifest": "m.parquet",
    "output": "out",
    "autoencoders": {
        "kl": {"name": "diffusers_kl", "source": "asset:demo_kl"},
        "coarse": {"name": "patch_pca", "latent_bits": 2},
        "identity": {"name": "identity"},
    },
}


def test_one_word_makes_a_ladder_of_fifteen_sides_and_more():
    config = parse_run({**RAW, "ladder": True})
    assert len(config.sides) >= 15 + len(RAW["autoencoders"])
    assert {config.codecs[side].name for side in config.codecs} == {"jpeg", "jpegxl", "blur", "noise"}
    assert config.codecs["jpeg_q20"].options == {"quality": 20}
    assert config.autoencoders["kl_b3"].model_dump() == config.autoencoders["kl"].model_dump() | {"latent_bits": 3}
    # what is quantised already, or has the image as its latent, is not quantised again
    assert not [side for side in config.autoencoders if side.startswith(("coarse_b", "identity_b"))]
    assert list(config.autoencoders)[:3] == list(RAW["autoencoders"])


def test_a_ladder_takes_its_strengths_from_the_run_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "manifest: m\noutput: o\ncodecs: {mine: {name: avif}}\n"
        "ladder: {codecs: {jpeg: [7, 70]}, latent_bits: [], blur: [1.5], noise: [0.03]}\n"
    )
    assert load_run(file).sides == ["mine", "jpeg_q7", "jpeg_q70", "blur_1.5", "noise_0.03"]
    assert load_run(file, ["ladder=false"]).sides == ["mine"]


def test_a_run_without_a_ladder_keeps_its_digest_and_a_ladder_has_that_of_its_sides():
    plain = parse_run(RAW)
    assert parse_run({**RAW, "ladder": False}).digest() == plain.digest()
    laddered = parse_run({**RAW, "ladder": True})
    dumped = laddered.model_dump(mode="json")
    assert "ladder" not in dumped
    assert parse_run(dumped).digest() == laddered.digest() != plain.digest()


@pytest.mark.parametrize(
    ("ladder", "words"),
    [
        ({"codecs": ["png"]}, "png has no strengths (allowed: jpeg, jpegxl, jpeg2000, avif)"),
        ({"blurr": [1]}, "did you mean 'blur'?"),
        ({"noise": [-1]}, "noise.0"),
        ({"latent_bits": [13]}, "latent_bits.0"),
        (7, "true, false, or a mapping"),
    ],
)
def test_a_mistake_in_a_ladder_is_one_line(ladder, words):
    with pytest.raises(ConfigError) as error:
        parse_run({**RAW, "ladder": ladder})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_side_of_the_run_file_is_never_replaced():
    same = {**RAW, "codecs": {"jpeg_q20": {"name": "jpeg", "quality": 20}}}
    assert "jpeg_q20" in parse_run({**same, "ladder": True}).codecs
    other = {**RAW, "codecs": {"jpeg_q20": {"name": "jpeg", "quality": 21}}}
    with pytest.raises(ConfigError, match="codecs.jpeg_q20 has other settings"):
        parse_run({**other, "ladder": True})


def test_shelves_of_the_wrong_kind_are_refused_as_without_a_ladder():
    with pytest.raises(ConfigError, match="autoencoders"):
        parse_run({**RAW, "autoencoders": ["kl"], "ladder": True})
