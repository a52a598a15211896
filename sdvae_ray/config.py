"""The run file: one YAML that describes a run, as frozen pydantic models. An unknown key is refused with its nearest match.

The sections `image`, `plan`, `score` and those of the cluster stand in sdvae_ray.settings. The text below a key is its
description in the docs. Nothing here looks at a disk: sdvae_ray.runfile reads the
YAML, and `check` tries the weights, the storage and the cluster.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sdvae_ray.settings.image import ImageConfig
from sdvae_ray.settings.load_data import LoadDataConfig
from sdvae_ray.settings.packing import Packing, Triples, Unpacking, check_triples, pass_names, triples_of
from sdvae_ray.settings.plan import PlanConfig
from sdvae_ray.settings.pools import ClusterConfig, CompressConfig, EncodeConfig, LoadConfig, WriteConfig
from sdvae_ray.settings.score import ScoreConfig
from sdvae_ray.settings.values import Name, Section

WHOLE = "all"  # the part where a patch has one number
IMAGE_SIDE = "image"  # the side of the originals; every other side is the name of an autoencoder or a codec
SETTINGS = ("seed", "image", "precision")  # keys of a run that change every number
Shelf = Literal["autoencoders", "codecs", "extractors", "metrics"]
SHELVES: tuple[Shelf, ...] = (
    "autoencoders",
    "codecs",
    "extractors",
    "metrics",
)  # keys to which `encode --extend` may add


class StorageConfig(Section):
    """Section `storage`: how buckets are reached."""

    anonymous: bool = False
    """Unsigned requests, as the Cell Painting Gallery allows."""
    endpoint_url: str | None = None
    """An S3 server other than AWS."""
    region: str | None = None
    """AWS region."""
    profile: str | None = None
    """A named profile of the AWS credentials file."""
    patience_minutes: float = Field(60, ge=0)
    """How long a stream waits while storage is away or denies access; 0: it stops at once."""
    dollars_per_1000_reads: float | None = Field(None, ge=0)
    """Price of GET and HEAD requests; this price and the next three are for `plan`."""
    dollars_per_1000_writes: float | None = Field(None, ge=0)
    """Price of PUT and POST requests."""
    dollars_per_gb_read: float | None = Field(None, ge=0)
    """Price of the transfer of the images to the cluster, 10^9 bytes."""
    dollars_per_gb_month: float | None = Field(None, ge=0)
    """Price of what the tables hold."""


class SyntheticConfig(Section):
    """Section `synthetic`: plates that are drawn into `folder` before the run, if the manifest does not exist yet."""

    folder: str
    """Where the plates are drawn."""
    seed: int = 0
    """Of the drawing."""
    plates: int = Field(2, ge=1)
    """Number of plates."""
    sites: int = Field(1, ge=1)
    """Fields of view per well."""
    size: int = Field(256, ge=64)
    """Height and width of a field in pixels."""
    position_effect: float = Field(0.0, ge=0, le=1)
    """Brightness that rises over the plate, as a share (sources/synthetic/screen.py)."""


class ShelvedConfig(BaseModel):
    """An entry of a shelf. `name` is the name of a file on the shelf; any further key is an option of that file's `load`."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """A name that `sdvae-ray models` lists."""

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of `load`, by name."""
        return dict(self.model_extra or {})


class CodecConfig(ShelvedConfig):
    """A codec. Its decoded images are a side of the run: a set of images that is compared with the originals."""

    image_bits: Literal[16] | None = None
    """16: it takes the field scaled to 16 bits; null: to image.scaling.bits."""


class ShelfConfig(ShelvedConfig):
    """A model that may have weights."""

    source: str | None = None
    """Hub id, folder or file, s3:// prefix, asset:<name> of this package, package:<name>/<path> of another; null: its own."""
    subfolder: str | None = None
    """Folder of the source in which the weights are."""
    revision: str | None = None
    """Commit of a hub id."""
    random: bool = False
    """Random weights; every table, score and page of the run says so."""


class AutoencoderConfig(ShelfConfig):
    """An autoencoder. Its reconstructions are a side of the run: a set of images that is compared with the originals."""

    latent: Literal["mean", "sample"] = "mean"
    """Of the posterior; the noise of a sample is a function of the seed and the field of view."""
    latent_bits: int | None = Field(None, ge=1, le=12)
    """Every channel is quantised uniformly to this number of bits before decoding."""
    store_latents: bool | None = None
    """Whether latents are written; null: as the model's file says."""
    store_logvar: bool = False
    """True: the logarithm of the posterior's variance too, for training on stored posteriors."""
    packing: Packing | None = None
    """The RGB passes that it encodes; null: image.packing."""
    unpack: Unpacking = "first"
    """From which of its triples a stain that stands in several is read back."""


class ExtractorConfig(ShelfConfig):
    """An extractor, which embeds every side of the run."""

    keep_patches: int = Field(16, ge=0)
    """Patch embeddings kept per field of view, chosen by hash."""
    half_mean: bool = False
    """True: features are rounded to float16 and averaged in it, as published."""


class MetricConfig(ShelfConfig):
    """A metric, which compares every side of the run with the originals."""


def _named(metrics: Any) -> Any:
    """Turn [kld, {lpips: {source: ...}}] into {kld: {name: kld}, lpips: {name: lpips, source: ...}}."""
    named: dict[Any, Any] = {}
    for entry in metrics if isinstance(metrics, list | tuple) else [metrics]:
        for name, settings in (entry if isinstance(entry, dict) else {entry: {}}).items():
            if name in named:
                raise ValueError(f"{name} is there twice")
            named[name] = {"name": name, **settings} if isinstance(settings, dict) else settings
    return named


