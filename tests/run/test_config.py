"""The run file: what is refused and how it is said, overrides, and which keys make another run of it."""

import re
import time
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from run_files import merged

from sdvae_ray.config import RunConfig
from sdvae_ray.engine.models import check_names
from sdvae_ray.errors import ConfigError, UserError
from sdvae_ray.retrieval.normalisation.normalise import resolve_steps
from sdvae_ray.retrieval.ranking.similarity import DISTANCES
from sdvae_ray.run.record import check_same_run, new_record
from sdvae_ray.runfile import _with_null_keys, load_run, parse_run, parse_storage
from sdvae_ray.settings.ladder import LADDER
from sdvae_ray.settings.score import ScoreConfig

MINIMAL: dict[str, Any] = {
    "manifest": "s3://plates/manifest.parquet",
    "output": "s3://plates/runs/one",
    "autoencoders": {"sd": {"name": "diffusers_kl", "source": "CompVis/stable-diffusion-v1-4", "subfolder": "vae"}},
    "extractors": {"latent": {"name": "latent"}},
}


def run(**changes: Any) -> RunConfig:
    return parse_run(merged(MINIMAL, changes))


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        run(**changes)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, UserError)
    assert caught.value.exit_code == 2
    return message


def test_the_least_run_file_is_the_published_protocol():
    config = run()
    assert config.image.stains == ("Mito", "AGP", "RNA", "ER", "DNA")
    assert config.image.triples == (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))
    assert (config.image.crop, config.image.patch, config.image.patches) == (1024, 256, 16)
    assert (config.image.scaling.divisor, config.image.scaling.bits) == (256, 8)
    assert config.autoencoders["sd"].latent == "mean"
    assert list(config.metrics) == ["foreground_ssim", "foreground_mae", "ssim", "psnr", "mae", "emd", "kld"]


