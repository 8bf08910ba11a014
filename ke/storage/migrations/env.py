"""Alembic's entry: runs on the connection that `ke.storage.database` gives it."""

from alembic import context

from ke.storage.tables import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, compare_type=True, compare_server_default=False)
with context.begin_transaction():
    context.run_migrations()
