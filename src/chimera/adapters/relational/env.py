"""Alembic runs this to write a migration as SQL of the dialect asked for; Chimera's driver then runs the SQL."""

from alembic import context

context.configure(
    dialect_name=context.config.attributes["dialect"],
    output_buffer=context.config.attributes["statements"],
    version_table=context.config.attributes["version_table"],
    transactional_ddl=False,
)
context.run_migrations()
