"""The same servers by Docker, where an engine answers."""

import os
import shutil
import subprocess

import handshakes
from backend import ServerError
from settings import PORTS, SOURCE, TLS, log_of

START_PATIENCE = 180.0

TITLES = {
    "postgresql": "PostgreSQL",
    "mysql": "MariaDB",
    "mongodb": "MongoDB",
    "redis": "Redis",
    "memcached": "memcached",
    "rabbitmq": "RabbitMQ",
    "kafka": "Kafka",
}

_COMPOSE = ("docker", "compose", "--file", str(SOURCE.parent / "compose.yaml"))


def available() -> bool:
    return shutil.which("docker") is not None and _quiet("docker", "info") and _quiet(*_COMPOSE[:2], "version")


def start(names: list[str]) -> list[ServerError]:
    failures = _each("up", "--detach", names=names)
    return failures or [failure for name in names if (failure := _wait(name))]


def stop(names: list[str]) -> list[ServerError]:
    return _each("stop", names=names)


def kill(names: list[str]) -> list[ServerError]:
    return _each("kill", "--signal", "SIGKILL", names=names)


def describe(name: str) -> str:
    return f"docker compose logs {name}"


def _each(*verb: str, names: list[str]) -> list[ServerError]:
    """One call for all; a failure is every engine's, since Compose stops at the first."""
    log = log_of("compose")
    with log.open("ab") as output:
        done = subprocess.run([*_COMPOSE, *verb, *names], check=False, stdout=output, stderr=output, env=_environment())
    return [ServerError("compose", f"{verb[0]} {' '.join(names)} failed")] if done.returncode else []


def _wait(name: str) -> ServerError | None:
    if handshakes.wait(name, START_PATIENCE, alive=lambda: True):
        return None
    return ServerError(name, f"does not answer; see: docker compose logs {name}")


def _environment() -> dict[str, str]:
    ports = {f"CHIMERA_PORT_{name.upper()}": str(port) for name, port in PORTS.items()}
    project = f"chimera-services-{PORTS['postgresql']}"
    return os.environ | ports | {"COMPOSE_PROJECT_NAME": project, "CHIMERA_TLS": str(TLS)}


def _quiet(*command: str) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0
