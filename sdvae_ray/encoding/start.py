"""Before the stream starts: the manifest is checked, the record of the run is made or read, and one field of view is loaded."""

from collections.abc import Callable, Mapping

import polars as pl
import ray

from sdvae_ray.cluster.pools import Pool
from sdvae_ray.encoding.changed_manifest import of_manifest
from sdvae_ray.encoding.pending import READ
from sdvae_ray.engine.encode import auto_micro_batch
from sdvae_ray.engine.files.load import Loader
from sdvae_ray.engine.models import autoencoder_engines, check_same_weights, latent_scaling, pick_device, pick_precision
from sdvae_ray.errors import ConfigError, DataError, StorageError
from sdvae_ray.images.prepare import CropError
from sdvae_ray.images.stored_crop import check_stored_crop
from sdvae_ray.run.record import FILE, Record, check_same_run, extended, new_record
from sdvae_ray.run.run import Run
from sdvae_ray.schema import (
    FOVS,
    SCALE_BITS,
    SHARD,
    SHARD_CROP,
    SHARD_ROW_GROUP,
    divisor_column,
    offset_column,
    uri_column,
)
from sdvae_ray.sources.manifest.describe import describe_manifest
from sdvae_ray.sources.manifest.reader import read_manifest_column, read_rows, row_groups, row_places
from sdvae_ray.sources.manifest.row import as_batch
from sdvae_ray.sources.manifest.scan import annotation_hash, manifest_identity, scan_manifest, sealed_keys
from sdvae_ray.weights import Weights

_MANY = 1_000_000  # rows of a manifest of one file, from which on its footer costs every piece of work much
_LARGE = (
    "the manifest has {} rows in one file: `sdvae-ray manifest FILE --output FOLDER` cuts it, and a run starts faster"
)


