"""The run file: one YAML that describes a run. Frozen pydantic models; an unknown key is refused with its nearest match.

Nothing here looks at a disk: sdvae_ray.runfile reads the YAML, and `check` tries what depends on weights, storage or the cluster.
"""

import hashlib
import json
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from sdvae_ray.errors import did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of CPUs or GPUs, per actor


def _least_first(actors: Any) -> Any:
    if isinstance(actors, tuple) and actors[0] > actors[1]:
        raise ValueError(f"[least, most] is wanted, got {list(actors)}")
    return actors


Actors = Annotated[Count | tuple[Count, Count] | Literal["auto"], AfterValidator(_least_first)]
IMAGE_SIDE = "image"  # the side of the originals; every other side is the name of an autoencoder or a codec

WHOLE = "all"  # the part of what is one number per patch
SETTINGS = ("seed", "image", "precision")  # keys of a run that touch every number
SHELVED = ("autoencoders", "codecs", "extractors", "metrics")  # keys to which a finished run may be extended

Triples = tuple[tuple[str, str, str], ...]
PUBLISHED_TRIPLES: Triples = (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))


class Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StorageConfig(Model):
    anonymous: bool = False  # unsigned requests, as the Cell Painting Gallery allows
    endpoint_url: str | None = None  # an S3 server other than AWS
    region: str | None = None
    profile: str | None = None  # a named profile of the AWS credentials file


class SyntheticConfig(Model):
    """Synthetic plates are drawn into `folder` before the run where the manifest does not exist yet."""

    folder: str
    seed: int = 0
    plates: int = Field(2, ge=1)
    sites: int = Field(1, ge=1)  # fields of view per well
    size: int = Field(256, ge=64)  # pixels


class ScalingConfig(Model):
    """corrected pixel -> integer: clip((pixel - offset) / divisor, 0, 2^bits - 1), truncated.

    divide      offset 0 and `divisor` for every stain (the published / 256)
    manifest    per-stain constants from the manifest's columns `scale_offset_<stain>` and `scale_divisor_<stain>`
    """

    method: Literal["divide", "manifest"] = "divide"
    divisor: float = Field(256.0, gt=0, allow_inf_nan=False)
    bits: Literal[8, 16] = 8


