"""The tables of the relational engines: described, made and changed.

Tables are described with SQLAlchemy and changed by Alembic, at `create` only: both write SQL, and the engine's
own driver runs it. No statement of the hot paths passes through them.
"""

from __future__ import annotations

import io
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import alembic.command
import msgspec
import sqlalchemy as sa
from alembic.autogenerate import render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.operations.ops import AddColumnOp, AlterColumnOp, CreateTableOp, DropColumnOp, MigrateOperation, UpgradeOps
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

from chimera.adapters import versions
from chimera.adapters.rows import PREFIX, is_kind_of, own, text_literal
from chimera.entities import Column, ColumnKind, Row, Table
from chimera.errors import DeclarationError, SettingsError

Part = Literal["store", "views"]

# Column types of Chimera's own tables. What a released migration uses must stay as it is.
TABLE_OPTIONS = {"mysql_engine": "InnoDB", "mariadb_engine": "InnoDB"}
KEY: TypeEngine[str] = (
    sa.Text(collation="C")
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_0900_bin"), "mysql")
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_nopad_bin"), "mariadb")
)
TEXT: TypeEngine[str] = (
    sa.Text()
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_0900_bin"), "mysql")
    .with_variant(mysql.VARCHAR(255, collation="utf8mb4_nopad_bin"), "mariadb")
)
DATA: TypeEngine[bytes] = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
CHAIN: TypeEngine[str] = sa.String(64)
WITHIN: TypeEngine[bytes] = sa.LargeBinary().with_variant(mysql.VARBINARY(16), "mysql", "mariadb")
PLACE: TypeEngine[bytes] = sa.LargeBinary().with_variant(mysql.VARBINARY(2000), "mysql", "mariadb")

OWN_TABLES: Mapping[Part, Sequence[str]] = {
    "store": ("heads", "journal"),
    "views": ("documents", "checkpoints", "revisions"),
}
_RESERVED = frozenset({name for names in OWN_TABLES.values() for name in names})


class Spelling(msgspec.Struct, frozen=True):
    """The SQL that engines write differently.

    `here`: the schema that a connection works in. `columns`, `keys`: queries for the rows that `found_tables` takes.
    `begin`, `begin_snapshot`: the statements that start a transaction. The others are queries with parameters:
    `journal` (partition, after, limit), `history` (partition, key, after), `checkpoints` (consumer),
    `scan` (view, after, limit), `listed` (view, within, after, limit, skip),
    `index_of_lists` (view, within, at, within, limit, skip), `chain` (partition, number), `anchor` and
    `trim` (partition, through). `indexes` are the names of those that there are, `index` makes one: {name}, {table},
    {column}. `upserts_by_key`: an upsert minds the primary key only.
    """

    dialect: str
    here: str
    columns: str
    keys: str
    begin: Sequence[str]
    begin_snapshot: Sequence[str]
    heads: str
    oldest: str
    chain: str
    anchor: str
    trim: str
    indexes: str
    index: str
    journal: str
    history: str
    checkpoints: str
    scan: str
    listed: str
    index_of_lists: str
    upserts_by_key: bool


def spelled(spelling: Spelling, prefix: str) -> Spelling:
    """A spelling for a database in which Chimera's own tables have a prefix."""
    texts = {name: value for name, value in msgspec.structs.asdict(spelling).items() if isinstance(value, str)}
    return msgspec.structs.replace(spelling, **{name: own(value, prefix) for name, value in texts.items()})


class FoundColumn(msgspec.Struct, frozen=True):
    """A column as the database has it. `is_filled`: a row may be inserted without it."""

    type: str
    is_optional: bool
    is_filled: bool


class FoundTable(msgspec.Struct):
    """A table as the database has it."""

    columns: dict[str, FoundColumn] = {}
    key: list[str] = []


def found_tables(columns: Iterable[Row], keys: Iterable[Row]) -> dict[str, FoundTable]:
    """From rows (table, column, type, is_optional, is_filled) and (table, key column), both in order."""
    tables: dict[str, FoundTable] = {}
    for table, column, kind, is_optional, is_filled in columns:
        tables.setdefault(table, FoundTable()).columns[column] = FoundColumn(kind, bool(is_optional), bool(is_filled))
    for table, column in keys:
        tables.setdefault(table, FoundTable()).key.append(column)
    return tables


