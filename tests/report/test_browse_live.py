"""The live page in headless Chromium: search, pictures, a lasso, a table, an image; no error, and no request to elsewhere.

Skipped, with the reason, where the browser or its driver is not at hand.
"""

import asyncio
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp.test_utils import TestServer
from report_run import STAINS
from test_browse import TOKEN, browsed, browser  # noqa: F401 fixtures

from sdvae_ray.browse.app import Browser
from sdvae_ray.config import RunConfig

driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the path")]
LASSO = """async () => {
  const canvas = document.getElementById("map-canvas"), frame = canvas.getBoundingClientRect();
  const [right, bottom] = [frame.width - 1, frame.height - 1];
  const place = (x, y) => ({pointerId: 1, clientX: frame.left + x, clientY: frame.top + y});
  const send = (kind, x, y) => canvas.dispatchEvent(new PointerEvent(kind, place(x, y)));
  canvas.setPointerCapture = () => {};
  send("pointerdown", 1, 1);
  const round = [[right / 2, 1], [right, 1], [right, bottom / 2], [right, bottom], [right / 2, bottom], [1, bottom], [1, 9]];
  for (const [x, y] of round) send("pointermove", x, y);
  send("pointerup", 1, 1);
  await new Promise(requestAnimationFrame);
  return document.getElementById("marked").textContent;
}"""


@contextmanager
def served(pages: Browser) -> Iterator[str]:
    """The address of the pages, served by a thread until the end of the block."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> None:
        server = TestServer(pages.application(TOKEN), host="127.0.0.1")
        await server.start_server()
        address.append(f"http://127.0.0.1:{server.port}")
        ready.set()

    def run() -> None:
        loop.create_task(start())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(60)
    yield address[0]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)


def test_a_well_is_searched_a_lasso_is_drawn_and_an_image_is_found(browser: Browser, browsed: RunConfig, tmp_path):  # noqa: F811
    said: list[str] = []
    with served(browser) as address, driver.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        context = opened.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        elsewhere = ("blob:", "data:", address)
        page.on("request", lambda request: None if request.url.startswith(elsewhere) else said.append(request.url))
        page.goto(f"{address}/?token={TOKEN}")
        assert page.url == f"{address}/"  # the token is gone from the address

        page.fill("#text", "strong")
        page.press("#text", "Enter")
        page.wait_for_selector("#found button")
        assert page.locator("#found button").all_inner_texts()[0].startswith("P1/A02")
        page.click("#found button")
        driver.expect(page.locator("#says")).to_have_text("6 nearest wells", timeout=120_000)
        assert page.locator("#answer article").count() == 7
        assert page.locator("#answer img").count() == 14  # seven originals, seven reconstructions
        assert page.evaluate(
            "[...document.querySelectorAll('#answer img')].every((image) => image.naturalWidth === 128)"
        )

        page.select_option("#brush", "lasso")
        assert page.evaluate(LASSO) == "7 wells are marked"
        with page.expect_download() as download:
            page.click("#save")
        download.value.save_as(tmp_path / "wells.csv")
        assert len((tmp_path / "wells.csv").read_text().splitlines()) == 8

        folder = Path(browsed.manifest).parent
        for stain in STAINS:
            page.set_input_files(f"input[data-stain={stain}]", folder / f"2-{stain}.tiff")
        page.click("#image-form button")
        driver.expect(page.locator("#answer")).to_contain_text("new image", timeout=120_000)
        assert page.locator("#answer article h3").first.inner_text().startswith("P1/A03")
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        opened.close()
    assert said == []
