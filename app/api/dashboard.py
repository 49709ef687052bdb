"""The data of the dashboard: what the recorder found out, what the counters say, and a look at the stock."""

import json
import re
import time
from dataclasses import asdict, fields
from typing import Any

from fastapi import Request
from starlette.responses import Response

from app.access.keys import Scope
from app.api.access_stats import AccessStats
from app.api.bodies import JSON
from app.api.context import larder_of
from app.api.metrics import WorkerMetrics
from app.api.openapi import DASHBOARD, answers
from app.api.parameters import SAMPLES_PARAMETERS
from app.api.problems import FieldError
from app.api.query_parts import MAX_SAMPLES, name_errors, pairs_of, refuse
from app.api.recorder import counters_of
from app.api.responses import NO_STORE
from app.api.routes import request_router, requires
from app.dashboard.record import Record
from app.dashboard.samples import Sample
from app.settings import PRODUCTS_CACHE, WRITE_POLICIES, Settings, names_in

router = request_router("operation")
_COUNT = re.compile("[0-9]{1,13}")
_CLIENTS = 8
"""Most clients that are shown."""
_SAMPLE = [field.name for field in fields(Sample)]


@router.get(
    "/dashboard/data",
    operation_id="getDashboardData",
    summary="The data of the dashboard",
    description="What `/dashboard` shows, low stock and the last movements included. PostgreSQL is not waited for.",
    response_class=Response,
    responses=answers({200: DASHBOARD}, ("invalid-request", "internal-error")),
    openapi_extra={"parameters": SAMPLES_PARAMETERS},
)
@requires(Scope.OPERATE)
async def dashboard_data(request: Request) -> Response:
    """Return what the dashboard shows."""
    seen, larder = samples_seen(request), larder_of(request)
    stock = await larder.stock_glance.latest()
    document = document_of(larder.recorder.record(), larder.total(), seen, workers_wanted=larder.recorder.workers_wanted)
    document["stock"] = stock
    document["caches"] = _caches(larder.settings)
    return Response(json.dumps(document, separators=(",", ":")), 200, {"Cache-Control": NO_STORE}, JSON)


def samples_seen(request: Request) -> int:
    """Read the query of the dashboard's data: how many samples its reader has seen.

    Raises:
        Problem: 422, a parameter is unknown, repeated or has no legal value.
    """
    pairs = pairs_of(request)
    text = dict(pairs).get("after", "0")
    errors = name_errors(pairs, ("after",), ("after",), "after")
    if not (_COUNT.fullmatch(text) and int(text) <= MAX_SAMPLES):
        errors.append(FieldError(f"must be an integer from 0 to {MAX_SAMPLES}", parameter="after"))
    refuse(errors)
    return int(text)


def document_of(record: Record, total: WorkerMetrics, seen: int, *, workers_wanted: int) -> dict[str, Any]:
    """Return the answer without the stock and the settings of the caches.

    Args:
        record: what the recorder found out.
        total: the counters of all workers.
        seen: how many samples the reader has seen.
        workers_wanted: number of workers that should be alive.
    """
    now, moment = time.time(), time.monotonic()
    present = record.samples.present(record.changed)
    return {
        "now": now,
        "record": record.began,
        "observed": record.observed,
        "verdict": asdict(record.verdict()),
        "incidents": [asdict(incident) for incident in reversed(record.incidents.all)],
        "servers": _servers(record, total, moment, workers_wanted),
        "present": present and _rounded(present[0]),
        "present_s": present and present[1],
        "samples": {"next": record.samples.count, "items": [_rounded(sample) for sample in record.samples.after(seen)]},
        "totals": _totals(total, now),
        "queues": {
            "connections": total.requests.connections.open,
            "large_body_bytes": total.requests.connections.large_body_bytes,
            "waiting_for_postgresql": total.load.waiting,
            "longest_wait_s": round(total.load.longest_wait_s, 3),
            "pressure": round(total.load.pressure, 2),
        },
        "feed": {name: value and round(value, 2) for name, value in asdict(total.feed).items()},
        "refused": dict(total.access.refused.most_common()),
        "clients": [
            {"name": name, "admitted": count, "limited": total.access.limited[name]}
            for name, count in _shown_clients(total.access)
        ],
    }


def _caches(settings: Settings) -> list[dict[str, Any]]:
    off = PRODUCTS_CACHE in names_in(settings.cache_off)
    policy = settings.write_policies.get(PRODUCTS_CACHE, WRITE_POLICIES[0])
    return [{"namespace": settings.cache_namespace, "writes": policy, "off": off}]


def _shown_clients(access: AccessStats) -> list[tuple[str, int]]:
    limited = [(name, access.admitted[name]) for name, count in access.limited.most_common(_CLIENTS) if count]
    return list(dict.fromkeys([*access.admitted.most_common(_CLIENTS), *limited]))


def _servers(record: Record, total: WorkerMetrics, moment: float, workers_wanted: int) -> dict[str, Any]:
    state, cache = record.state, total.cache
    return {
        "postgresql_up": state.postgresql_up,
        "redis_up": state.redis_up,
        "proven": state.proven,
        "keys_readable": state.keys_readable,
        "workers": state.workers,
        "workers_wanted": workers_wanted,
        "worker_restarts": total.restarts,
        "proof_age_s": _age(cache.last_proven, moment),
        "audit_age_s": _age(cache.last_audit, moment),
    }


def _totals(total: WorkerMetrics, now: float) -> dict[str, int]:
    cache, counters = total.cache, counters_of(total, now)
    return {
        "reads": counters.reads,
        "saved": counters.hits,
        "writes": counters.writes,
        "statements": counters.statements,
        "audits": cache.audits,
        "audit_failures": cache.audit_failures,
        "audit_deferrals": cache.audit_deferrals,
        "audited_rows": cache.repairs.checked,
        "repairs": cache.repairs.older + cache.repairs.other_epoch + cache.repairs.leases,
        "clean_starts": cache.clean_starts,
        "settles": cache.settles,
        "settle_timeouts": cache.settle_timeouts,
        "unverified": cache.unverified,
        "unexpected_errors": cache.unexpected,
    }


def _age(at: float | None, moment: float) -> float | None:
    return None if at is None else round(max(0.0, moment - at), 2)


def _rounded(sample: Sample) -> dict[str, Any]:
    values = ((name, getattr(sample, name)) for name in _SAMPLE)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in values}
