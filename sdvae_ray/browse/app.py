"""The pages and questions of `browse` over HTTP: an aiohttp application. What it answers is made in questions and pictures."""

import asyncio
import base64
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from sdvae_ray.browse.guard import POLICY_OF_REPORT, guard
from sdvae_ray.browse.pictures import FieldPictures
from sdvae_ray.browse.questions import MOST_NEIGHBOURS, Questions
from sdvae_ray.config import IMAGE_SIDE
from sdvae_ray.errors import ConfigError, SdvaeRayError, did_you_mean, one_line
from sdvae_ray.report.facts.conclude.study import Study, rule_of
from sdvae_ray.report.page.figure_files import resource
from sdvae_ray.report.page.write import FILE, templates
from sdvae_ray.report.sections.answers import verdict
from sdvae_ray.report.sections.header import header

MOST_UPLOAD = 256 * 2**20  # bytes of all files of an image; what they decode to is bounded by images.guard
_OWN, _OF_THE_REPORT = ("browse.js",), ("sections.js", "wells_data.js", "wells_draw.js", "wells.js")
T = TypeVar("T")


class Browser:
    """The handlers of one run's pages.

    Pictures and embeddings take a model, one at a time, in a thread of their own; other questions wait for none of them.
    """

    def __init__(self, questions: Questions) -> None:
        self.questions, self.run = questions, questions.run
        self.pictures = FieldPictures(self.run)
        self.models = ThreadPoolExecutor(1, "browse-models")
        self.tables = ThreadPoolExecutor(1, "browse-tables")
        self._page = self._render()

    def application(self, token: str) -> web.Application:
        """Return the application; its middleware asks for the token."""
        app = web.Application(client_max_size=MOST_UPLOAD, middlewares=[guard(token)])
        app.add_routes(
            [
                web.get("/", self.page),
                web.get("/report", self.report),
                web.get("/style.css", self.style),
                web.get("/scripts/{name}", self.script),
                web.get("/find", self.find),
                web.get("/neighbours", self.neighbours),
                web.get("/pictures", self.field),
                web.post("/image", self.image),
                web.post("/wells.csv", self.csv),
            ]
        )
        app.on_cleanup.append(self._close)
        return app

    # --- pages -----------------------------------------------------------------------------------------------------------------

    async def page(self, request: web.Request) -> web.Response:
        """The page."""
        return web.Response(text=self._page, content_type="text/html")

    async def style(self, request: web.Request) -> web.Response:
        """The style sheets of the report, and this page's own."""
        text = resource("chart.css") + resource("page.css") + _resource("browse.css")
        return web.Response(text=text, content_type="text/css")

    async def script(self, request: web.Request) -> web.Response:
        """A script by its name."""
        name = request.match_info["name"]
        if name in _OWN:
            text = _resource("scripts", name)
        elif name in _OF_THE_REPORT:
            text = resource("scripts", name)
        else:
            raise web.HTTPNotFound
        return web.Response(text=text, content_type="text/javascript")

    async def report(self, request: web.Request) -> web.Response:
        """The run's own page, as `report` wrote it."""

        def read() -> bytes:
            return self.run.storage.read_bytes(self.run.uri(FILE))

        try:
            page = await self._in(self.tables, read)
        except (SdvaeRayError, OSError):
            return web.Response(text=f"There is no page yet: sdvae-ray report {self.run.output}\n", status=404)
        return web.Response(
            body=page, content_type="text/html", charset="utf-8", headers={"Content-Security-Policy": POLICY_OF_REPORT}
        )

    def _render(self) -> str:
        scored = self.questions.scored
        page = templates("sdvae_ray.browse").get_template("browse.html")
        return page.render(
            header=header(scored),
            output=self.run.output,
            lines=verdict.lines(Study((scored,)), rule_of(scored)),
            spaces=self.questions.spaces,
            sides=[(side, scored.label(side)) for side in self.pictures.sides],
            stains=self.run.config.image.stains,
            plates=self.questions.plates if self.questions.map is not None else [],
            most=MOST_NEIGHBOURS,
            section=self.questions.map,
            scripts=[*_OF_THE_REPORT, *_OWN],
        )

    # --- questions -------------------------------------------------------------------------------------------------------------

    async def find(self, request: web.Request) -> web.Response:
        """?text=: wells whose name or treatment contains it."""
        text = request.query.get("text", "")
        return await self._answered(self.tables, lambda: self.questions.find(text))

    async def neighbours(self, request: web.Request) -> web.Response:
        """?well=PLATE/WELL&space=extractor/side&count=: the nearest wells."""
        well = request.query.get("well", "")
        return await self._answered(
            self.tables, lambda: self.questions.neighbours(well, *_space(request), _count(request))
        )

    async def field(self, request: web.Request) -> web.Response:
        """?fov=ID&side=NAME...: pictures of the original and of sides; base64 of a PNG, or why there is none."""
        fov_id, sides = request.query.get("fov", ""), [IMAGE_SIDE, *request.query.getall("side", [])]

        def draw() -> dict[str, Any]:
            pictures = self.pictures.of(fov_id, sides)
            return {
                side: {"why": png} if isinstance(png, str) else {"png": base64.b64encode(png).decode()}
                for side, png in pictures.items()
            }

        return await self._answered(self.models, draw)

    async def image(self, request: web.Request) -> web.Response:
        """?part=STAIN:BYTES...&space=&plate=&count=: the wells nearest to an image. The body holds the files one behind the other;
        one part without a STAIN holds the planes of all stains."""
        parts = [_part(text) for text in request.query.getall("part", [])]
        body = await request.read()
        stains = self.run.config.image.stains
        if unknown := [stain for stain, _ in parts if stain and stain not in stains]:
            return _refused(f"this run has no stain {unknown[0]!r}{did_you_mean(unknown[0], stains)}")
        if min((size for _, size in parts), default=0) < 1 or sum(size for _, size in parts) != len(body):
            return _refused("the sizes of the files are not those of the upload")

        def search() -> dict[str, Any]:
            with tempfile.TemporaryDirectory(prefix="sdvae-ray-browse-") as folder:
                asked, start = [], 0
                for number, (stain, size) in enumerate(parts):
                    file = Path(folder, f"image-{number}")
                    file.write_bytes(body[start : start + size])
                    asked.append(f"{stain}={file}" if stain else str(file))
                    start += size
                try:
                    told = self.questions.nearest_to_image(
                        asked, *_space(request), request.query.get("plate") or None, _count(request)
                    )
                except SdvaeRayError as error:
                    raise ConfigError(str(error).replace(f"{folder}/", "")) from error
            told["facts"] = {key: str(value).replace(f"{folder}/", "") for key, value in told["facts"].items()}
            return told

        return await self._answered(self.models, search)

    async def csv(self, request: web.Request) -> web.Response:
        """The wells whose numbers the body lists, as JSON; a CSV file."""
        try:
            numbers = await request.json()
        except ValueError:
            numbers = None
        if not isinstance(numbers, list) or not all(type(number) is int and 0 <= number < 2**32 for number in numbers):
            return _refused("a list of numbers of wells is wanted")
        try:
            table = await self._in(self.tables, lambda: self.questions.csv(numbers))
        except (SdvaeRayError, OSError) as error:
            return _refused(one_line(error))
        disposition = {"Content-Disposition": 'attachment; filename="wells.csv"'}
        return web.Response(text=table, content_type="text/csv", headers=disposition)

    async def _answered(self, pool: ThreadPoolExecutor, question: Callable[[], dict[str, Any]]) -> web.Response:
        try:
            return web.json_response(await self._in(pool, question))
        except (SdvaeRayError, OSError) as error:
            return _refused(one_line(error, None))

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)

    async def _close(self, app: web.Application) -> None:
        for pool in (self.models, self.tables):
            pool.shutdown(wait=False, cancel_futures=True)


def _resource(*parts: str) -> str:
    return files("sdvae_ray.browse").joinpath(*parts).read_text()


def _refused(why: str) -> web.Response:
    return web.json_response({"error": why}, status=400)


def _space(request: web.Request) -> tuple[str | None, str | None]:
    """Return (extractor, side) of ?space=extractor/side; None where it names none."""
    extractor, _, side = request.query.get("space", "").partition("/")
    return extractor or None, side or None


def _count(request: web.Request) -> int:
    text = request.query.get("count", "10")
    return int(text) if text.isdecimal() and len(text) < 6 else 0  # 0 is refused, with what is allowed


def _part(text: str) -> tuple[str, int]:
    """Return (stain, bytes) of STAIN:BYTES; 0 bytes for another text, which no upload has."""
    stain, _, size = text.rpartition(":")
    return stain, int(size) if size.isdecimal() and len(size) < 12 else 0