@pytest.mark.parametrize(
    ("changes", "path", "right"),
    [
        ({"manifst": "x"}, "manifst", "manifest"),
        ({"extractor": {}}, "extractor", "extractors"),
        ({"image": {"crp": 512}}, "image.crp", "crop"),
        ({"image": {"scaling": {"divisr": 1}}}, "image.scaling.divisr", "divisor"),
        ({"storage": {"endpoint": "x"}}, "storage.endpoint", "endpoint_url"),
        ({"synthetic": {"folder": "x", "plats": 2}}, "synthetic.plats", "plates"),
        ({"load": {"batch_fov": 2}}, "load.batch_fov", "batch_fovs"),
        ({"encode": {"microbatch": 2}}, "encode.microbatch", "micro_batch"),
        ({"score": {"treshold": 0.1}}, "score.treshold", "threshold"),
        ({"cluster": {"autoscale": True}}, "cluster.autoscale", "autoscaling"),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_its_nearest_match(changes, path, right):
    message = refusal(**changes)
    assert f"unknown key {path!r}" in message
    assert f"did you mean {right!r}?" in message


def test_a_key_like_no_other_is_answered_with_what_is_allowed():
    message = refusal(image={"xyzzy": 1})
    assert "did you mean" not in message
    assert "crop" in message
    assert "packing" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"manifest": None}, ("manifest is missing",)),
        ({"autoencoders": None}, ("autoencoders: at least one is wanted",)),
        ({"autoencoders": {"sd": None}}, ("autoencoders", "at least one")),
        ({"autoencoders": {"x": {"source": "y"}}}, ("autoencoders.x.name is missing",)),
        ({"autoencoders": {"image": {"name": "identity"}}}, ("'image'", "originals")),
        ({"autoencoders": {"a/b": {"name": "identity"}}}, ("a/b",)),
        ({"autoencoders": {"": {"name": "identity"}}}, ("autoencoders",)),
        ({"extractors": {"a:b": {"name": "latent"}}}, ("a:b",)),
        ({"extractors": {"latent": {"keep_patches": -1}}}, ("extractors.latent.keep_patches", "-1")),
        ({"autoencoders": {"sd": {"latent": "mode"}}}, ("autoencoders.sd.latent", "'mean' or 'sample'", "'mode'")),
        ({"metrics": ["a b"]}, ("metrics", "a b")),
        ({"precision": "fp16"}, ("precision", "'float16'", "'fp16'")),
        ({"max_error_fraction": 1.5}, ("max_error_fraction", "1.5")),
        ({"image": {"crop": 1000}}, ("crop 1000 is not a multiple of patch 256",)),
        ({"image": {"crop": 136, "patch": 68}}, ("patch 68 is not a multiple of 8",)),
        ({"image": {"crop": 0}}, ("image.crop", "0")),
        ({"image": {"stains": ["Mito", "AGP", "RNA", "ER", "DNA", "DNA"]}}, ("named twice",)),
        ({"image": {"packing": [["Mito", "AGP", "RNA"], ["RNA", "ER", "DAN"]]}}, ("'DAN'", "did you mean 'DNA'")),
        ({"image": {"packing": [["Mito", "AGP", "RNA"]]}}, ("leaves out ER, DNA",)),
        ({"image": {"packing": [["Mito", "AGP"], ["RNA", "ER", "DNA"]]}}, ("image.packing.0",)),
        ({"image": {"scaling": {"bits": 12}}}, ("image.scaling.bits", "8 or 16", "12")),
        ({"image": {"scaling": {"divisor": 0}}}, ("image.scaling.divisor", "greater than 0")),
        ({"image": {"scaling": {"method": "percent"}}}, ("image.scaling.method", "'divide' or 'manifest'")),
        ({"load": {"batch_fovs": 11}}, ("load.batch_fovs", "10", "11")),
        ({"load": {"batch_fovs": 0}}, ("load.batch_fovs",)),
        ({"encode": {"batch_fovs": 0}}, ("encode.batch_fovs",)),
        ({"encode": {"actors": "many"}}, ("encode.actors", "'many'")),
        ({"synthetic": {}}, ("synthetic.folder is missing",)),
        ({"synthetic": {"folder": "x", "plates": 0}}, ("synthetic.plates",)),
        ({"score": {"threshold": 0}}, ("score.threshold",)),
        ({"score": {"null_size": 10}}, ("score.null_size", "100")),
        ({"score": {"aggregate": "max"}}, ("score.aggregate", "'mean' or 'median'")),
        ({"score": {"tasks": ["transfr"]}}, ("score.tasks.0", "'enrichment' or 'probe'", "'transfr'")),
        ({"score": {"tasks": "transfer"}}, ("score.tasks", "'transfer'")),
        ({"score": {"task_distance": "cosin"}}, ("score.task_distance", "'abs_cosine'", "'cosin'")),
        ({"score": {"plates": []}}, ("score.plates", "at least 1")),
        ({"score": {"plates": [1053601763]}}, ("score.plates.0", "string", "1053601763")),
        ({"score": {"batch": ["Metadata_Batch"]}}, ("score.batch", "string")),
        ({"score": {"transfer": ["Metadata_Time"]}}, ("score.transfer", "score.group names no columns")),
        (
            {"score": {"group": ["Metadata_Cell_type", "Metadata_Time"], "transfer": ["Metadata_Tme"]}},
            (
                "score.transfer",
                "'Metadata_Tme' is not in score.group",
                "did you mean 'Metadata_Time'",
                "Metadata_Cell_type",
            ),
        ),
        ({"seed": "one"}, ("seed", "'one'")),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_its_place(changes, words):
    message = refusal(**changes)
    for word in words:
        assert word in message


def test_every_further_problem_is_counted():
    assert "(and 2 more)" in refusal(seed="x", precision="y", max_error_fraction=7)


def test_tasks_are_all_by_default_and_transfer_is_along_every_column_of_the_groups():
    score = run(score={"group": ["Metadata_Cell_type", "Metadata_Time"]}).score
    assert score.tasks[:4] == ("distinctiveness", "consistency", "cross_side", "transfer")
    assert score.tasks[4:] == ("stringency", "neighbours", "enrichment", "probe")
    assert score.transfer_columns == ("Metadata_Cell_type", "Metadata_Time")
    assert run().score.transfer_columns == ()


def test_tasks_and_columns_of_transfer_can_be_chosen():
    groups = ["Metadata_Cell_type", "Metadata_Time"]
    assert run(score={"group": groups, "transfer": ["Metadata_Time"]}).score.transfer_columns == ("Metadata_Time",)
    assert run(score={"group": groups, "transfer": []}).score.transfer_columns == ()
    assert run(score={"group": groups, "tasks": []}).score.transfer_columns == ()
    assert run(score={"group": groups, "tasks": ["consistency"]}).score.tasks == ("consistency",)
    assert run(score={"transfer": []}).score.transfer == ()


