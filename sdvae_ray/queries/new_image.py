"""A new image as a query: one field of view that the run need not know -> its embedding, as the run would have made it.

The image is prepared by the run's own settings and embedded by its extractor, weights, precision and (on such a device) forward
size: a field of the run gets the embedding that the run stored.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sdvae_ray.config import IMAGE_SIDE, RunConfig
from sdvae_ray.engine.encode import Encoder, auto_micro_batch
from sdvae_ray.engine.files.load import Batch, Loader
from sdvae_ray.engine.forward import Forward
from sdvae_ray.engine.models import autoencoder_engines, check_same_weights, load_models, pick_device, resolve_weights
from sdvae_ray.errors import ConfigError, DataError, did_you_mean, nearest_or_first
from sdvae_ray.queries.as_well import OnPlate, nearest_wells, on_plate, own_plate
from sdvae_ray.queries.recorded import recorded
from sdvae_ray.queries.saved_index import PATCH
from sdvae_ray.queries.search import Answer, SearchSpace, image_space, search_vector
from sdvae_ray.run.run import Run
from sdvae_ray.schema import (
    COLOUR,
    EMBEDDING,
    ERROR,
    FOV_ID,
    PATCHES,
    channel_column,
    column,
    embeddings_table,
    uri_column,
)
from sdvae_ray.shelves import takes_latent
from sdvae_ray.sources.manifest.manifest import read_manifest
from sdvae_ray.sources.manifest.reader import read_manifest_column, row_groups
from sdvae_ray.sources.manifest.rules import check_manifest
from sdvae_ray.storage import Storage


class Query(NamedTuple):
    """A new image. name: the name that answers use. row: one FOV of a manifest, columns of objects. notes: sentences for the
    answer.
    """

    name: str
    row: Batch
    notes: list[str]


def image_query(run: Run, files: Sequence[str]) -> Query:
    """Return the query of one new image, from STAIN=FILE for every stain of the run, or from one file whose planes are the stains.

    The planes must be in the run's order. No illumination function is applied. Raises ConfigError if a stain is missing, repeated
    or unknown, and if the run scales by constants of its manifest or has policies.
    """
    stains = run.config.image.stains
    if run.config.image.scaling.method == "manifest":
        raise ConfigError("--image: this run scales by constants of its manifest; give --manifest FILE --fov ID")
    if (policies := run.config.image.policies) is not None:
        raise ConfigError(f"--image: this run reads a field by its {policies.column}; give --manifest FILE --fov ID")
    row: dict[str, object] = {FOV_ID: "new"}
    if len(files) == 1 and _stain(files[0]) is None:
        row |= {uri_column(stain): files[0] for stain in stains}
        row |= {channel_column(stain): number for number, stain in enumerate(stains)}
        row[COLOUR] = _of_photographs(run.config.manifest, run.storage)
        name = files[0]
    else:
        given: dict[str, str] = {}
        for text in files:
            stain = _stain(text)
            if stain is None:
                raise ConfigError(f"--image {text}: STAIN=FILE is wanted, or one file with the planes of all stains")
            if stain not in stains:
                raise ConfigError(f"--image {text}: this run has no stain {stain!r}{did_you_mean(stain, stains)}")
            if stain in given:
                raise ConfigError(f"--image: {stain} is there twice")
            given[stain] = text.partition("=")[2]
        if missing := [stain for stain in stains if stain not in given]:
            raise ConfigError(f"--image: no file of the stain {missing[0]!r} (wanted: {', '.join(stains)})")
        row |= {uri_column(stain): uri for stain, uri in given.items()}
        name = given[stains[0]]
    note = "no illumination function is applied; the row of a manifest can name them (--manifest)"
    return Query(name, _batch(row), [note])


def manifest_query(run: Run, manifest: str, fov_id: str | None) -> Query:
    """Return the query of one row of a manifest, of any run. fov_id: None if the manifest has one row. Raises ConfigError if
    fov_id is None and there are several rows, DataError for an unknown FOV or a manifest that cannot be read."""
    table = read_manifest(manifest, run.storage)
    if fov_id is None:
        if table.height > 1:
            raise ConfigError(f"{manifest} has {table.height} rows: --fov ID says which is meant")
        fov_id = str(table[FOV_ID][0])
    row = table.filter(table[FOV_ID] == fov_id)
    if row.height == 0:
        known = table[FOV_ID].head(50_000).to_list()
        raise DataError(f"no FOV {fov_id!r} in {manifest}{nearest_or_first(fov_id, known)}")
    check_manifest(row, run.config.image.stains, manifest)
    return Query(fov_id, _batch(row.row(0, named=True)), [])


def search_image(
    run: Run,
    query: Query,
    extractor: str | None,
    side: str | None,
    count: int,
    patch: int | None = None,
    plate: str | None = None,
) -> Answer:
    """Return the nearest neighbours of the image and what was searched: FOVs, or wells without an index of FOVs or with a plate.

    patch: the number of a patch of the image, counted row by row; its nearest patches are returned instead. plate: a plate of the
    run; the image is normalised as a well of it. If plate is None and wells are searched, it is the plate of the image's row; if
    that plate is unknown or has no fit, the profiles of wells are searched without normalisation, and the note says why. Raises
    ConfigError for a patch that does not exist, DataError for a `plate` that is unknown or has no fit.
    """
    level = "fov" if patch is None else "patch"
    place: OnPlate | str | None = None
    if plate is not None:
        place = on_plate(run, plate, extractor, side)
        one, of_side, _ = place.name.split("/", 2)
        space = SearchSpace(one, of_side, place.name)
    else:
        space = image_space(run, level, extractor, side)
        if space.name is None:
            place = own_plate(run, query.row, space.extractor, space.side)
    patches = run.config.image.policy_of({key: values[0] for key, values in query.row.items()}).patches
    if patch is not None and not 0 <= patch < patches:
        raise ConfigError(f"--patch {patch}: the field has the patches 0 to {patches - 1}")
    embedded = embed_field(run, query.row, space.extractor, space.side, patches=patch is not None)
    vector = (embedded if patch is None else embedded[patch]).reshape(-1)
    notes = list(query.notes)
    if isinstance(place, OnPlate):
        neighbours, facts = nearest_wells(run, vector, place, count)
        notes += place.notes
    else:
        neighbours, facts = search_vector(run, vector, space, count)
        notes += [] if place is None else [f"these are cosines of profiles that are not normalised: {place}"]
    random = [name for name in (space.extractor, space.side) if name in run.config.random_weights]
    notes += [f"{name} has random weights" for name in random]
    kind = "fov" if FOV_ID in neighbours.columns else "well"
    whose = {kind: f"new image {query.name}", **({} if patch is None else {PATCH: str(patch)})}
    return Answer(neighbours, {**whose, **facts, **({"note": "; ".join(notes)} if notes else {})})


def embed_field(run: Run, row: Batch, extractor: str, side: str, patches: bool = False) -> np.ndarray:
    """Return the embedding (G, D) float32, the mean over the field's patches; with `patches`, the embedding of each, (P, G, D).

    The numbers are rounded to float16, as the run stores them. row: one row of a manifest. Raises DataError if the image cannot be
    read or the run does not exist, ConfigError if the run file describes other pixels or models than the run has, WeightsError if
    the weights differ.
    """
    if side == IMAGE_SIDE and takes_latent(run.config, extractor):
        raise ConfigError(f"{extractor} takes an autoencoder's latent: --side {' or '.join(run.config.autoencoders)}")
    record = recorded(run, {extractor, side}, ("image", "precision", "seed"))
    alone = _alone(run, extractor, side)
    loaded = Loader(run.config.image, run.config.storage)(row)
    if loaded[ERROR][0]:
        raise DataError(str(loaded[ERROR][0]))
    resolved = resolve_weights(alone, run.storage)
    check_same_weights(resolved, record["weights"])
    device = pick_device(1)
    micro_batch = int(record["micro_batch"])
    if device.type != "cuda":  # as the run chose for a CPU, where what a GPU held might not fit
        micro_batch = min(micro_batch, auto_micro_batch(run.config, on_gpu=False))
    wanted = column(embeddings_table(extractor, side), PATCHES if patches else EMBEDDING)
    models = load_models(alone, resolved, device, autoencoder_engines(alone, resolved, record))
    done = Encoder(alone, models, Forward(device, record["precision"]), micro_batch, {wanted})(loaded)
    if done[ERROR][0]:
        raise DataError(str(done[ERROR][0]))
    return np.asarray(done[wanted][0], np.float32)


def _alone(run: Run, extractor: str, side: str) -> RunConfig:
    """Return the run's configuration with one extractor, which keeps every patch, and one side."""
    settings = run.config.extractors[extractor].model_copy(update={"keep_patches": run.config.image.patches})
    sides = {
        shelf: {name: model for name, model in getattr(run.config, shelf).items() if name == side}
        for shelf in ("autoencoders", "codecs")
    }
    return run.config.model_copy(update={**sides, "extractors": {extractor: settings}, "metrics": {}})


def _of_photographs(manifest: str, storage: Storage) -> bool:
    """Return whether the run's images are photographs; the first row of the manifest decides."""
    if COLOUR not in row_groups(manifest, storage)[1]:
        return False
    return read_manifest_column(manifest, COLOUR, storage)[0].as_py() is True


def _stain(text: str) -> str | None:
    """Return STAIN of STAIN=FILE; None for a file alone, whose name may have a "=" in it after a folder or a dot."""
    name, separator, _ = text.partition("=")
    return name if separator and not {"/", "."} & set(name) else None


def _batch(row: dict[str, object]) -> Batch:
    return {name: np.array([value, None], object)[:1] for name, value in row.items()}