class Dialect(msgspec.Struct, frozen=True, eq=False):
    """An engine's column types: for SQLAlchemy, and as its information_schema shows them. `order`: texts' collation."""

    name: str
    types: Mapping[ColumnKind, TypeEngine[Any]]
    shown: Mapping[ColumnKind, str]
    key_text: TypeEngine[Any]
    key_text_shown: str
    order: str = ""
    options: Mapping[str, Any] = {}

    def type_of(self, table: Table, column: str) -> tuple[TypeEngine[Any], str]:
        """The type of an entity's column, and the same as information_schema shows it; text in a key has its own."""
        found = next(each for each in table.columns if each.name == column)
        kind = found.kind
        if found.sql:
            return _Spelled(self._spelled(found)), found.sql
        if kind == "text" and column in table.key:
            return self.key_text, self.key_text_shown
        return self.types[kind], self.shown[kind]

    def is_fit(self, table: Table, column: str, existing: str) -> bool:
        """True where an existing column of this type can hold an entity's."""
        found = next(each for each in table.columns if each.name == column)
        if found.sql:
            return is_kind_of(existing, found, strictly=self.name == "postgresql")
        return existing == self.type_of(table, column)[1]

    def _spelled(self, column: Column) -> str:
        """A declared type as this engine calls it."""
        if self.name == "postgresql":
            return _OF_MYSQL.sub(lambda found: _IN_POSTGRESQL[found[0]], column.sql.lower())
        if column.family == "numeric" and "(" not in column.sql:
            raise DeclarationError(f"MySQL rounds {column.name} to an integer: type InColumn(sql='numeric(12,2)')")
        if column.family in _IN_MYSQL:
            return _IN_MYSQL[column.family]
        is_text = column.family in ("varchar", "char", "text")
        return f"{column.sql} COLLATE {self.order}" if is_text else re.sub("(big|small)?serial", "bigint", column.sql)


_IN_POSTGRESQL = {
    **dict.fromkeys(("tinytext", "mediumtext", "longtext"), "text"),
    **dict.fromkeys(("blob", "mediumblob", "longblob"), "bytea"),
    "datetime": "timestamp",
    "double": "double precision",
    "tinyint": "smallint",
    "mediumint": "integer",
}
_OF_MYSQL = re.compile(rf"^({'|'.join(_IN_POSTGRESQL)})\b(?! precision)")
_IN_MYSQL = {
    "uuid": "char(36)",
    "jsonb": "json",
    "timestamp": "datetime(6)",
    "timestamptz": "datetime(6)",
    "bytes": "longblob",
}


class _Spelled(sa.types.UserDefinedType[Any]):
    """A type as it was declared."""

    cache_ok = True

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def get_col_spec(self, **_: Any) -> str:
        return self.sql


def entity_changes(dialect: Dialect, where: str, table: Table, found: FoundTable | None, prefix: str = "") -> list[str]:
    """The SQL that makes a table fit its entity without losing anything. `prefix`: that of Chimera's own tables.

    Raises SettingsError, with the Alembic operation to run, where only a person can decide.
    """
    reserved = {"chimera_lists", *(own(name, prefix) for name in _RESERVED)}
    if table.name in reserved or re.fullmatch(r"chimera_\w+_version", table.name):
        raise DeclarationError(f"an entity's table can't be {table.name!r} here; choose another with table=…")
    if found is None:
        return [*_creation(dialect, table)]
    _Fit(dialect, where, table, found).check()
    columns = {column.name: column for column in table.columns}
    return _sql(
        dialect,
        [
            *(AddColumnOp(table.name, _added(dialect, table, name)) for name in columns if name not in found.columns),
            *(
                _alter(dialect, table, name, nullable=True)
                for name, existing in found.columns.items()
                if name in columns and columns[name].optional and not existing.is_optional
            ),
        ],
    )


@lru_cache(256)
def _creation(dialect: Dialect, table: Table) -> Sequence[str]:
    return _sql(dialect, [CreateTableOp.from_table(_described(dialect, table))])