def test_the_distances_of_the_tasks_are_those_of_retrieval():
    assert get_args(ScoreConfig.model_fields["task_distance"].annotation) == DISTANCES


def test_what_is_scored_can_be_some_plates_and_batches_of_a_column():
    score = run(score={"plates": ["BR00117010", "BR00117011"], "batch": "Metadata_Batch"}).score
    assert (score.plates, score.batch) == (("BR00117010", "BR00117011"), "Metadata_Batch")
    assert (run().score.plates, run().score.batch) == (None, None)


def test_a_configuration_cannot_be_changed():
    config = run()
    with pytest.raises(ValueError):
        config.seed = 1  # type: ignore[misc]
    with pytest.raises(ValueError):
        config.image.crop = 512  # type: ignore[misc]


def test_further_keys_of_a_model_are_its_options():
    model = run(autoencoders={"sd": {"architecture": "sd1", "weights_seed": 3, "random": True}}).autoencoders["sd"]
    assert model.options == {"architecture": "sd1", "weights_seed": 3}
    assert model.subfolder == "vae"


def test_models_with_random_weights_are_listed():
    config = run(
        autoencoders={"sd": {"random": True}, "x": {"name": "identity"}},
        extractors={"i": {"name": "inception_v3", "random": True}},
    )
    assert config.random_weights == ["sd", "i"]
    assert run().random_weights == []


# Files and overrides


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_a_file_reads_as_the_run_that_it_describes(run_file):
    assert load_run(run_file) == run()


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("seed=7", {"seed": 7}),
        ("image.crop=512", {"image": {"crop": 512}}),
        ("image.scaling.divisor=1.5", {"image": {"scaling": {"divisor": 1.5}}}),
        ("encode.actors=[1, 4]", {"encode": {"actors": [1, 4]}}),
        ("encode.gpus=0.25", {"encode": {"gpus": 0.25}}),
        ("autoencoders.sd.latent=sample", {"autoencoders": {"sd": {"latent": "sample"}}}),
        ("autoencoders.id.name=identity", {"autoencoders": {"id": {"name": "identity"}}}),
        ("storage.endpoint_url=http://h:1/?a=b", {"storage": {"endpoint_url": "http://h:1/?a=b"}}),
        ("storage.anonymous=true", {"storage": {"anonymous": True}}),
        ("metrics=[mae]", {"metrics": ["mae"]}),
        ("score.threshold=1e-3", {"score": {"threshold": 1e-3}}),
        ("score.tasks=[]", {"score": {"tasks": []}}),
        ("score.plates=[P1]", {"score": {"plates": ["P1"]}}),
    ],
)
def test_an_override_changes_its_key_and_no_other(run_file, override, changes):
    assert load_run(run_file, [override]) == run(**changes)


def test_overrides_are_laid_on_in_their_order(run_file):
    assert load_run(run_file, ["seed=1", "image.crop=512", "seed=2"]) == run(seed=2, image={"crop": 512})


def test_an_override_can_take_a_value_back(run_file):
    run_file.write_text(yaml.safe_dump({**MINIMAL, "score": {"exclude": "Metadata_x == 'y'"}}))
    assert load_run(run_file, ["score.exclude=null"]).score.exclude is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", ("--set seed", "key=value")),
        ("=1", ("key=value",)),
        ("image.crop=[", ("--set image.crop=[", "not YAML")),
        ("manifest.name=x", ("manifest is a value, not a section",)),
        ("image.crp=1", ("unknown key 'image.crp'", "did you mean 'crop'")),
        ("image.crop=wide", ("image.crop", "'wide'")),
        ("encode.batch_fovs=", ("encode.batch_fovs",)),
    ],
)
def test_an_override_that_cannot_be_is_refused(run_file, override, words):
    with pytest.raises(ConfigError) as caught:
        load_run(run_file, [override])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "a: [", "a: b: c", "\t- x"])
