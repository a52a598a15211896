"""The run file: one YAML that describes a run. Frozen pydantic models; an unknown key is refused with its nearest match.

Nothing here looks at a disk beyond the YAML itself. What depends on weights, storage or the cluster is checked by `check`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sdvae_ray.errors import ConfigError, did_you_mean

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # of CPUs or GPUs, per actor


def _least_first(actors: Any) -> Any:
    if isinstance(actors, tuple) and actors[0] > actors[1]:
        raise ValueError(f"[least, most] is wanted, got {list(actors)}")
    return actors


Actors = Annotated[Count | tuple[Count, Count] | Literal["auto"], AfterValidator(_least_first)]
IMAGE_SIDE = "image"  # the side of the originals; every other side is the name of an autoencoder


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
    stains: tuple[Name, ...] = Field(("Mito", "AGP", "RNA", "ER", "DNA"), min_length=1)
    crop: int = Field(1024, gt=0)  # pixels, centre
    patch: int = Field(256, ge=64)  # pixels; windows and pyramids need some room
    scaling: ScalingConfig = ScalingConfig()
    packing: tuple[tuple[str, str, str], ...] = (("Mito", "AGP", "RNA"), ("RNA", "ER", "DNA"))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.crop % self.patch:
            raise ValueError(f"crop {self.crop} is not a multiple of patch {self.patch}")
        if self.patch % 8:
            raise ValueError(f"patch {self.patch} is not a multiple of 8")
        if len(set(self.stains)) != len(self.stains):
            raise ValueError(f"stains are named twice: {', '.join(self.stains)}")
        packed = {stain for triple in self.packing for stain in triple}
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
    store_latents: bool | None = None  # None: as the model says


class ExtractorConfig(ShelfConfig):
    keep_patches: int = Field(16, ge=0)  # patch embeddings kept per FOV, chosen by hash


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


class ScoreConfig(Model):
    perturbation: str = "Metadata_broad_sample"
    control: str = "Metadata_control_type == 'negcon'"
    exclude: str | None = None  # e.g. "Metadata_control_type == 'poscon'"
    group: tuple[str, ...] = ()
    aggregate: Literal["mean", "median"] = "mean"
    normalise: str | tuple[Step, ...] = "published"
    negatives: Literal["plate", "group"] = "plate"
    null: Literal["exchange", "copairs"] = "exchange"
    null_size: int = Field(10_000, ge=100)
    threshold: float = Field(0.05, gt=0, lt=1)
    ties: Literal["average", "copairs"] = "average"
    recall_at: tuple[Count, ...] = Field((1, 5, 10), min_length=1)


class RunConfig(Model):
    manifest: str
    output: str
    seed: int = 0
    storage: StorageConfig = StorageConfig()
    synthetic: SyntheticConfig | None = None
    image: ImageConfig = ImageConfig()
    autoencoders: dict[Name, AutoencoderConfig] = Field(min_length=1)
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    extractors: dict[Name, ExtractorConfig] = Field(min_length=1)
    metrics: tuple[Name, ...] = ("kld", "mae", "ssim", "emd", "psnr")
    load: LoadConfig = LoadConfig()
    encode: EncodeConfig = EncodeConfig()
    write: WriteConfig = WriteConfig()
    cluster: ClusterConfig = ClusterConfig()
    score: ScoreConfig = ScoreConfig()
    max_error_fraction: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _sides(self) -> Self:
        if IMAGE_SIDE in self.autoencoders:
            raise ValueError(f"an autoencoder may not be called {IMAGE_SIDE!r}: that is the side of the originals")
        return self

    @property
    def random_weights(self) -> list[str]:
        """Names of the autoencoders and extractors that have random weights."""
        return [name for name, model in {**self.autoencoders, **self.extractors}.items() if model.random]

    def identity(self) -> dict[str, Any]:
        """What the rows of the tables depend on: two runs may share an output only where this is equal."""
        whole = self.model_dump(mode="json")
        keys = ("seed", "image", "autoencoders", "extractors", "metrics", "precision")
        return {key: whole[key] for key in keys}

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]


def load_run(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run file at `path` with `--set key.key=value` overrides (values are YAML).

    Raises ConfigError, one line, for a file that cannot be read, an unknown key or a value that is not allowed.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise ConfigError(f"cannot read the run file {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read the run file {path}: it is not text") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path} is not a run file: a YAML mapping with manifest, output, autoencoders, ... is wanted"
        )
    for override in overrides:
        _override(raw, override)
    return parse_run(raw, where=str(path))


def parse_run(raw: dict[str, Any], where: str = "run file") -> RunConfig:
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from error


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}: key=value is wanted, such as encode.batch_fovs=16")
    *parents, last = key.split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override}: {parent} is a value, not a section")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error


_UNION_TAGS = ("function-", "tuple[", "literal[", "constrained-")  # what pydantic puts into a place beside our keys


def _first_problem(error: ValidationError) -> str:
    """The first problem as one line: where, what, and for an unknown key the nearest allowed one."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = [part for part in problem["loc"] if not (isinstance(part, str) and part.startswith(_UNION_TAGS))]
    path = ".".join(str(part) for part in where)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown key {path!r}{did_you_mean(str(where[-1]), _allowed_keys(where[:-1]))}{more}"
    if problem["type"] == "missing":
        return f"{path} is missing{more}"
    message = problem["msg"].removeprefix("Value error, ")
    given = "" if isinstance(problem["input"], dict) or not path else f", got {problem['input']!r}"
    return f"{path + ': ' if path else ''}{message}{given}{more}"


def _allowed_keys(path: Sequence[Any]) -> list[str]:
    model: Any = RunConfig
    for part in path:
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            break
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        candidates = getattr(annotation, "__args__", (annotation,))
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    return list(model.model_fields)
