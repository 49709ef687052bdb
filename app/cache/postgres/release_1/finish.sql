-- Raises the number of the payload's schema, in one transaction. The lock waits for writers of the release before, and keeps
-- new ones waiting until the number is there.
CREATE FUNCTION larder_finish(cached text, number integer) RETURNS boolean LANGUAGE plpgsql
    SET search_path FROM CURRENT AS $$
BEGIN
    EXECUTE format('LOCK TABLE %I IN EXCLUSIVE MODE', cached);
    UPDATE cache_generations SET payload_schema = number, generation = gen_random_uuid()
        WHERE relation = cached AND payload_schema < number;
    RETURN FOUND;
END
$$;
