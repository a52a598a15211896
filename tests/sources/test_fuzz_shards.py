"""Fuzz over the members of WebDataset shards: a photograph has the label that its name says, or the shard is refused in a line."""

import io
import posixpath
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdvae_ray.errors import DataError
from sdvae_ray.sources.photograph_readers import Place, read_photographs
from sdvae_ray.storage import Storage

names = st.builds(
    lambda folder, stem, suffix: f"{folder}{stem}{suffix}",
    st.sampled_from(("", "", "d/", "./d/", "v1.0/")),
    st.sampled_from(("1", "2", "1.a", "1.b", "2021.05", "x y", "ü", "a#b", "")),
    st.sampled_from((".jpg", ".png", ".cls", ".json", ".txt", ".JPG", "")),
)
shards = st.fixed_dictionaries(
    {
        "members": st.lists(names, max_size=8),
        "order": st.sampled_from(("as drawn", "sorted", "sorted")),
        "cut": st.sampled_from((None, None, None, 700, 1500)),
    }
)


def written(shard: dict, folder: Path) -> Path:
    names = sorted(set(shard["members"])) if shard["order"] == "sorted" else shard["members"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            data = f'{{"label": "of {name}"}}'.encode() if name.endswith(".json") else f"of {name}".encode()
            info = tarfile.TarInfo(name or "empty")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    path = folder / "a.tar"
    path.write_bytes(buffer.getvalue()[: shard["cut"]])
    return path


def allowed_labels(name: str) -> set[str | None]:
    """The labels that an image may have: of a member with its own name, or of its whole sample."""
    folder, file = posixpath.split(posixpath.normpath(name))
    stems = {posixpath.join(folder, stem) for stem in (posixpath.splitext(file)[0], file.split(".")[0])}
    spelled = {spelling for stem in stems for spelling in (stem, f"./{stem}")}
    return {None} | {f"of {stem}{suffix}" for stem in spelled for suffix in (".cls", ".json")}


def survey(count: int, folder: Path) -> dict[str, int]:
    read, refusals = 0, []

    @settings(max_examples=count, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(shards)
    def check(shard: dict) -> None:
        nonlocal read
        path = written(shard, folder)
        try:
            photographs = list(read_photographs([Place(str(path))], Storage(), {}))
        except DataError as error:
            refusals.append(str(error))
            return
        for photograph in photographs:
            name = photograph.uri.partition("a.tar#")[2]
            assert photograph.data == f"of {name}".encode()
            assert photograph.label in allowed_labels(name)
        assert len({photograph.uri for photograph in photographs}) == len(photographs)
        read += 1

    run = check
    run()  # type: ignore[call-arg]
    assert not [line for line in refusals if "\n" in line or "a.tar" not in line]
    return {"read": read, "refused": len(refusals)}


@pytest.mark.parametrize("count", [80, pytest.param(5000, marks=pytest.mark.slow)])
def test_container_kind_whatever_members_a_shard_has_labels_are_right_or_it_is_refused(tmp_path, count):
    outcomes = survey(count, tmp_path)
    assert min(outcomes.values()) > count / 20
