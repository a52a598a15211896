"""The run file: one YAML that describes a run, as frozen pydantic models. An unknown key is refused with its nearest match.

The sections `image`, `plan` and `score` stand in sdvae_ray.settings. Nothing here looks at a disk: sdvae_ray.runfile reads the
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
from sdvae_ray.settings.score import ScoreConfig
from sdvae_ray.settings.values import Actors, Count, Name, Section, Share

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

    anonymous: bool = False  # unsigned requests, as the Cell Painting Gallery allows
    endpoint_url: str | None = None  # an S3 server other than AWS
    region: str | None = None
    profile: str | None = None  # a named profile of the AWS credentials file
    patience_minutes: float = Field(60, ge=0)  # how long a stream waits while storage is away or denies access
    dollars_per_1000_reads: float | None = Field(
        None, ge=0
    )  # GET and HEAD requests; this price and the next are for `plan`
    dollars_per_1000_writes: float | None = Field(None, ge=0)  # PUT and POST requests
    dollars_per_gb_read: float | None = Field(None, ge=0)  # transfer of the images to the cluster, 10^9 bytes
    dollars_per_gb_month: float | None = Field(None, ge=0)  # of what the tables hold


class SyntheticConfig(Section):
    """Section `synthetic`: plates that are drawn into `folder` before the run, if the manifest does not exist yet."""

    folder: str
    seed: int = 0
    plates: int = Field(2, ge=1)
    sites: int = Field(1, ge=1)  # fields of view per well
    size: int = Field(256, ge=64)  # pixels
    position_effect: float = Field(0.0, ge=0, le=1)  # brightness that rises over the plate, see synthetic/screen.py


class ShelvedConfig(BaseModel):
    """An entry of a shelf. `name` is the name of a file on the shelf; any further key is an option of that file's `load`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of `load`, by name."""
        return dict(self.model_extra or {})


class CodecConfig(ShelvedConfig):
    """A codec. Its decoded images are a side of the run: a set of images that is compared with the originals."""

    image_bits: Literal[16] | None = None  # 16: it takes the field scaled to 16 bits; None: to image.scaling.bits


class ShelfConfig(ShelvedConfig):
    """A model that may have weights."""

    source: str | None = None  # hub id, local folder or file, s3:// prefix, asset:<name>, package:<path>
    subfolder: str | None = None
    revision: str | None = None  # commit of a hub id
    random: bool = False  # random weights; every table, score and page of the run says so


class AutoencoderConfig(ShelfConfig):
    """An autoencoder. Its reconstructions are a side of the run: a set of images that is compared with the originals."""

    latent: Literal["mean", "sample"] = "mean"
    latent_bits: int | None = Field(None, ge=1, le=12)  # uniform quantisation of each channel before decoding
    store_latents: bool | None = None  # None: as the model's file says
    store_logvar: bool = False  # True: the logarithm of the posterior's variance too, for training on stored posteriors
    packing: Packing | None = None  # the RGB passes that it encodes; None: image.packing
    unpack: Unpacking = "first"  # from which of its triples a stain that stands in several is read back


class ExtractorConfig(ShelfConfig):
    """An extractor, which embeds every side of the run."""

    keep_patches: int = Field(16, ge=0)  # patch embeddings kept per FOV, chosen by hash
    half_mean: bool = False  # True: features are rounded to float16 and averaged in it, as published


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


class LoadConfig(Section):
    """Section `load`: the pool of actors that read and decode images."""

    actors: Actors = "auto"  # a number, or [least, most]
    cpus: Share | Literal["auto"] = "auto"
    batch_fovs: int = Field(4, ge=1, le=10)  # a block of more than 10 raw FOVs would be cut in two


class CompressConfig(Section):
    """Section `compress`: the pool of actors that run the codecs. A run without codecs has none."""

    actors: Actors = "auto"
    cpus: Share | Literal["auto"] = "auto"


class EncodeConfig(Section):
    """Section `encode`: the pool of actors that hold the models."""

    actors: Actors = "auto"
    gpus: Share | Literal["auto"] = "auto"
    cpus: Share | Literal["auto"] = "auto"
    batch_fovs: int = Field(8, ge=1)
    micro_batch: Count | Literal["auto"] = "auto"  # RGB passes in one forward pass; part of the run's identity


class WriteConfig(Section):
    """Section `write`: the files of the tables."""

    rows_per_file: Count | Literal["auto"] = "auto"  # auto: a sixteenth of the run, 1 to 256


class ClusterConfig(Section):
    """Section `cluster`: facts of the cluster that Ray does not know."""

    shared_filesystem: bool = False  # True: a local output folder is the same folder on every node
    autoscaling: bool = False  # True: pools may be larger than the nodes present at the start
    dollars_per_gpu_hour: float | None = Field(
        None, ge=0
    )  # of a GPU with the CPUs and memory beside it; for `check` and `bench`
    dollars_per_cpu_hour: float | None = Field(None, ge=0)  # of a CPU of a node without a GPU
    spot_dollars_per_gpu_hour: float | None = Field(None, ge=0)  # both again where nodes may be taken away; for `plan`
    spot_dollars_per_cpu_hour: float | None = Field(None, ge=0)


class RunConfig(Section):
    """A whole run file."""

    manifest: str
    output: str
    seed: int = 0
    storage: StorageConfig = StorageConfig()
    synthetic: SyntheticConfig | None = None
    load_data: LoadDataConfig | None = None
    image: ImageConfig = ImageConfig()
    autoencoders: dict[Name, AutoencoderConfig] = Field({})
    codecs: dict[Name, CodecConfig] = Field({})
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    extractors: dict[Name, ExtractorConfig] = Field({})
    metrics: Annotated[dict[Name, MetricConfig], BeforeValidator(_named)] = Field(
        default=["foreground_ssim", "foreground_mae", "ssim", "psnr", "mae", "emd", "kld"], validate_default=True
    )
    load: LoadConfig = LoadConfig()
    compress: CompressConfig = CompressConfig()
    encode: EncodeConfig = EncodeConfig()
    write: WriteConfig = WriteConfig()
    cluster: ClusterConfig = ClusterConfig()
    plan: PlanConfig = PlanConfig()
    score: ScoreConfig = ScoreConfig()
    max_error_fraction: float = Field(0.01, ge=0, le=1)

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
