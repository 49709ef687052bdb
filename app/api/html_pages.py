"""Pages for people: the API's documentation, which works offline, and an explanation of each type of problem."""

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from typing_extensions import override

from app.api.problem_types import TYPES, ProblemType

_ASSETS = "/docs/assets"
_DASHBOARD_ASSETS = "/dashboard/assets"
_STYLE = (
    "body{max-width:42rem;margin:3rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}"
    "code{background:#8882;padding:.1em .3em}dt{font-weight:600}dd{margin:0 0 1em}"
)
_LOCKED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_INLINE_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_USUAL_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every page and of what it loads."""
router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def _hash_of(text: str) -> str:
    """Return the source expression by which a Content-Security-Policy allows an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_PAGE_HEADERS = _USUAL_HEADERS | {"Content-Security-Policy": f"default-src 'none'; style-src {_hash_of(_STYLE)}; {_LOCKED}"}


def _page(title: str, content: Iterable[str]) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)} - Larder</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{''.join(content)}</body></html>\n",
        headers=_PAGE_HEADERS,
    )


def _item(kind: ProblemType) -> str:
    return f'<dt>{kind.status} <a href="{kind.path}"><code>{kind.slug}</code></a></dt><dd>{html.escape(kind.title)}</dd>'


@router.get("/problems")
async def problem_index() -> HTMLResponse:
    """List the types of problems."""
    return _page("Problems", ["<dl>", *map(_item, TYPES.values()), '</dl><p><a href="/docs">API documentation</a></p>'])


@router.get("/problems/{slug}")
async def problem_page(slug: str) -> HTMLResponse:
    """Explain one type of problem."""
    kind = TYPES.get(slug)
    if kind is None:
        raise HTTPException(404)
    again = "" if kind.retry_after_s is None else f"<p>Retry-After: {kind.retry_after_s} s.</p>"
    return _page(
        kind.title,
        [
            f"<p>Status {kind.status}, <code>{kind.slug}</code></p><h2>What happened</h2><p>{html.escape(kind.meaning)}</p>",
            f'<h2>What to do</h2><p>{html.escape(kind.remedy)}</p>{again}<p><a href="/problems">All problems</a></p>',
        ],
    )


async def _swagger_ui() -> HTMLResponse:
    page = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Larder",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )
    scripts = " ".join(_hash_of(script) for script in _INLINE_SCRIPT.findall(bytes(page.body).decode()))
    # Swagger UI sets style attributes, and draws its icons from data: URLs.
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
        f" connect-src 'self'; {_LOCKED}"
    )
    page.headers.update(_USUAL_HEADERS)
    return page


_DASHBOARD = files("app.dashboard").joinpath("page", "dashboard.html").read_text(encoding="utf-8")
_DASHBOARD_HEADERS = _USUAL_HEADERS | {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; {_LOCKED}"
    ),
    "Cache-Control": "no-cache",
}


@router.get("/dashboard")
async def dashboard() -> HTMLResponse:
    """Show the state of the service. The page is the same for everybody; its script reads ``/dashboard/data``."""
    return HTMLResponse(_DASHBOARD, headers=_DASHBOARD_HEADERS)


class _Assets(StaticFiles):
    @override
    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers.update(_USUAL_HEADERS)
        return response


def install(app: FastAPI, *, docs: bool) -> None:
    """Add the pages. They load nothing from other sites, because Swagger UI comes with an installed package."""
    app.include_router(router)
    app.mount(_DASHBOARD_ASSETS, _Assets(packages=[("app.dashboard", "page")]))
    if not docs:
        return
    app.add_api_route("/docs", _swagger_ui, include_in_schema=False, response_class=HTMLResponse)
    app.mount(_ASSETS, _Assets(packages=[("fastapi_offline", "static")]))
