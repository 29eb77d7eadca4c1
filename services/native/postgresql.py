"""PostgreSQL: fsync, full_page_writes and synchronous_commit stay on, as they are by default."""

import shutil
import signal

import tls
from native import programs
from native.engine import Engine
from settings import HOST, NAME, PORTS, data_of

_SYSTEM_USER = "postgres"

_CONFIG = """\
listen_addresses = '{host}'
port = {port}
unix_socket_directories = ''
max_connections = 400
shared_buffers = 512MB
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
"""


def _prepare() -> None:
    data = data_of("postgresql")
    if not (data / "PG_VERSION").exists():
        _create()
    # It ended, or we would not be here; but until init has reaped it, PostgreSQL takes it for a running one
    (data / "postmaster.pid").unlink(missing_ok=True)
    for source in (tls.CERTIFICATE, tls.KEY):
        copy = data / source.name
        shutil.copyfile(source, copy)
        copy.chmod(0o600)
        programs.give(_SYSTEM_USER, copy)
    (data / "chimera.conf").write_text(_CONFIG.format(host=HOST, port=PORTS["postgresql"]))


def _create() -> None:
    data = data_of("postgresql")
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    programs.give(_SYSTEM_USER, data)
    password = data.with_name("postgresql-password")
    password.write_text(NAME)
    owner = ["--username", NAME, "--auth", "scram-sha-256", "--pwfile", str(password)]
    initdb = [programs.path("initdb"), "--pgdata", str(data), *owner, "--encoding", "UTF8", "--locale", "C.UTF-8"]
    programs.run("postgresql", initdb, user=_SYSTEM_USER)
    alone = [programs.path("postgres"), "--single", "-D", str(data), "postgres"]
    programs.run("postgresql", alone, words=f"CREATE DATABASE {NAME}\n", user=_SYSTEM_USER)
    password.unlink()
    with (data / "postgresql.conf").open("a") as config:
        config.write("include 'chimera.conf'\n")


def _command() -> list[str]:
    return [programs.path("postgres"), "-D", str(data_of("postgresql"))]


engine = Engine(
    name="postgresql",
    title="PostgreSQL",
    programs={"initdb": "postgresql", "postgres": "postgresql"},
    prepare=_prepare,
    command=_command,
    user=_SYSTEM_USER,
    # SIGTERM would wait for clients to leave
    stop_signal=signal.SIGINT,
)
