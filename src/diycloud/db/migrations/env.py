"""Alembic's entry: run the migrations on the file given by db.migrate, all in one transaction."""

from alembic import context

from diycloud.db.engine import connect
from diycloud.db.tables import metadata

engine = connect(context.config.attributes["database"])
try:
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata, render_as_batch=True, transactional_ddl=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
finally:
    engine.dispose()
