"""Weights: every kind of source becomes a local path and the hash of each file, or one line on what is wanted."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdvae_ray import weights
from sdvae_ray.autoencoders import diffusers_kl
from sdvae_ray.config import AutoencoderConfig, ExtractorConfig, RunConfig, ShelfConfig
from sdvae_ray.engine.models import check_names, check_same_weights, load_models, resolve_weights
from sdvae_ray.errors import ConfigError, WeightsError
from sdvae_ray.extractors import inception_v3
from sdvae_ray.storage import Storage
from sdvae_ray.weights import Weights

SAFETENSORS = "diffusion_pytorch_model.safetensors"


def model(**options: Any) -> ShelfConfig:
    return AutoencoderConfig(name="diffusers_kl", **options)


def resolve(storage: Storage | None = None, default: str | None = None, **options: Any) -> Weights:
    return weights.resolve(model(**options), default, storage or Storage())


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(WeightsError) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def hashes(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="session")
def original() -> torch.nn.Module:
    return diffusers_kl.load(None, architecture="tiny", weights_seed=3).model


@pytest.fixture
def folder(original, tmp_path) -> Path:
    """A model as save_pretrained writes it, in the subfolder `vae`."""
    original.save_pretrained(tmp_path / "sd" / "vae")
    return tmp_path / "sd"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SDVAE_RAY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_same_model(path: str | None, original: torch.nn.Module) -> None:
    assert path is not None
    loaded, expected = diffusers_kl.load(Path(path)).model.state_dict(), original.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


# Sources


def test_a_local_folder_is_its_own_path_with_the_hash_of_every_file(folder, original):
    found = resolve(source=str(folder / "vae"))
    assert found.path == str(folder / "vae")
    assert found.files == hashes(folder / "vae")
    assert set(found.files) == {"config.json", SAFETENSORS}
    assert_same_model(found.path, original)


def test_a_subfolder_is_where_the_model_is_looked_for(folder, original):
    found = resolve(source=str(folder), subfolder="vae")
    assert found.files == hashes(folder / "vae")
    assert_same_model(found.path, original)
    message = refusal(lambda: resolve(source=str(folder), subfolder="unet"))
    assert str(folder) in message
    assert "unet" in message


def test_a_path_may_be_relative_or_of_the_home_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for source in ("sd", "./sd", "~/sd", "sd/vae"):
        subfolder = None if source.endswith("vae") else "vae"
        assert resolve(source=source, subfolder=subfolder).path == str(folder / "vae")


def test_a_single_file_is_a_source(tmp_path):
    file = tmp_path / "inception.pth"
    file.write_bytes(b"weights")
    found = resolve(source=str(file))
    assert found.path == str(file)
    assert found.files == {"inception.pth": hashlib.sha256(b"weights").hexdigest()}


def test_files_that_are_no_weights_are_not_hashed(folder):
    (folder / "vae" / "README.md").write_text("words")
    assert set(resolve(source=str(folder / "vae")).files) == {"config.json", SAFETENSORS}


def test_an_s3_prefix_is_copied_and_loads_as_the_folder_does(s3, folder, original, cache):
    for name in ("config.json", SAFETENSORS):
        s3.storage.write_bytes(f"{s3.prefix}/my models/sd/vae/{name}", (folder / "vae" / name).read_bytes())
    s3.storage.write_bytes(f"{s3.prefix}/my models/sd/README.md", b"words")
    found = resolve(s3.storage, source=f"{s3.prefix}/my models/sd", subfolder="vae")
    assert found.files == hashes(folder / "vae")
    assert Path(str(found.path)).is_relative_to(cache)
    assert_same_model(found.path, original)
    assert not [path for path in cache.rglob("*") if path.name == "README.md"]
    assert resolve(s3.storage, source=f"{s3.prefix}/my models/sd/vae/").files == found.files


def test_new_bytes_under_an_s3_prefix_are_seen(s3):
    uri = f"{s3.prefix}/model/weights.safetensors"
    s3.storage.write_bytes(uri, b"one")
    before = resolve(s3.storage, source=f"{s3.prefix}/model")
    s3.storage.write_bytes(uri, b"two")
    after = resolve(s3.storage, source=f"{s3.prefix}/model")
    assert before.files != after.files
    assert Path(str(after.path), "weights.safetensors").read_bytes() == b"two"


def test_a_prefix_without_objects_is_refused(s3):
    message = refusal(lambda: resolve(s3.storage, source=f"{s3.prefix}/nothing"))
    assert f"{s3.prefix}/nothing" in message
    assert "no object" in message


def test_what_the_package_ships_is_a_source():
    found = weights.resolve(AutoencoderConfig(name="patch_pca"), "asset:patch_pca", Storage())
    assert found.source == "asset:patch_pca"
    assert found.files
    assert all(Path(str(found.path), name).is_file() for name in found.files)
    message = refusal(lambda: resolve(source="asset:demmo"))
    assert "demmo" in message
    assert "patch_pca" in message


def test_a_source_of_the_run_comes_before_the_models_own(folder):
    assert resolve(default="asset:patch_pca", source=str(folder / "vae")).path == str(folder / "vae")
    assert resolve(default=str(folder / "vae")).path == str(folder / "vae")


def test_a_model_without_weights_has_no_files():
    assert weights.resolve(AutoencoderConfig(name="identity"), None, Storage()) == Weights(None, None, None, {})


def test_random_weights_have_no_source_and_say_so(folder):
    found = resolve(source=str(folder), random=True)
    assert found.random
    assert (found.source, found.path, found.files) == (None, None, {})
    assert found.record()["random"] is True


def test_the_record_has_all_but_the_local_path(folder):
    record = resolve(source=str(folder), subfolder="vae", revision="abc").record()
    assert json.loads(json.dumps(record)) == record
    assert "path" not in record
    assert record["source"] == str(folder)
    assert record["revision"] == "abc"
    assert record["files"] == hashes(folder / "vae")


@pytest.mark.parametrize("source", ["/no/such/folder", "./weights", "~/weights", "a/b/c", "weights.safetensors"])
def test_a_path_that_is_not_there_is_answered_with_what_is_allowed(source):
    message = refusal(lambda: resolve(source=source))
    assert source in message
    for allowed in ("folder", "file", "s3://", "hub"):
        assert allowed in message


def test_a_hub_that_cannot_be_reached_is_told_with_the_files_and_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    message = refusal(lambda: resolve(source="CompVis/stable-diffusion-v1-4", subfolder="vae", revision="a" * 40))
    for wanted in ("CompVis/stable-diffusion-v1-4", "vae/config.json", "folder", "s3://"):
        assert wanted in message


def test_a_snapshot_in_the_hubs_cache_serves_without_the_hub(tmp_path, monkeypatch, folder, original):
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "hub" / "models--someone--sd" / "snapshots" / revision
    snapshot.parent.mkdir(parents=True)
    folder.rename(snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = resolve(source="someone/sd", subfolder="vae", revision=revision)
    assert found.revision == revision
    assert set(found.files) == {"config.json", SAFETENSORS}
    assert_same_model(found.path, original)


def test_torchvisions_file_is_named_where_it_cannot_be_fetched(monkeypatch):
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise OSError("<urlopen error [Errno -3] Temporary failure in name resolution>")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", no_network)
    inception = ExtractorConfig(name="inception_v3")
    message = refusal(lambda: weights.resolve(inception, inception_v3.SOURCE, Storage()))
    assert "inception_v3_google-0cc3c7bd.pth" in message
    assert "source" in message


# Loading


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A state dict as torchvision publishes it: with the classifier and the auxiliary one."""
    from torchvision.models import inception_v3 as build

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return build(weights=None, transform_input=False, init_weights=False).state_dict()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_inception_loads_from_either_format_and_gives_the_weights_it_was_given(tmp_path, state, suffix, as_folder):
    from safetensors.torch import save_file

    file = tmp_path / "weights" / f"inception_v3{suffix}"
    file.parent.mkdir()
    torch.save(state, file) if suffix == ".pth" else save_file(state, file)
    found = weights.resolve(
        ExtractorConfig(name="inception_v3", source=str(file.parent if as_folder else file)), None, Storage()
    )
    assert list(found.files) == [file.name]
    loaded = inception_v3.load(Path(str(found.path))).model.state_dict()
    assert len(loaded) > 500
    for name, value in loaded.items():
        assert torch.equal(value, state[name])


