"""Packing through Ray: a run of the shards is the run of the files; what is finished stays, and what is lost comes back."""

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from straight_line import BROKEN, FOVS, stored_values, write_manifest

from sdvae_ray.cli.main import main
from sdvae_ray.config import RunConfig, StorageConfig
from sdvae_ray.encoding.check import check
from sdvae_ray.encoding.encode import encode
from sdvae_ray.encoding.pending import READ
from sdvae_ray.encoding.start import checked_manifest
from sdvae_ray.encoding.stream import _pieces
from sdvae_ray.engine.files.load import IMAGE, Loader
from sdvae_ray.errors import ConfigError
from sdvae_ray.run.run import Run
from sdvae_ray.schema import (
    COLOUR,
    ERROR,
    FOV_ID,
    PACK_ERROR,
    PIXELS,
    SHARD,
    SHARD_BYTES,
    SHARD_CROP,
    SHARD_FOOTER,
    SHARD_ROW,
    SHARD_ROW_GROUP,
    SHARD_SHA256,
    checksum_column,
    pixels_column,
)
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.manifest import read_manifest
from sdvae_ray.sources.manifest.reader import read_row_group
from sdvae_ray.sources.manifest.row import as_batch
from sdvae_ray.sources.manifest.writer import cut
from sdvae_ray.sources.photographs import build_photographs, write_photographs
from sdvae_ray.storage import Storage

Pack = Callable[..., str]


