"""Reservations: units that are held for somebody, in tables of their own, in products and in the ledger."""

import runpy
from pathlib import Path

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Constant defaults, so that no row is written. The CHECKs are NOT VALID, so that no row is read while the tables are locked;
# `larder migrate` validates them afterwards, beside readers and writers.
COLUMNS = r"""
ALTER TABLE products
    ADD COLUMN reserved bigint NOT NULL DEFAULT 0,
    ADD COLUMN reserved_swept timestamptz NOT NULL DEFAULT '-infinity',
    ADD CONSTRAINT ck_products_reserved CHECK (reserved BETWEEN 0 AND 9007199254740991) NOT VALID,
    DROP CONSTRAINT ck_products_tombstone,
    ADD CONSTRAINT ck_products_tombstone CHECK (deleted_at IS NULL OR (stock = 0 AND reserved = 0)) NOT VALID;
ALTER TABLE stock_movements
    ADD COLUMN reserved_delta bigint NOT NULL DEFAULT 0,
    ADD COLUMN reserved_after bigint NOT NULL DEFAULT 0,
    ADD COLUMN reservation_id text,
    ADD CONSTRAINT ck_stock_movements_reserved_after CHECK (reserved_after BETWEEN 0 AND 9007199254740991) NOT VALID,
    DROP CONSTRAINT ck_stock_movements_reason,
    ADD CONSTRAINT ck_stock_movements_reason CHECK (
        reason IN (
            'sale', 'return', 'receipt', 'damage', 'correction', 'other', 'opening', 'count', 'deletion',
            'hold', 'release', 'expiry'
        )
    ) NOT VALID;
"""

TABLES = r"""
-- For the list of products of which more is held than is there. It is empty, and made in one pass.
CREATE INDEX ix_products_uncovered ON products (id) WHERE deleted_at IS NULL AND reserved > stock;

CREATE TABLE reservations (
    id text COLLATE "C" NOT NULL,
    reference text,
    status text NOT NULL DEFAULT 'held',
    expires_at timestamptz NOT NULL,
    version bigint NOT NULL DEFAULT 1,
    changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    closed_at timestamptz,
    actor text,
    request_id text,
    CONSTRAINT pk_reservations PRIMARY KEY (id),
    CONSTRAINT ck_reservations_status CHECK (status IN ('held', 'committed', 'released', 'expired')),
    CONSTRAINT ck_reservations_reference CHECK (char_length(reference) BETWEEN 1 AND 200)
);
-- For the list of one reference, newest first.
CREATE INDEX ix_reservations_reference ON reservations (reference, created_at, id) WHERE reference IS NOT NULL;
-- For the tidier: those with open lines, the oldest end first. And for the pruner: those without.
CREATE INDEX ix_reservations_expires_at ON reservations (expires_at, id) WHERE closed_at IS NULL;
CREATE INDEX ix_reservations_closed_at ON reservations (closed_at) WHERE closed_at IS NOT NULL;
-- For the change feed.
CREATE INDEX ix_reservations_changed_xid ON reservations (changed_xid);

-- No foreign key to products: it would forbid TRUNCATE of products, and cost a look at each product's row for each line.
CREATE TABLE reservation_lines (
    reservation_id text COLLATE "C" NOT NULL,
    line integer NOT NULL,
    product_id text COLLATE "C" NOT NULL,
    quantity bigint NOT NULL,
    committed bigint NOT NULL DEFAULT 0,
    released bigint NOT NULL DEFAULT 0,
    expired bigint NOT NULL DEFAULT 0,
    open bigint NOT NULL GENERATED ALWAYS AS (quantity - committed - released - expired) STORED,
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_reservation_lines PRIMARY KEY (reservation_id, line),
    CONSTRAINT ck_reservation_lines_quantity CHECK (quantity BETWEEN 1 AND 9007199254740991),
    CONSTRAINT ck_reservation_lines_counters CHECK (committed >= 0 AND released >= 0 AND expired >= 0 AND open >= 0)
);
-- For whoever needs units of a product: its open lines, the oldest end first.
CREATE INDEX ix_reservation_lines_product_id ON reservation_lines (product_id, expires_at) WHERE open > 0;
"""