class ImageConfig(Model):
    """`packing`: RGB passes as a list of triples, or by name

    published   (Mito, AGP, RNA) and (RNA, ER, DNA)
    grey        every stain alone, on all three planes
    """

    stains: tuple[Name, ...] = Field(("Mito", "AGP", "RNA", "ER", "DNA"), min_length=1)
    resize: int | None = Field(None, gt=0)  # pixels, both sides, before the crop; for photographs
    crop: int = Field(1024, gt=0)  # pixels, centre
    patch: int = Field(256, ge=64)  # pixels; windows and pyramids need some room
    transpose: bool = False  # True: the two axes of every patch are swapped, as published
    scaling: ScalingConfig = ScalingConfig()
    packing: Literal["published", "grey"] | Triples = "published"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")
        if self.patch % 8:
            raise ValueError(f"patch {self.patch} is not a multiple of 8")
        if self.resize is not None and self.resize < self.crop:
            raise ValueError(f"resize {self.resize} leaves less than the crop of {self.crop}")
        if len(set(self.stains)) != len(self.stains):
            raise ValueError(f"stains are named twice: {', '.join(self.stains)}")
        packed = {stain for triple in self.triples for stain in triple}
        if unknown := packed - set(self.stains):
            name = sorted(unknown)[0]
            raise ValueError(f"packing names a stain that is not in stains: {name!r}{did_you_mean(name, self.stains)}")
        if missing := [stain for stain in self.stains if stain not in packed]:
            raise ValueError(f"packing leaves out {', '.join(missing)}: every stain must be in a triple")
        return self

    @property
    def patches(self) -> int:
        """P, patches of a field of view."""
        return (self.crop // self.patch) ** 2

    @property
    def triples(self) -> Triples:
        """The stains of each of the T RGB passes."""
        if self.packing == "published":
            return PUBLISHED_TRIPLES
        if self.packing == "grey":
            return tuple((stain, stain, stain) for stain in self.stains)
        return self.packing

    @property
    def passes(self) -> list[str]:
        """Names of the RGB passes: Mito+AGP+RNA, or the stain where a pass holds one."""
        return ["+".join(dict.fromkeys(triple)) for triple in self.triples]

    def parts(self, count: int) -> list[str]:
        """What `count` numbers of a patch are of: the stains, the RGB passes, or the whole patch."""
        names = {len(self.passes): self.passes, len(self.stains): list(self.stains), 1: [WHOLE]}
        return names.get(count, [str(part) for part in range(count)])


class ShelfConfig(BaseModel):
    """A model from a shelf: `name` is its file there; any further key is an option of that file's `load`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str
    source: str | None = None  # hub id, local folder or file, s3:// prefix, or asset:<name> for what the package ships
    subfolder: str | None = None
    revision: str | None = None  # commit of a hub id
    random: bool = False  # the architecture without weights; says so in everything that comes of it

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class AutoencoderConfig(ShelfConfig):
    latent: Literal["mean", "sample"] = "mean"
    latent_bits: int | None = Field(None, ge=1, le=12)  # uniform quantisation of each channel before decoding
    store_latents: bool | None = None  # None: as the model says


class ExtractorConfig(ShelfConfig):
    keep_patches: int = Field(16, ge=0)  # patch embeddings kept per FOV, chosen by hash
    half_mean: bool = False  # True: features are rounded to float16 and averaged in it, as published


class MetricConfig(ShelfConfig):
    pass


class CodecConfig(BaseModel):
    """A codec from its shelf; any further key is an option of that file's `load`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


def _named(metrics: Any) -> Any:
    """[kld, {lpips: {source: ...}}] -> {kld: {name: kld}, lpips: {name: lpips, source: ...}}."""
    given: dict[Any, Any] = {}
    for each in metrics if isinstance(metrics, list | tuple) else [metrics]:
        for name, settings in (each if isinstance(each, dict) else {each: {}}).items():
            if name in given:
                raise ValueError(f"{name} is there twice")
            given[name] = {"name": name, **settings} if isinstance(settings, dict) else settings
    return given


class LoadConfig(Model):
    actors: Actors = "auto"  # a number, or [least, most]
    cpus: Share | Literal["auto"] = "auto"
    batch_fovs: int = Field(4, ge=1, le=10)  # a block of more than 10 raw FOVs would be cut in two


class EncodeConfig(Model):
    actors: Actors = "auto"
    gpus: Share | Literal["auto"] = "auto"
    cpus: Share | Literal["auto"] = "auto"
    batch_fovs: int = Field(8, ge=1)
    micro_batch: Count | Literal["auto"] = "auto"  # RGB passes in one forward pass; part of the run's identity


class WriteConfig(Model):
    rows_per_file: Count | Literal["auto"] = "auto"  # auto: a sixteenth of the run, 1 to 256


class ClusterConfig(Model):
    shared_filesystem: bool = False  # True: a local output folder is the same folder on every node
    autoscaling: bool = False  # True: do not refuse pools that are larger than the nodes present at the start


Step = str | dict[str, dict[str, Any]]


class DistributionConfig(Model):
    """Distances between the originals' patches and a side's, per extractor and part (RGB pass or stain)."""

    metrics: tuple[Literal["fid", "kid", "cmmd", "prdc"], ...] = ("fid", "kid", "cmmd", "prdc")
    by: tuple[str, ...] = ()  # also of these slices, such as Metadata_Plate, beside the groups of score.group
    samples: int = Field(2000, ge=10)  # patches per slice and side where moments do not do, chosen by hash
    neighbours: Count = 5  # of precision, recall, density and coverage


class FovIndexConfig(Model):
    """An approximate index over FOVs or patches, of every extractor and side; its kind follows from number, memory and recall."""

    level: Literal["fov", "patch"] = "fov"  # patch: those that the extractor keeps (keep_patches)
    recall: float = Field(0.95, gt=0, le=1)  # recall@10 wanted; what is reached is measured and stored
    memory_gb: float = Field(8.0, gt=0)  # of one index


Task = Literal["distinctiveness", "consistency", "cross_side", "transfer"]


class ScoreConfig(Model):
    perturbation: str | None = "Metadata_broad_sample"  # None: no retrieval, distances and metrics alone
    control: str = "Metadata_control_type == 'negcon'"
    exclude: str | None = None  # e.g. "Metadata_control_type == 'poscon'"
    target: str | None = None  # a column of targets or mechanisms, joined by |: scores consistency
    group: tuple[str, ...] = ()
    plates: tuple[str, ...] | None = Field(None, min_length=1)  # values of Metadata_Plate: score these alone; None: all
    aggregate: Literal["mean", "median"] = "mean"
    normalise: str | tuple[Step, ...] = "published"
    batch: str | None = None  # the column whose values are the batches of tvn and harmony; None: plates
    fit: Literal["controls", "half"] = "controls"  # half: fit on one half of the controls, negatives are the other half
    negatives: Literal["plate", "group"] = "plate"
    null: Literal["exchange", "copairs", "copairs_exact"] = (
        "exchange"  # exact: counted, not drawn, where one list allows it
    )
    null_size: int = Field(10_000, ge=100)
    strict: bool = (
        False  # True: p counts draws above the observed mAP only, as copairs does; else those that reach it too
    )
    threshold: float = Field(0.05, gt=0, lt=1)
    ties: Literal["average", "copairs"] = "average"
    floor_repeats: Count = 3  # splits of the controls and permutations of labels, of each floor beside a score
    recall_at: tuple[Count, ...] = Field((1, 5, 10), min_length=1)
    tasks: tuple[Task, ...] = ("distinctiveness", "consistency", "cross_side", "transfer")  # beside activity; (): none
    transfer: tuple[str, ...] | None = None  # columns of group along which transfer is scored; None: all of them
    # of the tasks alone: phenotypic activity and its null by exchange are of cosines
    task_distance: Literal["cosine", "abs_cosine", "correlation", "euclidean"] = "cosine"
    distributions: DistributionConfig = DistributionConfig()
    fov_index: FovIndexConfig | None = None  # None: indices over profiles alone

    @field_validator("transfer")
    @classmethod
    def _along_groups(cls, columns: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        group = info.data.get("group")  # None: refused itself
        if columns and group == ():
            raise ValueError("score.group names no columns, so there are no groups to transfer between")
        for name in columns or ():
            if group is not None and name not in group:
                raise ValueError(f"{name!r} is not in score.group{did_you_mean(name, group)}")
        return columns

    @property
    def transfer_columns(self) -> tuple[str, ...]:
        """Along which transfer is scored; none where the run does not ask for it."""
        if "transfer" not in self.tasks:
            return ()
        return self.group if self.transfer is None else self.transfer


class RunConfig(Model):
    manifest: str
    output: str
    seed: int = 0
    storage: StorageConfig = StorageConfig()
    synthetic: SyntheticConfig | None = None
    image: ImageConfig = ImageConfig()
    autoencoders: dict[Name, AutoencoderConfig] = {}
    codecs: dict[Name, CodecConfig] = {}
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    extractors: dict[Name, ExtractorConfig] = Field(min_length=1)
    metrics: Annotated[dict[Name, MetricConfig], BeforeValidator(_named)] = Field(
        default=["kld", "mae", "ssim", "emd", "psnr"], validate_default=True
    )
    load: LoadConfig = LoadConfig()
    encode: EncodeConfig = EncodeConfig()
    write: WriteConfig = WriteConfig()
    cluster: ClusterConfig = ClusterConfig()
    score: ScoreConfig = ScoreConfig()
    max_error_fraction: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _sides(self) -> Self:
        if not self.autoencoders and not self.codecs:
            raise ValueError("autoencoders: at least one is wanted, or one of codecs")
        if IMAGE_SIDE in self.sides:
            raise ValueError(f"nothing may be called {IMAGE_SIDE!r}: that is the side of the originals")
        if both := self.autoencoders.keys() & self.codecs.keys():
            raise ValueError(f"{sorted(both)[0]} is both an autoencoder and a codec: each is a side of its own name")
        return self

    @property
    def sides(self) -> list[str]:
        """Every side but the originals: autoencoders, then codecs."""
        return [*self.autoencoders, *self.codecs]

    @property
    def random_weights(self) -> list[str]:
        """Names of the autoencoders, extractors and metrics that have random weights."""
        models = [*self.autoencoders.items(), *self.extractors.items(), *self.metrics.items()]
        return [name for name, model in models if model.random]

    def identity(self) -> dict[str, Any]:
        """What the rows of the tables depend on: two runs may share an output only where this is equal."""
        whole = self.model_dump(mode="json")
        whole["image"]["packing"] = self.image.triples
        return {key: whole[key] for key in (*SETTINGS, *SHELVED)}

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
