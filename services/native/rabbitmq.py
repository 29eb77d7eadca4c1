"""RabbitMQ with streams, and a name server (epmd) of its own."""

import subprocess

import tls
from native import programs
from native.engine import Engine
from settings import HOST, NAME, PORTS, address, data_of

_CONFIG = f"""\
listeners.tcp.1 = {address("rabbitmq")}
listeners.ssl.1 = {address("rabbitmq_tls")}
ssl_options.cacertfile = {tls.CA}
ssl_options.certfile = {tls.CERTIFICATE}
ssl_options.keyfile = {tls.KEY}
ssl_options.verify = verify_none
ssl_options.fail_if_no_peer_cert = false
stream.listeners.tcp.1 = {address("rabbitmq_stream")}
stream.listeners.ssl.1 = {address("rabbitmq_stream_tls")}
stream.advertised_host = {HOST}
stream.advertised_port = {PORTS["rabbitmq_stream"]}
stream.advertised_tls_port = {PORTS["rabbitmq_stream_tls"]}
default_user = {NAME}
default_pass = {NAME}
vm_memory_high_watermark.absolute = 512MB
log.console = true
log.console.use_colors = off
log.console.level = warning
log.file = false
"""

_data = data_of("rabbitmq")
_config, _plugins = _data / "rabbitmq.conf", _data / "enabled_plugins"


def _prepare() -> None:
    _data.mkdir(exist_ok=True)
    _config.write_text(_CONFIG)
    _plugins.write_text("[rabbitmq_stream].\n")


def _command() -> list[str]:
    """One session for both, so that the name server ends with the node; a node that finds none starts a daemon."""
    script = '"$0" & until "$0" -names >/dev/null 2>&1; do sleep 0.05; done; exec "$1"'
    return ["sh", "-c", script, programs.path("epmd"), programs.path("rabbitmq-server")]


def _sweep() -> None:
    """A node whose name server was killed starts a daemon; epmd ends it if no node is left that it knows."""
    epmd = programs.find("epmd")
    if epmd:
        command = [epmd, "-port", str(PORTS["rabbitmq_names"]), "-kill"]
        subprocess.run(command, check=False, capture_output=True, timeout=10)


engine = Engine(
    name="rabbitmq",
    title="RabbitMQ",
    programs={"rabbitmq-server": "rabbitmq-server", "epmd": "erlang-base"},
    prepare=_prepare,
    command=_command,
    sweep=_sweep,
    environment={
        "HOME": str(_data),
        "ERL_CRASH_DUMP": str(_data / "erl_crash.dump"),
        "ERL_EPMD_ADDRESS": HOST,
        "ERL_EPMD_PORT": str(PORTS["rabbitmq_names"]),
        "RABBITMQ_NODENAME": f"{NAME}@localhost",
        "RABBITMQ_DIST_PORT": str(PORTS["rabbitmq_nodes"]),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": str(_data / "no-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(_config),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(_plugins),
        "RABBITMQ_MNESIA_BASE": str(_data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(_data / "log"),
        # makes the start script become the node instead of waiting for it
        "detached": "yes",
    },
)
