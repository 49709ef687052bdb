"""The statements by which a transaction writes what its commands have decided."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, LiteralString

from app.products import queries, reservation_queries
from app.products.commands import UNSTAMPED, Change, Effect
from app.products.decision import Decision, Done, Postponed, Repeated
from app.products.errors import KeyReused
from app.products.idempotency import NO_ORIGIN, Origin, WriteRequest
from app.products.product import Gone, Product, Row
from app.products.shelf import Shelf

Statement = tuple[LiteralString, Mapping[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A statement that changes something. It fails if it cannot change all that it was given."""

    statement: LiteralString
    parameters: Mapping[str, Any]


def steps_of(
    batch: Sequence[WriteRequest], decisions: Sequence[Decision], shelf: Shelf, before: Mapping[str, Row]
) -> list[Step]:
    """Return the steps in their order: the ledger, the products, and then the reservations with their lines."""
    changed = {key: row for key, row in shelf.rows.items() if row is not before[key]}
    return [
        *_record(batch, decisions, shelf.closings),
        *_product_steps(before, changed, shelf.swept),
        *_reservation_steps(batch, decisions, shelf),
    ]


def _record(batch: Sequence[WriteRequest], decisions: Sequence[Decision], closings: Sequence[Effect]) -> list[Step]:
    entries = [(movement, NO_ORIGIN) for effect in closings for movement in effect.movements()]
    entries += [
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
            "reserved_delta": movement.reserved_delta,
            "reserved": movement.reserved_after,
            "reservation": movement.reservation_id,
        }
        for movement, origin in entries
    ]
    return [Step(queries.RECORD, {"rows": json.dumps(rows), "count": len(rows)})]


def _product_steps(before: Mapping[str, Row], changed: Mapping[str, Row], swept: Mapping[str, datetime]) -> list[Step]:
    products = [row for row in changed.values() if isinstance(row, Product)]
    new = [row for row in products if before[row.id].version == 0]
    known = [row for row in products if before[row.id].version > 0]
    gone = [row for row in changed.values() if isinstance(row, Gone)]
    # These were created and deleted within this transaction. A tombstone keeps the version in case the id is created again.
    never_stored = [row for row in gone if before[row.id].version == 0]
    buried = [row for row in gone if before[row.id].version > 0]
    steps: list[Step] = []
    if new or never_stored:
        placeholders = [Product(row.id, row.id, 0, 0, 0, row.version, UNSTAMPED, UNSTAMPED) for row in never_stored]
        inserted = sorted([*new, *placeholders], key=lambda row: row.id)
        dead = {row.id for row in never_stored}
        gone_at_once = [row.id in dead for row in inserted]
        steps.append(Step(queries.INSERT, {**_columns(inserted), "gone": gone_at_once}))
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
                "reserved": row.reserved or 0,
                "swept": swept[row.id].isoformat() if row.id in swept else None,
            }
            for row in known
        ]
        steps.append(Step(queries.UPDATE, {"rows": json.dumps(rows), "ids": [row.id for row in known]}))
    if buried:
        parameters = {"ids": [row.id for row in buried], "versions": [row.version for row in buried]}
        steps.append(Step(queries.BURY, parameters))
    return steps


def _columns(rows: Sequence[Product]) -> dict[str, Any]:
    return {
        "ids": [row.id for row in rows],
        "names": [row.name for row in rows],
        "prices": [row.price_cents for row in rows],
        "stocks": [row.stock for row in rows],
        "reorder_points": [row.reorder_point for row in rows],
        "versions": [row.version for row in rows],
        "reserved": [row.reserved or 0 for row in rows],
    }


def stamp(effect: Effect, final: Mapping[str, Row], recorded_at: datetime | None) -> Effect:
    """Set the database's times in an effect. A later request of the same transaction may have changed the row again."""
    row, last = effect.row, final[effect.row.id]
    if isinstance(row, Product) and effect.change is not Change.UNCHANGED:
        if isinstance(last, Product) and row.version == last.version:
            row = last
        else:
            at = last.updated_at if isinstance(last, Product) else recorded_at or UNSTAMPED
            reserved = 0 if row.reserved is None and isinstance(last, Product) and last.reserved is not None else row.reserved
            created_at = at if row.created_at == UNSTAMPED else row.created_at
            row = replace(row, created_at=created_at, updated_at=at, reserved=reserved)
    return Effect(row, effect.change, effect.entries, recorded_at if effect.entries else None)


def store_answer(request: WriteRequest, decision: Decision) -> Statement | None:
    """Return the statement that stores the answer to a request with a key, or ``None`` if there is nothing to store."""
    key = request.origin.idempotency_key
    if key is None or isinstance(decision, Repeated | Postponed):
        return None
    result = decision.result if isinstance(decision, Done) else decision.refusal
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
        "product_ids": list(decision.product_ids),
    }
    return queries.STORE_ANSWER, parameters


def _reservation_steps(batch: Sequence[WriteRequest], decisions: Sequence[Decision], shelf: Shelf) -> list[Step]:
    steps: list[Step] = []
    if shelf.new:
        origins = {
            decision.reservation.id: request.origin
            for request, decision in zip(batch, decisions, strict=True)
            if isinstance(decision, Done) and decision.reservation is not None
        }
        steps.append(_new_reservations(shelf, origins))
    if others := shelf.others:
        steps.append(Step(reservation_queries.LOCK_OTHERS, {"ids": others}))
    if used := sorted((place, use) for place, use in shelf.uses.items() if use.total):
        rows: list[Mapping[str, object]] = [
            {"id": key, "line": line, "committed": use.committed, "released": use.released, "expired": use.expired}
            for (key, line), use in used
        ]
        steps.append(Step(reservation_queries.USE_LINES, _rows_and_ids(rows)))
    changes = sorted(shelf.changes.items())
    if moved := [{"id": key, "expires_at": c.expires_at.isoformat()} for key, c in changes if c.expires_at is not None]:
        steps.append(Step(reservation_queries.MOVE_ENDS, _rows_and_ids(moved)))
    if changes:
        rows = [
            {
                "id": key,
                "rise": change.rise,
                "status": change.status,
                "expires_at": change.expires_at.isoformat() if change.expires_at is not None else None,
                "moment": change.moment.isoformat(),
            }
            for key, change in changes
        ]
        steps.append(Step(reservation_queries.CHANGE, _rows_and_ids(rows)))
    return steps


def _new_reservations(shelf: Shelf, origins: Mapping[str, Origin]) -> Step:
    rows = [
        {
            "id": new.id,
            "reference": new.reference,
            "expires_at": new.expires_at.isoformat(),
            "created_at": new.created_at.isoformat(),
            "actor": origins[new.id].actor,
            "request": origins[new.id].request_id,
        }
        for new in shelf.new
    ]
    lines = [
        {
            "id": new.id,
            "line": number,
            "product": line.product_id,
            "quantity": line.quantity,
            "expires_at": new.expires_at.isoformat(),
        }
        for new in shelf.new
        for number, line in enumerate(new.lines)
    ]
    return Step(reservation_queries.INSERT, {"rows": json.dumps(rows), "lines": json.dumps(lines)})


def _rows_and_ids(rows: Sequence[Mapping[str, object]]) -> dict[str, Any]:
    return {"rows": json.dumps(rows), "ids": list(dict.fromkeys(str(row["id"]) for row in rows))}
