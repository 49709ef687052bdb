"""A function by which a statement ends its transaction unless a condition holds."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# For conditions without which a transaction must not be committed, where COMMIT is sent in the same round trip as the statement
# that checks them. The SQLSTATE is of class 40: the transaction may be tried again.
REQUIRE = r"""
CREATE FUNCTION larder_require(holds boolean, otherwise text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF holds IS NOT TRUE THEN
        RAISE EXCEPTION '%', otherwise USING ERRCODE = '40L01';
    END IF;
    RETURN true;
END
$$;
"""


def upgrade() -> None:
    op.execute(REQUIRE)


def downgrade() -> None:
    op.execute("DROP FUNCTION larder_require(boolean, text)")