class RunConfig(Section):
    """A whole run file."""

    manifest: str
    """One row per field of view: from `sdvae-ray manifest`, your own, or of shards. A path or s3://..."""
    output: str
    """Folder of the tables, indices, scores, the report and run.json. A path or s3://..."""
    seed: int = 0
    """Of everything that is drawn: sampled latents, kept patches, splits of the controls, the nulls."""
    storage: StorageConfig = StorageConfig()
    synthetic: SyntheticConfig | None = None
    """Plates to draw where the manifest does not exist yet."""
    load_data: LoadDataConfig | None = None
    """The load_data files that the manifest is made of where it does not exist yet."""
    image: ImageConfig = ImageConfig()
    autoencoders: dict[Name, AutoencoderConfig] = Field({})
    """Every autoencoder is a side, under the name that it has here."""
    codecs: dict[Name, CodecConfig] = Field({})
    """Every image codec is a side too, at the bytes that it writes."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the models; auto: bfloat16 on a GPU that supports it, else float32."""
    extractors: dict[Name, ExtractorConfig] = Field({})
    """Every extractor embeds all sides."""
    metrics: Annotated[dict[Name, MetricConfig], BeforeValidator(_named)] = Field(
        default=["foreground_ssim", "foreground_mae", "ssim", "psnr", "mae", "emd", "kld"], validate_default=True
    )
    """Names of metrics; one with settings as {lpips: {source: ...}}."""
    load: LoadConfig = LoadConfig()
    compress: CompressConfig = CompressConfig()
    encode: EncodeConfig = EncodeConfig()
    write: WriteConfig = WriteConfig()
    cluster: ClusterConfig = ClusterConfig()
    plan: PlanConfig = PlanConfig()
    score: ScoreConfig = ScoreConfig()
    max_error_fraction: float = Field(0.01, ge=0, le=1)
    """A run stops when more fields of view fail; one may always fail, unless this is 0."""

    @model_validator(mode="after")
    def _load_data(self) -> Self:
        if self.load_data is not None and self.manifest.endswith(".parquet"):
            raise ValueError(f"manifest: load_data makes a folder of files; {self.manifest} names one file")
        return self

    @model_validator(mode="after")
    def _sides(self) -> Self:
        if not self.autoencoders and not self.codecs:
            raise ValueError("autoencoders: at least one is wanted, or one of codecs")
        if IMAGE_SIDE in self.sides:
            raise ValueError(f"nothing may be called {IMAGE_SIDE!r}: that is the side of the originals")
        if both := self.autoencoders.keys() & self.codecs.keys():
            raise ValueError(f"{sorted(both)[0]} is both an autoencoder and a codec: each is a side of its own name")
        for name in self.autoencoders:
            try:
                check_triples(self.triples(name), self.image.stains)
            except ValueError as error:
                raise ValueError(f"autoencoders.{name}: {error}") from error
        return self

    @property
    def sides(self) -> list[str]:
        """Return the names of the sides that are compared with the originals: the autoencoders, then the codecs."""
        return [*self.autoencoders, *self.codecs]

    def is_wide(self, codec: str) -> bool:
        """Return whether a codec takes more bits than the originals have."""
        return self.codecs[codec].image_bits == 16 and self.image.scaling.bits == 8

    def triples(self, side: str) -> Triples:
        """Return the three stains of each RGB pass of a side: of the autoencoder's own packing, or else of image.packing."""
        autoencoder = self.autoencoders.get(side)
        if autoencoder is None or autoencoder.packing is None:
            return self.image.triples
        return triples_of(autoencoder.packing, self.image.stains)

    def parts(self, count: int, latent_of: str | None = None) -> list[str]:
        """Return the names of the parts that `count` numbers of a patch are of: the RGB passes, the stains, or the whole patch.

        latent_of: the side from whose latent the numbers are, so that the passes are those of its own packing.
        """
        triples = self.image.triples if latent_of is None else self.triples(latent_of)
        stains = list(self.image.stains)
        names = {len(triples): pass_names(triples), len(stains): stains, 1: [WHOLE]}
        return names.get(count, [str(part) for part in range(count)])

    @property
    def random_weights(self) -> list[str]:
        """Return the names of the autoencoders, extractors and metrics that have random weights."""
        models = [*self.autoencoders.items(), *self.extractors.items(), *self.metrics.items()]
        return [name for name, model in models if model.random]

    def allowed_errors(self, fovs: int) -> int:
        """Return how many of `fovs` FOVs may fail: max_error_fraction of them, and at least one unless the fraction is 0."""
        return max(1, int(self.max_error_fraction * fovs)) if self.max_error_fraction else 0

    def identity(self) -> dict[str, Any]:
        """Return the settings on which the rows of the tables depend. Two runs may share an output only if these are equal."""
        whole = self.model_dump(mode="json")
        whole["image"]["packing"] = self.image.triples
        if self.image.policies is None:  # left out where they change nothing: runs that are older than these keys go on
            del whole["image"]["policies"], whole["image"]["pixel_um"]
        for name, settings in whole["autoencoders"].items():
            packing, unpack = settings.pop("packing"), settings.pop("unpack")
            if packing is not None and self.triples(name) != self.image.triples:
                settings["packing"] = self.triples(name)
            if unpack != "first":
                settings["unpack"] = unpack
        for settings in whole["codecs"].values():
            if settings["image_bits"] is None:
                del settings["image_bits"]
        return {key: whole[key] for key in (*SETTINGS, *SHELVES)}

    def digest(self) -> str:
        """Return the first 16 hex digits of the sha256 of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
