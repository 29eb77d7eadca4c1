"""Column types of Chimera's own tables. What a released migration uses must stay as it is."""

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

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
