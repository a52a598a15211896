"""Section `score` of a run file: the second stage, from embeddings to profiles, tasks, distances and indices."""

from typing import Any, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from sdvae_ray.errors import did_you_mean
from sdvae_ray.settings.values import MISSING_WORDS, Count, Section

Step = str | dict[str, dict[str, Any]]


class DistributionConfig(Section):
    """Section `distributions`: distances between the originals and a side, per extractor and part (RGB pass or stain)."""

    metrics: tuple[Literal["fid", "kid", "cmmd", "prdc"], ...] = ("fid", "kid", "cmmd", "prdc")
    """Which distances."""
    by: tuple[str, ...] = ()
    """Columns whose values are slices beside the groups of score.group, such as Metadata_Plate."""
    samples: int = Field(2000, ge=10)
    """Patches per slice and side, chosen by hash, for distances that need more than moments."""
    neighbours: Count = 5
    """Of precision, recall, density and coverage."""
    references: bool = True
    """The same distances between parts of the originals."""


class ConcludeConfig(Section):
    """Section `conclude`: what a verdict of `sdvae-ray conclude` means, declared before the scores are seen."""

    margin: float = Field(0.1, gt=0, le=1)
    """The share of the way from the floor to the originals that may be lost."""
    level: float = Field(0.05, gt=0, lt=0.5)
    """Of each of the two one-sided tests, and of tests over several compounds."""


class FovIndexConfig(Section):
    """Section `fov_index`: an approximate index over FOVs or patches, for every extractor and side.

    The kind of index follows from the number of vectors, the memory and the recall.
    """

    level: Literal["fov", "patch"] = "fov"
    """patch: the patches that the extractor keeps (keep_patches)."""
    recall: float = Field(0.95, gt=0, le=1)
    """The least recall@10; the recall that is reached is measured and stored."""
    memory_gb: float = Field(8.0, gt=0)
    """Of one index."""


Task = Literal[
    "distinctiveness", "consistency", "cross_side", "transfer", "stringency", "neighbours", "enrichment", "probe"
]


class ScoreConfig(Section):
    """Section `score`: how profiles are made, normalised and scored."""

    perturbation: str | None = "Metadata_broad_sample"
    """Column of the compound; null: distances and metrics alone, no retrieval."""
    control: str = "Metadata_control_type == 'negcon'"
    """Which wells are negative controls; refused if it holds for no well."""
    exclude: str | None = None
    """Wells to leave out, such as "Metadata_control_type == 'poscon'"."""
    exclude_qc: str | None = None
    """Fields to leave out by QC numbers, such as "qc_zero == 1 or qc_saturated_DNA > 0.05"."""
    missing: tuple[str, ...] | None = None
    """Words that mean "nothing" in any Metadata_* column, beside blanks; null: NA, N/A, NaN, null, None, ..."""
    target: str | None = None
    """A column of targets or mechanisms, joined by |: scores consistency."""
    sets: tuple[str, ...] | None = None
    """Columns of targets or mechanisms, joined by |, for enrichment and probe; null: target alone."""
    group: tuple[str, ...] = ()
    """Columns whose values split the wells into groups that are scored separately."""
    plates: tuple[str, ...] | None = Field(None, min_length=1)
    """Values of Metadata_Plate to score; null: all."""
    aggregate: Literal["mean", "median"] = "mean"
    """How fields of view become a well profile."""
    half_mean: bool = False
    """True: the profile of a well is taken and kept in float16, as published."""
    normalise: str | tuple[Step, ...] = "published"
    """A preset, none, or a list of steps."""
    batch: str | None = None
    """The column whose values are the batches of tvn and harmony; null: plates."""
    fit: Literal["cross", "controls"] = "cross"
    """cross: fitted on half of the control positions, scored against the others; controls: fitted on the negatives, p not valid."""
    splits: Count = 4
    """Of the control positions for cross, at most; 1: one half of them and the other; 2 is refused."""
    negatives: Literal["plate", "group"] = "plate"
    """Controls of the query's plate; or, as published, of all plates of its group."""
    null: Literal["exchange", "copairs", "copairs_exact"] = "exchange"
    """Null of the p-values; copairs_exact: counted instead of drawn, where one list of negatives allows it."""
    null_size: int = Field(10_000, ge=100)
    """Draws of the null."""
    strict: bool = False
    """True: p counts draws above the observed mAP, as copairs does; false: draws that equal it too."""
    threshold: float = Field(0.05, gt=0, lt=1)
    """Of the corrected p, up to which a compound is retrieved."""
    ties: Literal["average", "copairs"] = "average"
    """Rule for equal similarities."""
    floor_repeats: int = Field(3, ge=0)
    """Splits, poses or permutations for every floor and ceiling; 0: neither floors nor ceilings."""
    recall_at: tuple[Count, ...] = Field((1, 5, 10), min_length=1)
    """Values of k for recall@k."""
    tasks: tuple[Task, ...] = get_args(Task)
    """Beside phenotypic activity; []: activity alone."""
    transfer: tuple[str, ...] | None = None
    """Columns of group along which transfer is scored; null: all of group."""
    task_distance: Literal["cosine", "abs_cosine", "correlation", "euclidean"] = "cosine"
    """Of `tasks` alone: activity and its null by exchange are of cosines."""
    distributions: DistributionConfig = DistributionConfig()
    """Distances between patches of the originals and of a side."""
    conclude: ConcludeConfig | None = None
    """null: the defaults, which `conclude --margin` may change."""
    fov_index: FovIndexConfig | None = None
    """null: indices over well profiles alone."""

    @field_validator("splits")
    @classmethod
    def _have_a_pool(cls, splits: int) -> int:
        if splits == 2:
            raise ValueError("1, or 3 and more: two splits leave no controls that neither fit has seen")
        return splits

    @field_validator("transfer")
    @classmethod
    def _along_groups(cls, columns: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        group = info.data.get("group")  # None where group itself was refused
        if columns and group == ():
            raise ValueError("score.group names no columns, so there are no groups to transfer between")
        for name in columns or ():
            if group is not None and name not in group:
                raise ValueError(f"{name!r} is not in score.group{did_you_mean(name, group)}")
        return columns

    @property
    def missing_words(self) -> tuple[str, ...]:
        """Return the words of a Metadata_* column that mean "nothing", beside blanks."""
        return MISSING_WORDS if self.missing is None else self.missing

    @property
    def set_columns(self) -> tuple[str, ...]:
        """Return the columns whose labels are the sets of enrichment and the labels of the probe."""
        return self.sets if self.sets is not None else (self.target,) if self.target is not None else ()

    @property
    def transfer_columns(self) -> tuple[str, ...]:
        """Return the columns along which transfer is scored; empty if the run does not ask for transfer."""
        if "transfer" not in self.tasks:
            return ()
        return self.group if self.transfer is None else self.transfer
