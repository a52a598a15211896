"""Who may ask: a browser on this machine that has the token of the printed address. A middleware of aiohttp.

The server listens on loopback. Other pages in the same browser can send requests there, and a name of theirs can come to mean
127.0.0.1 (DNS rebinding): so the Host must be this server's own, a request needs the token, by the printed address once and by
a cookie from then on, and what asks for work must come from this server's own page.
"""

import secrets

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
# the page of a run may be another's: it runs apart from this server's own pages, and asks for nothing
POLICY_OF_REPORT = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_CLOSED = "Closed: open the address that `sdvae-ray browse` printed; it has a token.\n"


def guard(token: str) -> Middleware:
    """Return the middleware that lets a request with the token pass, and sets the headers of every answer."""

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        port = request.get_extra_info("sockname")[1]
        cookie = f"sdvae_ray_{port}"  # cookies are shared by the ports of a host
        if request.host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return _closed("Closed: another name than this server's own.\n")
        if request.headers.get("Origin", f"http://{request.host}") != f"http://{request.host}":
            return _closed("Closed: asked by another page.\n")
        is_first = request.path == "/" and _is(token, request.query.get("token"))
        if not is_first and not _is(token, request.cookies.get(cookie)):
            return _closed(_CLOSED)
        try:
            response = await handler(request)
        except web.HTTPException as error:  # no such page, too large an upload
            response = _closed(f"{error.status} {error.reason}\n", error.status)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if is_first:
            response.set_cookie(cookie, token, httponly=True, samesite="Strict", path="/")
        return response

    return guarded


def _is(token: str, given: str | None) -> bool:
    return given is not None and secrets.compare_digest(token.encode(), given.encode())


def _closed(text: str, status: int = 403) -> web.Response:
    return web.Response(text=text, status=status, headers=_HEADERS)
