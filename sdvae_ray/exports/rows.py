"""What every format asks of a run: its usable fields of view with the metadata of its scores, its plates, and who made it."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import polars as pl

from sdvae_ray.errors import ConfigError, DataError, did_you_mean
from sdvae_ray.run.annotation import with_annotation
from sdvae_ray.run.run import Run
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, METADATA, PLATE_COLUMN, PLATE_KEY, annotation_columns

_LISTED = 8  # plates that an error names


def usable_fovs(run: Run, plates: Sequence[str] = (), columns: Sequence[str] = ()) -> pl.DataFrame:
    """Return one row per usable field of view: fov_id, the keys, the other Metadata_*, `columns` that are there, and files.

    plates: of which plates; (): all. Raises DataError if there are no such fields of view.
    """
    fovs = with_annotation(run, run.fovs()).filter(pl.col(ERROR).is_null())
    if fovs.height == 0:
        raise DataError(f"{run.output} has no usable field of view: `sdvae-ray encode` computes them")
    kept = [name for name in columns if name in fovs.columns]
    fovs = fovs.select(FOV_ID, *KEYS, *annotation_columns(fovs.columns), *kept, "files")
    return on_plates(fovs, plates).sort(FOV_ID)


def on_plates(table: pl.DataFrame, plates: Sequence[str]) -> pl.DataFrame:
    """Return the rows of the plates, by Metadata_Plate or source/batch/plate; (): all. Raises DataError for an unknown plate."""
    if not plates:
        return table
    key = pl.concat_str(PLATE_KEY, separator="/")
    for plate in plates:
        if table.filter((pl.col(PLATE_COLUMN) == plate) | (key == plate)).height == 0:
            known = table[PLATE_COLUMN].unique().sort().to_list()
            raise DataError(f"no plate {plate!r} in the run{did_you_mean(plate, known[:_LISTED])}")
    return table.filter(of_plates(plates))


def of_plates(plates: Sequence[str]) -> pl.Expr:
    """Return a condition: a row is of one of the plates, by Metadata_Plate or source/batch/plate."""
    return pl.col(PLATE_COLUMN).is_in(list(plates)) | pl.concat_str(PLATE_KEY, separator="/").is_in(list(plates))


def by_file(fovs: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the fields of view file by file, so that their data are read once and no more than a file of them is held."""
    first = fovs.with_columns(_first=pl.col("files").list.first())
    for part in first.partition_by("_first", maintain_order=True):
        yield part.drop("_first")


def texts(run: Run, rows: pl.DataFrame, template: str | None) -> list[str]:
    """Return the text of every row's treatment.

    template: names of Metadata_* columns without the prefix, in braces; a missing value is an empty text. None: the run's
    perturbation, by its pert_iname where there is one, or "untreated". Raises ConfigError for a column that is not there.
    """
    if template is None:
        return _names(run, rows)
    known = [name.removeprefix(METADATA) for name in rows.columns if name.startswith(METADATA)]
    parts, asked = _parsed(template), []
    for _, name in parts:
        if name is not None:
            if name not in known:
                raise ConfigError(f"--text: the run has no Metadata_{name}{did_you_mean(name, known)}")
            asked.append(f"{METADATA}{name}")
    literals = [literal for literal, _ in parts]
    filled = []
    for values in rows.select(pl.col(asked).fill_null("")).iter_rows() if asked else [()] * rows.height:
        named = iter(str(value) for value in values)
        text = "".join(
            literal + ("" if name is None else next(named)) for literal, (_, name) in zip(literals, parts, strict=True)
        )
        filled.append(" ".join(text.split()))
    return filled


def _parsed(template: str) -> list[tuple[str, str | None]]:
    """Return (literal, name) pairs of a template. Raises ConfigError unless every brace holds a plain name."""
    import string

    try:
        parts = [(literal, name, form, how) for literal, name, form, how in string.Formatter().parse(template)]
    except ValueError as error:
        raise ConfigError(f"--text {template!r}: {error}") from error
    if any(form or how or name == "" for _, name, form, how in parts):
        raise ConfigError(f"--text {template!r}: braces with a plain name are wanted, such as {{pert_iname}}")
    return [(literal, name) for literal, name, _, _ in parts]


def _names(run: Run, rows: pl.DataFrame) -> list[str]:
    column = run.config.score.perturbation
    candidates = [name for name in (f"{METADATA}pert_iname", column) if name in rows.columns]
    if column is None or not candidates:
        return [""] * rows.height
    return (
        rows.select(pl.coalesce([pl.col(name).replace("", None) for name in candidates]).fill_null("untreated"))
        .to_series()
        .to_list()
    )


def provenance(run: Run, models: Sequence[str]) -> dict[str, Any]:
    """Return facts of who made a run's values, JSON-ready. models: `<shelf>.<name>` of the models whose weights are named."""
    record = run.record
    return {
        "sdvae_ray": record["sdvae_ray"],
        "run": run.output,
        "digest": record["digest"],
        "manifest_sha256": record["manifest"]["sha256"],
        "precision": record["precision"],
        "stains": list(run.config.image.stains),
        "weights": {name: record["weights"][name] for name in models if name in record["weights"]},
        "random_weights": record.get("random_weights", []),
    }


def as_json(facts: dict[str, Any]) -> bytes:
    """Return facts as the bytes of a JSON file."""
    return json.dumps(facts, indent=1).encode() + b"\n"