# The only place where the time of a decision is read. Tests replace it.
MOMENT = r"""
CREATE FUNCTION larder_moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp()';
"""

LEDGER = r"""
CREATE OR REPLACE FUNCTION larder_products_ledger() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    was_there boolean := TG_OP = 'UPDATE' AND OLD.deleted_at IS NULL;
    is_there boolean := NEW.deleted_at IS NULL;
    old_version bigint := CASE WHEN TG_OP = 'UPDATE' THEN OLD.version ELSE 0 END;
    old_stock bigint := CASE WHEN TG_OP = 'UPDATE' THEN OLD.stock ELSE 0 END;
    old_reserved bigint := CASE WHEN TG_OP = 'UPDATE' THEN OLD.reserved ELSE 0 END;
    recorded numeric;
    held numeric;
    lines bigint;
    difference numeric;
    unheld numeric;
BEGIN
    SELECT coalesce(sum(delta), 0), coalesce(sum(reserved_delta), 0), count(*) INTO recorded, held, lines
        FROM stock_movements WHERE product_id = NEW.id AND version > old_version AND version <= NEW.version;
    difference := NEW.stock - old_stock - recorded;
    unheld := NEW.reserved - old_reserved - held;
    IF difference <> 0 OR unheld <> 0 OR (was_there <> is_there AND lines = 0) THEN
        INSERT INTO stock_movements (
            product_id, version, line, delta, stock_after, reason, reference, reserved_delta, reserved_after
        )
        SELECT NEW.id, NEW.version, coalesce(max(line) + 1, 0), difference, NEW.stock,
            CASE WHEN NOT is_there THEN 'deletion' WHEN was_there THEN 'other' ELSE 'opening' END, 'sql', unheld, NEW.reserved
        FROM stock_movements WHERE product_id = NEW.id AND version = NEW.version;
    END IF;
    RETURN NULL;
END
$$;
"""

# Units of a product that SQL deletes are given back: its reservations must not go on without it.
CLOSE = r"""
CREATE FUNCTION larder_close_lines(product text) RETURNS void LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    WITH closed AS (
        UPDATE reservation_lines SET released = released + open
            WHERE open > 0 AND (product IS NULL OR product_id = product) RETURNING reservation_id, line
    )
    UPDATE reservations r SET
        version = r.version + 1, updated_at = greatest(larder_moment(), r.updated_at),
        status = CASE WHEN r.status = 'held' AND rest.nothing THEN 'released' ELSE r.status END,
        closed_at = CASE WHEN rest.nothing THEN larder_moment() END
    FROM (
        SELECT c.reservation_id, NOT EXISTS (
            SELECT FROM reservation_lines l WHERE l.reservation_id = c.reservation_id AND l.open > 0
                AND NOT EXISTS (SELECT FROM closed o WHERE o.reservation_id = l.reservation_id AND o.line = l.line)
        ) AS nothing
        FROM closed c GROUP BY c.reservation_id
    ) AS rest
    WHERE r.id = rest.reservation_id;
END
$$;
"""

