"""The models of requests and answers. Requests are checked against their models; those of answers only document."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal
from unicodedata import category, normalize

from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field

from app.products.product import (
    ID_PATTERN,
    MAX_INTEGER,
    MAX_NAME_LENGTH,
    Draft,
    Patch,
    is_product_id,
    name_fault,
)

MAX_BATCH = 1_000
MAX_LINES = 2_000
MAX_REFERENCE = 200
UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and surrogates, each of which is half a character."""
_INVISIBLE_CATEGORIES = frozenset({"Cf", "Zs", "Zl", "Zp"})
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
"""Fillers, blank braille and selectors of variants: letters and marks by their category, which show nothing."""
ID_RULE = "must be 1 to 64 of the characters A-Z a-z 0-9 . _ : - and neither . nor .."


def _legal_id(text: str) -> str:
    if not is_product_id(text):
        raise ValueError(ID_RULE)
    return text


def _legal_name(text: str) -> str:
    if not text.isascii():
        text = normalize("NFC", text)
    if fault := name_fault(text):
        raise ValueError(fault)
    if not text.isascii() and all(_is_invisible(character) for character in text):
        raise ValueError("must not be blank")
    return text


def _is_invisible(character: str) -> bool:
    return category(character) in _INVISIBLE_CATEGORIES or bool(_INVISIBLE.fullmatch(character))


def _legal_reference(text: str) -> str:
    if not 1 <= len(text) <= MAX_REFERENCE:
        raise ValueError(f"must have 1 to {MAX_REFERENCE} characters")
    if UNSTORABLE.search(text):
        raise ValueError("must not contain control characters or surrogates")
    return text


def nothing() -> None:
    """Return the value of a field that is left out: a default would be told, and many made clients send what they are told."""


def _nonzero(delta: int) -> int:
    if delta == 0:
        raise ValueError("must not be 0: an adjustment adds or takes something")
    return delta


ID_SCHEMA = ID_PATTERN.replace("^", r"^(?!\.{1,2}$)", 1)
"""The pattern of an id in the API's description, where ``.`` and ``..`` are excluded by it alone."""
Id = Annotated[str, AfterValidator(_legal_id), Field(json_schema_extra={"pattern": ID_SCHEMA})]
Name = Annotated[
    str, AfterValidator(_legal_name), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_LENGTH, "pattern": r"\S"})
]
Quantity = Annotated[int, Field(ge=0, le=MAX_INTEGER)]
Timestamp = Annotated[
    str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$", json_schema_extra={"format": "date-time"})
]
Reference = Annotated[
    str, AfterValidator(_legal_reference), Field(json_schema_extra={"minLength": 1, "maxLength": MAX_REFERENCE})
]
Delta = Annotated[
    int,
    # Before the validator: Pydantic describes bounds on what a function returns by names that JSON Schema does not have.
    Field(
        ge=-MAX_INTEGER,
        le=MAX_INTEGER,
        description="units to add (positive) or take (negative)",
        json_schema_extra={"not": {"const": 0}},
    ),
    AfterValidator(_nonzero),
]
GivenReason = Annotated[
    Literal["sale", "return", "receipt", "damage", "correction", "other"],
    Field(description="why the stock changes; it does not restrict the sign of the delta"),
]
TakeReserved = Annotated[
    bool, Field(default_factory=bool, description="true: held units are taken, too, for they are missing or broken")
]
OrderReference = Annotated[
    Reference | None, Field(default_factory=nothing, description="any text of the caller, such as the number of an order")
]
Ignored = Annotated[
    Any,
    Field(
        default_factory=nothing,
        description="accepted and ignored, so that a product can be sent back as this release or the next one showed it",
    ),
]


@dataclass(frozen=True, slots=True)
class Rows:
    """A member of a request that holds rows of one model."""

    name: str
    model: "type[RequestModel]"
    most: int


class RequestModel(BaseModel):
    """Base of every request's body."""

    model_config = ConfigDict(extra="forbid", strict=True)
    rows: ClassVar[Rows | None] = None
    """The member whose rows are checked one by one, until they have more errors than an answer lists."""


class NewProduct(RequestModel):
    """A product to create."""

    id: Id = Field(default_factory=str, description="if left out, the service makes one; these sort by time")
    name: Name
    price_cents: Quantity
    stock: Quantity = Field(default_factory=int, description="0 if left out")
    reorder_point: Quantity = Field(default_factory=int, description="0 if left out")

    def draft(self, product_id: str) -> Draft:
        """Return the product to create."""
        return Draft(product_id, self.name, self.price_cents, self.stock, self.reorder_point)


