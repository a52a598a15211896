"""Commands of the public benchmarks, on tables of profiles."""

from typing import Annotated, Any

import typer

from sdvae_ray.cli.options import AsJson, console, opens_storage
from sdvae_ray.commands import public_benchmarks

_Profiles = Annotated[list[str], typer.Argument(metavar="PROFILES...", help="CSV, CSV.gz or Parquet; stacked.")]
_Features = Annotated[list[str] | None, typer.Option(metavar="PREFIX", help="Only these features; repeatable.")]


@opens_storage
def cpjump1(
    profiles: _Profiles,
    targets: Annotated[
        str, typer.Option(metavar="TSV", help="JUMP-Target-1_compound_metadata_additional_annotations.tsv")
    ],
    storage: dict[str, Any],
    features: _Features = None,
    null_size: Annotated[
        tuple[int, int] | None, typer.Option(help="Draws for compounds and for targets; default: the authors'.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """CHAMMI-75's CPJUMP1 benchmark (U2OS, seven plates) of profiles: active compounds, consistent targets."""
    public_benchmarks.cpjump1(profiles, targets, storage, console, features or (), null_size, as_json)


@opens_storage
def stringency(
    profiles: _Profiles,
    storage: dict[str, Any],
    perturbation: Annotated[str, typer.Option(metavar="COLUMN", help="Of the compound.")] = "Metadata_JCP2022",
    control: Annotated[
        str | None, typer.Option(help="Wells that are no candidates; '' for none.")
    ] = "Metadata_JCP2022 == 'JCP2022_033924'",
    exclude: Annotated[str | None, typer.Option(help="Other wells to leave out.")] = None,
    features: _Features = None,
    as_json: AsJson = False,
) -> None:
    """MorphoHELM's ladder of stringency of profiles: replicates found from other batches, sources and well positions."""
    public_benchmarks.stringency(profiles, perturbation, control, exclude, storage, console, features or (), as_json)
