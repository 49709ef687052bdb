"""Accepted writes: requests that are answered with 202 before they are decided."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ACCEPTED = r"""
CREATE TABLE accepted_writes (
    seq bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_accepted_writes PRIMARY KEY,
    caller text NOT NULL,
    key text NOT NULL,
    request_hash bytea NOT NULL,
    product_ids text[] NOT NULL,
    operation text NOT NULL,
    target text NOT NULL,
    conditions text NOT NULL,
    body bytea NOT NULL,
    request_id text,
    accepted_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    failed_at timestamptz,
    failure text
);
CREATE UNIQUE INDEX ix_accepted_writes_caller_key ON accepted_writes (caller, key);
-- For the rows to apply, lowest first, and for their number.
CREATE INDEX ix_accepted_writes_waiting ON accepted_writes (seq) WHERE failed_at IS NULL;
CREATE INDEX ix_accepted_writes_failed ON accepted_writes (seq) WHERE failed_at IS NOT NULL;
-- For the rows of a product. Its pending list is off, because every direct write would read the whole of it.
CREATE INDEX ix_accepted_writes_product_ids ON accepted_writes USING gin (product_ids) WITH (fastupdate = off);
"""


def upgrade() -> None:
    op.execute(ACCEPTED)


def downgrade() -> None:
    op.execute("DROP TABLE accepted_writes")
