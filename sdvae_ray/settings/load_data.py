"""The section `load_data` of a run file: how its manifest is made of load_data files and of tables of metadata."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from sdvae_ray.settings.values import MISSING_WORDS, Section

Metadata = Annotated[str, Field(pattern="^Metadata_.")]


class TableConfig(Section):
    """A table of metadata. It is joined by the identifiers that it shares with the manifest: docs/jump.md."""

    file: str
    """CSV, TSV or Parquet; a path or s3://..."""
    columns: dict[str, Metadata] | None = None
    """Column of the table -> its name in the manifest; null: all, as they are."""


class ExclusionConfig(Section):
    """Fields of view that are known to be bad. A field is left out for which all that is given holds."""

    reason: Annotated[str, Field(min_length=1)]
    """Why; `manifest` says how many fields each reason leaves out."""
    where: dict[Metadata, str | tuple[str, ...]] = Field({})
    """Column -> its value, or one of several."""
    images: tuple[str, ...] = ()
    """Ends of locations of images: a field with one of them is left out."""
    files: tuple[str, ...] = ()
    """Ends of locations of load_data files: they are not read."""

    @model_validator(mode="after")
    def _says_what(self) -> Self:
        if bool(self.files) == bool(self.where or self.images):
            raise ValueError("where (columns and values) or images is wanted, or files alone")
        return self


class LoadDataConfig(Section):
    """Section `load_data`."""

    files: tuple[str, ...] = Field(min_length=1)
    """Load_data files: paths, globs, or folders that end in a slash."""
    platemaps: tuple[str, ...] = ()
    """barcode_platemap.csv of every batch."""
    metadata: tuple[str | TableConfig, ...] = ()
    """Tables that are joined by the identifiers that they share with the manifest."""
    rewrite: dict[str, str] = Field({})
    """Prefix of locations -> what takes its place."""
    source: str | None = None
    """Metadata_Source where load_data has none."""
    batch: str | None = None
    """Metadata_Batch where load_data has none."""
    keep: tuple[Metadata, ...] | None = None
    """Columns of load_data that are kept beside the keys; null: all."""
    exclude: tuple[ExclusionConfig, ...] = ()
    """Fields and files that are known to be bad, with reasons."""
    drop_unmapped_wells: bool = False
    """Leave out wells that no platemap has; else they are an error."""
    missing: tuple[str, ...] = MISSING_WORDS
    """Words that mean "nothing", beside blanks."""

    @property
    def tables(self) -> tuple[TableConfig, ...]:
        """Return the tables of metadata in their order."""
        return tuple(TableConfig(file=table) if isinstance(table, str) else table for table in self.metadata)
