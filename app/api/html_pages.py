"""Pages for people: the API's documentation, which works offline, and an explanation of each type of problem."""

import html
from collections.abc import Iterable

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse

from app.api.problem_types import TYPES, ProblemType

_ASSETS = "/docs/assets"
_STYLE = (
    "body{max-width:42rem;margin:3rem auto;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}"
    "code{background:#8882;padding:.1em .3em}dt{font-weight:600}dd{margin:0 0 1em}"
)
router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)


def _page(title: str, content: Iterable[str]) -> HTMLResponse:
    return HTMLResponse(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)} - Larder</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><h1>{html.escape(title)}</h1>{''.join(content)}</body></html>\n"
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
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Larder",
        swagger_js_url=f"{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{_ASSETS}/favicon.png",
        swagger_ui_parameters={"tryItOutEnabled": True, "displayRequestDuration": True},
    )


def install(app: FastAPI, *, docs: bool) -> None:
    """Add the pages. They load nothing from other sites, because Swagger UI comes with an installed package."""
    app.include_router(router)
    if not docs:
        return
    app.add_api_route("/docs", _swagger_ui, include_in_schema=False, response_class=HTMLResponse)
    app.mount(_ASSETS, StaticFiles(packages=[("fastapi_offline", "static")]))
