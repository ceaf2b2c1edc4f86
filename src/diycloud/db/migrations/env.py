"""Alembic's entry: run the migrations on the connection given by db.migrate, in its transaction."""

from alembic import context

from diycloud.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