CHANGE = r"""
CREATE OR REPLACE FUNCTION larder_products_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    -- A commit that is visible and then lost in a crash must not reach the cache.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF TG_OP = 'DELETE' THEN
        PERFORM larder_close_lines(OLD.id) WHERE OLD.reserved > 0;
        UPDATE products SET deleted_at = clock_timestamp(), stock = 0, reserved = 0 WHERE id = OLD.id AND deleted_at IS NULL;
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.id <> OLD.id THEN
            RAISE EXCEPTION 'the id of a product never changes: % to %', OLD.id, NEW.id
                USING ERRCODE = 'check_violation', HINT = 'Create a product with the new id and delete the old one.';
        END IF;
        NEW.version := greatest(NEW.version, OLD.version + 1);
        -- A statement that waited for a lock began before the change that it waited for.
        NEW.updated_at := greatest(statement_timestamp(), OLD.updated_at);
    ELSE
        -- A tombstone is in nobody's way: the id comes back to life in its row, and its version goes on.
        IF NEW.deleted_at IS NULL THEN
            UPDATE products SET
                name = NEW.name, price_cents = NEW.price_cents, stock = NEW.stock, reorder_point = NEW.reorder_point,
                version = NEW.version, created_at = NEW.created_at, deleted_at = NULL
                WHERE id = NEW.id AND deleted_at IS NOT NULL;
            IF FOUND THEN
                RETURN NULL;
            END IF;
        END IF;
        NEW.version := greatest(NEW.version, 1);
    END IF;
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END
$$;

CREATE OR REPLACE FUNCTION larder_products_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE cache_generations SET generation = gen_random_uuid() WHERE relation = 'products';
    PERFORM larder_close_lines(NULL);
    INSERT INTO products (id, name, price_cents, version, deleted_at)
        SELECT m.product_id, m.product_id, 0, greatest(max(m.version), max(g.version_floor)) + 1, clock_timestamp()
        FROM stock_movements m CROSS JOIN cache_generations g WHERE g.relation = 'products' GROUP BY m.product_id;
    RETURN NULL;
END
$$;
"""

# Only counters grow, and ends move later; what is open is never removed.
FIXED = r"""
CREATE FUNCTION larder_reservations_fixed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'DELETE' AND TG_TABLE_NAME = 'reservations' THEN
        IF OLD.closed_at IS NOT NULL THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'DELETE' THEN
        IF OLD.open = 0 THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'UPDATE' AND TG_TABLE_NAME = 'reservations' THEN
        IF NEW.id = OLD.id AND NEW.created_at = OLD.created_at AND NEW.version > OLD.version
            AND NEW.expires_at >= OLD.expires_at AND NEW.updated_at >= OLD.updated_at
            AND (OLD.status <> 'expired' OR NEW.status = 'expired') AND (OLD.closed_at IS NULL OR NEW.closed_at = OLD.closed_at)
        THEN
            NEW.changed_xid := pg_current_xact_id();
            RETURN NEW;
        END IF;
    ELSIF TG_OP = 'UPDATE' THEN
        IF NEW.reservation_id = OLD.reservation_id AND NEW.line = OLD.line AND NEW.product_id = OLD.product_id
            AND NEW.quantity = OLD.quantity AND NEW.expires_at >= OLD.expires_at
            AND NEW.committed >= OLD.committed AND NEW.released >= OLD.released AND NEW.expired >= OLD.expired
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'reservations are changed through the service alone'
        USING ERRCODE = 'check_violation', HINT = 'Release a reservation with POST /reservations/{id}/release.';
END
$$;
CREATE TRIGGER zz_larder_fixed BEFORE UPDATE OR DELETE ON reservations
    FOR EACH ROW EXECUTE FUNCTION larder_reservations_fixed();
ALTER TABLE reservations ENABLE ALWAYS TRIGGER zz_larder_fixed;
CREATE TRIGGER zz_larder_fixed_truncate BEFORE TRUNCATE ON reservations
    FOR EACH STATEMENT EXECUTE FUNCTION larder_reservations_fixed();
ALTER TABLE reservations ENABLE ALWAYS TRIGGER zz_larder_fixed_truncate;
CREATE TRIGGER zz_larder_fixed BEFORE UPDATE OR DELETE ON reservation_lines
    FOR EACH ROW EXECUTE FUNCTION larder_reservations_fixed();
ALTER TABLE reservation_lines ENABLE ALWAYS TRIGGER zz_larder_fixed;
CREATE TRIGGER zz_larder_fixed_truncate BEFORE TRUNCATE ON reservation_lines
    FOR EACH STATEMENT EXECUTE FUNCTION larder_reservations_fixed();
ALTER TABLE reservation_lines ENABLE ALWAYS TRIGGER zz_larder_fixed_truncate;
"""