def test_a_file_that_is_no_mapping_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml") as caught:
        load_run(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read the run file"):
            load_run(path)


# Identity


@pytest.mark.parametrize(
    "changes",
    [
        {"load": {"actors": 3, "batch_fovs": 2}},
        {"encode": {"actors": [1, 2], "batch_fovs": 3, "gpus": 0.5}},
        {"write": {"rows_per_file": 7}},
        {"cluster": {"autoscaling": True}},
        {"score": {"threshold": 0.1, "group": ["Metadata_Time"]}},
        {"score": {"tasks": ["transfer"], "task_distance": "euclidean", "plates": ["P1"], "batch": "Metadata_Batch"}},
        {"max_error_fraction": 0.5},
        {"storage": {"anonymous": True, "endpoint_url": "http://127.0.0.1:1"}},
        {"output": "s3://elsewhere/run"},
    ],
)
def test_what_changes_no_number_leaves_the_identity(changes):
    assert run(**changes).digest() == run().digest()
    assert run(**changes).identity() == run().identity()


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"image": {"crop": 512}},
        {"image": {"scaling": {"bits": 16}}},
        {"image": {"packing": [["AGP", "Mito", "RNA"], ["RNA", "ER", "DNA"]]}},
        {"autoencoders": {"sd": {"latent": "sample"}}},
        {"autoencoders": {"sd": {"revision": "a" * 40}}},
        {"autoencoders": {"sd": {"architecture": "tiny"}}},
        {"autoencoders": {"other": {"name": "identity"}}},
        {"extractors": {"latent": {"keep_patches": 1}}},
        {"metrics": ["mae"]},
        {"precision": "float32"},
    ],
)
def test_what_changes_a_number_changes_the_identity(changes):
    assert run(**changes).digest() != run().digest()


@settings(max_examples=20, deadline=None)
@given(st.permutations(sorted(MINIMAL)), st.integers(0, 10))
def test_the_digest_does_not_depend_on_the_order_of_keys_or_on_a_round_trip(order, seed):
    config = parse_run({**{key: MINIMAL[key] for key in order}, "seed": seed})
    assert config.digest() == run(seed=seed).digest()
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert again.digest() == config.digest()


# Numbers and bytes that a run cannot be made of


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("encode", {"micro_batch": 0}),
        ("encode", {"micro_batch": -4}),
        ("encode", {"actors": 0}),
        ("encode", {"actors": [3, 1]}),
        ("encode", {"gpus": -1}),
        ("encode", {"cpus": -1}),
        ("load", {"actors": -2}),
        ("load", {"cpus": -1}),
        ("write", {"rows_per_file": 0}),
        ("image", {"stains": [], "packing": []}),
        ("image", {"scaling": {"divisor": float("inf")}}),
        ("score", {"recall_at": [0]}),
    ],
)
def test_a_number_that_no_run_can_use_is_refused(section, values):
    assert f"{section}" in refusal(**{section: values})


