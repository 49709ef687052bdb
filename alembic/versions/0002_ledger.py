"""The stock ledger, and the answers kept for retries."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE stock_movements (
    product_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    line integer NOT NULL,
    delta bigint NOT NULL,
    stock_after bigint NOT NULL,
    reason text NOT NULL,
    reference text,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    actor text,
    request_id text,
    idempotency_key text,
    CONSTRAINT pk_stock_movements PRIMARY KEY (product_id, version, line),
    CONSTRAINT ck_stock_movements_line CHECK (line >= 0),
    CONSTRAINT ck_stock_movements_stock_after CHECK (stock_after BETWEEN 0 AND 9007199254740991),
    CONSTRAINT ck_stock_movements_reason CHECK (
        reason IN ('sale', 'return', 'receipt', 'damage', 'correction', 'other', 'opening', 'count', 'deletion')
    ),
    CONSTRAINT ck_stock_movements_reference CHECK (char_length(reference) BETWEEN 1 AND 200)
);
-- For the ledger of one order, newest first.
CREATE INDEX ix_stock_movements_reference ON stock_movements (reference, created_at, product_id, version, line)
    WHERE reference IS NOT NULL;
-- For the list of products to order again.
CREATE INDEX ix_products_below_reorder_point ON products (id) WHERE deleted_at IS NULL AND stock < reorder_point;

CREATE TABLE idempotency_records (
    caller text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    status smallint NOT NULL,
    body bytea NOT NULL,
    etag text,
    location text,
    product_ids text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT pk_idempotency_records PRIMARY KEY (caller, key)
);
-- For their removal, oldest first.
CREATE INDEX ix_idempotency_records_created_at ON idempotency_records (created_at);
"""

# Whoever changes a stock, the sum of a product's deltas is its stock: what the transaction recorded itself for the versions
# it made is left alone, and any difference, such as the whole change of hand-written SQL, is recorded here.
LEDGER = r"""
CREATE FUNCTION larder_products_ledger() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    was_there boolean := TG_OP = 'UPDATE' AND OLD.deleted_at IS NULL;
    is_there boolean := NEW.deleted_at IS NULL;
    old_version bigint := CASE WHEN TG_OP = 'UPDATE' THEN OLD.version ELSE 0 END;
    old_stock bigint := CASE WHEN TG_OP = 'UPDATE' THEN OLD.stock ELSE 0 END;
    recorded numeric;
    lines bigint;
    difference numeric;
BEGIN
    SELECT coalesce(sum(delta), 0), count(*) INTO recorded, lines
        FROM stock_movements WHERE product_id = NEW.id AND version > old_version AND version <= NEW.version;
    difference := NEW.stock - old_stock - recorded;
    IF difference <> 0 OR (was_there <> is_there AND lines = 0) THEN
        INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason, reference)
        SELECT NEW.id, NEW.version, coalesce(max(line) + 1, 0), difference, NEW.stock,
            CASE WHEN NOT is_there THEN 'deletion' WHEN was_there THEN 'other' ELSE 'opening' END, 'sql'
        FROM stock_movements WHERE product_id = NEW.id AND version = NEW.version;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER zz_larder_ledger AFTER INSERT OR UPDATE ON products
    FOR EACH ROW EXECUTE FUNCTION larder_products_ledger();
ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_ledger;

CREATE FUNCTION larder_movements_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'movements of stock are never changed or removed'
        USING ERRCODE = 'check_violation', HINT = 'Change the stock of the product: that adds a movement.';
END
$$;
CREATE TRIGGER zz_larder_fixed BEFORE UPDATE OR DELETE ON stock_movements
    FOR EACH ROW EXECUTE FUNCTION larder_movements_fixed();
ALTER TABLE stock_movements ENABLE ALWAYS TRIGGER zz_larder_fixed;
CREATE TRIGGER zz_larder_fixed_truncate BEFORE TRUNCATE ON stock_movements
    FOR EACH STATEMENT EXECUTE FUNCTION larder_movements_fixed();
ALTER TABLE stock_movements ENABLE ALWAYS TRIGGER zz_larder_fixed_truncate;
"""

# TRUNCATE, like DELETE, leaves tombstones: the ledger of each product ends with its deletion, and an id that is used again
# goes on from there.
TRUNCATE = r"""
CREATE OR REPLACE FUNCTION larder_products_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE cache_generations SET generation = gen_random_uuid() WHERE relation = 'products';
    INSERT INTO products (id, name, price_cents, version, deleted_at)
        SELECT m.product_id, m.product_id, 0, greatest(max(m.version), max(g.version_floor)) + 1, clock_timestamp()
        FROM stock_movements m CROSS JOIN cache_generations g WHERE g.relation = 'products' GROUP BY m.product_id;
    RETURN NULL;
END
$$;

-- A version never falls, and those that rose without a movement are about to be forgotten.
ALTER TABLE cache_generations ADD COLUMN version_floor bigint NOT NULL DEFAULT 0;
CREATE FUNCTION larder_products_floor() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE cache_generations SET version_floor = greatest(version_floor, (SELECT max(version) FROM products))
        WHERE relation = 'products';
    RETURN NULL;
END
$$;
CREATE TRIGGER zz_larder_floor BEFORE TRUNCATE ON products FOR EACH STATEMENT EXECUTE FUNCTION larder_products_floor();
ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_floor;
"""

TRUNCATE_BEFORE = r"""
CREATE OR REPLACE FUNCTION larder_products_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE cache_generations SET generation = gen_random_uuid() WHERE relation = 'products';
    RETURN NULL;
END
$$;
"""

OPENINGS = r"""
INSERT INTO stock_movements (product_id, version, line, delta, stock_after, reason)
    SELECT id, version, 0, stock, stock, 'opening' FROM products WHERE deleted_at IS NULL;
"""


def upgrade() -> None:
    op.execute("LOCK TABLE products IN SHARE ROW EXCLUSIVE MODE")  # no stock may change between its opening and the trigger
    for statement in (TABLES, OPENINGS, LEDGER, TRUNCATE):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TRIGGER zz_larder_ledger ON products")
    op.execute("DROP TRIGGER zz_larder_floor ON products")
    op.execute("ALTER TABLE cache_generations DROP COLUMN version_floor")
    op.execute(TRUNCATE_BEFORE)
    op.execute("DROP INDEX ix_products_below_reorder_point")
    op.execute("DROP TABLE stock_movements, idempotency_records")
    op.execute("DROP FUNCTION larder_products_ledger(), larder_movements_fixed(), larder_products_floor()")
