"""The payload's schema in the database and in the epoch, audit rows by relation, and the step that ends a rolling deploy."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# 1 is what the release before knows. A release refuses to feed the cache from a database whose number it does not know.
SCHEMA = r"""
ALTER TABLE cache_generations ADD COLUMN payload_schema integer NOT NULL DEFAULT 1;
"""

# The release before finds its row by namespace alone, so a unique index on that stays until the finish.
AUDITS = r"""
ALTER TABLE cache_audits
    ADD COLUMN relation text NOT NULL DEFAULT 'products',
    ADD COLUMN partition integer NOT NULL DEFAULT 0,
    ADD COLUMN barred boolean NOT NULL DEFAULT false;
ALTER TABLE cache_audits DROP CONSTRAINT pk_cache_audits;
ALTER TABLE cache_audits ADD CONSTRAINT pk_cache_audits PRIMARY KEY (relation, namespace, partition);
CREATE UNIQUE INDEX ix_cache_audits_namespace ON cache_audits (namespace);
"""

# The epoch as before until the finish, so that both releases share the cache. From then on it shows system and timeline before
# the hash: whoever meets a higher timeline of its own system knows that another primary has taken over.
EPOCH = r"""
CREATE FUNCTION larder_epoch(cached text, knows integer) RETURNS text LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT AS $$
DECLARE
    watchers text;
    stretch record;
    system bigint;
    timeline text;
    digest text;
BEGIN
    IF pg_is_in_recovery() THEN
        RAISE EXCEPTION 'this server is a standby' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    SELECT string_agg(oid || '.' || xmin, ',' ORDER BY tgname) INTO watchers FROM pg_trigger
        WHERE tgrelid = cached::regclass AND tgname IN ('zz_larder_change', 'zz_larder_truncate') AND tgenabled = 'A'
        HAVING count(*) = 2;
    IF watchers IS NULL THEN
        RAISE EXCEPTION 'the triggers of % are missing or disabled', cached
            USING ERRCODE = 'undefined_table', HINT = 'Wait for the restore to end, or enable them ALWAYS.';
    END IF;
    SELECT generation, payload_schema INTO stretch FROM cache_generations WHERE relation = cached;
    IF stretch.payload_schema > knows THEN
        RAISE EXCEPTION 'this release is too old: it knows the payload of % up to schema %, the database is at schema %',
            cached, knows, stretch.payload_schema
            USING ERRCODE = 'undefined_table', HINT = 'Stop this instance, and start the release that finished the migration.';
    END IF;
    system := (SELECT system_identifier FROM pg_control_system());
    timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    digest := left(encode(sha256(convert_to(concat_ws('/',
        system,
        timeline,
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        cached::regclass::oid,
        watchers,
        stretch.generation,
        CASE WHEN stretch.payload_schema > 1 THEN stretch.payload_schema END
    ), 'UTF8')), 'hex'), 16);
    RETURN CASE WHEN stretch.payload_schema > 1 THEN concat_ws('.', system, timeline, digest) ELSE digest END;
END
$$;
"""

# What `larder migrate --finish` runs, in one transaction. The lock waits for writers of the release before, and keeps new ones
# waiting until the number is there.
FINISH = r"""
CREATE FUNCTION larder_finish(cached text, number integer) RETURNS boolean LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('LOCK TABLE %I IN EXCLUSIVE MODE', cached);
    UPDATE cache_generations SET payload_schema = number, generation = gen_random_uuid()
        WHERE relation = cached AND payload_schema < number;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    EXECUTE $old$
        CREATE OR REPLACE FUNCTION larder_products_epoch() RETURNS text LANGUAGE plpgsql STABLE AS $body$
        BEGIN
            RAISE EXCEPTION 'this release is too old: the migration of this database was finished by a newer one'
                USING ERRCODE = 'undefined_table', HINT = 'Stop this instance, and start the newer release.';
        END
        $body$
    $old$;
    DROP INDEX IF EXISTS ix_cache_audits_namespace;
    RETURN true;
END
$$;
"""

# Where nobody has ever audited and nothing is sold, no instance of the release before can be running: nothing to wait for.
FINISH_IF_NEW = r"""
SELECT larder_finish('products', 2)
WHERE NOT EXISTS (SELECT FROM cache_audits) AND NOT EXISTS (SELECT FROM products);
"""

# As the release before has it.
EPOCH_BEFORE = r"""
CREATE OR REPLACE FUNCTION larder_products_epoch() RETURNS text LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
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


def upgrade() -> None:
    for statement in (SCHEMA, AUDITS, EPOCH, FINISH, FINISH_IF_NEW):
        op.execute(statement)


def downgrade() -> None:
    op.execute(EPOCH_BEFORE)
    op.execute("DROP FUNCTION larder_epoch(text, integer), larder_finish(text, integer)")
    # Slots of this release's epochs must not be believed again, so the next epoch is a new one.
    op.execute("UPDATE cache_generations SET generation = gen_random_uuid()")
    op.execute("ALTER TABLE cache_generations DROP COLUMN payload_schema")
    op.execute("DELETE FROM cache_audits")
    op.execute("ALTER TABLE cache_audits DROP COLUMN relation, DROP COLUMN partition, DROP COLUMN barred")
    op.execute("DROP INDEX IF EXISTS ix_cache_audits_namespace")
    op.execute("ALTER TABLE cache_audits ADD CONSTRAINT pk_cache_audits PRIMARY KEY (namespace)")