# The change feed tells of reservations, too.
CHANGED = r"""
CREATE OR REPLACE FUNCTION larder_feed_changed(since pg_snapshot, upto pg_snapshot) RETURNS boolean LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    first xid8 := pg_snapshot_xmax(since);
    beyond xid8 := pg_snapshot_xmax(upto);
    ended xid8[] := ARRAY(SELECT x FROM pg_snapshot_xip(since) AS x WHERE pg_visible_in_snapshot(x, upto));
BEGIN
    RETURN EXISTS (SELECT FROM products
            WHERE changed_xid >= first AND changed_xid < beyond AND pg_visible_in_snapshot(changed_xid, upto))
        OR EXISTS (SELECT FROM stock_movements
            WHERE xid >= first AND xid < beyond AND xid > '0' AND pg_visible_in_snapshot(xid, upto))
        OR EXISTS (SELECT FROM reservations
            WHERE changed_xid >= first AND changed_xid < beyond AND pg_visible_in_snapshot(changed_xid, upto))
        OR EXISTS (SELECT FROM products WHERE changed_xid = ANY (ended))
        OR EXISTS (SELECT FROM stock_movements WHERE xid = ANY (ended) AND xid > '0')
        OR EXISTS (SELECT FROM reservations WHERE changed_xid = ANY (ended));
END
$$;
"""

# Where nobody has ever audited and nothing is sold, no instance of the release before can be running: nothing to wait for.
FINISH_IF_NEW = r"""
SELECT larder_finish('products', 3)
WHERE NOT EXISTS (SELECT FROM cache_audits) AND NOT EXISTS (SELECT FROM products);
"""

NOT_IN_USE = r"""
DO $$
BEGIN
    IF EXISTS (SELECT FROM reservations) THEN
        RAISE EXCEPTION 'there are reservations, which the release before does not know: it would sell their units';
    END IF;
END
$$;
"""

COLUMNS_BEFORE = r"""
DROP INDEX ix_products_uncovered;
ALTER TABLE products DROP CONSTRAINT ck_products_tombstone, DROP COLUMN reserved, DROP COLUMN reserved_swept,
    ADD CONSTRAINT ck_products_tombstone CHECK (deleted_at IS NULL OR stock = 0);
ALTER TABLE stock_movements DROP CONSTRAINT ck_stock_movements_reason,
    DROP COLUMN reserved_delta, DROP COLUMN reserved_after, DROP COLUMN reservation_id,
    ADD CONSTRAINT ck_stock_movements_reason CHECK (
        reason IN ('sale', 'return', 'receipt', 'damage', 'correction', 'other', 'opening', 'count', 'deletion')
    );
"""


def upgrade() -> None:
    for statement in (COLUMNS, TABLES, MOMENT, LEDGER, CLOSE, CHANGE, FIXED, CHANGED, FINISH_IF_NEW):
        op.execute(statement)


def downgrade() -> None:
    op.execute(NOT_IN_USE)
    first, second, feed = (
        runpy.run_path(str(Path(__file__).with_name(name)))
        for name in ("0001_products.py", "0002_ledger.py", "0007_change_feed.py")
    )
    op.execute(_replacing(first["TRIGGERS"], "larder_products_change"))
    op.execute(_replacing(second["LEDGER"], "larder_products_ledger"))
    op.execute(_replacing(second["TRUNCATE"], "larder_products_truncate"))
    op.execute(_replacing(feed["CHANGED"], "larder_feed_changed"))
    op.execute("DROP TABLE reservation_lines, reservations")
    op.execute("DROP FUNCTION larder_reservations_fixed(), larder_close_lines(text), larder_moment()")
    op.execute(COLUMNS_BEFORE)
    # Slots with members that the release before does not know must not be believed again.
    op.execute("UPDATE cache_generations SET payload_schema = 2, generation = gen_random_uuid() WHERE payload_schema > 2")


def _replacing(script: str, function: str) -> str:
    """Return the definition of one function in an earlier migration, as one that replaces the present function."""
    _, _, after = script.partition(f"FUNCTION {function}(")
    return f"CREATE OR REPLACE FUNCTION {function}({after.partition('$$;')[0]}$$;"
