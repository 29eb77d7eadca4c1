"""MariaDB, durable: every commit is written and flushed before it is answered."""

import os
import shutil

import tls
from native import programs
from native.engine import Engine
from settings import HOST, NAME, PORTS, data_of

_CONFIG = """\
[mariadbd]
datadir = {data}
bind-address = {host}
port = {port}
socket = mariadb.sock
pid-file = mariadb.pid
init-file = {users}
character-set-server = utf8mb4
skip-name-resolve
max_connections = 400
max_allowed_packet = 64M
innodb_buffer_pool_size = 1G
innodb_flush_log_at_trx_commit = 1
performance_schema = OFF
log_warnings = 1
ssl-ca = {ca}
ssl-cert = {certificate}
ssl-key = {key}
"""

_USERS = f"""\
CREATE DATABASE IF NOT EXISTS {NAME};
CREATE USER IF NOT EXISTS '{NAME}'@'{HOST}' IDENTIFIED BY '{NAME}';
GRANT ALL ON *.* TO '{NAME}'@'{HOST}' WITH GRANT OPTION;
"""

_data = data_of("mysql")
_config = _data.with_name("mysql.cnf")


def _prepare() -> None:
    users = _data.with_name("mysql-users.sql")
    users.write_text(_USERS)
    places = {"data": _data, "users": users, "ca": tls.CA, "certificate": tls.CERTIFICATE, "key": tls.KEY}
    _config.write_text(_CONFIG.format(host=HOST, port=PORTS["mysql"], **places))
    if not (_data / "mysql").exists():
        _create()


def _create() -> None:
    fresh = _data.with_name("mysql-new")
    shutil.rmtree(fresh, ignore_errors=True)
    options = ["--no-defaults", f"--datadir={fresh}", "--skip-test-db", "--auth-root-authentication-method=normal"]
    programs.run("mysql", [programs.path("mariadb-install-db"), *options, *_as_root()])
    fresh.rename(_data)


def _command() -> list[str]:
    return [programs.path("mariadbd"), f"--defaults-file={_config}", *_as_root()]


def _as_root() -> list[str]:
    return ["--user=root"] if os.geteuid() == 0 else []


engine = Engine(
    name="mysql",
    title="MariaDB",
    programs={"mariadbd": "mariadb-server", "mariadb-install-db": "mariadb-server"},
    prepare=_prepare,
    command=_command,
)
