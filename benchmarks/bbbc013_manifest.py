"""The manifest of the plate BBBC013 from its index, a CSV with one row per image: file, plate, well, site, channel, treatment, ...

    python benchmarks/bbbc013_manifest.py BBBC013/index.csv --output bbbc013.parquet

The images lie in a folder beside the index. The stains are FKHR (FKHR-EGFP) and DNA (DRAQ). A well without a treatment is a
negative control and has no Metadata_treatment.
"""

import argparse
import sys
from pathlib import Path

import polars as pl

from sdvae_ray.schema import FOV_ID, KEYS

STAINS = {"FKHR-EGFP": "FKHR", "DNA (DRAQ)": "DNA"}  # channel of the index -> stain


def manifest(index: Path) -> pl.DataFrame:
    """One row per well, sorted. Raises FileNotFoundError for an image that is absent."""
    images = pl.read_csv(index, infer_schema=False).with_columns(pl.col("channel").replace_strict(STAINS))
    places = {path.name: str(path.resolve()) for path in index.parent.rglob("*.tif")}
    if absent := [name for name in images["file"] if name not in places]:
        raise FileNotFoundError(f"{absent[0]} is not beside {index}")
    is_treated = pl.col("treatment") != "none"
    uri = pl.col("file").replace_strict(places)
    rows = images.group_by("plate", "well", "site").agg(
        *(uri.filter(pl.col("channel") == stain).first().alias(f"uri_{stain}") for stain in STAINS.values()),
        pl.col("treatment", "compound", "dose", "unit", "control").first(),
    )
    rows = rows.select(
        Metadata_Source=pl.lit("BBBC"),
        Metadata_Batch=pl.lit("BBBC013v1"),
        Metadata_Plate="plate",
        Metadata_Well="well",
        Metadata_Site="site",
        Metadata_treatment=pl.when(is_treated).then("treatment"),
        Metadata_compound=pl.when(is_treated).then("compound"),
        Metadata_dose=pl.when(is_treated).then("dose"),
        Metadata_unit=pl.when(is_treated).then("unit"),
        Metadata_control_type="control",
        **{f"uri_{stain}": f"uri_{stain}" for stain in STAINS.values()},
    ).sort("Metadata_Well")
    return rows.select(pl.concat_str(KEYS, separator="/").alias(FOV_ID), pl.all())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    table = manifest(options.index)
    table.write_parquet(options.output)
    print(f"{options.output}: {table.height} wells, {table['Metadata_treatment'].n_unique() - 1} treatments")
    return 0


if __name__ == "__main__":
    sys.exit(main())
