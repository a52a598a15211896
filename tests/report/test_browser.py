"""The page in headless Chromium: no error and no request, sorting, filtering, brushing and pictures by mouse and by keyboard, two
widths, what axe-core says. Skipped, with the reason, where the browser or its driver is not at hand.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from report_run import EVIL, STORAGE, page_of, scores_of
from test_conclude import with_wells
from test_wells import large, write_index

from sdvae_ray.config import RunConfig
from sdvae_ray.report.page.wells_data import wells_json
from sdvae_ray.run.stored.tables import write_rows
from sdvae_ray.schema import ERROR, FOV_ID, KEYS, fov_id

driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
AXE = next(
    (path for root in (os.environ.get("AXE_CORE", ""), ".axe") for path in Path(root or ".axe").rglob("axe.min.js")),
    None,
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")]
BRUSH = """async () => {
  const canvas = document.getElementById("map-canvas"), frame = canvas.getBoundingClientRect();
  const place = (x, y) => ({pointerId: 1, clientX: frame.left + x, clientY: frame.top + y});
  const send = (kind, x, y) => canvas.dispatchEvent(new PointerEvent(kind, place(x, y)));
  canvas.setPointerCapture = () => {};
  const start = performance.now();
  send("pointerdown", 10, 10);
  send("pointermove", 200, 200);
  send("pointerup", 200, 200);
  await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return (performance.now() - start) / 1000;
}"""
WIDTHS = ((1280, 900), (390, 844))


@pytest.fixture(scope="module")
def browser():
    with driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def opened(browser, path: Path, width: int = 1280, height: int = 900, bypass: bool = False) -> Iterator:
    """A page that fails the test for a message on the console, an error, or a request beside the file itself."""
    context = browser.new_context(viewport={"width": width, "height": height}, bypass_csp=bypass)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on(
        "request",
        lambda request: said.append(request.url[:80]) if not request.url.startswith(("data:", "file:")) else None,
    )
    page.goto(f"file://{path}")
    yield page
    page.wait_for_timeout(100)
    context.close()
    assert said == []


@pytest.fixture
def path(run: RunConfig) -> Path:
    """The page of a run with a loss, an index and names that are HTML."""
    write_index(run)
    page_of(run, with_wells(run, {"identity": 0.0, "pca": 0.4}))
    return Path(run.output, "report", "index.html")


def names(page) -> list[str]:
    """The compounds of the rows that are shown."""
    return page.eval_on_selector_all(
        "table.tools tbody tr:not([hidden])", "rows => rows.map(row => row.dataset.compound)"
    )


@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_the_first_screen_answers_without_scrolling_sideways(browser, path, width, height):
    with opened(browser, path, width, height) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        for selector in (".answer .words .lost", ".verdicts", ".trio img"):
            box = page.locator(selector).first.bounding_box()
            assert 0 <= box["y"] < height, selector
        assert "Lost by pca: er_stress 1 (strong)." in page.locator(".answer .words").inner_text()
        navigation = page.locator("nav")
        page.evaluate("window.scrollTo(0, 3000)")
        page.wait_for_timeout(200)
        assert 0 <= navigation.bounding_box()["y"] < 5  # in reach from everywhere
        assert page.locator("nav a[aria-current]").count() == 1


def test_names_that_are_html_are_text_and_run_nothing(browser, path):
    with opened(browser, path) as page:
        dialogs = []
        page.on("dialog", lambda dialog: dialogs.append(dialog) or dialog.dismiss())
        page.locator("#mark").fill("<script>")
        assert page.locator("#well-rows tr").count() == 2  # the wells of the compound with that name
        assert "actin_edge 0.5" in page.locator("#well-rows").text_content()  # the treatment of that compound
        assert EVIL in page.locator("#well-rows").text_content()
        assert dialogs == []
        assert page.locator("body script").count() == 2  # the wells, and the page's own


def test_the_table_sorts_filters_and_searches_by_keyboard(browser, path):
    with opened(browser, path) as page:
        whole = names(page)
        assert whole[0] == "strong"  # lost comes first
        heading = page.locator("table.tools th button").nth(3)  # the originals
        heading.focus()
        page.keyboard.press("Enter")
        assert page.locator("table.tools th[aria-sort]").get_attribute("aria-sort") == "ascending"
        values = page.eval_on_selector_all(
            "table.tools tbody tr", "rows => rows.map(row => parseFloat(row.cells[3].innerText))"
        )
        assert values == sorted(values)
        page.keyboard.press("Enter")
        assert page.locator("table.tools th[aria-sort]").get_attribute("aria-sort") == "descending"
        show, by = page.locator("section#compounds select").nth(0), page.locator("section#compounds select").nth(1)
        show.select_option("lost")
        assert names(page) == ["strong"]
        by.select_option(label="identity")
        assert names(page) == []
        show.select_option("")
        by.select_option("")
        page.locator("section#compounds input").fill("c0")
        assert sorted(names(page)) == [f"C{number:02d}" for number in range(10)]
        assert "10 of 16 rows" in page.locator("section#compounds output").inner_text()


def test_a_box_on_the_map_marks_wells_everywhere(browser, path):
    with opened(browser, path) as page:
        canvas = page.locator("#map-canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
        page.mouse.up()
        assert page.locator("#marked").inner_text() == "7 wells are marked"
        page.locator("#marked-wells summary").click()
        assert page.locator("#well-rows tr").count() == 7
        canvas.focus()
        page.keyboard.press("Escape")
        assert page.locator("#marked").inner_text() == "8 wells"
        plate = page.locator("#well-plates canvas").first
        plate.focus()
        page.keyboard.press("ArrowRight")
        here = page.locator("#well").inner_text()
        page.keyboard.press("ArrowRight")
        assert page.locator("#well").inner_text() != here
        page.keyboard.press("Enter")
        assert page.locator("#marked").inner_text() == "1 wells are marked"
        neighbour = page.locator("#well ol button").first
        words = neighbour.inner_text()
        neighbour.click()
        assert words.split()[0] in page.locator("#well").inner_text()
        assert page.locator("#marked").inner_text() == "2 wells are marked"


def test_a_compound_of_the_table_leads_to_its_picture_and_its_wells(browser, path):
    with opened(browser, path) as page:
        row = page.locator('table.tools tr[data-compound="strong"]')
        row.get_by_text("wells").click()
        assert page.locator("#marked").inner_text() == "2 wells are marked"
        row.get_by_text("picture").click()
        assert page.evaluate("location.hash") == "#picture-1"


def test_a_picture_is_enlarged_and_the_arrow_keys_go_on(browser, path):
    with opened(browser, path) as page:
        page.locator(".trio .open").first.focus()
        page.keyboard.press("Enter")
        legend = page.locator("#legend")
        assert "of the original" in legend.inner_text()
        page.keyboard.press("ArrowRight")
        assert "by pca" in legend.inner_text()
        page.keyboard.press("ArrowRight")
        assert legend.inner_text().startswith("difference in")
        page.locator("#zoom").fill("3")
        wide = page.locator("#viewer .sheet").bounding_box()["width"]
        page.locator("#zoom").fill("1")
        assert wide == pytest.approx(3 * page.locator("#viewer .sheet").bounding_box()["width"], rel=0.02)
        page.keyboard.press("Escape")
        assert not page.locator("#viewer").is_visible()


def test_a_link_of_the_navigation_unfolds_what_it_leads_to(browser, path):
    with opened(browser, path) as page:
        assert not page.locator("section#read dl").is_visible()
        page.locator('nav a[href="#read"]').click()
        page.wait_for_timeout(200)
        assert page.locator("section#read dl").is_visible()


@pytest.mark.skipif(AXE is None, reason="no axe-core: npm install axe-core --prefix .axe")
@pytest.mark.parametrize(("width", "height"), WIDTHS)
def test_axe_finds_nothing_serious(browser, path, width, height):
    with opened(browser, path, width, height, bypass=True) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [(one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def write_plates(config: RunConfig, plates: int, failed: bool) -> None:
    """A run of three wells on each plate; of failures alone, or of fields without tables."""
    shutil.rmtree(config.output)
    known = {"Metadata_broad_sample": "x", "Metadata_control_type": ""}
    rows = []
    for plate in range(plates):
        for well in ("A01", "H12", "P24"):
            rows.append(dict(zip(KEYS, ("s", "b", f"P{plate:02d}", well, "1"), strict=True)))
    columns = {
        FOV_ID: np.array([fov_id(row) for row in rows], object),
        "row_json": np.array([json.dumps({**row, **known}) for row in rows], object),
        ERROR: np.array(["truncated: <b>" if failed else None] * len(rows), object),
    }
    write_rows(config.output, "all", columns, STORAGE)


@pytest.mark.parametrize(("plates", "failed"), [(1, True), (30, True), (30, False)])
def test_one_plate_or_thirty_and_failures_alone_have_a_page(browser, run, plates, failed):
    write_plates(run, plates, failed)
    empty = pl.DataFrame(schema={"extractor": pl.String, "side": pl.String})
    page_of(run, replace(scores_of(run, ()), summary=empty, compounds=empty, distributions=empty))
    with opened(browser, Path(run.output, "report", "index.html")) as page:
        assert page.locator("#well-plates canvas").count() == min(plates, 12)
        assert page.locator("#pager").is_visible() == (plates > 12)
        if plates > 12:
            page.locator("#plates-after").click()
            assert page.locator("#plates-shown").inner_text() == "plates 13 to 24 of 30"
        if failed:
            assert "could not be used" in page.locator("body").inner_text()


def test_a_hundred_thousand_wells_are_brushed_within_a_second(browser, path):
    html = path.read_text()
    start = html.index('id="wells-data">') + len('id="wells-data">')
    path.write_text(html[:start] + wells_json(large()) + html[html.index("</script>", start) :])
    assert path.stat().st_size < 15_000_000
    with opened(browser, path) as page:
        canvas = page.locator("#map-canvas")
        canvas.scroll_into_view_if_needed()
        assert page.locator("#marked").inner_text() == "100,000 wells"
        seconds = min(page.evaluate(BRUSH) for _ in range(3))  # of three: other work may share the cores
        marked = int(page.locator("#marked").inner_text().split()[0].replace(",", ""))
        assert 5_000 < marked < 50_000
        assert seconds < 1
