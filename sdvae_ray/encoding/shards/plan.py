"""How a manifest is cut into shards: decided once, from the size of one field of view, and kept in `pack.json` of the output."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sdvae_ray.engine.files.pack import Compression, Packer
from sdvae_ray.errors import ConfigError, DataError, StorageError
from sdvae_ray.images.prepare import CropError
from sdvae_ray.schema import COLOUR, FOV_ID, SHARD
from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.sources.manifest.reader import iterate_row_groups, row_groups
from sdvae_ray.sources.manifest.row import located_stains
from sdvae_ray.sources.manifest.scan import scan_manifest
from sdvae_ray.storage import Storage, join

SHARDS = "shards"  # folder of the output
_SHARD_SIZE = 384 << 20  # bytes of a shard, wanted: between 0.25 and 0.5 GB
_PLAN = "pack.json"
_FOVS = (32, 64)  # of a shard, at least and at most
_ROW_GROUP_SIZE = 80 << 20  # bytes, at most for 16 FOVs; a reader holds three row groups
_TRIED = 8  # FOVs that are tried for the size of a FOV
_UNKNOWN_FOV_SIZE = 10 << 20  # bytes, where not one of them can be read

Format = Literal["parquet", "webdataset"]


@dataclass(frozen=True)
class PackOptions:
    """The options of `pack`.

    crop            pixels of the central square that is kept; None: files as they are
    compression     of the cropped planes; None: files as they are
    fovs_per_shard  None: 32 to 64, by the size of a FOV
    """

    crop: int | None = None
    compression: Compression | None = None
    format: Format = "parquet"
    fovs_per_shard: int | None = None


@dataclass(frozen=True)
class Plan:
    """The plan that turns the FOVs of a manifest into shards.

    manifest        its URI, its number of FOVs and its sha256
    stains          the stains of the manifest, in its order
    crop, compression, format  as in PackOptions
    fovs_per_shard, fovs_per_group  the last shard, and the last row group of a shard, may have fewer
    fov_bytes       about the bytes of one FOV as it is stored
    """

    manifest: dict[str, Any]
    stains: list[str]
    crop: int | None
    compression: Compression | None
    format: Format
    fovs_per_shard: int
    fovs_per_group: int
    fov_bytes: int

    def shard(self, number: int) -> str:
        """Return the name of a shard, relative to the output."""
        return f"{SHARDS}/{number:06d}.{'parquet' if self.format == 'parquet' else 'tar'}"

    def record(self, number: int) -> str:
        """Return the name of the record of a shard, relative to the output."""
        return f"{SHARDS}/{number:06d}.json"

    def packer(self, storage: Storage) -> Packer:
        """Return the packer of the manifest's FOVs."""
        return Packer(self.stains, storage, self.crop, self.compression)


def plan_shards(
    manifest: str, output: str, storage: Storage, options: PackOptions, say: Callable[[str], None] = lambda _: None
) -> Plan:
    """Return the plan of an output: the stored plan, or else a new one, which is stored.

    say: takes the notes on a new manifest. Raises DataError, with the row, for a manifest that breaks a rule of manifests,
    ConfigError for an option that does not fit it or an output that was begun with other options, and StorageError.
    """
    sizes, names = row_groups(manifest, storage)
    stains = located_stains(names)
    if not stains or FOV_ID not in names:
        raise DataError(f"{manifest} is not a manifest: `sdvae-ray manifest` makes one")
    if SHARD in names:
        raise DataError(f"{manifest} is a manifest of shards already; pack the manifest that it was made of")
    if options.crop is not None and COLOUR in names:
        raise ConfigError("--crop is for microscope images: photographs are resized before a crop")
    if options.crop is None and options.compression is not None:
        raise ConfigError("--compression is of cropped planes (--crop): whole files are stored as they are")
    if not sum(sizes):
        raise DataError(f"{manifest} has no rows")
    described = describe_manifest(manifest, sum(sizes), storage)
    compression = None if options.crop is None else options.compression or "zstd"
    chosen: dict[str, Any] = {"crop": options.crop, "compression": compression, "format": options.format}
    stored = _stored_plan(output, storage)
    if stored is not None:
        _check_same(stored, output, described, {**chosen, "fovs": options.fovs_per_shard or stored["fovs_per_shard"]})
        return Plan(**{**stored, "manifest": described})
    _, notes = scan_manifest(manifest, ImageConfig(stains=tuple(stains), packing="grey"), storage, check_uris=True)
    for note in notes:
        say(f"note: {note}")
    fov_size = _fov_size(manifest, Packer(stains, storage, options.crop, compression))
    group = 16 if 16 * fov_size <= _ROW_GROUP_SIZE else 8
    least, most = _FOVS
    fovs = options.fovs_per_shard or min(max(_SHARD_SIZE // max(fov_size, 1), least), most) // group * group
    plan = Plan(described, stains, **chosen, fovs_per_shard=fovs, fovs_per_group=min(group, fovs), fov_bytes=fov_size)
    storage.write_bytes(join(output, _PLAN), json.dumps(asdict(plan), indent=1).encode())
    return plan


def _stored_plan(output: str, storage: Storage) -> dict[str, Any] | None:
    try:
        stored: dict[str, Any] = json.loads(storage.read_bytes(join(output, _PLAN)))
    except FileNotFoundError:
        return None
    return stored


def _check_same(stored: dict[str, Any], output: str, manifest: dict[str, Any], options: dict[str, Any]) -> None:
    """Raise ConfigError if an output was begun with another manifest or other options."""
    if stored["manifest"]["sha256"] != manifest["sha256"]:
        raise ConfigError(f"--output {output} was begun with another manifest: choose another folder")
    begun = {**stored, "fovs": stored["fovs_per_shard"]}
    for name, value in options.items():
        if begun[name] != value:
            was = f"without --{name}" if begun[name] is None else f"with --{name} {begun[name]}"
            raise ConfigError(f"--output {output} was begun {was}: choose another folder")


def _fov_size(manifest: str, packer: Packer) -> int:
    """Return the stored bytes of the first FOV that can be read. Raises StorageError, and ConfigError for a crop that does not
    fit.
    """
    first = next(iterate_row_groups(manifest, packer.storage)).slice(0, _TRIED)
    for row in first.to_pylist():
        try:
            return packer.read(row).stored_bytes
        except CropError as error:
            raise ConfigError(f"--crop: {error}") from error
        except StorageError:
            raise
        except (OSError, ValueError):
            continue  # an error of this FOV alone: its row will hold the error
    return _UNKNOWN_FOV_SIZE
