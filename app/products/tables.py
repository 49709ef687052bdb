"""The schema in SQLAlchemy's terms, which Alembic compares with the migrations. Triggers and functions are only in those."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    Date,
    DateTime,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import UserDefinedType


class XID8(UserDefinedType[str]):
    """PostgreSQL's 64-bit transaction id, which never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in DDL."""
        return "xid8"


class PgSnapshot(UserDefinedType[str]):
    """PostgreSQL's text form of a snapshot: which transactions it contains."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Return the type's name in DDL."""
        return "pg_snapshot"


metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

_LIMIT = 2**53 - 1

products = Table(
    "products",
    metadata,
    Column("id", Text(collation="C"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("price_cents", BigInteger, nullable=False),
    Column("stock", BigInteger, nullable=False, server_default=text("0")),
    Column("reorder_point", BigInteger, nullable=False, server_default=text("0")),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("changed_xid", XID8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("statement_timestamp()")),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("statement_timestamp()")),
    # Set in a tombstone, which keeps the version in case the id is created again. The other columns have no meaning then.
    Column("deleted_at", DateTime(timezone=True)),
    Column("reserved", BigInteger, nullable=False, server_default=text("0")),
    # No line of this product that ended at this moment or before it is open.
    Column("reserved_swept", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    CheckConstraint(r"id ~ '^[A-Za-z0-9._:-]{1,64}$' AND id NOT IN ('.', '..')", name="id"),
    CheckConstraint("char_length(name) BETWEEN 1 AND 200", name="name_length"),
    # The characters are named one by one, because \s and [[:cntrl:]] depend on the database's locale.
    CheckConstraint(r"""name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f]'""", name="name_control"),
    CheckConstraint(
        r"""name COLLATE "C" ~ '[^\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]'""", name="name_blank"
    ),
    CheckConstraint(f"price_cents BETWEEN 0 AND {_LIMIT}", name="price_cents"),
    CheckConstraint(f"stock BETWEEN 0 AND {_LIMIT}", name="stock"),
    CheckConstraint(f"reorder_point BETWEEN 0 AND {_LIMIT}", name="reorder_point"),
    CheckConstraint("version > 0", name="version"),
    CheckConstraint(f"reserved BETWEEN 0 AND {_LIMIT}", name="reserved"),
    CheckConstraint("deleted_at IS NULL OR (stock = 0 AND reserved = 0)", name="tombstone"),
)

Index("ix_products_changed_xid", products.c.changed_xid)
Index(
    "ix_products_name",
    text('lower(name) COLLATE "C"'),
    products.c.id,
    postgresql_where=products.c.deleted_at.is_(None),
)

Index("ix_products_live", products.c.id, postgresql_where=products.c.deleted_at.is_(None))
Index(
    "ix_products_below_reorder_point",
    products.c.id,
    postgresql_where=text("deleted_at IS NULL AND stock < reorder_point"),
)
Index("ix_products_uncovered", products.c.id, postgresql_where=text("deleted_at IS NULL AND reserved > stock"))

stock_movements = Table(
    "stock_movements",
    metadata,
    Column("product_id", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("delta", BigInteger, nullable=False),
    Column("stock_after", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("reference", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("statement_timestamp()")),
    Column("actor", Text),
    Column("request_id", Text),
    Column("idempotency_key", Text),
    Column("reserved_delta", BigInteger, nullable=False, server_default=text("0")),
    Column("reserved_after", BigInteger, nullable=False, server_default=text("0")),
    Column("reservation_id", Text),
    # The transaction that recorded it, for the change feed. It is 0 in rows that are no news to anybody.
    Column("xid", XID8, nullable=False, server_default=text("pg_current_xact_id()")),
    CheckConstraint("line >= 0", name="line"),
    CheckConstraint(f"stock_after BETWEEN 0 AND {_LIMIT}", name="stock_after"),
    CheckConstraint(f"reserved_after BETWEEN 0 AND {_LIMIT}", name="reserved_after"),
    CheckConstraint(
        "reason IN ('sale', 'return', 'receipt', 'damage', 'correction', 'other', 'opening', 'count', 'deletion',"
        " 'hold', 'release', 'expiry')",
        name="reason",
    ),
    CheckConstraint("char_length(reference) BETWEEN 1 AND 200", name="reference"),
)
Index(
    "ix_stock_movements_reference",
    *(stock_movements.c[name] for name in ("reference", "created_at", "product_id", "version", "line")),
    postgresql_where=stock_movements.c.reference.is_not(None),
)
Index("ix_stock_movements_xid", stock_movements.c.xid, postgresql_where=text("xid > '0'"))

reservations = Table(
    "reservations",
    metadata,
    Column("id", Text(collation="C"), primary_key=True),
    Column("reference", Text),
    Column("status", Text, nullable=False, server_default=text("'held'")),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    Column("version", BigInteger, nullable=False, server_default=text("1")),
    Column("changed_xid", XID8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False),
    # Set when no line is open any more.
    Column("closed_at", DateTime(timezone=True)),
    Column("actor", Text),
    Column("request_id", Text),
    CheckConstraint("status IN ('held', 'committed', 'released', 'expired')", name="status"),
    CheckConstraint("char_length(reference) BETWEEN 1 AND 200", name="reference"),
)
Index(
    "ix_reservations_reference",
    *(reservations.c[name] for name in ("reference", "created_at", "id")),
    postgresql_where=reservations.c.reference.is_not(None),
)
Index(
    "ix_reservations_expires_at",
    reservations.c.expires_at,
    reservations.c.id,
    postgresql_where=reservations.c.closed_at.is_(None),
)
Index("ix_reservations_changed_xid", reservations.c.changed_xid)
Index("ix_reservations_closed_at", reservations.c.closed_at, postgresql_where=reservations.c.closed_at.is_not(None))

reservation_lines = Table(
    "reservation_lines",
    metadata,
    Column("reservation_id", Text(collation="C"), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("product_id", Text(collation="C"), nullable=False),
    Column("quantity", BigInteger, nullable=False),
    Column("committed", BigInteger, nullable=False, server_default=text("0")),
    Column("released", BigInteger, nullable=False, server_default=text("0")),
    Column("expired", BigInteger, nullable=False, server_default=text("0")),
    Column("open", BigInteger, Computed("quantity - committed - released - expired", persisted=True), nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
    CheckConstraint(f"quantity BETWEEN 1 AND {_LIMIT}", name="quantity"),
    CheckConstraint("committed >= 0 AND released >= 0 AND expired >= 0 AND open >= 0", name="counters"),
)
Index(
    "ix_reservation_lines_product_id",
    reservation_lines.c.product_id,
    reservation_lines.c.expires_at,
    postgresql_where=text("open > 0"),
)

idempotency_records = Table(
    "idempotency_records",
    metadata,
    Column("caller", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("etag", Text),
    Column("location", Text),
    Column("product_ids", ARRAY(Text), nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("statement_timestamp()")),
)
Index("ix_idempotency_records_created_at", idempotency_records.c.created_at)

accepted_writes = Table(
    "accepted_writes",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    Column("caller", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("request_hash", LargeBinary, nullable=False),
    Column("product_ids", ARRAY(Text), nullable=False),
    Column("operation", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("conditions", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("request_id", Text),
    Column("accepted_at", DateTime(timezone=True), nullable=False, server_default=text("statement_timestamp()")),
    # Set if the write cannot be applied. It is kept until an operator has dealt with it.
    Column("failed_at", DateTime(timezone=True)),
    Column("failure", Text),
)
Index("ix_accepted_writes_caller_key", accepted_writes.c.caller, accepted_writes.c.key, unique=True)
Index("ix_accepted_writes_waiting", accepted_writes.c.seq, postgresql_where=accepted_writes.c.failed_at.is_(None))
Index("ix_accepted_writes_failed", accepted_writes.c.seq, postgresql_where=accepted_writes.c.failed_at.is_not(None))
Index(
    "ix_accepted_writes_product_ids",
    accepted_writes.c.product_ids,
    postgresql_using="gin",
    postgresql_with={"fastupdate": "off"},
)

cache_generations = Table(
    "cache_generations",
    metadata,
    Column("relation", Text, primary_key=True),
    Column("generation", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("version_floor", BigInteger, nullable=False, server_default=text("0")),
    Column("payload_schema", Integer, nullable=False, server_default=text("1")),
    Column("keyed", Boolean, nullable=False, server_default=text("false")),
    Column("by_timeline", Boolean, nullable=False, server_default=text("true")),
    Column("by_start", Boolean, nullable=False, server_default=text("false")),
    CheckConstraint("by_timeline OR by_start", name="history"),
)

# The versions of keys of tables that have no tombstones of their own.
cache_keys = Table(
    "cache_keys",
    metadata,
    Column("relation", Text(collation="C"), primary_key=True),
    Column("key", Text(collation="C"), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("gone", Boolean, nullable=False),
    Column("changed_xid", XID8, nullable=False),
)
Index("ix_cache_keys_gone", cache_keys.c.relation, cache_keys.c.changed_xid, postgresql_where=cache_keys.c.gone)

cache_audits = Table(
    "cache_audits",
    metadata,
    Column("relation", Text, primary_key=True, server_default=text("'products'")),
    Column("namespace", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, server_default=text("0")),
    Column("announced", BigInteger, nullable=False, server_default=text("0")),
    Column("completed", BigInteger, nullable=False, server_default=text("0")),
    Column("fenced_until", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    Column("other_until", DateTime(timezone=True), nullable=False, server_default=text("'-infinity'")),
    Column("server", Text, nullable=False, server_default=text("''")),
    Column("epoch", Text, nullable=False, server_default=text("''")),
    Column("barred", Boolean, nullable=False, server_default=text("false")),
    # The snapshot of the last completed audit, of which the change feed makes its marks.
    Column("snapshot", PgSnapshot),
    # The row is updated twice a second. Free space on its page keeps each new version on the same page.
    postgresql_with={"fillfactor": "50"},
)

# The places to which readers of the change feed have come.
feed_marks = Table(
    "feed_marks",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("snapshot", PgSnapshot, nullable=False),
    Column("epoch", Text, nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
)

access_keys = Table(
    "access_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("client", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("rate_per_s", Double),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=text("statement_timestamp()")),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_on", Date),
    CheckConstraint("client ~ '^[A-Za-z0-9._-]{1,64}$'", name="client"),
    CheckConstraint("cardinality(scopes) > 0", name="scopes"),
    CheckConstraint("octet_length(digest) = 32", name="digest"),
    CheckConstraint("rate_per_s > 0", name="rate"),
)
Index("ix_access_keys_digest", access_keys.c.digest, unique=True)

# One row, or none while all products are here.
pair_buckets = Table(
    "pair_buckets",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("held", Text, nullable=False),
    Column("moving", Text, nullable=False, server_default=""),
    # The id of the move of `moving`.
    Column("move", Text, nullable=False, server_default=""),
    CheckConstraint("singleton", name="singleton"),
)

# One row, whose value changes with every change of what a key allows.
access_generation = Table(
    "access_generation",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("generation", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    CheckConstraint("singleton", name="singleton"),
)
