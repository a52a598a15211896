"""The section on image quality: what is wrong with images that could be read, on the page and in the terminal."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from report_run import Page, page_of, scores_of, summary_of

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts.scored import ScoredRun
from sdvae_ray.report.sections.images import quality
from sdvae_ray.run.run import Run
from sdvae_ray.schema import tensor_array


def change(run: RunConfig, column: str, value: float) -> None:
    """Give the second stain of the first field of view another QC number."""
    path = sorted(Path(run.output, "fovs").glob("*.parquet"))[0]
    table = pq.read_table(path)
    values = table[column].combine_chunks().to_numpy_ndarray().copy()
    values[0, 1] = value
    place = table.column_names.index(column)
    pq.write_table(
        table.set_column(place, pa.field(column, table.schema.field(column).type), tensor_array(values)), path
    )


def test_a_run_of_sound_images_says_so(run):
    section = quality.section(ScoredRun.read(Run(run), scores_of(run)))
    assert not section.tables
    assert section.lead == "Nothing was found in 7 fields of view."


def test_the_links_of_the_navigation_have_names_of_their_own(run):
    """The quality of images and that of reconstructions are two sections."""
    navigation = re.search(r"<nav .*?</nav>", page_of(run, scores_of(run)), re.DOTALL)
    names = re.findall(r">([^<>]+)</a>", navigation[0])
    assert len(names) > 8
    assert len(set(names)) == len(names)


def test_qc_kind_page_and_terminal_say_what_is_wrong_and_what_was_left_out(run):
    change(run, "qc_saturated", np.float32(0.25))
    stored = Run(run).record
    stored["excluded_by_qc"] = {"rule": "qc_saturated > 0.2", "fovs": 1, "of": 7, "plates": {"P1": 1}}
    Run(run).write_record(stored)
    for text in (Page(page_of(run, scores_of(run))).text, summary_of(run, scores_of(run))):
        assert "more than 1% saturated" in text
        assert "AGP" in text
        assert "score.exclude_qc (qc_saturated > 0.2) leaves 1 of 7 fields of view out of the scores" in " ".join(
            text.split()
        )