@pytest.fixture
def pack(local_ray: None, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Pack:
    """pack(manifest, *options, code=0) -> the output of `sdvae-ray pack` into the folder `shards`, four FOVs to a shard."""

    def run(manifest: Path | str, *options: str, code: int = 0, output: str = str(tmp_path / "shards")) -> str:
        with pytest.raises(SystemExit) as ended:
            main(["pack", str(manifest), "--output", output, "--fovs", "4", *options])
        said = capsys.readouterr()
        assert ended.value.code == code, said.out + said.err
        return " ".join((said.out + said.err).split())

    return run


@pytest.fixture
def manifest(tmp_path: Path, write_fields: Callable[..., Any]) -> Path:
    """Ten FOVs, in row groups of four."""
    return write_manifest(tmp_path / "manifest.parquet", write_fields(10))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def elsewhere(manifest: Path) -> None:
    """Points the URIs of a manifest to files that do not exist, so that its pixels come from shards alone."""
    table = pl.read_parquet(manifest)
    uris = [name for name in table.columns if name.startswith("uri_")]
    gone = [("/gone" + pl.col(name)).alias(name) for name in uris]
    table.with_columns(gone).write_parquet(manifest, row_group_size=8)


def test_a_manifest_of_many_files_gives_one_of_many_files(pack, manifest, tmp_path):
    cut(str(manifest), str(tmp_path / "many"), Storage())
    said = pack(tmp_path / "many")
    assert f"-> {tmp_path}/shards/manifest" in said
    pack(manifest, output=str(tmp_path / "other"))
    many, one = (
        read_manifest(f"{tmp_path}/shards/manifest", Storage()),
        read_manifest(f"{tmp_path}/other/manifest.parquet", Storage()),
    )
    assert set(many[SHARD]) == {
        f"{tmp_path}/shards/{name}"
        for name in ("shards/000000.parquet", "shards/000001.parquet", "shards/000002.parquet")
    }
    of_the_file = (SHARD, SHARD_BYTES, SHARD_SHA256, SHARD_FOOTER)  # of the types of its texts too
    assert many.drop(of_the_file).equals(one.drop(of_the_file))


def test_a_run_of_shards_is_the_run_of_the_files(pack, encoded: RunConfig, tmp_path):
    said = pack(encoded.manifest)
    assert f"pack: {FOVS} FOVs, 3 shards" in said
    packed = tmp_path / "shards/manifest.parquet"
    elsewhere(packed)
    config = encoded.model_copy(update={"manifest": str(packed), "output": str(tmp_path / "again")})
    unscored = config.model_copy(update={"score": config.score.model_copy(update={"perturbation": None})})
    assert check(Run(unscored), Console(quiet=True)).fovs == FOVS
    done = encode(Run(config), Console(quiet=True))
    assert (done.fovs, done.computed, done.errors) == (FOVS, FOVS, 1)
    assert stored_values(config) == stored_values(encoded)
    fovs, originals = (Run(run).fovs().sort(FOV_ID) for run in (config, encoded))
    failed = fovs.filter(pl.col("error").is_not_null())
    assert failed[FOV_ID].to_list() == [originals[FOV_ID][BROKEN]]
    assert "truncated or corrupt" in failed["error"][0]
    metadata = [name for name in originals.columns if name.startswith("Metadata_")]
    assert fovs.select(FOV_ID, *metadata).equals(originals.select(FOV_ID, *metadata))


def test_the_manifest_of_shards_says_where_every_fov_lies(pack, manifest, tmp_path):
    pack(manifest)
    table = pl.read_parquet(tmp_path / "shards/manifest.parquet")
    columns = pl.read_parquet(manifest).columns
    assert table.select(columns).equals(pl.read_parquet(manifest))
    assert table[SHARD].to_list() == [f"shards/00000{number // 4}.parquet" for number in range(10)]
    assert table[PACK_ERROR].null_count() == 10
    for row in table.iter_rows(named=True):
        path = tmp_path / "shards" / row[SHARD]
        assert path.stat().st_size == row[SHARD_BYTES]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == row[SHARD_SHA256]
        shard = pl.read_parquet(path)
        packed = shard.row(row[SHARD_ROW] + 4 * row[SHARD_ROW_GROUP], named=True)
        assert packed[FOV_ID] == row[FOV_ID]
        for stain in ("Mito", "AGP", "RNA", "ER", "DNA"):
            assert zlib.crc32(packed[pixels_column(stain)]) == row[checksum_column(stain)]
        footer = int.from_bytes(path.read_bytes()[-8:-4], "little") + 8
        assert zlib.crc32(path.read_bytes()[-footer:]) == row[SHARD_FOOTER]
    assert pq.ParquetFile(tmp_path / "shards/manifest.parquet").metadata.num_row_groups == 1


def test_photographs_that_travel_in_their_manifest_travel_in_shards(pack, tmp_path):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for number in range(6):
            pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            (tmp_path / f"{number}.png").write_bytes(imagecodecs.png_encode(pixels))
            tar.add(tmp_path / f"{number}.png", f"{number}.png")
    photographs = build_photographs([str(tmp_path / "set.tar")], name="set", storage=Storage())
    manifest = tmp_path / "photographs.parquet"
    write_photographs(photographs, str(manifest), Storage())
    pack(manifest)
    (tmp_path / "set.tar").unlink()
    packed = tmp_path / "shards/manifest.parquet"
    assert PIXELS in pl.read_parquet_schema(manifest)
    assert PIXELS not in pl.read_parquet_schema(packed)
    stains = ("R", "G", "B")
    image = ImageConfig(stains=stains, packing=(stains,), crop=64, patch=64, scaling={"divisor": 1})
    from_shards, from_manifest = (
        Loader(image, StorageConfig())(as_batch(read_row_group(str(uri), 0, Storage()))) for uri in (packed, manifest)
    )
    assert from_manifest[ERROR].tolist() == [""] * 6
    for name in (FOV_ID, ERROR, IMAGE):
        np.testing.assert_array_equal(from_shards[name], from_manifest[name])


def test_lost_and_truncated_shards_are_packed_again_and_the_others_stay(pack, manifest, tmp_path):
    pack(manifest)
    folder = tmp_path / "shards"
    before = contents(folder)
    (folder / "shards/000000.parquet").unlink()
    truncated = folder / "shards/000001.parquet"
    truncated.write_bytes(truncated.read_bytes()[:-1])
    (folder / "manifest.parquet").unlink()
    kept = (folder / "shards/000002.parquet").stat().st_mtime_ns
    assert "1 of 3 shards were finished before" in pack(manifest)
    assert contents(folder) == before
    assert (folder / "shards/000002.parquet").stat().st_mtime_ns == kept

    (folder / "shards/000002.json").unlink()
    assert "2 of 3 shards were finished before" in pack(manifest)
    assert "3 of 3 shards were finished before" in pack(manifest)
    assert contents(folder) == before


def test_records_of_an_earlier_version_have_no_checksums_and_stay(pack, manifest, tmp_path):
    pack(manifest)
    for path in (tmp_path / "shards/shards").glob("*.json"):
        record = json.loads(path.read_bytes())
        del record["checksums"], record["footer"]
        path.write_text(json.dumps(record))
    (tmp_path / "shards/shards/000001.json").unlink()
    assert "2 of 3 shards were finished before" in pack(manifest)
    packed = tmp_path / "shards/manifest.parquet"
    table = pl.read_parquet(packed)
    for name in (SHARD_FOOTER, checksum_column("ER")):
        assert table[name].is_null().to_list() == [row not in range(4, 8) for row in range(10)]
    loaded = Loader(ImageConfig(crop=128, patch=64), StorageConfig())(
        as_batch(read_row_group(str(packed), 0, Storage()))
    )
    assert loaded[ERROR].tolist() == [""] * 10


def test_a_fov_without_a_file_is_a_row_with_the_reason(pack, manifest, tmp_path):
    uri = Path(pl.read_parquet(manifest)["uri_AGP"][5])
    uri.unlink()
    said = pack(manifest)
    assert f"1 FOVs have an error and no pixels; the first: no such object: {uri}".replace(" ", "") in said.replace(
        " ", ""
    )
    errors = pl.read_parquet(tmp_path / "shards/manifest.parquet")[PACK_ERROR].to_list()
    assert errors == [f"no such object: {uri}" if row == 5 else None for row in range(10)]


def test_a_fov_for_which_storage_fails_is_tried_again_by_the_same_command(pack, manifest, tmp_path):
    link = Path(pl.read_parquet(manifest)["uri_AGP"][5])
    data = link.read_bytes()
    link.unlink()
    link.mkdir()  # a folder cannot be read, and is no missing file
    assert "storage failed for 1 FOVs" in pack(manifest)
    packed = tmp_path / "shards/manifest.parquet"
    assert pl.read_parquet(packed)[PACK_ERROR].null_count() == 9
    link.rmdir()
    link.write_bytes(data)
    assert "2 of 3 shards were finished before" in pack(manifest)
    assert pl.read_parquet(packed)[PACK_ERROR].null_count() == 10


def test_a_manifest_of_which_nothing_can_be_read_ends_with_one_line(pack, manifest, tmp_path):
    elsewhere(manifest)
    said = pack(manifest, code=1)
    assert "not one of 10 FOVs can be packed, the first: no such object: /gone" in said
    assert not (tmp_path / "shards/manifest.parquet").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--crop", "128"), "begun without --crop"),
        (("--fovs", "8"), "begun with --fovs 4"),
        (("--format", "webdataset"), "begun with --format parquet"),
        (("--compression", "none"), "--compression is of cropped planes"),
    ],
)
def test_other_options_for_the_same_output_are_refused(pack, manifest, options, reason):
    pack(manifest)
    assert reason in pack(manifest, *options, code=2)


