"""Redis with an append-only file, flushed every second.

A killed server loses nothing, and a lost machine the last second: documents and their checkpoint together, so that a
projector reads that second again. Flushing on every write would only be right for a source of truth.
"""

import tls
from native import programs
from native.engine import Engine
from settings import HOST, NAME, PORTS, data_of

_CONFIG = """\
bind {host}
port {port}
tls-port {tls_port}
tls-ca-cert-file {ca}
tls-cert-file {certificate}
tls-key-file {key}
tls-auth-clients no
dir {data}
appendonly yes
appendfsync everysec
save ""
maxmemory 2gb
maxmemory-policy noeviction
user default off ~* &* +@all
user {name} on >{name} ~* &* +@all
"""

_data = data_of("redis")
_config = _data.with_name("redis.conf")


def _prepare() -> None:
    _data.mkdir(exist_ok=True)
    ports = {"host": HOST, "port": PORTS["redis"], "tls_port": PORTS["redis_tls"]}
    files = {"data": _data, "ca": tls.CA, "certificate": tls.CERTIFICATE, "key": tls.KEY}
    _config.write_text(_CONFIG.format(name=NAME, **ports, **files))


def _command() -> list[str]:
    return [programs.path("redis-server"), str(_config)]


engine = Engine(
    name="redis",
    title="Redis",
    programs={"redis-server": "redis-server"},
    prepare=_prepare,
    command=_command,
)
