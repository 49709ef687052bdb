"""The statements by which a transaction changes products and their ledger."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

from app.products import queries
from app.products.commands import UNSTAMPED, Change, Effect
from app.products.decision import Decision, Done, Postponed, Repeated
from app.products.errors import KeyReused
from app.products.idempotency import WriteRequest
from app.products.product import Gone, Product, Row

Statement = tuple[LiteralString, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A statement that changes something. ``row_count`` is the number of rows that it must return."""

    statement: LiteralString
    parameters: Mapping[str, Any]
    row_count: int = 0


def record(batch: Sequence[WriteRequest], decisions: Sequence[Decision]) -> list[Step]:
    """Return the statement that writes the ledger's entries, if there are any."""
    entries = [
        (movement, request.origin)
        for request, decision in zip(batch, decisions, strict=True)
        if isinstance(decision, Done)
        for effect in decision.effects
        for movement in effect.movements()
    ]
    if not entries:
        return []
    # The order is the same everywhere, as for the locks. Otherwise two transactions that create the same products could wait
    # for each other.
    entries.sort(key=lambda entry: (entry[0].product_id, entry[0].version, entry[0].line))
    rows = [
        {
            "id": movement.product_id,
            "version": movement.version,
            "line": movement.line,
            "delta": movement.delta,
            "stock": movement.stock_after,
            "reason": movement.reason,
            "reference": movement.reference,
            "actor": origin.actor,
            "request": origin.request_id,
            "key": origin.idempotency_key.key if origin.idempotency_key else None,
        }
        for movement, origin in entries
    ]
    return [Step(queries.RECORD, {"rows": json.dumps(rows)}, row_count=len(rows))]


def steps(before: Mapping[str, Row], changed: Mapping[str, Row]) -> list[Step]:
    """Return the statements that change the rows ``before`` to ``changed``."""
    products = [row for row in changed.values() if isinstance(row, Product)]
    new = [row for row in products if before[row.id].version == 0]
    known = [row for row in products if before[row.id].version > 0]
    gone = [row for row in changed.values() if isinstance(row, Gone)]
    # These were created and deleted within this transaction. A tombstone keeps the version in case the id is created again.
    never_stored = [row for row in gone if before[row.id].version == 0]
    buried = [row for row in gone if before[row.id].version > 0]
    found: list[Step] = []
    if new or never_stored:
        placeholders = [Product(row.id, row.id, 0, 0, 0, row.version, UNSTAMPED, UNSTAMPED) for row in never_stored]
        inserted = sorted([*new, *placeholders], key=lambda row: row.id)
        dead = {row.id for row in never_stored}
        gone_at_once = [row.id in dead for row in inserted]
        found.append(Step(queries.INSERT, {**_columns(inserted), "gone": gone_at_once}, row_count=len(inserted)))
    if known:
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "price": row.price_cents,
                "stock": row.stock,
                "reorder_point": row.reorder_point,
                "version": row.version,
                "created": row.created_at == UNSTAMPED,
            }
            for row in known
        ]
        found.append(Step(queries.UPDATE, {"rows": json.dumps(rows), "ids": [row.id for row in known]}))
    if buried:
        parameters = {"ids": [row.id for row in buried], "versions": [row.version for row in buried]}
        found.append(Step(queries.BURY, parameters))
    return found


def _columns(rows: Sequence[Product]) -> dict[str, Any]:
    return {
        "ids": [row.id for row in rows],
        "names": [row.name for row in rows],
        "prices": [row.price_cents for row in rows],
        "stocks": [row.stock for row in rows],
        "reorder_points": [row.reorder_point for row in rows],
        "versions": [row.version for row in rows],
    }


def stamp(effect: Effect, final: Mapping[str, Row], recorded_at: datetime | None) -> Effect:
    """Set the database's times in an effect. A later request of the same transaction may have changed the row again."""
    row, last = effect.row, final[effect.row.id]
    if isinstance(row, Product) and effect.change is not Change.UNCHANGED:
        if isinstance(last, Product) and row.version == last.version:
            row = last
        else:
            at = last.updated_at if isinstance(last, Product) else recorded_at or UNSTAMPED
            row = replace(row, created_at=at if row.created_at == UNSTAMPED else row.created_at, updated_at=at)
    return replace(effect, row=row, recorded_at=recorded_at if effect.entries else None)


def store_answer(request: WriteRequest, decision: Decision) -> Statement | None:
    """Return the statement that stores the answer to a request with a key, or ``None`` if there is nothing to store."""
    key = request.origin.idempotency_key
    if key is None or isinstance(decision, Repeated | Postponed):
        return None
    result = decision.effects if isinstance(decision, Done) else decision.refusal
    if isinstance(result, KeyReused):
        return None
    answer = key.render(result)
    if answer is None:
        return None
    parameters = {
        "caller": key.caller,
        "key": key.key,
        "request_hash": key.request_hash,
        "status": answer.code,
        "body": answer.body,
        "etag": answer.version_tag,
        "location": answer.location,
        "product_ids": list(request.command.keys),
    }
    return queries.STORE_ANSWER, parameters
