"""The statements by which a transaction writes what its commands have decided."""

import json.encoder
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from app.postgres.database import Statement
from app.products import queries, reservation_queries
from app.products.commands import UNSTAMPED, Effect
from app.products.decision import Decision, Done, Postponed, Repeated
from app.products.errors import KeyReused
from app.products.idempotency import NO_ORIGIN, Origin, WriteRequest
from app.products.payload import timestamp
from app.products.product import Gone, Product, Row
from app.products.shelf import Shelf

_quoted = json.encoder.encode_basestring_ascii
"""Returns a text as JSON. The rows are formatted by hand, because a dictionary for each would be made only to be read once.

Ids of products that are stored, reasons and numbers have no character that JSON would escape.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """A statement that changes something. ``RECORD`` and ``INSERT`` fail unless they insert every row."""

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
    entries = _entries(closings, NO_ORIGIN)
    for request, decision in zip(batch, decisions, strict=True):
        if isinstance(decision, Done):
            entries += _entries(decision.effects, request.origin)
    if not entries:
        return []
    # The order is the same everywhere, as for the locks. Otherwise two transactions that create the same products could wait
    # for each other.
    entries.sort()
    return [Step(queries.RECORD, {"rows": _json_list([row for *_, row in entries]), "count": len(entries)})]


def _entries(effects: Sequence[Effect], origin: Origin) -> list[tuple[str, int, int, str]]:
    """Return the ledger's entries of effects as rows, each behind the columns of its key."""
    key = None if origin.idempotency_key is None else origin.idempotency_key.key
    tail = f'"actor":{_or_null(origin.actor)},"request":{_or_null(origin.request_id)},"key":{_or_null(key)}}}'
    entries = []
    for effect in effects:
        row = effect.row
        if effect.entries:
            stock, reserved = (row.stock, row.reserved or 0) if isinstance(row, Product) else (0, 0)
            head = f'{{"id":{_quoted(row.id)},"version":{row.version},"stock":{stock},"reserved":{reserved},"line":'
            for one in effect.entries:
                entry = (
                    f'{head}{one.line},"delta":{one.delta},"reason":"{one.reason}","reference":{_or_null(one.reference)},'
                    f'"reserved_delta":{one.reserved_delta},"reservation":{_or_null(one.reservation_id)},{tail}'
                )
                entries.append((row.id, row.version, one.line, entry))
    return entries


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
            f'{{"id":"{row.id}","name":{_or_null(row.name)},"price":{row.price_cents},"stock":{row.stock},'
            f'"reorder_point":{row.reorder_point},"version":{row.version},'
            f'"created":{"true" if row.created_at == UNSTAMPED else "false"},"reserved":{row.reserved or 0},'
            f'"swept":{_moment(swept.get(row.id))}}}'
            for row in known
        ]
        steps.append(Step(queries.UPDATE, {"rows": _json_list(rows), "ids": [row.id for row in known]}))
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


def stamp(effect: Effect, before: Mapping[str, Row], final: Mapping[str, Row], recorded_at: datetime | None) -> Effect:
    """Set the database's times in an effect. A later request of the same transaction may have changed the row again."""
    row, last = effect.row, final[effect.row.id]
    if isinstance(row, Product) and row is not before[row.id]:  # even if this request left it as an earlier one had made it
        if isinstance(last, Product) and row.version == last.version:
            row = last
        else:
            at = last.updated_at if isinstance(last, Product) else recorded_at or UNSTAMPED
            reserved = 0 if row.reserved is None and isinstance(last, Product) and last.reserved is not None else row.reserved
            created_at = at if row.created_at == UNSTAMPED else row.created_at
            row = Product(
                row.id, row.name, row.price_cents, row.stock, row.reorder_point, row.version, created_at, at, reserved
            )
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
        rows = [
            f'{{"id":{_quoted(key)},"line":{line},"committed":{use.committed},"released":{use.released},"expired":{use.expired}}}'
            for (key, line), use in used
        ]
        ids = list(dict.fromkeys([key for (key, _), _ in used]))
        steps.append(Step(reservation_queries.USE_LINES, {"rows": _json_list(rows), "ids": ids}))
    changes = sorted(shelf.changes.items())
    if moved := [(key, change) for key, change in changes if change.expires_at is not None]:
        rows = [f'{{"id":{_quoted(key)},"expires_at":{_moment(change.expires_at)}}}' for key, change in moved]
        steps.append(Step(reservation_queries.MOVE_ENDS, {"rows": _json_list(rows), "ids": [key for key, _ in moved]}))
    if changes:
        rows = [
            f'{{"id":{_quoted(key)},"rise":{change.rise},"status":{_or_null(change.status)},"expires_at":{_moment(change.expires_at)},'
            f'"moment":{_moment(change.moment)}}}'
            for key, change in changes
        ]
        steps.append(Step(reservation_queries.CHANGE, {"rows": _json_list(rows), "ids": [key for key, _ in changes]}))
    return steps


def _new_reservations(shelf: Shelf, origins: Mapping[str, Origin]) -> Step:
    rows, lines = [], []
    for new in shelf.new:
        origin, ends = origins[new.id], _moment(new.expires_at)
        rows.append(
            f'{{"id":{_quoted(new.id)},"reference":{_or_null(new.reference)},"expires_at":{ends},"created_at":{_moment(new.created_at)},'
            f'"actor":{_or_null(origin.actor)},"request":{_or_null(origin.request_id)}}}'
        )
        lines += [
            f'{{"id":{_quoted(new.id)},"line":{number},"product":{_quoted(line.product_id)},"quantity":{line.quantity},"expires_at":{ends}}}'
            for number, line in enumerate(new.lines)
        ]
    return Step(reservation_queries.INSERT, {"rows": _json_list(rows), "lines": _json_list(lines)})


def _json_list(rows: Sequence[str]) -> str:
    return f"[{','.join(rows)}]"


def _or_null(text: str | None) -> str:
    return "null" if text is None else _quoted(text)


def _moment(moment: datetime | None) -> str:
    return "null" if moment is None else f'"{timestamp(moment)}"'
