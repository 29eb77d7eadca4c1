"""The Compose file: the whole fleet on one machine, with its engines."""

from __future__ import annotations

from collections import Counter
from typing import Any

from chimera.errors import MAKE_KEY, SettingsError
from chimera_deploy.engines import ENGINES
from chimera_deploy.fleet import (
    FLEET_KEYS,
    GATEWAY,
    GATEWAY_COMMAND,
    GATEWAY_HEALTH,
    OPERATORS_KEYS,
    PORT,
    Member,
    PlannedFleet,
    urls,
)
from chimera_deploy.writing import header, to_yaml

_ADVICE = "Change that file, or the command's options, and run it again;\n# what is of this machine is in .env."
_HARDENED = {
    "restart": "unless-stopped",
    "init": True,
    "read_only": True,
    "tmpfs": ["/tmp"],  # noqa: S108 - in the container
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "stop_grace_period": "30s",
}


def compose_files(fleet: PlannedFleet) -> dict[str, str]:
    """The texts of the files, by path. Raises SettingsError when two containers would have one name."""
    return {
        "compose/compose.yaml": header(fleet.command, _ADVICE) + to_yaml([compose(fleet)]),
        "compose/.env": env_file(fleet),
    }


def compose(fleet: PlannedFleet) -> dict[str, Any]:
    """The Compose file as data."""
    engines = fleet.engines
    services = [
        *((engine, {"restart": "unless-stopped", **ENGINES[engine].container}) for engine in engines),
        *(each for member in fleet.members for each in _heads(fleet, member)),
        (GATEWAY, _gateway(fleet)),
    ]
    for name, count in Counter(name for name, _ in services).items():
        if count > 1:
            raise SettingsError(f"Compose would have {count} containers called {name!r}; rename [services.{name}]")
    configs = {name: {"content": text} for engine in engines for name, text in ENGINES[engine].configs.items()}
    volumes = [volume for engine in engines for volume in ENGINES[engine].container.get("volumes", ())]
    written: dict[str, Any] = {"name": fleet.name, "services": dict(services)}
    if volumes:
        written["volumes"] = {volume.partition(":")[0]: {} for volume in volumes}
    return written | ({"configs": configs} if configs else {})


def env_file(fleet: PlannedFleet) -> str:
    """The `.env` file, for what differs from machine to machine; written once, then its owner's."""
    lines = [
        f"# Written by `{fleet.command}` if it was not there: yours to change, never overwritten.",
        "# The gateway's address on this machine.",
        "PUBLISH=127.0.0.1:8000",
        "# The engines' password: letters and digits. It is set when an engine first starts, with an empty volume.",
        "ENGINES_PASSWORD=chimera",
        "# The key by which services know each other, 32 characters or more, and that of operators, if they need one.",
        f"# One is made by: {MAKE_KEY}",
        "CHIMERA_FLEET__KEYS=",
        "CHIMERA_OPERATORS__KEYS=",
        "# The engines' URLs. {service} stands for the name of each service.",
        *(f"{name}={ENGINES[need.engine].url(need.kind)}" for name, need in fleet.needs.items()),
    ]
    return "\n".join(lines) + "\n"


def _heads(fleet: PlannedFleet, member: Member) -> list[tuple[str, dict[str, Any]]]:
    environment = {name: f"${{{name}:?set it in .env}}" for name in (*member.needs, FLEET_KEYS)}
    environment |= {OPERATORS_KEYS: f"${{{OPERATORS_KEYS}:-}}", **urls(member.owners)}
    return [
        (name, _container(fleet, member.command(head), environment, member.health("ready"), member.engines))
        for name, head in ((member.name, "read"), (f"{member.name}-write", "write"))
    ]


def _gateway(fleet: PlannedFleet) -> dict[str, Any]:
    names = [member.name for member in fleet.members]
    container = _container(fleet, GATEWAY_COMMAND, urls(names), GATEWAY_HEALTH, names)
    return {**container, "ports": [f"${{PUBLISH:-127.0.0.1:8000}}:{PORT}"]}


def _container(
    fleet: PlannedFleet, command: list[str], environment: dict[str, str], health: str, needs: list[str]
) -> dict[str, Any]:
    ask = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{PORT}{health}', timeout=8)"
    return {
        "image": fleet.image,
        **({"build": {"context": fleet.build}} if fleet.build else {}),
        "entrypoint": command[:1],
        "command": command[1:],
        "environment": {"CHIMERA_HOST": "0.0.0.0", **environment},  # noqa: S104 - the container's own network
        "depends_on": {name: {"condition": "service_healthy"} for name in needs},
        "healthcheck": {
            "test": ["CMD", "python", "-c", ask],
            "interval": "10s",
            "timeout": "10s",
            "retries": 3,
            "start_period": "60s",
            "start_interval": "1s",
        },
        **_HARDENED,
    }
