"""The keys of clients, and an index of the products that are not deleted."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# The generation changes with every change of what a key allows. Processes that know it already read no keys. The random value
# also differs between two primaries that went separate ways.
KEYS = r"""
CREATE TABLE access_keys (
    id text CONSTRAINT pk_access_keys PRIMARY KEY,
    client text NOT NULL,
    scopes text[] NOT NULL,
    digest bytea NOT NULL,
    rate_per_s double precision,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at timestamptz,
    revoked_at timestamptz,
    last_used_on date,
    CONSTRAINT ck_access_keys_client CHECK (client ~ '^[A-Za-z0-9._-]{1,64}$'),
    CONSTRAINT ck_access_keys_scopes CHECK (cardinality(scopes) > 0),
    CONSTRAINT ck_access_keys_digest CHECK (octet_length(digest) = 32),
    CONSTRAINT ck_access_keys_rate CHECK (rate_per_s > 0)
);
CREATE UNIQUE INDEX ix_access_keys_digest ON access_keys (digest);
CREATE TABLE access_generation (
    singleton boolean DEFAULT true CONSTRAINT pk_access_generation PRIMARY KEY
        CONSTRAINT ck_access_generation_singleton CHECK (singleton),
    generation uuid NOT NULL DEFAULT gen_random_uuid()
);
INSERT INTO access_generation DEFAULT VALUES;
CREATE FUNCTION larder_access_changed() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE access_generation SET generation = gen_random_uuid();
    RETURN NULL;
END
$$;
CREATE TRIGGER zz_larder_access
    AFTER INSERT OR DELETE OR UPDATE OF id, client, scopes, digest, rate_per_s, expires_at, revoked_at
    ON access_keys FOR EACH STATEMENT EXECUTE FUNCTION larder_access_changed();
CREATE TRIGGER zz_larder_access_truncate AFTER TRUNCATE
    ON access_keys FOR EACH STATEMENT EXECUTE FUNCTION larder_access_changed();
ALTER TABLE access_keys ENABLE ALWAYS TRIGGER zz_larder_access;
ALTER TABLE access_keys ENABLE ALWAYS TRIGGER zz_larder_access_truncate;
"""

# A list by id would otherwise read every tombstone before the first product that it shows.
LIVE_PRODUCTS = "CREATE INDEX ix_products_live ON products (id) WHERE deleted_at IS NULL"


def upgrade() -> None:
    op.execute(KEYS)
    op.execute(LIVE_PRODUCTS)


def downgrade() -> None:
    op.execute("DROP INDEX ix_products_live")
    op.execute("DROP TABLE access_keys, access_generation")
    op.execute("DROP FUNCTION larder_access_changed()")