def test_another_manifest_and_a_manifest_of_shards_are_refused(pack, manifest, tmp_path):
    pack(manifest)
    packed = tmp_path / "shards/manifest.parquet"
    assert "is a manifest of shards already" in pack(packed, code=2, output=str(tmp_path / "twice"))
    pl.read_parquet(manifest).head(5).write_parquet(manifest)
    assert "begun with another manifest" in pack(manifest, code=2)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: pl.concat([t, t.head(1)]), "row 11: the FOV source_1/batch 1/P1/A01/1 is already in"),
        (
            lambda t: t.with_columns(pl.col("Metadata_Site").cast(pl.Int64)),
            "the column Metadata_Site is Int64, not text",
        ),
        (lambda t: t.with_columns(uri_ER=pl.lit(" ")), "row 1: no image of the stain 'ER'"),
        (lambda t: t.with_columns(uri_ER=pl.lit("https://x/y.tif")), "https"),
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused_before_anything_is_packed(pack, manifest, tmp_path, change, problem):
    change(pl.read_parquet(manifest)).write_parquet(manifest)
    assert problem in pack(manifest, code=2)
    assert not list((tmp_path / "shards").glob("[!_]*"))


def test_fields_that_share_an_image_are_said_and_packed(pack, manifest):
    table = pl.read_parquet(manifest)
    table.with_columns(uri_ER=pl.lit(table["uri_ER"][0])).write_parquet(manifest)
    assert "pack: note: 10 FOVs share their image of ER with another, such as source_1/batch 1/P1/A01/1" in pack(
        manifest
    )


