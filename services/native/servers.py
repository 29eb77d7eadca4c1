"""The servers run by this machine itself, each by its name."""

import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import handshakes
from backend import ServerError
from native import kafka, memcached, mongodb, mysql, postgresql, processes, programs, rabbitmq, redis
from native.engine import Engine
from settings import DATA, PROGRAMS, RUN, is_free, ports_of

_MODULES = (postgresql, mysql, mongodb, redis, memcached, rabbitmq, kafka)
_ENGINES: dict[str, Engine] = {module.engine.name: module.engine for module in _MODULES}

TITLES = {name: engine.title for name, engine in _ENGINES.items()}


def any_running() -> bool:
    return any(map(processes.running, _ENGINES))


def start(names: list[str]) -> list[ServerError]:
    for folder in (DATA, PROGRAMS, RUN):
        folder.mkdir(exist_ok=True)
    missing = [_ENGINES[name] for name in names if not processes.running(name)]
    # whichever engine asks first installs for all: one run of apt-get, while the others build
    wanted = {program: package for engine in missing for program, package in engine.programs.items()}
    return _each(lambda engine: _start(engine, wanted), names)


def stop(names: list[str]) -> list[ServerError]:
    return _each(processes.stop, names)


def kill(names: list[str]) -> list[ServerError]:
    return _each(processes.kill, names)


def describe(name: str) -> str:
    pid = processes.running(name)
    return f"pid {pid}, {processes.memory(name) / 2**20:.0f} MiB" if pid else "no process"


def _each(work: Callable[[Engine], None], names: list[str]) -> list[ServerError]:
    def attempt(name: str) -> ServerError | None:
        try:
            work(_ENGINES[name])
        except ServerError as failure:
            return failure
        except OSError as error:
            return ServerError(name, str(error))
        return None

    with ThreadPoolExecutor(len(names)) as pool:
        return [failure for failure in pool.map(attempt, names) if failure]


def _start(engine: Engine, wanted: Mapping[str, str]) -> None:
    process = None
    if not processes.running(engine.name):
        # what a dead leader left behind
        processes.kill(engine)
        _check_ports(engine.name)
        if engine.programs:
            programs.install(engine.name, wanted)
        engine.build()
        engine.prepare()
        process = processes.spawn(engine)
    _wait(engine.name, process)


def _check_ports(name: str) -> None:
    for port in ports_of(name):
        if not is_free(port):
            raise ServerError(name, f"port {port} is taken; choose others with CHIMERA_PORT_…")


def _wait(name: str, process: subprocess.Popen[bytes] | None) -> None:
    def alive() -> bool:
        return processes.running(name) is not None if process is None else process.poll() is None

    patience = _ENGINES[name].patience
    if handshakes.wait(name, patience, alive):
        return
    if alive():
        raise ServerError(name, f"does not answer after {patience:.0f} s")
    processes.kill(_ENGINES[name])
    raise ServerError(name, "ended while starting")
