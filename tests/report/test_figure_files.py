"""Charts and pictures as files: every one that the page shows, whole, and readable without the page."""

import re
from pathlib import Path
from xml.etree import ElementTree

import imagecodecs
from report_run import page_of, scored, scores_of

from sdvae_ray.config import RunConfig
from sdvae_ray.report.facts.table import Section
from sdvae_ray.report.page.figure_files import figure_files
from sdvae_ray.report.page.write import FIGURES, write_report
from sdvae_ray.report.sections.images.examples import GalleryPage
from sdvae_ray.report.sections.order import sections_of

SVG = "{http://www.w3.org/2000/svg}"


def test_every_chart_and_picture_of_the_page_is_a_file_of_its_own_where_figures_are_asked_for(run: RunConfig) -> None:
    page_of(run, scores_of(run))
    folder = Path(run.output, FIGURES)
    assert not folder.exists()
    scored_run = scored(run, scores_of(run))
    write_report(scored_run, figures=True)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    sections = sections_of(scored_run)
    assert files == dict(figure_files(sections))
    assert len(list(figure_files(sections))) == len(files), "two figures have one name"
    assert all(re.fullmatch(r"[\w.-]+\.(svg|png)", name) for name in files)
    page = Path(run.output, "report", "index.html").read_text()
    assert sum(name.endswith(".svg") for name in files) == len(re.findall(r'<svg class="chart"', page))
    for section in sections:
        _check(section, {name: data for name, data in files.items() if re.match(rf"{section.anchor}-\d", name)})


def _check(section: Section, files: dict[str, bytes]) -> None:
    """Assert that the files of a section are its charts with title and legend, and its pictures."""
    drawings = [(name, data) for name, data in sorted(files.items()) if name.endswith(".svg")]
    for chart, (name, data) in zip(section.charts, drawings, strict=False):
        root = ElementTree.fromstring(data)
        assert root.tag == f"{SVG}svg", name
        assert float(root.attrib["height"]) > float(root.find(f".//{SVG}svg").attrib["height"])  # type: ignore[union-attr]
        words = [text.text for text in root.iter(f"{SVG}text")]
        assert chart.title in words
        assert {side.text for side in section.legend} <= set(words)
        assert b"url(" not in data
        assert b"href" not in data
    pictures = [data for name, data in files.items() if name.endswith(".png")]
    if isinstance(section.content, GalleryPage):
        crop = section.content.crop
        assert pictures
        assert all(imagecodecs.png_decode(png).shape[:2] == (crop, crop) for png in pictures)
    else:
        assert not pictures
