"""The engines of a fleet: how their URLs look, and the containers that Compose brings up for them."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Kind = Literal["log", "store", "views", "last_known"]
Stack = Literal["rabbitmq", "kafka"]
KINDS: tuple[Kind, ...] = ("log", "store", "views", "last_known")
PASSWORD = "${ENGINES_PASSWORD}"  # noqa: S105 - the name of a variable

STACKS: dict[Stack, dict[Kind, str]] = {
    "rabbitmq": {"log": "rabbitmq", "store": "mysql", "views": "mongodb", "last_known": "redis"},
    "kafka": {"log": "kafka", "store": "postgresql", "views": "postgresql"},
}
"""The engines that take the place of embedded ones."""


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's container, and its URLs: `scheme://address` and a path for each kind of engine that it can be.

    `address` is the container's, `elsewhere` an example of one that was there before; `options` ends the former's URL.
    """

    scheme: str
    address: str
    elsewhere: str
    paths: dict[Kind, str]
    container: dict[str, Any]
    options: str = ""
    configs: dict[str, str] = {}

    def url(self, kind: Kind) -> str:
        """The URL of the container, as a `.env` file has it."""
        return f"{self.scheme}://{self.address}{self.paths[kind]}{self.options}"

    def example(self, kind: Kind) -> str:
        """The URL of an engine that somebody runs; what is in capitals must be filled in."""
        return f"{self.scheme}://{self.elsewhere}{self.paths[kind]}"


def engine_of(url: str) -> str | None:
    """The name of the engine that a URL is of; None for those that are embedded in the process, and for no URL."""
    scheme = url.partition(":")[0].partition("+")[0].replace("rediss", "redis")
    return scheme if scheme in ENGINES else None


def _healthy(*test: str) -> dict[str, Any]:
    timing = {"interval": "10s", "timeout": "10s", "retries": 6, "start_period": "90s", "start_interval": "2s"}
    return {"test": list(test), **timing}


_MONGODB_HEALTH = (
    "try { rs.status() } catch { rs.initiate({_id: 'rs', members: [{_id: 0, host: 'mongodb:27017'}]}) }; "
    "quit(db.hello().isWritablePrimary ? 0 : 1)"
)

