"""The page at `/`: a handful of files, read when the service starts.

Design decisions:
- Plain JavaScript modules without a build, and nothing from elsewhere: the page works where there is no internet.
- Only the files that were there at the start are served, by a dictionary: no path is ever made from a request.
- The browser is told to load nothing from another host and run no script that stands in a text (CSP, Trusted Types).
- Questions lie in the part of the address behind `#`: no server, proxy or log gets to see a link's prompt.
"""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
FILES = {file.name: file.read_bytes() for file in files("dist_attr.serving").joinpath("page").iterdir()}
INDEX = "index.html"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept, but asked for each time: a service of another version has other files under the same names.
    "Cache-Control": "no-cache",
}

page_router = APIRouter(include_in_schema=False)


def _file(name: str, request: Request) -> Response:
    content = FILES[name]
    etag = f'"{sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": etag}
    if etag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=TYPES[name.rpartition(".")[2]], headers=headers)


@page_router.get("/")
async def index(request: Request) -> Response:
    """The page."""
    return _file(INDEX, request)


@page_router.get("/page/{name}")
async def part(name: str, request: Request) -> Response:
    """What the page loads."""
    if name == INDEX or name not in FILES:
        raise HTTPException(404, "the page has no such file")
    return _file(name, request)
