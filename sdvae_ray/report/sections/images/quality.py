"""What is wrong with images that could be read, per plate and stain, and what score.exclude_qc left out."""

from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.facts.table import Column, Section, Table, text_column
from sdvae_ray.run.quality import MOST_DEVIATION, MOST_SATURATED, scaling_notes
from sdvae_ray.schema import PLATE_COLUMN

_ROWS = 200
_IN_TERMINAL = 5
COLUMNS = (
    text_column("plate", "plate", says_once=True),
    text_column("stain", "stain"),
    text_column("finding", "finding"),
    Column("fovs", "fields of view"),
    Column("of", "of"),
    text_column("example", "such as", in_terminal=False),
)


def section(scored: ScoredRun) -> Section:
    """Return the counts of fields of view that are black, saturated, equal to another stain, or unlike their plate."""
    image, head = scored.config.image, ("quality", "Image quality", "Images")
    quality = scored.quality
    wrong = quality.wrong
    notes = [f"{note}." for note in scaling_notes(quality.largest, image)]
    if excluded := (scored.record or {}).get("excluded_by_qc"):
        notes.append(
            f"score.exclude_qc ({excluded['rule']}) leaves {excluded['fovs']:,} of {excluded['of']:,} fields of view "
            f"out of the scores."
        )
    if not wrong.height:
        return Section(*head, lead=" ".join([f"Nothing was found in {quality.fovs:,} fields of view.", *notes]))
    rows = [{"plate": row[PLATE_COLUMN], **row} for row in wrong.head(_ROWS).iter_rows(named=True)]
    lead = "These fields of view could be read and are in the scores, unless score.exclude_qc leaves them out."
    small_print = [
        f"Saturated: more than {MOST_SATURATED:.0%} of the pixels are at the maximum. Unlike the rest of its plate: the mean is "
        f"more than {MOST_DEVIATION:g} robust standard deviations from the plate's median; a strong phenotype can be the reason."
    ]
    title = "Fields of view with a finding, per plate and stain"
    shown = Table(title, COLUMNS, rows, notes=small_print, rows_in_terminal=_IN_TERMINAL)
    return Section(*head, lead=" ".join([lead, *notes]), tables=[shown], brief=" ".join(notes))
