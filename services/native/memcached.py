"""memcached: nothing to keep, so nothing to prepare."""

import os

import tls
from native import programs
from native.engine import Engine
from settings import address


def _command() -> list[str]:
    listen = f"notls:{address('memcached')},{address('memcached_tls')}"
    certificate = f"ssl_chain_cert={tls.CERTIFICATE},ssl_key={tls.KEY}"
    user = ["-u", "root"] if os.geteuid() == 0 else []
    return [programs.path("memcached"), "-l", listen, "-U", "0", "-m", "64", "-t", "2", "-Z", "-o", certificate, *user]


engine = Engine(
    name="memcached",
    title="memcached",
    programs={"memcached": "memcached"},
    prepare=lambda: None,
    command=_command,
)
