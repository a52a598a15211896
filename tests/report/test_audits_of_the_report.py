"""The ladder, neighbours and targets in the page and in the terminal: numbers beside their floors, reasons once."""

import polars as pl
from report_run import Page, page_of, scores_of, summary_of

from sdvae_ray.report.sections.phenotypes.audits import in_words


def test_numbers_stand_beside_their_floors_and_a_rung_that_is_not_there_says_why_once(run):
    scores = scores_of(run)
    for text in (Page(page_of(run, scores)).text, " ".join(summary_of(run, scores).split())):
        assert text.count("no rung another batch: all wells have one batch") == 1
        assert "another plate" in text
        for value in ("0.512", "0.021", "0.434", "0.353", "0.052", "6.25", "1.370", "0.715", "0.243", "cannot reject"):
            assert value in text
    page = Page(page_of(run, scores)).text
    assert "image: half of the sites, other half" in page
    assert "2.47" in page
    assert "1.87" in page
    assert "0.64, 1.03" in page
    assert "no share of a row: the position of some wells is not known" in page
    assert "1.110 0.04" in page  # recall at 10, with its floor


def test_a_run_that_was_scored_before_has_no_such_section(run):
    empty = dict.fromkeys(("stringency", "neighbours", "enrichment", "probes"), pl.DataFrame())
    scores = type(scores_of(run))(**{**vars(scores_of(run)), **empty})
    assert "How far apart the positives are" not in Page(page_of(run, scores)).text


def test_a_status_is_told_in_words():
    assert in_words("one_source") == "all wells have one source"
    assert in_words("same_position") == "every compound has its wells at one position"
    assert in_words("not scored: no query") == "not scored: no query"
