-- What all cached tables of a database share: their generations, their audits, and the versions of their keys.

-- A database of Larder has the first two tables from its own migrations.
CREATE TABLE IF NOT EXISTS cache_generations (
    relation text NOT NULL,
    generation uuid NOT NULL DEFAULT gen_random_uuid(),
    version_floor bigint NOT NULL DEFAULT 0,
    payload_schema integer NOT NULL DEFAULT 1,
    CONSTRAINT pk_cache_generations PRIMARY KEY (relation)
);
-- Whether the versions of deleted rows live on in cache_keys, and not in tombstones of the table itself.
ALTER TABLE cache_generations ADD COLUMN keyed boolean NOT NULL DEFAULT false;

CREATE TABLE IF NOT EXISTS cache_audits (
    relation text NOT NULL,
    namespace text NOT NULL,
    partition integer NOT NULL DEFAULT 0,
    announced bigint NOT NULL DEFAULT 0,
    completed bigint NOT NULL DEFAULT 0,
    fenced_until timestamptz NOT NULL DEFAULT '-infinity',
    other_until timestamptz NOT NULL DEFAULT '-infinity',
    server text NOT NULL DEFAULT '',
    epoch text NOT NULL DEFAULT '',
    barred boolean NOT NULL DEFAULT false,
    CONSTRAINT pk_cache_audits PRIMARY KEY (relation, namespace, partition)
) WITH (fillfactor = 50);

-- The last version that a key got when its row was inserted or deleted. A row's own version may be higher while it is there.
CREATE TABLE cache_keys (
    relation text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    -- Whether a row of this key was ever deleted. Inserting it again does not reset this: the insert may still be skipped by a
    -- conflict on another column, and the audit has to see the deletion then.
    gone boolean NOT NULL,
    changed_xid xid8 NOT NULL,
    CONSTRAINT pk_cache_keys PRIMARY KEY (relation, key)
);
-- For the audit: keys deleted since its watermark.
CREATE INDEX ix_cache_keys_gone ON cache_keys (relation, changed_xid) WHERE gone;

-- A key that is forgotten begins again at version 1. So that no slot is compared with it, a new epoch begins.
CREATE FUNCTION larder_keys_deleted() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE cache_generations SET generation = gen_random_uuid() WHERE relation IN (SELECT relation FROM forgotten);
    RETURN NULL;
END
$$;
CREATE FUNCTION larder_keys_truncated() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    UPDATE cache_generations SET generation = gen_random_uuid() WHERE keyed;
    RETURN NULL;
END
$$;
CREATE TRIGGER zz_larder_change AFTER DELETE ON cache_keys
    REFERENCING OLD TABLE AS forgotten FOR EACH STATEMENT EXECUTE FUNCTION larder_keys_deleted();
ALTER TABLE cache_keys ENABLE ALWAYS TRIGGER zz_larder_change;
CREATE TRIGGER zz_larder_truncate AFTER TRUNCATE ON cache_keys
    FOR EACH STATEMENT EXECUTE FUNCTION larder_keys_truncated();
ALTER TABLE cache_keys ENABLE ALWAYS TRIGGER zz_larder_truncate;

-- A TRUNCATE removes versions. Rows that are inserted afterwards begin above the highest of them, in a new epoch.
CREATE FUNCTION larder_table_truncated() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    highest bigint;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    IF TG_WHEN = 'BEFORE' THEN
        EXECUTE format('SELECT max(version) FROM %I', TG_TABLE_NAME) INTO highest;
        UPDATE cache_generations SET version_floor = greatest(version_floor, highest) WHERE relation = TG_TABLE_NAME;
    ELSE
        UPDATE cache_generations SET generation = gen_random_uuid() WHERE relation = TG_TABLE_NAME;
    END IF;
    RETURN NULL;
END
$$;

-- Everything whose change can make versions or transaction ids go back, or rows change unseen. STABLE, so that the generation
-- is read in the very snapshot of the statement that reads the rows.
CREATE OR REPLACE FUNCTION larder_epoch(cached text, knows integer) RETURNS text LANGUAGE plpgsql STABLE
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
    SELECT generation, payload_schema, keyed INTO stretch FROM cache_generations WHERE relation = cached;
    IF stretch.generation IS NULL THEN
        RAISE EXCEPTION 'the table % was not prepared for the cache', cached
            USING ERRCODE = 'undefined_table', HINT = 'Run the migration that calls cached_table(), or wait for the restore to end.';
    END IF;
    SELECT string_agg(oid || '.' || xmin, ',' ORDER BY tgname, tgrelid <> cached::regclass) INTO watchers FROM pg_trigger
        WHERE tgrelid IN (cached::regclass, CASE WHEN stretch.keyed THEN 'cache_keys'::regclass END)
            AND tgname IN ('zz_larder_change', 'zz_larder_truncate') AND tgenabled = 'A'
        HAVING count(*) = CASE WHEN stretch.keyed THEN 4 ELSE 2 END;
    IF watchers IS NULL THEN
        RAISE EXCEPTION 'the triggers of % are missing or disabled', cached
            USING ERRCODE = 'undefined_table', HINT = 'Wait for the restore to end, or enable them ALWAYS.';
    END IF;
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
        CASE WHEN stretch.payload_schema > 1 THEN stretch.payload_schema END,
        CASE WHEN stretch.keyed THEN 'cache_keys'::regclass::oid END
    ), 'UTF8')), 'hex'), 16);
    RETURN CASE WHEN stretch.payload_schema > 1 OR stretch.keyed THEN concat_ws('.', system, timeline, digest) ELSE digest END;
END
$$;

-- The epoch, or the reason why there is none: for statements about several tables, of which one must not stop the others.
CREATE FUNCTION larder_try_epoch(cached text, knows integer, OUT epoch text, OUT objection text) LANGUAGE plpgsql STABLE
    SET search_path FROM CURRENT AS $$
BEGIN
    epoch := larder_epoch(cached, knows);
EXCEPTION WHEN undefined_table OR undefined_function THEN
    objection := SQLERRM;
END
$$;