class _Fit:
    """The check that an existing table can serve an entity."""

    def __init__(self, dialect: Dialect, where: str, table: Table, found: FoundTable) -> None:
        self._dialect = dialect
        self._table = table
        self._found = found
        self._place = f"table {table.name} in {where}"

    def check(self) -> None:
        if self._found.key != list(self._table.key):
            raise SettingsError(
                f"{self._place} has the key {', '.join(self._found.key)}, not {', '.join(self._table.key)}: give the "
                "entity a new name with table=… and copy the rows, since a key can't change under a running service"
            )
        missing = [column for column in self._table.columns if column.name not in self._found.columns]
        for column in missing:
            if not column.optional and column.default is None:
                self._refuse_new(column.name)
        names = {column.name for column in self._table.columns}
        for name in self._found.columns.keys() - names:
            self._check_unknown(name, [column.name for column in missing])
        for column in self._table.columns:
            if column.name in self._found.columns:
                self._check_kept(column.name, column.optional)

    def _refuse_new(self, name: str) -> None:
        column = _column(self._dialect, self._table, name)
        column.server_default = sa.DefaultClause("…")
        raise self._refusal(
            f"lacks the column {name!r}, and its rows need a value there: give the field a default, make it optional "
            "(`| None = None`), or add the column with the value that old rows shall have",
            AddColumnOp(self._table.name, column),
        )

    def _check_unknown(self, name: str, missing: Sequence[str]) -> None:
        """A column that the entity does not have may stay: an older version of the service may still use it."""
        drop = DropColumnOp(self._table.name, name)
        if missing:
            existing = self._found.columns[name]
            renamed = AlterColumnOp(
                self._table.name,
                name,
                modify_name=missing[0],
                existing_nullable=existing.is_optional,
                existing_type=_column(self._dialect, self._table, missing[0]).type,
            )
            raise self._refusal(
                f"lacks the column {missing[0]!r} and has {name!r}, which its entity does not: "
                f"if the field is in that, type Annotated[…, InColumn({name!r})]; if it was renamed, run the first "
                "operation, if it is gone, the second",
                renamed,
                drop,
            )
        if not self._found.columns[name].is_filled:
            raise self._refusal(
                f"has the column {name!r}, which its entity does not and no row can go without: "
                "if the field is gone, drop the column; while older code runs, give the column a default instead",
                drop,
            )

    def _check_kept(self, name: str, optional: bool) -> None:
        existing = self._found.columns[name]
        wanted, shown = self._dialect.type_of(self._table, name)
        if not self._dialect.is_fit(self._table, name, existing.type):
            raise self._refusal(
                f"has {name!r} as {existing.type}, its field needs {shown}: say so with Annotated[…, InColumn(sql="
                f"{existing.type!r})] if that holds it, give the field a new name, or convert the column",
                _alter(self._dialect, self._table, name, existing.is_optional, wanted),
            )
        if existing.is_optional and not optional:
            raise self._refusal(
                f"may hold NULL in {name!r}, its field may not be None: make the field optional (`| None`), "
                "or fill the gaps and forbid them",
                _alter(self._dialect, self._table, name, nullable=False),
            )

    def _refusal(self, says: str, *operations: MigrateOperation) -> SettingsError:
        written = "; ".join(_as_python(self._dialect, operation) for operation in operations)
        return SettingsError(f"{self._place} {says}, with Alembic: {written}")


def _as_python(dialect: Dialect, operation: MigrateOperation) -> str:
    context = MigrationContext.configure(dialect_name=dialect.name)
    lines = render_python_code(UpgradeOps([operation]), migration_context=context).splitlines()
    return " ".join(line.strip() for line in lines if not line.strip().startswith("#"))


def own_changes(dialect: Dialect, where: str, part: Part, version: str | None) -> list[str]:
    """The SQL that moves Chimera's own tables forward from a version (None: there are none)."""
    if version == _newest(part):
        return []
    try:
        return [*_own_changes(dialect.name, part, version)]
    except CommandError as error:
        raise SettingsError(
            f"{where} was moved to {version} by a newer Chimera; this one can't use it: update chimera-kit here"
        ) from error


@cache
def _newest(part: Part) -> str:
    found = ScriptDirectory.from_config(_config()).as_revision_number(f"{part}@head")
    assert isinstance(found, str)
    return found


