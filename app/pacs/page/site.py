"""The routes: `/` for people, `/healthz` and `/readyz` for an orchestrator, `/metrics` for Prometheus."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy.exc import DBAPIError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from app.pacs import trail
from app.pacs.database.engine import Database
from app.pacs.look import retry
from app.pacs.page.figures import figures
from app.pacs.page.metrics import metrics_text
from app.pacs.places import Places
from operators import __version__

LARGEST_REQUEST: Final = 1 << 16
SECURITY: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
Check = Callable[[], bool]


def _templates() -> Environment:
    return Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined)


def make_site(
    database: Database,
    places: Places,
    token: str | None,
    hosts: list[str],
    checks: Mapping[str, Check],
    on_retry: Callable[[], None] = lambda: None,
    further: Sequence[Route] = (),
) -> Starlette:
    """Return the routes of the site.

    Args:
        database: of the queue.
        places: of the spool.
        token: that a request which changes something must bring; None forbids all of them.
        hosts: names under which the page may be called: another one is a page of somebody else's that calls ours.
        checks: name → whether this part works, for `/readyz`.
        on_retry: called when something is to be done again.
        further: routes, which bound their bodies themselves.
    """
    site = _Site(database, places, token, checks, on_retry)
    routes = [
        Route("/", site.status),
        Route("/retry", site.again, methods=["POST"], max_body_size=LARGEST_REQUEST),
        Route("/healthz", site.healthz),
        Route("/readyz", site.readyz),
        Route("/metrics", site.metrics),
        *further,
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={DBAPIError: _away},
    )


@dataclass(frozen=True, slots=True)
class _Site:
    """What the routes answer from; see `make_site`."""

    database: Database
    places: Places
    token: str | None
    checks: Mapping[str, Check]
    on_retry: Callable[[], None]
    rejections: trail.Rejections = field(default_factory=trail.Rejections)
    templates: Environment = field(default_factory=_templates)

    async def status(self, request: Request) -> Response:
        """Show the page."""
        found = await run_in_threadpool(figures, self.database, self.places)
        page = self.templates.get_template("status.html")
        text = page.render(found=found, version=__version__, may_change=self.token is not None)
        return HTMLResponse(text, headers=SECURITY)

    async def again(self, request: Request) -> Response:
        """Take up a job again, for whoever brings the token."""
        given = parse_qs((await request.body()).decode("ascii", errors="replace"))
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        offered = given.get("token", [bearer])[0]
        address = request.client.host if request.client else ""
        if self.token is None or not hmac.compare_digest(offered.encode(), self.token.encode()):
            self.rejections.denied(address)
            text = "the token is missing or wrong; it is in the file that listener.page.token_file names"
            return PlainTextResponse(text, 403, SECURITY)
        try:
            job_id = int(given.get("job", [""])[0])
        except ValueError:
            return PlainTextResponse("expected job=NUMBER", 400, SECURITY)
        worked, sent = await run_in_threadpool(retry, self.database, [job_id])
        if worked or sent:
            trail.retried([job_id], worked, sent, address)
        self.on_retry()
        return RedirectResponse("/", 303, SECURITY)

    async def healthz(self, request: Request) -> Response:
        """Answer as long as the process does."""
        return PlainTextResponse("ok", headers=SECURITY)

    async def readyz(self, request: Request) -> Response:
        """Answer which parts work."""
        found = {name: await run_in_threadpool(_holds, check) for name, check in self.checks.items()}
        return JSONResponse(found, 200 if all(found.values()) else 503, SECURITY)

    async def metrics(self, request: Request) -> Response:
        """Return the figures for Prometheus."""
        found = await run_in_threadpool(figures, self.database, self.places)
        return Response(metrics_text(found), headers=SECURITY, media_type=CONTENT_TYPE_LATEST)


async def _away(request: Request, error: Exception) -> Response:
    return PlainTextResponse("the database cannot be reached; see the log", 503, SECURITY)


def _holds(check: Check) -> bool:
    try:
        return check()
    except (OSError, DBAPIError):
        return False
