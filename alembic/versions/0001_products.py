"""Products, their tombstones, and what the cache needs to know of their history."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = r"""
CREATE TABLE products (
    id text COLLATE "C" NOT NULL,
    name text NOT NULL,
    price_cents bigint NOT NULL,
    stock bigint NOT NULL DEFAULT 0,
    reorder_point bigint NOT NULL DEFAULT 0,
    version bigint NOT NULL DEFAULT 1,
    changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    deleted_at timestamptz,
    CONSTRAINT pk_products PRIMARY KEY (id),
    CONSTRAINT ck_products_id CHECK (id ~ '^[A-Za-z0-9._:-]{1,64}$' AND id NOT IN ('.', '..')),
    CONSTRAINT ck_products_name_length CHECK (char_length(name) BETWEEN 1 AND 200),
    CONSTRAINT ck_products_name_control CHECK (name COLLATE "C" !~ '[\u0001-\u001f\u007f-\u009f]'),
    CONSTRAINT ck_products_name_blank CHECK (
        name COLLATE "C" ~ '[^\u0020\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]'
    ),
    CONSTRAINT ck_products_price_cents CHECK (price_cents BETWEEN 0 AND 9007199254740991),
    CONSTRAINT ck_products_stock CHECK (stock BETWEEN 0 AND 9007199254740991),
    CONSTRAINT ck_products_reorder_point CHECK (reorder_point BETWEEN 0 AND 9007199254740991),
    CONSTRAINT ck_products_version CHECK (version > 0),
    CONSTRAINT ck_products_tombstone CHECK (deleted_at IS NULL OR stock = 0)
);
-- For the audit: rows changed since its watermark.
CREATE INDEX ix_products_changed_xid ON products (changed_xid);
-- For the list by name prefix.
CREATE INDEX ix_products_name ON products ((lower(name) COLLATE "C"), id) WHERE deleted_at IS NULL;

CREATE TABLE cache_generations (
    relation text NOT NULL,
    generation uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT pk_cache_generations PRIMARY KEY (relation)
);
INSERT INTO cache_generations (relation) VALUES ('products');

CREATE TABLE cache_audits (
    namespace text NOT NULL,
    announced bigint NOT NULL DEFAULT 0,
    completed bigint NOT NULL DEFAULT 0,
    fenced_until timestamptz NOT NULL DEFAULT '-infinity',
    other_until timestamptz NOT NULL DEFAULT '-infinity',
    server text NOT NULL DEFAULT '',
    epoch text NOT NULL DEFAULT '',
    CONSTRAINT pk_cache_audits PRIMARY KEY (namespace)
) WITH (fillfactor = 50);
"""

# Everything whose change can make versions or transaction ids go back, or rows change unseen. STABLE, so that the generation is
# read in the very snapshot of the statement that reads the rows; the timeline from the WAL's position, because the control
# file's lags behind a promotion. The triggers belong to it: a restore brings them back last, and what is written before leaves
# no trace that an audit could find. Raises then, and on a standby: neither may feed the cache.
EPOCH = r"""
CREATE FUNCTION larder_products_epoch() RETURNS text LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
DECLARE
    watchers text;
BEGIN
    SELECT string_agg(oid || '.' || xmin, ',' ORDER BY tgname) INTO watchers FROM pg_trigger
        WHERE tgrelid = 'products'::regclass AND tgname IN ('zz_larder_change', 'zz_larder_truncate') AND tgenabled = 'A'
        HAVING count(*) = 2;
    IF watchers IS NULL THEN
        RAISE EXCEPTION 'the triggers of products are missing or disabled'
            USING ERRCODE = 'undefined_table', HINT = 'Wait for the restore to end, or enable them ALWAYS.';
    END IF;
    RETURN left(encode(sha256(convert_to(concat_ws('/',
        (SELECT system_identifier FROM pg_control_system()),
        left(pg_walfile_name(pg_current_wal_lsn()), 8),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        'products'::regclass::oid,
        watchers,
        (SELECT generation FROM cache_generations WHERE relation = 'products')
    ), 'UTF8')), 'hex'), 16);
END
$$;
"""

TRIGGERS = r"""
-- By index always: the plan is kept, and one made while the table was small would scan it for every row of a bulk load.
CREATE FUNCTION larder_products_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    -- A commit that is visible and then lost in a crash must not reach the cache.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF TG_OP = 'DELETE' THEN
        UPDATE products SET deleted_at = clock_timestamp(), stock = 0 WHERE id = OLD.id AND deleted_at IS NULL;
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

CREATE FUNCTION larder_products_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE cache_generations SET generation = gen_random_uuid() WHERE relation = 'products';
    RETURN NULL;
END
$$;

-- Last by name, so that no other trigger changes the row afterwards; always, so that a restore or replication fires them too.
CREATE TRIGGER zz_larder_change BEFORE INSERT OR UPDATE OR DELETE ON products
    FOR EACH ROW EXECUTE FUNCTION larder_products_change();
ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_change;
CREATE TRIGGER zz_larder_truncate AFTER TRUNCATE ON products
    FOR EACH STATEMENT EXECUTE FUNCTION larder_products_truncate();
ALTER TABLE products ENABLE ALWAYS TRIGGER zz_larder_truncate;
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(EPOCH)
    op.execute(TRIGGERS)


def downgrade() -> None:
    op.execute("DROP TABLE products, cache_generations, cache_audits")
    op.execute("DROP FUNCTION larder_products_epoch(), larder_products_change(), larder_products_truncate()")
