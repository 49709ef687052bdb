"""Any table can be cached: versions of deleted rows in ``cache_keys``, and an epoch that says why there is none."""

import runpy
from pathlib import Path

from alembic import op

from app.cache.postgres.cached_table import cache_tables

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# As `cache_tables` has it, and what the products need besides: releases before 0003 are refused after the finish.
FINISH = r"""
CREATE OR REPLACE FUNCTION larder_finish(cached text, number integer) RETURNS boolean LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('LOCK TABLE %I IN EXCLUSIVE MODE', cached);
    UPDATE cache_generations SET payload_schema = number, generation = gen_random_uuid()
        WHERE relation = cached AND payload_schema < number;
    IF NOT FOUND OR cached <> 'products' THEN
        RETURN FOUND;
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

NOT_IN_USE = r"""
DO $$
BEGIN
    IF EXISTS (SELECT FROM cache_generations WHERE keyed) THEN
        RAISE EXCEPTION 'tables other than products are cached: drop them, and their rows in cache_generations, first';
    END IF;
END
$$;
"""


def upgrade() -> None:
    op.execute("DROP FUNCTION larder_finish(text, integer)")
    op.execute(cache_tables(release=1))
    op.execute(FINISH)


def downgrade() -> None:
    op.execute(NOT_IN_USE)
    op.execute("DROP FUNCTION larder_finish(text, integer), larder_try_epoch(text, integer), larder_epoch(text, integer)")
    op.execute("DROP TABLE cache_keys")
    op.execute("DROP FUNCTION larder_keys_deleted(), larder_keys_truncated(), larder_table_truncated()")
    op.execute("ALTER TABLE cache_generations DROP COLUMN keyed")
    before = runpy.run_path(str(Path(__file__).with_name("0003_payload_schema.py")))
    op.execute(before["EPOCH"])
    op.execute(before["FINISH"])