class WholeProduct(RequestModel):
    """A whole product, as a GET returns it."""

    id: Id = Field(default_factory=str, description="if given, the id in the path")
    name: Name
    price_cents: Quantity
    stock: Quantity = Field(
        default_factory=int,
        description="if left out: 0 in a new product, else unchanged; if given for an existing one: needs If-Match",
    )
    reorder_point: Quantity = Field(default_factory=int, description="0 if left out")
    version: Ignored
    created_at: Ignored
    updated_at: Ignored
    reserved: Ignored
    available: Ignored

    def draft(self, product_id: str) -> Draft:
        """Return the product to store; its stock is ``None`` if it was left out."""
        stock = self.stock if "stock" in self.model_fields_set else None
        return Draft(product_id, self.name, self.price_cents, stock, self.reorder_point)


class ProductPatch(RequestModel):
    """A merge patch. Fields that are left out stay unchanged; null sets ``reorder_point`` back to 0."""

    name: Name = Field(default_factory=str)
    price_cents: Quantity = Field(default_factory=int)
    reorder_point: Quantity | None = Field(default_factory=int)

    def patch(self) -> Patch:
        """Return the fields to change."""
        given = self.model_fields_set
        return Patch(
            name=self.name if "name" in given else None,
            price_cents=self.price_cents if "price_cents" in given else None,
            reorder_point=(self.reorder_point or 0) if "reorder_point" in given else None,
        )


class StockCount(RequestModel):
    """A physical count."""

    stock: Quantity
    reference: Reference | None = Field(
        default_factory=nothing, description="any text of the caller, such as the number of the count"
    )


class StockAdjustment(RequestModel):
    """Units to add to one product's stock, or to take from it."""

    delta: Delta
    reason: GivenReason
    reference: OrderReference
    take_reserved: TakeReserved


class AdjustmentLine(RequestModel):
    """One line of an adjustment of several products."""

    product_id: Id
    delta: Delta


class StockAdjustments(RequestModel):
    """Units to add and to take: all lines, or none. A product may have several lines; their sum is checked."""

    rows: ClassVar = Rows("lines", AdjustmentLine, MAX_LINES)
    lines: Annotated[list[AdjustmentLine], Field(min_length=1, max_length=MAX_LINES), FailFast()]
    reason: GivenReason
    reference: OrderReference
    take_reserved: TakeReserved


class Batch(RequestModel):
    """Products to create or replace. Each item is checked separately."""

    items: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH, description="each a whole product")]


class Product(BaseModel):
    """A product. Money is in cents; ``version`` rises with every change."""

    id: Annotated[str, Field(pattern=ID_PATTERN)]
    name: Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
    price_cents: Quantity
    stock: Quantity
    reorder_point: Quantity
    version: Annotated[int, Field(ge=1)]
    created_at: Timestamp
    updated_at: Timestamp
    reserved: Quantity = Field(
        default_factory=int, description="units that reservations hold; missing until the upgrade is finished"
    )
    available: Quantity = Field(default_factory=int, description="units that are free: stock - reserved, at least 0")


class ProductList(BaseModel):
    """A page of the list."""

    items: list[Product]
    next: str | None = Field(description="what `after` takes for the next page; null on the last one")


class ProductSet(BaseModel):
    """The requested products, in the order of the request, and the ids that do not exist."""

    items: list[Product]
    missing: list[str]


class StockShortage(BaseModel):
    """A product with fewer units than the request takes, at the moment of that decision."""

    product_id: str
    available: Quantity = Field(description="what the request could have: the free units, or all that are there for a commit")
    requested: int = Field(description="the sum of the request's lines for this product, as units to take")
    version: Annotated[int, Field(ge=1)]
    stock: Quantity
    reserved: Quantity


class LineExcess(BaseModel):
    """A line of a reservation that holds fewer units than the request names."""

    line: int
    open: Quantity
    requested: int


class FieldFault(BaseModel):
    """What is wrong with one field or parameter."""

    pointer: str = Field(default_factory=str, description="a JSON pointer into the body, as a URI fragment")
    parameter: str = Field(default_factory=str, description="the path or query parameter, when it is one")
    detail: str


