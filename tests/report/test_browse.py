"""The live pages of a run: who may ask, wells and their neighbours, a new image, pictures, a table, the address and its end."""

import asyncio
import base64
import csv
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tifffile
from aiohttp import FormData
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image
from report_run import EVIL, STAINS, STORAGE, Page, said, scored
from test_conclude import with_wells

from sdvae_ray.browse import app as module
from sdvae_ray.browse.app import Browser
from sdvae_ray.browse.questions import Questions
from sdvae_ray.config import RunConfig
from sdvae_ray.retrieval.index import faiss_index
from sdvae_ray.retrieval.normalisation import saved_fit
from sdvae_ray.retrieval.normalisation.contract import Affine, Map
from sdvae_ray.run.run import Run
from sdvae_ray.schema import FOV_ID, METADATA

TOKEN = "a secret of this test"
GROUP = "U2OS / 48"
TestClient.__test__ = TestServer.__test__ = False  # classes of aiohttp that pytest would take for tests


def write_fitted_index(config: RunConfig) -> None:
    """An index of the wells by intensity with the fit of its normalisation, as `score` saves them: less the mean of the plate."""
    run = Run(config)
    ids, values = run.embeddings("intensity", "image")
    vectors = values.reshape(len(ids), -1).astype(np.float64)
    mean = vectors.mean(0)
    rows = pl.DataFrame({FOV_ID: ids}).join(run.fovs(), on=FOV_ID, maintain_order="left")
    folder = Path(config.output, "index", "intensity", "image")
    folder.mkdir(parents=True)
    (folder / "group.faiss").write_bytes(faiss_index.to_bytes(faiss_index.build((vectors - mean).astype(np.float32))))
    table = rows.select(f"^{METADATA}.*$").drop("Metadata_Site")
    table = table.with_columns(group=pl.lit(GROUP), id=pl.int_range(pl.len(), dtype=pl.UInt32))
    table.write_parquet(folder / "group.parquet")
    plate = "source_1/batch/P1"
    (folder / "group.fit.npz").write_bytes(saved_fit.to_bytes((Affine("plate", {plate: Map(mean)}),)))


