"""The change feed: the transaction of each movement, the snapshots of completed audits, and the marks made of them.

It only adds, so instances of the release before go on working: a movement that they record gets its transaction from the
column's default, and an audit that they complete leaves the last known snapshot, which is older and therefore safe.
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The constant default makes the column appear at once, and 0 in old rows means that they are no news. The index leaves such
# rows out, so that it is made in one pass over the ledger without sorting it.
TABLES = r"""
ALTER TABLE stock_movements ADD COLUMN xid xid8 NOT NULL DEFAULT '0';
ALTER TABLE stock_movements ALTER COLUMN xid SET DEFAULT pg_current_xact_id();
CREATE INDEX ix_stock_movements_xid ON stock_movements (xid) WHERE xid > '0';

ALTER TABLE cache_audits ADD COLUMN snapshot pg_snapshot;

CREATE TABLE feed_marks (
    number bigint NOT NULL,
    snapshot pg_snapshot NOT NULL,
    epoch text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT pk_feed_marks PRIMARY KEY (number)
);
"""

# The snapshot of an audit comes in a setting of the completing statement, because tables of other services have no such column.
# A cycle that ends late, after a newer one, changes nothing. In another epoch the snapshot of the last one means nothing.
SNAPSHOTS = r"""
CREATE FUNCTION larder_audit_completed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.epoch <> OLD.epoch THEN
        NEW.snapshot := NULL;
    ELSE
        NEW.snapshot := coalesce(nullif(current_setting('larder.snapshot', true), '')::pg_snapshot, OLD.snapshot);
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER zz_larder_completed BEFORE UPDATE ON cache_audits FOR EACH ROW
    WHEN (NEW.epoch <> OLD.epoch OR NEW.completed > OLD.completed) EXECUTE FUNCTION larder_audit_completed();
"""

# Whether a mark would have anything to tell. A snapshot that is older than the last mark's has nothing, so marks never go back.
# Rows of a transaction that has not ended in `upto` are read only until another one makes a mark.
CHANGED = r"""
CREATE FUNCTION larder_feed_changed(since pg_snapshot, upto pg_snapshot) RETURNS boolean LANGUAGE plpgsql STABLE
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
        OR EXISTS (SELECT FROM products WHERE changed_xid = ANY (ended))
        OR EXISTS (SELECT FROM stock_movements WHERE xid = ANY (ended) AND xid > '0');
END
$$;
"""

# The next mark is the oldest of the snapshots that the trusted namespaces completed last: what it contains, no cache can deny.
# A namespace whose fences have lapsed does not count, because its next fence needs an audit that is announced later. If none is
# trusted, no slot is, and the present snapshot will do: it was taken after the lapse, and shows no announcement.
#
# It has its owner's rights, so that a service that may not change the ledger can complete its audits. Nothing locks the marks.
# The number is the last one's and 1, so of two who saw the same last mark one inserts nothing.
MARK = r"""
CREATE FUNCTION larder_feed_mark(margin interval) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
DECLARE
    present text := (SELECT epoch FROM larder_try_epoch('products', 2147483647));
    proven pg_snapshot;
    last feed_marks;
BEGIN
    WITH audits AS MATERIALIZED (
        SELECT a.snapshot, a.epoch IS NOT DISTINCT FROM (larder_try_epoch(a.relation, 2147483647)).epoch AS current,
            a.fenced_until + margin > statement_timestamp() AS trusted
        FROM cache_audits a
    )
    SELECT CASE
        WHEN bool_or(trusted AND (snapshot IS NULL OR NOT current)) THEN NULL
        WHEN bool_or(trusted) THEN (
            SELECT snapshot FROM audits WHERE trusted
            ORDER BY pg_snapshot_xmax(snapshot), cardinality(ARRAY(SELECT pg_snapshot_xip(snapshot))) DESC LIMIT 1
        )
        WHEN bool_or(current) THEN pg_current_snapshot()
    END INTO proven FROM audits;
    IF present IS NULL OR proven IS NULL THEN
        RETURN false;
    END IF;
    SELECT * INTO last FROM feed_marks ORDER BY number DESC LIMIT 1;
    IF last.epoch IS DISTINCT FROM present THEN
        -- A restored movement may have the id of a transaction that is yet to come. It is no news, now or then.
        UPDATE stock_movements SET xid = '0' WHERE (product_id, version, line) IN (
            SELECT product_id, version, line FROM stock_movements
            WHERE xid >= pg_snapshot_xmin(pg_current_snapshot()) AND xid > '0'
                AND NOT pg_visible_in_snapshot(xid, pg_current_snapshot())
            LIMIT 5000
        );
        IF FOUND THEN
            RETURN false;
        END IF;
    ELSIF NOT larder_feed_changed(last.snapshot, proven) THEN
        RETURN false;
    END IF;
    INSERT INTO feed_marks (number, snapshot, epoch) VALUES (coalesce(last.number, 0) + 1, proven, present)
        ON CONFLICT DO NOTHING;
    RETURN FOUND;
END
$$;

-- Fences of another namespace that lapsed a moment ago count for ten seconds more: it costs a feed nothing that goes on by
-- audits, and no clock is that late.
CREATE FUNCTION larder_feed_audited() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM larder_feed_mark(interval '10 seconds');
    RETURN NULL;
END
$$;
CREATE TRIGGER zz_larder_mark AFTER UPDATE OF completed ON cache_audits
    FOR EACH STATEMENT EXECUTE FUNCTION larder_feed_audited();
"""

# The only change of a movement: it loses the id of a transaction that never wrote it.
FIXED = r"""
CREATE OR REPLACE FUNCTION larder_movements_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.xid = '0' AND NOT pg_visible_in_snapshot(OLD.xid, pg_current_snapshot())
            AND to_jsonb(NEW) - 'xid' = to_jsonb(OLD) - 'xid' THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'movements of stock are never changed or removed'
        USING ERRCODE = 'check_violation', HINT = 'Change the stock of the product: that adds a movement.';
END
$$;
"""

FIXED_BEFORE = r"""
CREATE OR REPLACE FUNCTION larder_movements_fixed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'movements of stock are never changed or removed'
        USING ERRCODE = 'check_violation', HINT = 'Change the stock of the product: that adds a movement.';
END
$$;
"""


def upgrade() -> None:
    for statement in (TABLES, SNAPSHOTS, CHANGED, MARK, FIXED):
        op.execute(statement)


def downgrade() -> None:
    op.execute(FIXED_BEFORE)
    op.execute("DROP TRIGGER zz_larder_mark ON cache_audits")
    op.execute("DROP TRIGGER zz_larder_completed ON cache_audits")
    op.execute("DROP FUNCTION larder_feed_audited(), larder_feed_mark(interval), larder_audit_completed()")
    op.execute("DROP FUNCTION larder_feed_changed(pg_snapshot, pg_snapshot)")
    op.execute("DROP TABLE feed_marks")
    op.execute("ALTER TABLE cache_audits DROP COLUMN snapshot")
    op.execute("ALTER TABLE stock_movements DROP COLUMN xid")