class ProblemDocument(BaseModel):
    """An error (RFC 9457). `type` is a path on this service that explains it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    instance: str = Field(default_factory=str)
    errors: list[FieldFault] = Field(default_factory=list, description="422: the errors of the request")
    scope: str = Field(default_factory=str, description="403: the scope that the key lacks")
    missing: list[str] = Field(default_factory=list, description="404: the products that do not exist")
    resync: list[str] = Field(default_factory=list, description="410: what to read to begin anew, in this order")
    current_version: int | None = Field(default_factory=lambda: None, description="409 and 412: the present version")
    shortages: list[StockShortage] = Field(default_factory=list, description="409: the products without enough stock")
    product_id: str = Field(default_factory=str, description="409: the product that exists already, or that is reserved")
    reserved: int = Field(default_factory=int, description="409: units of the product that are held")
    reservation_id: str = Field(default_factory=str, description="404 and 409: the reservation")
    reservation_status: str = Field(default_factory=str, description="409: how the last unit of the reservation ended")
    expires_at: Timestamp = Field(default_factory=str, description="409: when the reservation ended")
    lines: list[LineExcess] = Field(default_factory=list, description="409: the lines that hold less than the request names")
    product_ids: list[str] = Field(default_factory=list, description="409: the products whose stock would exceed 2^53-1")
    limit_bytes: int = Field(default_factory=int, description="413: most bytes that a body may have")
    bucket: int = Field(default_factory=int, description="421: the bucket that belongs to another pair")
    buckets_here: str = Field(default_factory=str, description="421: the buckets of this pair")
    here: list[str] = Field(default_factory=list, description="422: ids of this pair")
    elsewhere: list[str] = Field(default_factory=list, description="422: ids of other pairs")


class BatchResult(BaseModel):
    """The result of one item."""

    index: int
    id: str | None = Field(description="null when the item was refused and has no legal id")
    outcome: Literal["created", "updated", "unchanged", "refused"]
    version: int = Field(default_factory=int, description="unless refused")
    problem: ProblemDocument | None = Field(default_factory=lambda: None, description="when refused")


class BatchResults(BaseModel):
    """A result for each item, in the order sent."""

    results: list[BatchResult]


class Movement(BaseModel):
    """An entry of the stock ledger, which never changes. It is unique by product, version and line."""

    id: str = Field(description="opaque")
    product_id: str
    version: Annotated[int, Field(ge=1, description="the product's version after this movement")]
    line: Annotated[int, Field(ge=0, description="counted from 0; tells the movements of a product at one version apart")]
    delta: int
    stock_after: Quantity = Field(description="the stock at that version, after all lines of the request")
    reason: Literal[
        "sale", "return", "receipt", "damage", "correction", "other",
        "opening", "count", "deletion", "hold", "release", "expiry",
    ]  # fmt: skip
    reference: str | None
    created_at: Timestamp
    reserved_delta: int = Field(description="by how much the held units changed")
    reserved_after: Quantity = Field(description="the held units at that version")
    reservation_id: str | None = Field(description="the reservation whose units these are")


class MovementList(BaseModel):
    """A page of the ledger, newest first."""

    items: list[Movement]
    next: str | None = Field(description="what `after` takes for the next page; null on the last one")


class Adjusted(BaseModel):
    """The product after its adjustment, and its new entry in the ledger."""

    product: Product
    movement: Movement


class AdjustedLine(BaseModel):
    """One line of the adjustment. Stock and version are the product's after all lines."""

    product_id: str
    delta: int
    stock: Quantity
    version: Annotated[int, Field(ge=1)]


class AdjustedLines(BaseModel):
    """The lines, in the order sent."""

    lines: list[AdjustedLine]


class AcceptedWrite(BaseModel):
    """A write that is committed to the database and not yet decided."""

    key: str
    state: Literal["queued"]


class KeptAnswer(BaseModel):
    """The answer to a write, as it was when the write was decided."""

    status: int
    etag: str | None
    location: str | None
    body: Any = Field(description="the JSON of the answer; null if it has none")


class WriteStatus(BaseModel):
    """What became of a write. A write that is done is visible to every reader."""

    key: str
    state: Literal["queued", "done", "failed"]
    answer: KeptAnswer | None = Field(description="null until the write is done")
    reason: str | None = Field(description="why a failed write cannot be applied, for people; nothing was changed for it")