def test_a_file_that_is_no_text_is_refused_with_its_name(tmp_path):
    path = tmp_path / "run.parquet"
    path.write_bytes(b"PAR1\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match=r"run\.parquet"):
        load_run(path)


# Packings, codecs, metrics


def test_packings_have_names_or_are_lists():
    named, listed = (
        run(image={"packing": "published"}),
        run(image={"packing": [["Mito", "AGP", "RNA"], ["RNA", "ER", "DNA"]]}),
    )
    assert named.image.triples == listed.image.triples
    assert named.digest() == listed.digest()  # the same numbers come of both
    assert named.image.passes == ["Mito+AGP+RNA", "RNA+ER+DNA"]
    grey = run(image={"packing": "grey"}).image
    assert grey.triples == tuple((stain,) * 3 for stain in grey.stains)
    assert grey.passes == list(grey.stains)
    assert "'published' or 'grey'" in refusal(image={"packing": "gray"})


def test_parts_are_named_by_their_number():
    config = run()
    assert config.parts(5) == list(config.image.stains)
    assert config.parts(2) == config.image.passes
    assert config.parts(1) == ["all"]
    assert config.parts(3) == ["0", "1", "2"]
    photograph = run(image={"stains": ["R", "G", "B"], "packing": [["R", "G", "B"]]})
    assert photograph.parts(1) == ["all"]
    assert photograph.parts(3) == ["R", "G", "B"]


def test_an_autoencoder_may_have_a_packing_of_its_own():
    config = run(
        autoencoders={"sd": {"name": "diffusers_kl", "packing": [["Mito", "ER", "DNA"], ["DNA", "AGP", "RNA"]]}}
    )
    assert config.triples("sd") == (("Mito", "ER", "DNA"), ("DNA", "AGP", "RNA"))
    assert config.triples("jpeg") == config.image.triples  # a codec sees stains
    assert config.parts(2, latent_of="sd") == ["Mito+ER+DNA", "DNA+AGP+RNA"]
    assert config.parts(2) == ["Mito+AGP+RNA", "RNA+ER+DNA"]


@pytest.mark.parametrize(
    ("packing", "why"),
    [
        ([["Mito", "AGP", "RNA"]], "autoencoders.sd: packing leaves out ER, DNA: every stain must be in a triple"),
        (
            [["Mito", "AGP", "RMA"]],
            "autoencoders.sd: packing names a stain that is not in stains: 'RMA'; did you mean 'RNA'?",
        ),
        ("gray", "'published' or 'grey'"),
    ],
)
def test_a_packing_that_cannot_be_is_refused_with_the_name_of_its_autoencoder(packing, why):
    text = refusal(autoencoders={"sd": {"name": "diffusers_kl", "packing": packing}})
    assert why in text
    assert len(text.splitlines()) == 1


def test_only_a_packing_that_changes_numbers_changes_the_identity_of_a_run():
    def digest(**settings: Any) -> str:
        return run(autoencoders={"sd": {"name": "diffusers_kl", **settings}}).digest()

    assert "packing" not in run().identity()["autoencoders"]["sd"]  # the digest of runs from before the key
    assert digest() == digest(packing=None) == digest(packing="published") == digest(unpack="first")
    assert len({digest(), digest(packing="grey"), digest(unpack="last")}) == 3


def test_metrics_are_names_or_carry_settings():
    config = run(metrics=["mae", {"lpips": {"source": "weights", "weights_seed": 1}}])
    assert list(config.metrics) == ["mae", "lpips"]
    lpips = config.metrics["lpips"]
    assert (lpips.name, lpips.source, lpips.options) == ("lpips", "weights", {"weights_seed": 1})
    assert parse_run(config.model_dump(mode="json")) == config
    assert "mae is there twice" in refusal(metrics=["mae", "mae"])
    assert run(metrics=[{"lpips": {"random": True}}]).random_weights == ["lpips"]


def test_a_codec_is_a_side_of_its_own_name():
    config = run(codecs={"small": {"name": "jpeg", "quality": 10}})
    assert config.sides == ["sd", "small"]
    assert config.codecs["small"].options == {"quality": 10}
    assert config.digest() != run().digest()
    assert "sd is both an autoencoder and a codec" in refusal(codecs={"sd": {"name": "jpeg"}})
    assert "nothing may be called 'image'" in refusal(codecs={"image": {"name": "jpeg"}})
    alone = parse_run({**{k: v for k, v in MINIMAL.items() if k != "autoencoders"}, "codecs": {"j": {"name": "jpeg"}}})
    assert alone.sides == ["j"]


# Run files that are shipped


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "jobs/configs").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_run_file_can_be_run(path):
    config = load_run(path)
    check_names(config)
    resolve_steps(config.score.normalise if isinstance(config.score.normalise, str) else list(config.score.normalise))


def test_the_run_file_of_the_docs_is_one_with_every_key():
    """As a user copies it: `null:` is a key there, and nothing to YAML."""
    text = (ROOT / "docs/run-file.md").read_text()
    (block,) = [each for each in re.findall(r"```yaml\n(.*?)```", text, re.S) if "manifest: s3://" in each]
    config = parse_run(_with_null_keys(yaml.safe_load(block)))
    assert config.score.null == "exchange"
    check_names(config)
    written = {key for key, value in yaml.safe_load(block).items()}
    assert written == {*RunConfig.model_fields, LADDER}  # every key is documented


def test_the_published_run_file_follows_the_published_protocol():
    config = load_run(ROOT / "jobs/configs/cpjump1-published.yaml")
    image, score = config.image, config.score
    assert (image.crop, image.patch, image.patches, image.transpose) == (1024, 256, 16, True)
    assert (image.scaling.method, image.scaling.divisor, image.scaling.bits) == ("divide", 256, 8)
    assert image.triples == (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))
    (side,) = config.autoencoders.values()
    assert (side.source, side.subfolder, side.latent) == ("CompVis/stable-diffusion-v1-4", "vae", "sample")
    assert config.precision == "float16"
    assert all(extractor.half_mean for extractor in config.extractors.values())
    assert config.extractors["openphenom"].options == {"remote_code": True, "published_range": True}
    assert (score.aggregate, score.normalise, score.fit) == ("mean", "published_float16", "controls")
    assert (score.negatives, score.null, score.ties) == ("group", "copairs", "copairs")
    assert (score.null_size, score.strict, score.threshold) == (1_000_000, True, 0.05)
    assert score.group == ("Metadata_Cell_type", "Metadata_Time")
    assert score.half_mean