@cache
def _own_changes(dialect: str, part: Part, version: str | None) -> Sequence[str]:
    statements: list[str] = []
    config = _config(dialect=dialect, statements=_Collected(statements), version_table=version_table(part))
    newest = f"{part}@head"
    alembic.command.upgrade(config, f"{version}:{newest}" if version else newest, sql=True)
    if dialect != "postgresql":  # the others have no names for primary keys, and warn of one
        return [each.replace(f"CONSTRAINT {version_table(part)}_pkc ", "") for each in statements]
    return statements


def _config(**attributes: object) -> Config:
    config = Config(output_buffer=io.StringIO(), stdout=io.StringIO(), attributes=attributes)
    config.set_main_option("script_location", _path_of(Path(__file__)))
    config.set_main_option("path_separator", "newline")
    config.set_main_option("version_locations", _path_of(Path(versions.__file__)))
    return config


def _path_of(module: Path) -> str:
    return str(module.parent).replace("%", "%%")


def own_prefix(part: Part, there: Collection[str], wanted: str | None) -> tuple[str, list[tuple[str, str]]]:
    """The prefix of Chimera's own tables where these tables are, and those of before that are to be renamed, and how.

    A table of the same name that somebody else has made is not Chimera's.
    """
    names = OWN_TABLES[part]
    is_bare = names[0] in there and version_table(part) in there and own(names[0], PREFIX) not in there
    if is_bare and wanted is None:
        return "", []
    return PREFIX, [(name, own(name, PREFIX)) for name in names if is_bare]


def version_table(part: Part) -> str:
    """The table in which Alembic stores the version of Chimera's own tables."""
    return f"chimera_{part}_version"


class _Collected:
    """The output that Alembic writes to: one call per statement."""

    def __init__(self, statements: list[str]) -> None:
        self._statements = statements

    def write(self, text: str) -> None:
        if (statement := text.strip().rstrip(";")) and not statement.startswith("--"):
            self._statements.append(statement)

    def flush(self) -> None: ...


def _sql(dialect: Dialect, operations: Sequence[MigrateOperation]) -> list[str]:
    statements: list[str] = []
    if operations:
        context = Operations(_context(dialect, statements))
        for operation in operations:
            context.invoke(operation)
    return statements


def _context(dialect: Dialect, statements: list[str]) -> MigrationContext:
    return MigrationContext.configure(
        dialect_name=dialect.name,
        dialect_opts={"paramstyle": "named"},  # others double what per cent signs there are
        opts={"as_sql": True, "output_buffer": _Collected(statements)},
    )


def _described(dialect: Dialect, table: Table) -> sa.Table[Any]:
    columns = [_column(dialect, table, column.name) for column in table.columns]
    key = sa.PrimaryKeyConstraint(*table.key)
    return sa.Table(table.name, sa.MetaData(), *columns, key, **dialect.options)


def _column(dialect: Dialect, table: Table, name: str) -> sa.Column[Any]:
    optional = next(column.optional for column in table.columns if column.name == name)
    column = sa.Column(name, dialect.type_of(table, name)[0], nullable=optional)
    if name in table.key:
        column.autoincrement = False
    return column


def _added(dialect: Dialect, table: Table, name: str) -> sa.Column[Any]:
    """A new column; where it may not be NULL, the rows of before have the field's default."""
    column, default = _column(dialect, table, name), next(each.default for each in table.columns if each.name == name)
    if default is not None:
        column.server_default = sa.DefaultClause(sa.text(_literal(dialect, default).replace(":", "\\:")))
    return column


def _literal(dialect: Dialect, value: object) -> str:
    """A value as SQL writes it. MySQL takes a default of long text or bytes only as an expression."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    is_mysql = dialect.name != "postgresql"
    if isinstance(value, bytes):
        return f"(X'{value.hex()}')" if is_mysql else f"'\\x{value.hex()}'"
    if isinstance(value, datetime):
        return f"'{value.replace(tzinfo=None)}'" if is_mysql else f"'{value}'"
    text = text_literal(str(value))
    return "(" + text.replace("\\", "\\\\") + ")" if is_mysql else text


def _alter(
    dialect: Dialect, table: Table, name: str, nullable: bool, to: TypeEngine[Any] | None = None
) -> AlterColumnOp:
    if to is not None:
        return AlterColumnOp(table.name, name, modify_type=to, existing_nullable=nullable)
    existing = dialect.type_of(table, name)[0]
    return AlterColumnOp(table.name, name, modify_nullable=nullable, existing_type=existing)
