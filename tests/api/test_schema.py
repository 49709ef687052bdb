"""Requests made from the API's own description, right and wrong ones: the service keeps to what it says of itself."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from tests.api.conftest import Service

OPERATIONS = [
    "adjustStock", "adjustStocks", "batchProducts", "createProduct", "deleteProduct", "dropCacheEntry", "getLiveness",
    "getMetrics", "getProduct", "getReadiness", "headProduct", "listMovements", "listProductMovements", "listProducts",
    "patchProduct", "putProduct", "putStock",
]  # fmt: skip
# These take nothing that could be wrong.
WITHOUT_INPUT = {"getLiveness", "getMetrics", "getReadiness"}
RUNS = [
    (operation, mode)
    for operation in OPERATIONS
    for mode in GenerationMode
    if mode.is_positive or operation not in WITHOUT_INPUT
]  # fmt: skip


@pytest.mark.parametrize(("operation_id", "mode"), RUNS)
def test_the_service_answers_as_it_describes(service: Service, operation_id: str, mode: GenerationMode) -> None:
    """Statuses, media types, headers and bodies are the described ones; wrong requests are refused, none is a fault of ours."""
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
        case.call_and_validate()

    answers_as_described()
