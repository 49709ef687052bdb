"""Runs migrations on the connection that ``app.postgres.migrations`` hands over."""

from alembic import context

from app.postgres.migrations import VERSION_TABLE
from app.products.tables import metadata

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run migrations with `larder migrate`, which takes the lock that keeps instances apart")

context.configure(
    connection=connection,
    target_metadata=metadata,
    transaction_per_migration=True,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
