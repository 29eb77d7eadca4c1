"""FerretDB in place of mongod, which no package registry has."""

import tls
from backend import ServerError
from native import programs
from native.engine import Engine
from settings import SOURCE, address, data_of

_SOURCE = SOURCE / "ferretdb"
_data = data_of("mongodb")


def _binary() -> str:
    return str(programs.versioned("ferretdb", sorted(_SOURCE.iterdir())))


def _build() -> None:
    if programs.find(_binary()):
        return
    if programs.find("go") is None:
        raise ServerError("mongodb", "needs Go 1.22 or newer to build FerretDB, and Debian's is older")
    options = ["-trimpath", "-buildvcs=false", "-tags=ferretdb_no_postgresql", "-o", _binary()]
    build = [programs.path("go"), "build", *options, "."]
    programs.run("mongodb", build, folder=_SOURCE)


def _prepare() -> None:
    _data.mkdir(exist_ok=True)


def _command() -> list[str]:
    listen = ["-listen", address("mongodb"), "-listen-tls", address("mongodb_tls")]
    return [_binary(), *listen, "-certificate", str(tls.CERTIFICATE), "-key", str(tls.KEY), "-data", str(_data)]


engine = Engine(
    name="mongodb",
    title="FerretDB 1.24",
    programs={},
    build=_build,
    prepare=_prepare,
    command=_command,
    environment={"GOMEMLIMIT": "256MiB"},
)
