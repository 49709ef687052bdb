-- What tells one history of the database from another: its timeline, the time when the server was started, or both.

ALTER TABLE cache_generations
    ADD COLUMN by_timeline boolean NOT NULL DEFAULT true,
    ADD COLUMN by_start boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT ck_cache_generations_history CHECK (by_timeline OR by_start);

-- Asked once and not in the function, where a handler would cost every read a subtransaction.
DO $$
BEGIN
    PERFORM pg_walfile_name(pg_current_wal_lsn());
EXCEPTION WHEN insufficient_privilege OR object_not_in_prerequisite_state OR feature_not_supported THEN
    UPDATE cache_generations SET by_timeline = false, by_start = true;
    ALTER TABLE cache_generations ALTER COLUMN by_timeline SET DEFAULT false, ALTER COLUMN by_start SET DEFAULT true;
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
    SELECT generation, payload_schema, keyed, by_timeline, by_start INTO stretch FROM cache_generations WHERE relation = cached;
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
    -- An expression of its own, because the right to the functions is checked even where CASE does not come to them.
    IF stretch.by_timeline THEN
        timeline := left(pg_walfile_name(pg_current_wal_lsn()), 8);
    END IF;
    digest := left(encode(sha256(convert_to(concat_ws('/',
        system,
        timeline,
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        cached::regclass::oid,
        watchers,
        stretch.generation,
        CASE WHEN stretch.payload_schema > 1 THEN stretch.payload_schema END,
        CASE WHEN stretch.keyed THEN 'cache_keys'::regclass::oid END,
        CASE WHEN stretch.by_start THEN 'started ' || extract(epoch FROM pg_postmaster_start_time()) END
    ), 'UTF8')), 'hex'), 16);
    RETURN CASE WHEN stretch.payload_schema > 1 OR stretch.keyed THEN concat_ws('.', system, timeline, digest) ELSE digest END;
END
$$;
