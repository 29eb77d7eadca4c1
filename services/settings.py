"""Where the servers live, which ports they take and who may log in."""

import os
from pathlib import Path

SOURCE = Path(__file__).resolve().parent
FOLDER = Path(os.environ.get("CHIMERA_SERVICES", SOURCE.parent / ".services")).resolve()
DATA, LOGS, RUN, TLS, PROGRAMS = (FOLDER / name for name in ("data", "logs", "run", "tls", "programs"))
URLS = FOLDER / "urls.json"

HOST = "127.0.0.1"
NAME = "chimera"  # the user, the password and the database

NAMES = ("postgresql", "mysql", "mongodb", "redis", "memcached", "rabbitmq", "kafka")

PORTS = {
    "postgresql": 21700,
    "mysql": 21701,
    "mongodb": 21702,
    "mongodb_tls": 21703,
    "redis": 21704,
    "redis_tls": 21705,
    "memcached": 21706,
    "memcached_tls": 21707,
    "rabbitmq": 21708,
    "rabbitmq_tls": 21709,
    "rabbitmq_stream": 21710,
    "rabbitmq_stream_tls": 21711,
    "rabbitmq_nodes": 21712,
    "rabbitmq_names": 21713,
    "kafka": 21714,
    "kafka_tls": 21715,
    "kafka_controller": 21716,
}
for _name, _port in PORTS.items():
    PORTS[_name] = int(os.environ.get(f"CHIMERA_PORT_{_name.upper()}", _port))


def address(port: str) -> str:
    return f"{HOST}:{PORTS[port]}"


def ports_of(engine: str) -> list[int]:
    return [port for name, port in PORTS.items() if name.split("_")[0] == engine]


def log_of(engine: str) -> Path:
    return LOGS / f"{engine}.log"


def data_of(engine: str) -> Path:
    return DATA / engine