ENGINES = {
    "rabbitmq": Engine(
        scheme="rabbitmq",
        address=f"chimera:{PASSWORD}@rabbitmq:5552",
        elsewhere="USER:PASSWORD@RABBITMQ-HOST:5552",
        paths={"log": "/"},
        container={
            "image": "rabbitmq:4.1",
            "hostname": "rabbitmq",
            "environment": {"RABBITMQ_DEFAULT_USER": "chimera", "RABBITMQ_DEFAULT_PASS": PASSWORD},
            "configs": [
                {"source": "rabbitmq", "target": "/etc/rabbitmq/conf.d/20-chimera.conf"},
                {"source": "rabbitmq-plugins", "target": "/etc/rabbitmq/enabled_plugins"},
            ],
            "volumes": ["rabbitmq:/var/lib/rabbitmq"],
            "healthcheck": _healthy("CMD", "rabbitmq-diagnostics", "-q", "check_port_listener", "5552"),
        },
        configs={
            "rabbitmq": "stream.advertised_host = rabbitmq\nstream.advertised_port = 5552\n",
            "rabbitmq-plugins": "[rabbitmq_stream].\n",
        },
    ),
    "kafka": Engine(
        scheme="kafka",
        address="kafka:9092",
        elsewhere="KAFKA-HOST:9092",
        paths={"log": ""},
        container={
            "image": "apache/kafka:4.1.1",
            "environment": {
                "KAFKA_NODE_ID": "1",
                "KAFKA_PROCESS_ROLES": "broker,controller",
                "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://localhost:9093",
                "KAFKA_ADVERTISED_LISTENERS": "PLAINTEXT://kafka:9092",
                "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
                "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
                "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
                "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
                "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
                "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
                "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
                "KAFKA_LOG_DIRS": "/var/lib/kafka/data",
            },
            "volumes": ["kafka:/var/lib/kafka/data"],
            "healthcheck": _healthy(
                "CMD", "/opt/kafka/bin/kafka-broker-api-versions.sh", "--bootstrap-server", "localhost:9092"
            ),
        },
    ),
    "mysql": Engine(
        scheme="mysql",
        address=f"chimera:{PASSWORD}@mysql:3306",
        elsewhere="USER:PASSWORD@MYSQL-HOST:3306",
        paths={"store": "/{service}", "views": "/{service}_views"},
        container={
            "image": "mariadb:11.4",
            "command": [
                "--max-connections=500",
                "--max-allowed-packet=64M",
                "--skip-name-resolve",
                "--innodb-flush-log-at-trx-commit=1",
                "--character-set-server=utf8mb4",
            ],
            "environment": {
                "MARIADB_RANDOM_ROOT_PASSWORD": "1",
                "MARIADB_USER": "chimera",
                "MARIADB_PASSWORD": PASSWORD,
            },
            "configs": [{"source": "mysql-rights", "target": "/docker-entrypoint-initdb.d/rights.sql"}],
            "volumes": ["mysql:/var/lib/mysql"],
            "healthcheck": _healthy("CMD", "healthcheck.sh", "--connect", "--innodb_initialized"),
        },
        configs={"mysql-rights": "GRANT ALL ON *.* TO 'chimera'@'%';\n"},
    ),
    "postgresql": Engine(
        scheme="postgresql",
        address=f"chimera:{PASSWORD}@postgresql:5432",
        elsewhere="USER:PASSWORD@POSTGRESQL-HOST:5432",
        paths={"store": "/chimera?schema={service}", "views": "/chimera?schema={service}_views"},
        container={
            "image": "postgres:17",
            "command": ["postgres", "-c", "max_connections=500"],
            "environment": {"POSTGRES_USER": "chimera", "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_DB": "chimera"},
            "volumes": ["postgresql:/var/lib/postgresql/data"],
            "healthcheck": _healthy("CMD", "pg_isready", "-h", "127.0.0.1", "-U", "chimera", "-d", "chimera"),
        },
    ),
    "mongodb": Engine(
        scheme="mongodb",
        address="mongodb:27017",
        elsewhere="USER:PASSWORD@MONGODB-HOST:27017",
        paths={"views": "/{service}"},
        options="?replicaSet=rs",
        container={
            "image": "mongo:8.0",
            "command": ["mongod", "--replSet", "rs", "--bind_ip_all"],
            "volumes": ["mongodb:/data/db"],
            "healthcheck": _healthy("CMD", "mongosh", "--quiet", "--eval", _MONGODB_HEALTH),
        },
    ),
    "redis": Engine(
        scheme="redis",
        address=f":{PASSWORD}@redis:6379",
        elsewhere="USER:PASSWORD@REDIS-HOST:6379",
        paths={"views": "/0?prefix={service}", "last_known": "/0?prefix={service}"},
        container={
            "image": "redis:7-alpine",
            "command": [
                *("redis-server", "--requirepass", PASSWORD, "--appendonly", "yes"),
                *("--maxmemory", "512mb", "--maxmemory-policy", "noeviction"),
            ],
            "environment": {"REDISCLI_AUTH": PASSWORD},
            "volumes": ["redis:/data"],
            "healthcheck": _healthy("CMD", "redis-cli", "ping"),
        },
    ),
    "memcached": Engine(
        scheme="memcached",
        address="memcached:11211",
        elsewhere="MEMCACHED-HOST:11211",
        paths={"last_known": "?prefix={service}"},
        container={
            "image": "memcached:1.6",
            "command": ["memcached", "-m", "256"],
            "healthcheck": _healthy("CMD", "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/11211"),
        },
    ),
}
