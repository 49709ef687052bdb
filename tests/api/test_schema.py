"""Requests made from the API's own description, right and wrong ones: the service keeps to what it says of itself."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from app.access.key_ring import KeyRing
from app.access.keys import Scope
from app.access.rates import Limits
from app.api.admission import Admission
from tests.api.conftest import Service
from tests.fakes.keys import Clock, MemoryKeys

OPERATIONS = [
    "adjustStock", "adjustStocks", "batchProducts", "commitReservation", "createProduct", "createReservation", "deleteProduct",
    "dropCacheEntry", "extendReservation", "getDashboardData", "getLiveness", "getMetrics",
    "getProduct", "getReadiness", "getReservation", "getWrite", "headProduct", "listChanges", "listMovements",
    "listProductMovements", "listProducts", "listReservations", "patchProduct", "putProduct", "putStock", "releaseReservation",
]  # fmt: skip
# These take nothing that could be wrong.
WITHOUT_INPUT = {"getLiveness", "getMetrics", "getReadiness", "getWrite"}
RUNS = [
    (operation, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode.is_positive or operation not in WITHOUT_INPUT
]  # fmt: skip


@pytest.mark.parametrize(("operation_id", "mode"), RUNS)
def test_the_service_answers_as_it_describes(service: Service, operation_id: str, mode: GenerationMode) -> None:
    """With a key of just its scope, every answer is as described, and wrong requests are refused."""
    keys = MemoryKeys()
    ring = KeyRing([keys], limits=Limits(), clock=Clock())
    operations = [op for methods in service.app.openapi()["paths"].values() for op in methods.values()]
    [described] = [op for op in operations if op["operationId"] == operation_id]
    scopes = [Scope(name) for scheme in described.get("security", ()) for name in scheme["key"]]
    headers = {"Authorization": keys.add("tester", frozenset(scopes)).decode()} if scopes else {}
    asyncio.run(ring.renew())
    service.app.state.larder = replace(service.app.state.larder, admission=Admission(ring))
    config = SchemathesisConfig.from_path(Path(__file__).with_name("schemathesis.toml"))
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app, config=config)
    operation = schema.find_operation_by_id(operation_id)

    # One seed, no database of examples: the suite runs the same requests everywhere.
    @settings(
        max_examples=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def answers_as_described(case: "schemathesis.Case[Any]") -> None:
        case.call_and_validate(headers=headers)

    answers_as_described()