def test_bytes_that_are_no_pickle_of_tensors_are_not_run(tmp_path):
    """A checkpoint that would run code on loading does not."""

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "was run"),))

    torch.save({"Conv2d_1a_3x3.conv.weight": Payload()}, tmp_path / "evil.pth")
    with contextlib.suppress(Exception):  # whatever the refusal is called, the payload must not run
        inception_v3.load(tmp_path / "evil.pth")
    assert not (tmp_path / "was run").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "missing", "another shape"])
def test_a_damaged_autoencoder_is_named_in_one_line(folder, damage):
    from safetensors.torch import load_file, save_file

    file = folder / "vae" / SAFETENSORS
    data = file.read_bytes()
    if damage == "another shape":
        tensors = load_file(file)
        save_file({**tensors, "encoder.conv_in.weight": torch.zeros(3, 3)}, file)
    else:
        file.write_bytes({"truncated": data[: len(data) // 2], "noise": os.urandom(2000)}.get(damage, b""))
    if damage == "missing":
        file.unlink()
    message = refusal(lambda: diffusers_kl.load(folder / "vae"))
    assert str(folder / "vae") in message


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_an_autoencoder_without_a_config_is_named_in_one_line(folder, content):
    config = folder / "vae" / "config.json"
    config.unlink() if content is None else config.write_text(content)
    assert str(folder / "vae") in refusal(lambda: diffusers_kl.load(folder / "vae"))


def test_a_folder_without_a_state_dict_is_named_in_one_line(tmp_path):
    assert str(tmp_path) in refusal(lambda: inception_v3.load(tmp_path))


# The run's models


def test_a_model_that_needs_weights_says_so_where_the_run_names_none(small_run_config):
    config = small_run_config(autoencoders={"sd": {"name": "diffusers_kl"}})
    message = refusal(lambda: load_models(config, resolve_weights(config, Storage()), torch.device("cpu")))
    for wanted in ("autoencoders.sd", "source", "random: true"):
        assert wanted in message


def test_other_bytes_than_the_run_was_started_with_are_refused(small_run_config: Callable[..., RunConfig], folder):
    config = small_run_config(autoencoders={"sd": {"name": "diffusers_kl", "source": str(folder), "subfolder": "vae"}})
    resolved = resolve_weights(config, Storage())
    recorded = {name: json.loads(json.dumps(found.record())) for name, found in resolved.items()}
    check_same_weights(resolve_weights(config, Storage()), recorded)
    (folder / "vae" / SAFETENSORS).write_bytes(b"others")
    message = refusal(lambda: check_same_weights(resolve_weights(config, Storage()), recorded))
    assert "autoencoders.sd" in message


def test_names_options_and_random_are_checked_before_anything_is_loaded(small_run_config):
    check_names(small_run_config())
    for changes, words in (
        ({"autoencoders": {"x": {"name": "identiti"}}}, "did you mean 'identity'"),
        ({"autoencoders": {"x": {"name": "identity", "random": True}}}, "autoencoders.x"),
        ({"extractors": {"x": {"name": "latent", "size": 3}}}, "'size'"),
        ({"metrics": ["mae", "ssmi"]}, "did you mean 'ssim'"),
    ):
        with pytest.raises(ConfigError, match=words):
            check_names(small_run_config(**changes))


# What must not be taken for a model


@pytest.mark.parametrize("lost", ["decoder.", "encoder.mid_block.resnets.0.conv1.bias"])
def test_an_autoencoder_of_which_weights_are_missing_is_refused_and_not_filled_at_random(folder, lost):
    from safetensors.torch import load_file, save_file

    file = folder / "vae" / SAFETENSORS
    save_file({name: value for name, value in load_file(file).items() if not name.startswith(lost)}, file)
    assert str(folder / "vae") in refusal(lambda: diffusers_kl.load(folder / "vae"))


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "html"])
def test_a_damaged_inception_is_named_in_one_line(tmp_path, state, suffix, damage):
    from safetensors.torch import save_file

    file = tmp_path / f"damaged{suffix}"
    if damage == "truncated":
        torch.save(state, file) if suffix == ".pth" else save_file(state, file)
        os.truncate(file, file.stat().st_size // 2)
    else:
        noise, page = np.random.default_rng(0).bytes(500), b"<!DOCTYPE html><html>Not found</html>"
        file.write_bytes({"empty": b"", "noise": noise, "html": page}[damage])
    assert f"damaged{suffix}" in refusal(lambda: inception_v3.load(file))


@pytest.mark.parametrize("content", [{"some.weight": torch.zeros(2)}, [1, 2]], ids=["another network", "a list"])
def test_a_state_dict_of_another_network_is_named_in_one_line(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    assert "other.pth" in refusal(lambda: inception_v3.load(tmp_path / "other.pth"))


@pytest.mark.parametrize("source", ["my models/vae", "weights/", "a/..", "-x/y"])
def test_a_name_that_can_be_no_hub_id_is_answered_with_what_is_allowed(source):
    assert source in refusal(lambda: resolve(source=source))


@pytest.mark.parametrize("source", ["torchvision:Inception_V3_Weights.IMAGENET", "torchvision:nothing"])
def test_torchvision_weights_that_do_not_exist_are_named_in_one_line(source):
    assert source.partition(":")[2] in refusal(lambda: resolve(source=source))


def test_a_file_that_is_gone_from_an_s3_prefix_is_gone_from_the_copy(s3):
    for name in ("weights.safetensors", "older.safetensors"):
        s3.storage.write_bytes(f"{s3.prefix}/model/{name}", name.encode())
    resolve(s3.storage, source=f"{s3.prefix}/model")
    s3.storage.delete(f"{s3.prefix}/model/older.safetensors")
    assert list(resolve(s3.storage, source=f"{s3.prefix}/model").files) == ["weights.safetensors"]


# Which files are a model's

SHIPPED = {
    "config.json": b"{}",
    "model.safetensors": b"safe",
    "pytorch_model.bin": b"torch",
    "model.fp16.pt": b"torch too",
    "modeling.py": b"raise SystemExit('this code must not run')",
    "README.md": b"words",
    "older/weights.pth": b"another folder has no safetensors file",
}
SAFE = {"config.json", "model.safetensors", "older/weights.pth"}


def place(folder: Path, names: Any = SHIPPED) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(SHIPPED[name])
    return folder


@pytest.mark.parametrize(
    ("options", "code"), [({}, set()), ({"remote_code": False}, set()), ({"remote_code": True}, {"modeling.py"})]
)
def test_a_folders_files_are_safetensors_before_torch_and_code_only_where_asked(tmp_path, options, code):
    assert set(resolve(source=str(place(tmp_path / "model")), **options).files) == SAFE | code


@pytest.mark.parametrize(("options", "code"), [({}, set()), ({"remote_code": True}, {"modeling.py"})])
def test_only_those_files_are_copied_from_s3(s3, options, code):
    for name, data in SHIPPED.items():
        s3.storage.write_bytes(f"{s3.prefix}/model/{name}", data)
    found = resolve(s3.storage, source=f"{s3.prefix}/model", **options)
    assert set(found.files) == SAFE | code
    assert set(hashes(Path(str(found.path)))) == SAFE | code


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Callable[..., list[list[str]]]:
    """hub(names) -> a list that fills with the patterns of every request; the hub has the model `someone/model` of those files."""
    from fnmatch import fnmatch

    def serve(*names: str) -> list[list[str]]:
        requests: list[list[str]] = []
        snapshot = tmp_path / "snapshots" / ("a" * 40)
        snapshot.mkdir(parents=True)

        def snapshot_download(repo: str, revision: str | None = None, allow_patterns: Any = None) -> str:
            assert repo == "someone/model"
            requests.append(allow_patterns)
            place(snapshot, [name for name in names if any(fnmatch(name, pattern) for pattern in allow_patterns)])
            return str(snapshot)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        return requests

    return serve


@pytest.mark.parametrize(("options", "code"), [({}, set()), ({"remote_code": True}, {"modeling.py"})])
def test_torchs_duplicates_are_not_fetched_from_the_hub(hub, options, code):
    requests = hub("config.json", "model.safetensors", "pytorch_model.bin", "modeling.py", "README.md")
    found = resolve(source="someone/model", **options)
    assert set(hashes(Path(str(found.path)))) == {"config.json", "model.safetensors"} | code
    assert set(found.files) == {"config.json", "model.safetensors"} | code
    assert len(requests) == 1


def test_torchs_format_is_fetched_from_the_hub_where_there_is_no_other(hub):
    hub("config.json", "pytorch_model.bin", "modeling.py")
    found = resolve(source="someone/model")
    assert set(hashes(Path(str(found.path)))) == {"config.json", "pytorch_model.bin"}
    assert found.revision == "a" * 40


def test_a_cached_snapshot_of_some_files_still_serves_without_the_hub(tmp_path, monkeypatch):
    """The hub's cache knows that the repository has more; what we left out on purpose must not be missed."""
    snapshot, tree = cached_snapshot(tmp_path, monkeypatch)
    place(snapshot, ["config.json", "model.safetensors"])
    write_tree(tree, ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"])
    found = resolve(source="someone/model", revision=snapshot.name)
    assert set(found.files) == {"config.json", "model.safetensors"}


def cached_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """(the snapshot's folder, the hub's own note of what the repository has), in an empty cache; no network."""
    root = tmp_path / "hub" / "models--someone--model"
    revision = "0123456789abcdef0123456789abcdef01234567"
    (root / "snapshots" / revision).mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return root / "snapshots" / revision, root / "trees" / f"{revision}.json"


def write_tree(file: Path, names: list[str]) -> None:
    tree_cache = pytest.importorskip("huggingface_hub._tree_cache")
    entry = {"size": 1, "blob_id": "b", "lfs_sha256": None, "lfs_size": None, "xet_hash": None}
    entries = {name: tree_cache.TreeCacheEntry(**entry) for name in names}
    tree_cache.write_tree_cache(str(file.parent.parent), file.stem, entries)
    assert file.exists()


# What is on this machine already


def test_a_hub_id_is_at_hand_where_its_snapshot_has_tensors(tmp_path, monkeypatch):
    assert not weights.at_hand("someone/model", None)
    snapshot, _ = cached_snapshot(tmp_path, monkeypatch)
    assert not weights.at_hand("someone/model", None)
    place(snapshot, ["config.json"])
    assert not weights.at_hand("someone/model", None)
    place(snapshot, ["older/weights.pth"])
    assert not weights.at_hand("someone/model", None)
    assert weights.at_hand("someone/model", "older")
    place(snapshot, ["model.safetensors"])
    assert weights.at_hand("someone/model", None)
    assert weights.at_hand("someone/model", None, revision=snapshot.name)
    assert not weights.at_hand("someone/model", None, revision="f" * 40)
    assert not weights.at_hand("someone/other", None)


def test_a_snapshot_of_some_files_is_at_hand(tmp_path, monkeypatch):
    snapshot, tree = cached_snapshot(tmp_path, monkeypatch)
    place(snapshot, ["config.json", "model.safetensors"])
    write_tree(tree, ["config.json", "model.safetensors", "pytorch_model.bin", "README.md"])
    assert weights.at_hand("someone/model", None)


def test_a_path_or_an_asset_is_at_hand_where_it_exists(folder, tmp_path):
    assert weights.at_hand(str(folder), "vae")
    assert not weights.at_hand(str(folder), "unet")
    assert weights.at_hand("asset:patch_pca", None)
    assert not weights.at_hand("asset:patch_pcb", None)
    for source in (
        "/no/such/folder",
        "./weights",
        "a/b/c",
        "weights.safetensors",
        "s3://bucket/model",
        "my models/vae",
    ):
        assert not weights.at_hand(source, None)


def test_torchvisions_file_is_at_hand_where_torch_hub_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert not weights.at_hand(inception_v3.SOURCE, None)
    file = tmp_path / "hub" / "checkpoints" / "inception_v3_google-0cc3c7bd.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    assert weights.at_hand(inception_v3.SOURCE, None)
    assert not weights.at_hand("torchvision:Inception_V3_Weights.IMAGENET", None)


def test_nothing_at_hand_is_asked_of_a_network(monkeypatch):
    def no_network(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", no_network)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for source in ("someone/model", "s3://bucket/model", inception_v3.SOURCE, "asset:patch_pca"):
        weights.at_hand(source, None)


@pytest.mark.parametrize("name", ["../../x.safetensors", "a/../../x.json", "/etc/x.json", "a\\..\\x.json"])
def test_a_key_that_leads_out_of_the_prefix_is_not_copied(s3, cache, name, monkeypatch):
    marks = {"config.json": "1", name: "2"}
    monkeypatch.setattr(type(s3.storage), "versions", lambda self, uri: marks)
    with pytest.raises(WeightsError, match="leads out of the prefix"):
        weights.resolve(ShelfConfig(name="diffusers_kl", source=f"{s3.prefix}/w"), None, s3.storage)
    assert not list(cache.rglob("*"))