def test_crops_that_do_not_fit_are_refused_before_anything_is_packed(pack, manifest, tmp_path):
    assert "--crop: crop 137 does not fit" in pack(manifest, "--crop", "137", code=2)
    pl.read_parquet(manifest).with_columns(pl.lit(True).alias(COLOUR)).write_parquet(manifest)
    assert "photographs are resized before a crop" in pack(manifest, "--crop", "64", code=2)
    assert not (tmp_path / "shards/shards").exists()


def test_a_cropped_manifest_says_what_was_saved_and_refuses_a_larger_crop(pack, manifest, small_run_config, tmp_path):
    said = pack(manifest, "--crop", "128")
    assert re.search(r"GB of images in place of \d+\.\d+ GB \(\d+\.\d % less\)", said)
    packed = tmp_path / "shards/manifest.parquet"
    assert pl.read_parquet(packed)[SHARD_CROP].to_list() == [128] * 10
    assert checked_manifest(Run(small_run_config(manifest=str(packed)))).height == 10
    for image, reason in (({"crop": 192}, "pack with --crop 192"), ({"resize": 256}, "pack without --crop")):
        with pytest.raises(ConfigError, match=reason):
            checked_manifest(Run(small_run_config(manifest=str(packed), image=image)))


def test_rows_of_one_read_stay_in_one_piece_of_work(pack, manifest, small_run_config, tmp_path):
    pack(manifest)
    packed = tmp_path / "shards/manifest.parquet"
    keys = checked_manifest(Run(small_run_config(manifest=str(packed)))).with_columns(
        files=pl.lit(None, pl.List(pl.String))
    )
    assert keys[READ].to_list() == [number // 4 for number in range(10)]
    left = keys.filter(pl.col("row") != 5)
    for loaders in (1, 8):
        pieces = [np.frombuffer(piece["rows"], np.int32).tolist() for piece in _pieces(left, loaders)]
        assert pieces == [[0, 1, 2, 3], [4, 6, 7], [8, 9]]
    unbound = [np.frombuffer(piece["rows"], np.int32).tolist() for piece in _pieces(left.drop(READ), 8)]
    assert unbound == [[row] for row in left["row"]]


def test_a_webdataset_has_a_member_for_every_file_and_row(pack, manifest, tmp_path):
    said = pack(manifest, "--format", "webdataset")
    assert f"-> {tmp_path}/shards/shards".replace(" ", "") in said.replace(" ", "")
    assert not (tmp_path / "shards/manifest.parquet").exists()
    table = pl.read_parquet(manifest)
    rows = {}
    for path in sorted((tmp_path / "shards/shards").glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {name: tar.extractfile(name).read() for name in tar.getnames()}
        for name in members:
            if name.endswith(".json"):
                row = json.loads(members[name])
                rows[int(name.removesuffix(".json"))] = row[FOV_ID]
                for stain, member in row["files"].items():
                    assert members[member] == Path(row[f"uri_{stain}"]).read_bytes()
    assert [rows[number] for number in range(10)] == table[FOV_ID].to_list()


def test_shards_go_to_a_bucket_and_are_checked_there(pack, manifest, s3):
    options = ("--anonymous", "--endpoint-url", s3.endpoint, "--region", "us-east-1")
    output = f"{s3.prefix}/some shards"
    pack(manifest, *options, output=output)
    s3.storage.delete(f"{output}/shards/000001.parquet")
    assert "2 of 3 shards were finished before" in pack(manifest, *options, output=output)
    table = read_manifest(f"{output}/manifest.parquet", s3.storage)
    for shard, size in table.select(SHARD, SHARD_BYTES).iter_rows():
        assert s3.storage.size(shard) == size