@pytest.fixture(scope="module")
def browsed(made: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A scored copy of the run with an index; its page."""
    folder = tmp_path_factory.mktemp("browsed") / "run"
    shutil.copytree(made.output, folder)
    config = made.model_copy(update={"output": str(folder)})
    write_fitted_index(config)
    scores = with_wells(config, {"identity": 0.0, "pca": 0.4})
    own = {"Metadata_Source": pl.lit("source_1"), "Metadata_Batch": pl.lit("batch")}  # of the run's wells
    replace(scores, wells=scores.wells.with_columns(**own)).write(config.output, STORAGE)
    return config


@pytest.fixture(scope="module")
def browser(browsed: RunConfig) -> Browser:
    return Browser(Questions(scored(browsed, Run(browsed).scores())))


def asked(browser: Browser, action: Callable[[TestClient], Awaitable[Any]], token: str | None = TOKEN) -> Any:
    """What an action of a client gets; with the token in its cookie, unless there is None."""

    async def run() -> Any:
        application = browser.application(TOKEN)
        application.on_cleanup.clear()  # the next client asks the same threads
        async with TestClient(TestServer(application, host="127.0.0.1")) as client:
            if token is not None:
                await client.get("/", params={"token": token})
            return await action(client)

    return asyncio.run(run())


def got(browser: Browser, path: str, *values: tuple[str, str], body: bytes | None = None) -> tuple[int, Any]:
    """(status, JSON) of a question."""

    async def ask(client: TestClient) -> tuple[int, Any]:
        response = await (
            client.get(path, params=values) if body is None else client.post(path, params=values, data=body)
        )
        return response.status, await response.json()

    return asked(browser, ask)


# --- who may ask ---------------------------------------------------------------------------------------------------------------


def status(path: str, **headers: str) -> Callable[[TestClient], Awaitable[int]]:
    async def ask(client: TestClient) -> int:
        return (await client.get(path, headers=headers)).status

    return ask


@pytest.mark.parametrize("path", ["/", "/report", "/find?text=a", "/scripts/browse.js", "/style.css", "/nothing"])
def test_without_the_token_nothing_is_told(browser, path):
    assert asked(browser, status(path), token=None) == 403
    assert asked(browser, status(path), token="another") == 403
    assert asked(browser, status(path)) == (404 if path in ("/report", "/nothing") else 200)


def test_another_name_for_this_machine_and_another_page_are_refused(browser):
    assert asked(browser, status("/", Host="evil.example")) == 403
    assert asked(browser, status("/", Host="127.0.0.1:1")) == 403
    assert asked(browser, status("/", Origin="http://evil.example")) == 403

    async def own(client: TestClient) -> int:
        origin = f"http://127.0.0.1:{client.server.port}"
        return (await client.get("/", headers={"Origin": origin, "Host": f"localhost:{client.server.port}"})).status

    assert asked(browser, own) == 403  # localhost and 127.0.0.1 are two origins


def test_the_page_asks_for_nothing_from_elsewhere_and_escapes_its_texts(browser):
    async def read(client: TestClient) -> tuple[str, Any]:
        response = await client.get("/")
        return await response.text(), response.headers

    text, headers = asked(browser, read)
    page = Page(text)
    assert all(value.startswith(("/", "#", "data:")) for _, name, value in page.attributes if name in ("src", "href"))
    assert "<script>alert" not in text
    assert EVIL.split("&")[0] not in text
    assert TOKEN not in text
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert "Random weights: tiny." in page.text
    assert "On average" in page.text or "inferior: pca" in page.text
    assert [value for tag, name, value in page.attributes if tag == "script" and name == "src"][
        -1
    ] == "/scripts/browse.js"


def test_the_token_becomes_a_cookie_that_no_script_and_no_other_site_reads(browser):
    async def read(client: TestClient) -> str:
        return (await client.get("/", params={"token": TOKEN})).headers["Set-Cookie"]

    cookie = asked(browser, read, token=None)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))


def test_the_page_of_the_run_runs_apart(browser, browsed):
    file = Path(browsed.output, "report", "index.html")
    file.parent.mkdir()
    file.write_text("<p>the report</p>")

    async def read(client: TestClient) -> tuple[str, str]:
        response = await client.get("/report")
        return await response.text(), response.headers["Content-Security-Policy"]

    text, policy = asked(browser, read)
    shutil.rmtree(file.parent)
    assert text == "<p>the report</p>"
    assert policy.startswith("sandbox allow-scripts")
    assert "allow-same-origin" not in policy
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy


# --- questions -----------------------------------------------------------------------------------------------------------------


def test_wells_are_found_by_place_and_by_treatment(browser):
    code, answer = got(browser, "/find", ("text", "p1/a02"))
    assert (code, answer["total"]) == (200, 1)
    (well,) = answer["wells"]
    assert well == {
        "well": "P1/A02",
        "name": "er_stress 1 (strong)",
        "role": "treated",
        "group": "all",
        "number": 1,
        "field": "source_1/batch/P1/A02/1",
    }
    assert [well["well"] for well in got(browser, "/find", ("text", "STRONG"))[1]["wells"]] == ["P1/A02", "P1/A06"]
    assert got(browser, "/find", ("text", " "))[1] == {"total": 0, "wells": []}
    failed = got(browser, "/find", ("text", "P1/A08"))[1]["wells"][0]
    assert failed["field"] is None


def test_the_neighbours_are_those_of_search_with_their_fields(browser, browsed):
    from sdvae_ray.queries.search import search_well

    code, answer = got(browser, "/neighbours", ("well", "P1/A02"), ("space", "intensity/image"), ("count", "3"))
    assert code == 200
    known, facts = search_well(Run(browsed), "P1/A02", "intensity", "image", 3)
    assert [row["well"] for row in answer["neighbours"]] == [f"P1/{well}" for well in known["Metadata_Well"]]
    assert [row["similarity"] for row in answer["neighbours"]] == pytest.approx(known["similarity"].to_list())
    assert answer["facts"] == facts
    assert answer["query"][0]["well"] == "P1/A02"
    assert all(row["field"].endswith(f"{row['well'][3:]}/1") for row in answer["neighbours"])


@pytest.mark.parametrize(
    ("path", "values", "words"),
    [
        ("/neighbours", {"well": "P1/A99"}, "did you mean 'P1/A0"),
        ("/neighbours", {"well": "P1/A02", "space": "intensty/image"}, "did you mean 'intensity'"),
        ("/neighbours", {"well": "P1/A02", "count": "0"}, "1 to 100 are wanted"),
        ("/neighbours", {"well": "P1/A02", "count": "99999999"}, "1 to 100 are wanted"),
    ],
)
def test_a_wrong_question_is_answered_in_one_line(browser, path, values, words):
    code, answer = got(browser, path, *values.items())
    assert code == 400
    assert words in answer["error"]
    assert "\n" not in answer["error"]


def test_the_pictures_of_a_field_are_its_original_and_its_decoded_latents(browser):
    fov = "source_1/batch/P1/A02/1"
    code, pictures = got(browser, "/pictures", ("fov", fov), ("side", "pca"), ("side", "jpeg"))
    assert code == 200
    sizes = {}
    for side in ("image", "pca"):
        image = Image.open(io.BytesIO(base64.b64decode(pictures[side]["png"])))
        sizes[side] = image.size
        assert np.asarray(image).std() > 5
    assert sizes == {"image": (128, 128), "pca": (128, 128)}
    assert "that is a codec" in pictures["jpeg"]["why"]
    code, pictures = got(browser, "/pictures", ("fov", "source_1/batch/P1/A08/1"), ("side", "pca"))
    assert "truncated" in pictures["image"]["why"]
    assert "truncated" in pictures["pca"]["why"]
    code, pictures = got(browser, "/pictures", ("fov", "nobody"))
    assert "nobody" in pictures["image"]["why"]


def upload(files: list[tuple[str, bytes]]) -> tuple[list[tuple[str, str]], bytes]:
    return [("part", f"{stain}:{len(data)}") for stain, data in files], b"".join(data for _, data in files)


def test_an_image_of_the_run_finds_its_own_well_by_its_files_and_by_one_stack(browser, browsed):
    folder = Path(browsed.manifest).parent
    files = [(stain, (folder / f"2-{stain}.tiff").read_bytes()) for stain in STAINS]
    planes = np.stack([tifffile.imread(io.BytesIO(data)) for _, data in files])
    stack = io.BytesIO()
    tifffile.imwrite(stack, planes)
    for given in (files, [("", stack.getvalue())]):
        parts, body = upload(given)
        code, answer = got(browser, "/image", *parts, ("plate", "P1"), ("space", "intensity/image"), body=body)
        assert code == 200, answer
        nearest = answer["neighbours"][0]
        assert nearest["well"] == "P1/A03"
        assert nearest["similarity"] == pytest.approx(1, abs=1e-3)
        assert "normalised as a well of plate" in answer["facts"]["as"]
        assert "sdvae-ray-browse" not in json.dumps(answer)


def test_an_upload_that_is_no_image_is_refused_in_one_line(browser):
    parts, body = upload([(stain, b"no image") for stain in STAINS])
    space = ("space", "intensity/image")
    code, answer = got(browser, "/image", *parts, ("plate", "P1"), space, body=body)
    assert code == 400
    assert "corrupt" in answer["error"]
    assert "/tmp" not in answer["error"]
    for values, data, words in (
        (parts[:3], body, "sizes"),
        ([("part", "Mito:zz")], b"", "sizes"),
        ([("part", "Mit:8")], b"no image", "no stain 'Mit'; did you mean 'Mito'?"),
        ([("part", "s3://bucket/x:8")], b"no image", "no stain 's3://bucket/x'"),
        (parts, body, "no plate 'P9'"),
    ):
        code, answer = got(browser, "/image", *values, ("plate", "P9"), space, body=data)
        assert code == 400
        assert words in answer["error"]


def test_an_upload_that_is_too_large_is_refused_before_it_is_decoded(browser, monkeypatch):
    monkeypatch.setattr(module, "MOST_UPLOAD", 1000)

    async def send(client: TestClient) -> tuple[int, int]:
        large = await client.post("/image", params=[("part", "Mito:5000")], data=b"x" * 5000)
        form = FormData()
        form.add_field("file", io.BytesIO(b"x" * 5000), filename="file")
        other = await client.post("/image", params=[("part", "Mito:5000")], data=form)
        return large.status, other.status

    assert asked(browser, send) == (413, 413)


def test_marked_wells_are_a_table_that_no_spreadsheet_computes(browser, browsed, monkeypatch):
    async def save(client: TestClient) -> tuple[str, str]:
        response = await client.post("/wells.csv", json=[1, 0, 2])
        return await response.text(), response.headers["Content-Disposition"]

    formula = pl.when(pl.col("name").str.starts_with("er_stress")).then(pl.lit("=1+1")).otherwise(pl.col("name"))
    monkeypatch.setattr(browser.questions, "wells", browser.questions.wells.with_columns(name=formula))
    text, disposition = asked(browser, save)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert disposition == 'attachment; filename="wells.csv"'
    assert [row["Metadata_Well"] for row in rows] == ["A02", "A01", "A03"]
    assert rows[0]["name"] == "'=1+1"
    assert rows[0]["Metadata_phenotype"] == "er_stress"
    assert rows[2]["Metadata_broad_sample"] == EVIL
    assert [row["role"] for row in rows] == ["treated", "control", "treated"]
    wells = scored(browsed, Run(browsed).scores()).scores.wells
    of_pca = wells.filter(extractor="intensity", side="pca", Metadata_Plate="P1", Metadata_Well="A02")["normalised_ap"]
    assert float(rows[0]["normalised_ap_intensity_pca"]) == pytest.approx(of_pca.item())
    for body, words in (
        (b"[99]", "not on the map"),
        (b'{"a": 1}', "a list"),
        (b"[-1]", "a list"),
        (b"[true]", "a list"),
    ):
        code, answer = got(browser, "/wells.csv", body=body)
        assert (code, words in answer["error"]) == (400, True)


def test_a_run_without_an_index_says_what_makes_one(made):
    page = Browser(Questions(scored(made)))._page
    assert "There is no index of wells: sdvae-ray score makes it." in page


# --- the command ---------------------------------------------------------------------------------------------------------------


def test_without_the_server_and_with_a_taken_port_one_line_says_so(browsed, capsys, monkeypatch):
    import importlib.util
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        code, text = said(capsys, "browse", browsed.output, "--port", port)
        assert (code, f"--port {port}: Address already in use; --port 0 takes a free one" in text) == (2, True)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "aiohttp" else found(name))
    code, text = said(capsys, "browse", browsed.output)
    assert (code, "pip install 'sdvae-ray[browse]'" in text) == (2, True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_loopback_alone_and_a_signal_ends_it_in_one_line(browsed, tmp_path, number):
    command = [sys.executable, "-m", "sdvae_ray.cli.main", "browse", browsed.output]
    out, err = tmp_path / "out", tmp_path / "err"
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
    try:
        until = time.monotonic() + 240
        while not (match := re.search(r"http://127.0.0.1:(\d+)/\?token=\S+", out.read_text())):
            assert process.poll() is None, err.read_text()
            assert time.monotonic() < until
            time.sleep(0.2)
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with opener.open(match[0]) as page:
            assert "sdvae_ray browse" in page.read().decode()
        with opener.open(f"http://127.0.0.1:{match[1]}/find?text=strong") as answer:
            assert json.load(answer)["total"] == 2
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"http://127.0.0.1:{match[1]}/find?text=strong")
        listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()
        hexadecimal = f"{int(match[1]):04X}"
        assert re.findall(rf"(\w+):{hexadecimal} \w+:0000 0A", listening) == ["0100007F"]
        os.kill(process.pid, number)
        assert process.wait(timeout=30) == 0
        assert out.read_text().splitlines()[-1] == "browse: ended"
        assert err.read_text() == ""
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
