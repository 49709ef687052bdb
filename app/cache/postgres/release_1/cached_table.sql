-- Versions for the rows of {table}, and the triggers that keep them.

-- A cache finds a row by one spelling of its key, and sees every change of it.
DO $$
DECLARE
    found record;
BEGIN
    SELECT c.relkind, c.relispartition, a.attnotnull, format_type(a.atttypid, NULL) AS type,
        coalesce((SELECT collisdeterministic FROM pg_collation WHERE oid = a.attcollation), true) AS plain,
        EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhparent, inhrelid)) AS inherits,
        EXISTS (
            SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
                AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum
        ) AS sole
        INTO found
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = '{key}'
        WHERE c.oid = '{table}'::regclass;
    IF found IS NULL OR NOT found.sole OR NOT found.attnotnull THEN
        RAISE EXCEPTION 'the column {key} of {table} is not a key: it must exist, be unique by itself, and be NOT NULL';
    END IF;
    IF found.type NOT IN ('text', 'character varying', 'smallint', 'integer', 'bigint', 'uuid') OR NOT found.plain THEN
        RAISE EXCEPTION 'the key {key} of {table} is of type %: two spellings of it could mean one row', found.type
            USING HINT = 'Use text or varchar with a deterministic collation, smallint, integer, bigint, or uuid.';
    END IF;
    IF found.relkind <> 'r' OR found.relispartition OR found.inherits THEN
        RAISE EXCEPTION '{table} is partitioned or inherits: its triggers would not see every change';
    END IF;
END
$$;

ALTER TABLE {table}
    ADD COLUMN version bigint NOT NULL DEFAULT 1,
    ADD COLUMN changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id();
-- For the audit: rows changed since its watermark.
CREATE INDEX ix_{table}_changed_xid ON {table} (changed_xid);
INSERT INTO cache_generations (relation, keyed) VALUES ('{table}', true);

-- By index always: the plan is kept, and one made while cache_keys was small would scan it for every row of a bulk load.
CREATE FUNCTION larder_{table}_change() RETURNS trigger LANGUAGE plpgsql
    SET search_path FROM CURRENT SET enable_seqscan = off AS $$
BEGIN
    -- A commit that is visible and then lost in a crash must not reach the cache.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF TG_OP = 'UPDATE' THEN
        IF NEW.{key} <> OLD.{key} THEN
            RAISE EXCEPTION 'the key of a row of {table} never changes: % to %', OLD.{key}, NEW.{key}
                USING ERRCODE = 'check_violation', HINT = 'Insert a row with the new key and delete the old one.';
        END IF;
        NEW.version := greatest(NEW.version, OLD.version + 1);
        NEW.changed_xid := pg_current_xact_id();
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' THEN
        INSERT INTO cache_keys AS k (relation, key, version, gone, changed_xid)
            VALUES ('{table}', OLD.{key}::text, OLD.version + 1, true, pg_current_xact_id())
            ON CONFLICT (relation, key) DO UPDATE SET
                version = greatest(k.version, OLD.version) + 1, gone = true, changed_xid = excluded.changed_xid;
        RETURN OLD;
    END IF;
    -- The key's row is written, and not only read: so an insert waits for a deletion that is not committed, and one whose
    -- snapshot is older than the deletion fails to serialise. Otherwise both would begin at version 1 again.
    INSERT INTO cache_keys AS k (relation, key, version, gone, changed_xid)
        SELECT '{table}', NEW.{key}::text, greatest(NEW.version, g.version_floor + 1), false, pg_current_xact_id()
            FROM cache_generations g WHERE g.relation = '{table}'
        ON CONFLICT (relation, key) DO UPDATE SET
            version = greatest(excluded.version, k.version + 1), changed_xid = excluded.changed_xid
        RETURNING version INTO STRICT NEW.version;
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END
$$;

-- Last by name, so that no other trigger changes the row afterwards; always, so that a restore or replication fires them too.
CREATE TRIGGER zz_larder_change BEFORE INSERT OR UPDATE OR DELETE ON {table}
    FOR EACH ROW EXECUTE FUNCTION larder_{table}_change();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER zz_larder_change;
CREATE TRIGGER zz_larder_floor BEFORE TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION larder_table_truncated();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER zz_larder_floor;
CREATE TRIGGER zz_larder_truncate AFTER TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION larder_table_truncated();
ALTER TABLE {table} ENABLE ALWAYS TRIGGER zz_larder_truncate;