def prepare_record(
    run: Run,
    keys: pl.DataFrame,
    resolved: Mapping[str, Weights],
    pool: Pool,
    extend: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Record:
    """Return the record of the run: a new record, or the stored record after a check that it belongs to this run.

    keys: from `checked_manifest`. resolved: `<shelf>.<name>` -> weights. pool: the encode pool. extend: adds the new models, codecs
    and metrics of the run file to the stored record. say: takes what has changed in the manifest. Raises ConfigError if the stored
    record belongs to another run, WeightsError if it has other weights.
    """
    manifest = describe_manifest(run.config.manifest, len(keys), run.storage)
    manifest["identity"] = manifest_identity(run.config.manifest, keys, run.storage)
    weights = {name: model_weights.record() for name, model_weights in resolved.items()}
    record = run.find_record()
    engines = autoencoder_engines(run.config, resolved, record)
    if record is not None:
        record = of_manifest(run, record, manifest, keys, say)
        added = check_same_run(record, run.config, manifest, extend)
        check_same_weights(resolved, record["weights"])
        if added:
            return extended(record, run.config, weights, added, latent_scaling(run.config, resolved), engines)
        return record
    if run.storage.list(run.uri(FOVS)):
        raise DataError(
            f"{run.output} holds rows and no {FILE}: they may be of another run; put its {FILE} back, or choose another output"
        )
    micro_batch = run.config.encode.micro_batch
    size = auto_micro_batch(run.config, on_gpu=pool.gpus > 0) if micro_batch == "auto" else micro_batch
    precision = _precision_on_node(run, pool)
    manifest["annotation"] = annotation_hash(run.config.manifest, run.storage)
    return new_record(run.config, manifest, weights, size, precision, latent_scaling(run.config, resolved), engines)


def _precision_on_node(run: Run, pool: Pool) -> str:
    """Return the precision of the run. A node that encodes decides `auto`, because the node of the driver may have no GPU."""
    if pool.gpus == 0 or run.config.precision != "auto":
        return pick_precision(run.config.precision, pick_device(0))
    ask = ray.remote(lambda: pick_precision("auto", pick_device(pool.gpus)))
    return ray.get(ask.options(num_cpus=pool.cpus, num_gpus=pool.gpus).remote())


def probe(run: Run, keys: pl.DataFrame) -> None:
    """Load a FOV of `keys` for every policy, so that an error that all FOVs share is raised before the start.

    keys: row_group and row in the manifest, and the column of the policies. Raises ConfigError for a policy whose crop fits none of
    the FOVs that are tried, StorageError for a bucket or credentials that do not work.
    """
    image = run.config.image
    loader = Loader(image, run.config.storage)
    for (value,), rows in keys.group_by(image.policy_columns or pl.lit(None), maintain_order=True):
        errors: list[CropError] = []
        for place in _tried(rows):
            try:
                loader.probe(as_batch(read_rows(run.config.manifest, place, run.storage)))
            except CropError as error:
                errors.append(error)
                continue
            except StorageError:
                raise
            except (OSError, ValueError):
                pass  # this error is of one FOV alone: its row will hold the error
            break
        else:
            key = "image" if value is None else f"image.policies.values.{value}"
            raise ConfigError(f"{key}.crop: {errors[0]}")


def _tried(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Return the first row, the middle row and the last row: a FOV smaller than its crop may be of one bad plate."""
    return [rows[place] for place in sorted({0, rows.height // 2, rows.height - 1})]


def checked_manifest(run: Run, say: Callable[[str], None] = lambda _: None) -> pl.DataFrame:
    """Return fov_id, row_group, row of every FOV, and of a manifest of one file its source_digest.

    For shards also `read`, equal for the FOVs that one read brings; with policies also `crop` and the column by which the policy is
    found. say: takes the notes. Raises DataError, with the row, if the manifest breaks a rule of manifests or a needed column is
    missing, ConfigError if shards hold less than the crop.
    """
    columns = [uri_column(stain) for stain in run.config.image.stains]
    if run.config.image.scaling.method == "manifest":
        columns += [f(stain) for stain in run.config.image.stains for f in (offset_column, divisor_column)]
    sizes, present = row_groups(run.config.manifest, run.storage)
    if missing := [name for name in columns if name not in present]:
        raise DataError(
            f"{run.config.manifest} has no column {missing[0]}: it was made for other stains, or without scaling constants "
            "(`sdvae-ray calibrate` makes them)"
        )
    if run.config.image.scaling.method == "manifest" and SCALE_BITS in present:
        _check_bits(run)
    ids = sealed_keys(run.config.manifest, run.config.image, run.storage)
    if ids is None:
        ids, notes = scan_manifest(run.config.manifest, run.config.image, run.storage, check_uris=True)
        for note in [*notes, *([_LARGE.format(ids.height)] if ids.height > _MANY else [])]:
            say(f"note: {note}")
        ids = ids.with_columns(**row_places(sizes))
    for name in run.config.image.policy_columns:
        for value in sorted(set(run.config.image.every_policy) - set(ids[name].unique()), key=str):
            say(f"note: image.policies.values.{value}: no FOV of the manifest has this {name}")
    if SHARD_CROP in present:
        _check_stored_crops(run, ids)
    if SHARD in present:
        places = pl.DataFrame({name: _column(run, name) for name in (SHARD, SHARD_ROW_GROUP)})
        ids = ids.with_columns(places.to_struct().rle_id().alias(READ))
    return ids


def _check_bits(run: Run) -> None:
    """Raise ConfigError unless the scaling constants of the manifest were made for the bits of the run."""
    made_for, bits = _column(run, SCALE_BITS).drop_nulls().unique().to_list(), run.config.image.scaling.bits
    if any(number != bits for number in made_for):
        raise ConfigError(
            f"image.scaling.bits is {bits}, and {run.config.manifest} has constants for {made_for[0]}: "
            f"`sdvae-ray calibrate --bits {bits}` makes others"
        )


def _check_stored_crops(run: Run, ids: pl.DataFrame) -> None:
    """Raise ConfigError if shards hold less than the crop of a policy."""
    image = run.config.image
    stored = ids.with_columns(_column(run, SHARD_CROP).alias(SHARD_CROP)).drop_nulls(SHARD_CROP)
    for (value,), rows in stored.group_by(image.policy_columns or pl.lit(None), maintain_order=True):
        try:
            check_stored_crop(int(str(rows[SHARD_CROP].min())), image, image.every_policy[value])
        except CropError as error:
            raise ConfigError(f"image.crop: {error}") from error


def _column(run: Run, name: str) -> pl.Series:
    return pl.Series(read_manifest_column(run.config.manifest, name, run.storage))