def test_the_contrast_set_is_sampled_and_in_float32_as_published():
    config = load_run(ROOT / "jobs/configs/photographs.yaml")
    assert (config.autoencoders["sd14"].latent, config.precision) == ("sample", "float32")


def test_two_splits_of_the_controls_are_refused_for_they_leave_no_control_out_of_every_fit():
    assert parse_run(MINIMAL).score.splits == 4
    with pytest.raises(ConfigError, match="1, or 3 and more"):
        parse_run({**MINIMAL, "score": {"splits": 2}})


def test_the_corrected_run_file_mends_what_the_published_one_has():
    published, config = (load_run(ROOT / f"jobs/configs/cpjump1-{name}.yaml") for name in ("published", "corrected"))
    assert config.image == published.image.model_copy(update={"transpose": False})
    assert config.autoencoders["sd14"].latent == "mean"
    assert not any(extractor.half_mean for extractor in config.extractors.values())
    assert "published_range" not in config.extractors["openphenom"].options
    assert (config.score.fit, config.score.negatives, config.score.null) == ("cross", "plate", "exchange")
    assert config.manifest == published.manifest
    assert config.output != published.output


def test_a_run_may_have_no_extractors_and_no_metrics():
    alone = parse_run({**{key: value for key, value in MINIMAL.items() if key != "extractors"}, "metrics": []})
    assert (alone.extractors, alone.metrics) == ({}, {})


def test_codecs_of_another_unit_are_another_run():
    config = run(codecs={"j": {"name": "jpeg"}})
    manifest = {"uri": "m", "fovs": 1, "sha256": "0"}
    record = new_record(config, manifest, {}, 1, "float32")
    assert check_same_run(record, config, manifest) == []
    del record["codec_unit"]  # as before codecs wrote a stain of a field as one file
    with pytest.raises(
        ConfigError, match="codecs that wrote one file per patch, and they write one per stain of a field now"
    ):
        check_same_run(record, config, manifest)
    without = run()
    record = {
        key: value for key, value in new_record(without, manifest, {}, 1, "float32").items() if key != "codec_unit"
    }
    assert check_same_run(record, without, manifest) == []


@pytest.mark.parametrize(("before", "now"), [("grey", None), (None, "grey")])
def test_a_run_is_not_resumed_with_another_packing(before, now):
    def packed(packing: str | None) -> RunConfig:
        return run(autoencoders={"sd": {"name": "diffusers_kl", "packing": packing}})

    manifest = {"uri": "m", "fovs": 1, "sha256": "0"}
    record = new_record(packed(before), manifest, {}, 1, "float32")
    assert check_same_run(record, packed(before), manifest) == []
    with pytest.raises(ConfigError, match="holds a run with autoencoders.sd.packing"):
        check_same_run(record, packed(now), manifest)


@pytest.mark.parametrize("key", ["output", "manifest", "storage.endpoint_url", "autoencoders.sd.source"])
@pytest.mark.parametrize(
    "url", ["http://me:SECRET@host:9000", "s3://SECRET@bucket/run", "https://a%40b:SECRET@host/x?y=z"]
)
def test_a_url_with_credentials_is_refused_and_not_repeated(tmp_path, key, url):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    with pytest.raises(ConfigError, match="a user name or a password is refused") as caught:
        load_run(file, [f"{key}={url}"])
    assert key in str(caught.value)
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ConfigError, match="is refused"):
        parse_storage({"endpoint_url": url})


def test_a_path_with_an_at_sign_is_no_credential(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(MINIMAL))
    for output in ("/data/me@home:1/run", "s3://bucket/me@home/run", "runs/a:b@c"):
        assert load_run(file, [f"output={output}"]).output == output


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "\n".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
        "[" * 5000 + "]" * 5000,
        "a: " + "{b: " * 3000 + "1" + "}" * 3000,
    ],
)
def test_a_run_file_that_grows_without_end_is_refused_at_once(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text)
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_run(file)
    assert time.monotonic() - start < 20
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
