"""The engines' URLs: for people as a table, for tests as urls.json, for shells as exports."""

import json
from collections.abc import Mapping
from typing import Any

import tls
from settings import NAME, URLS, address

LOGIN = f"{NAME}:{NAME}@"


def plain() -> dict[str, str]:
    return {
        "postgresql": f"postgresql://{LOGIN}{address('postgresql')}/{NAME}",
        "mysql": f"mysql://{LOGIN}{address('mysql')}/{NAME}",
        "mongodb": f"mongodb://{address('mongodb')}/{NAME}?directConnection=true",
        "redis": f"redis://{LOGIN}{address('redis')}/0",
        "memcached": f"memcached://{address('memcached')}",
        "rabbitmq": f"amqp://{LOGIN}{address('rabbitmq')}/",
        "rabbitmq_stream": f"rabbitmq://{LOGIN}{address('rabbitmq_stream')}/",
        "kafka": f"kafka://{address('kafka')}",
    }


def encrypted() -> dict[str, str]:
    urls = plain()
    return {
        "postgresql": f"{urls['postgresql']}?sslmode=verify-full&sslrootcert={tls.CA}",
        "mysql": f"{urls['mysql']}?ssl_ca={tls.CA}",
        "mongodb": f"mongodb://{address('mongodb_tls')}/{NAME}?directConnection=true&tls=true&tlsCAFile={tls.CA}",
        "redis": f"rediss://{LOGIN}{address('redis_tls')}/0?ssl_ca_certs={tls.CA}",
        "memcached": f"memcached+tls://{address('memcached_tls')}",
        "rabbitmq": f"amqps://{LOGIN}{address('rabbitmq_tls')}/",
        "rabbitmq_stream": f"rabbitmq://{LOGIN}{address('rabbitmq_stream_tls')}/",
        "kafka": f"kafka+ssl://{address('kafka_tls')}",
    }


def write(started: list[str], servers: Mapping[str, str]) -> None:
    """Add what was started; an engine that a test stops or kills keeps its URL. Who reads meanwhile reads all of it."""
    known = read()
    for field, values in (("urls", plain()), ("tls", encrypted())):
        known[field] = known.get(field, {}) | {key: url for key, url in values.items() if key.split("_")[0] in started}
    known["servers"] = known.get("servers", {}) | {name: servers[name] for name in started}
    known["ca"] = str(tls.CA)
    written = URLS.with_suffix(".written")
    written.write_text(json.dumps(known, indent=2) + "\n")
    written.replace(URLS)


def read() -> dict[str, Any]:
    return json.loads(URLS.read_text()) if URLS.exists() else {}


def exports() -> list[str]:
    known = read()
    if not known:
        return []
    plain_lines = [f"export CHIMERA_TEST_{name.upper()}='{url}'" for name, url in known["urls"].items()]
    tls_lines = [f"export CHIMERA_TEST_{name.upper()}_TLS='{url}'" for name, url in known["tls"].items()]
    return [*plain_lines, *tls_lines, f"export CHIMERA_TEST_CA='{known['ca']}'"]
