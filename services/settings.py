"""Where the servers live, which ports they take and who may log in."""

import os
import socket
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("CHIMERA_SERVICES", SOURCE.parent / ".services")).resolve()
DATA, LOGS, RUN, TLS, PROGRAMS = (FOLDER / name for name in ("data", "logs", "run", "tls", "programs"))
URLS = FOLDER / "urls.json"

HOST = "127.0.0.1"
NAME = "chimera"  # the user, the password and the database

NAMES = ("postgresql", "mysql", "mongodb", "redis", "memcached", "rabbitmq", "kafka")

_PORT_NAMES = (
    "postgresql",
    "mysql",
    "mongodb",
    "mongodb_tls",
    "redis",
    "redis_tls",
    "memcached",
    "memcached_tls",
    "rabbitmq",
    "rabbitmq_tls",
    "rabbitmq_stream",
    "rabbitmq_stream_tls",
    "rabbitmq_nodes",
    "rabbitmq_names",
    "kafka",
    "kafka_tls",
    "kafka_controller",
)
_FIRST_PORT = FOLDER / "first-port"


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _first_port() -> int:
    """Where this folder's ports begin: past those of another folder's servers, so that both can run."""
    if _FIRST_PORT.exists():
        return int(_FIRST_PORT.read_text())
    blocks = range(21700, 22700, 20)
    return next((first for first in blocks if all(map(is_free, range(first, first + len(_PORT_NAMES))))), blocks[0])


def keep_ports() -> None:
    """From now on this folder's servers have these ports."""
    _FIRST_PORT.write_text(f"{_FIRST}\n")


_FIRST = _first_port()
PORTS = {name: int(os.environ.get(f"CHIMERA_PORT_{name.upper()}", _FIRST + at)) for at, name in enumerate(_PORT_NAMES)}


def address(port: str) -> str:
    return f"{HOST}:{PORTS[port]}"


def ports_of(engine: str) -> list[int]:
    return [port for name, port in PORTS.items() if name.split("_")[0] == engine]


def log_of(engine: str) -> Path:
    return LOGS / f"{engine}.log"


def data_of(engine: str) -> Path:
    return DATA / engine
