"""The table of ``DirectRoutes`` finds the route that the framework's own routing finds, with the same parameters."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from app.api.application import build
from app.api.metrics import RequestStats
from app.api.routes import DirectRoutes, RequestRoute

_ROUTES: list[BaseRoute] = list(build("1.2.3", RequestStats()).routes)
_WORDS = sorted({word for route in _ROUTES if isinstance(route, RequestRoute) for word in route.path.split("/")})
_SEGMENTS = st.sampled_from([*_WORDS, "", "mug-blue", "{}", "a b", "ä"])
_PATHS = st.lists(_SEGMENTS, min_size=1, max_size=6).map("/".join)
_OF_ROUTES = st.sampled_from([route.path for route in _ROUTES if isinstance(route, RequestRoute)])
_METHODS = st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "TRACE"])


async def _other(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("no request is served here")


def _by_framework(method: str, path: str) -> tuple[RequestRoute, dict[str, Any]] | None:
    for route in _ROUTES:
        if isinstance(route, RequestRoute):
            match, found = route.matches({"type": "http", "method": method, "path": path, "root_path": ""})
            if match is Match.FULL:
                return route, found["path_params"]
    return None


@settings(max_examples=2_000, deadline=None)
@given(method=_METHODS, path=st.one_of(_PATHS.map("/".__add__), _OF_ROUTES))
def test_the_table_finds_what_the_framework_finds(method: str, path: str) -> None:
    """Also where a word of one path is the parameter of another, and where a segment is empty."""
    scope: dict[str, Any] = {"type": "http", "method": method, "path": path}
    found = DirectRoutes(_other, _ROUTES).route_of(scope)
    assert (None if found is None else (found, scope["path_params"])) == _by_framework(method, path)
    assert scope.get("route") is found


def test_every_route_is_in_the_table() -> None:
    """A route that is not would be served by the frameworks' layers, at several times the cost."""
    table = DirectRoutes(_other, _ROUTES)
    for route in _ROUTES:
        if isinstance(route, RequestRoute):
            for method in route.methods or ():
                assert table.route_of({"method": method, "path": route.path}) is route
