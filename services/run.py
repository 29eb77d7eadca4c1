"""Development servers: one of every engine, on loopback, for the tests that need real ones."""

import argparse
import fcntl
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import compose
import handshakes
import tls
import urls
from backend import Backend, ServerError
from native import servers
from settings import FOLDER, LOGS, NAMES, URLS, keep_ports


def main() -> int:
    arguments = _arguments()
    if arguments.verb == "env":
        return _env()
    names = arguments.names or list(NAMES)
    with _alone():
        backend: Backend = compose if not servers.any_running() and compose.available() else servers
        return _VERBS[arguments.verb](backend, names)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="services/run.py", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("env", help="print the URLs as shell exports")
    for verb, words in (
        ("start", "start what is not running, and wait until it answers"),
        ("stop", "stop, and keep the data"),
        ("restart", "stop and start"),
        ("kill", "end without warning (SIGKILL)"),
        ("status", "show what is running"),
    ):
        names = verbs.add_parser(verb, help=words)
        names.add_argument("names", nargs="+" if verb == "kill" else "*", choices=[*NAMES, []], metavar="NAME")
    return parser.parse_args()


@contextmanager
def _alone() -> Iterator[None]:
    LOGS.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _env() -> int:
    lines = urls.exports()
    if not lines:
        print("nothing was started; run: services/run.py start", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


def _start(backend: Backend, names: list[str]) -> int:
    keep_ports()
    tls.ensure()
    failures = backend.start(names)
    urls.write([name for name in names if handshakes.answers(name)], backend.TITLES)
    _status(backend, names)
    return _report(failures)


def _stop(backend: Backend, names: list[str]) -> int:
    failures = backend.stop(names)
    if set(names) == set(NAMES):
        URLS.unlink(missing_ok=True)
    return _report(failures)


def _restart(backend: Backend, names: list[str]) -> int:
    return _report(backend.stop(names)) or _start(backend, names)


def _kill(backend: Backend, names: list[str]) -> int:
    return _report(backend.kill(names))


def _status(backend: Backend, names: list[str]) -> int:
    known = urls.plain()
    up = {name: handshakes.answers(name) for name in names}
    for name in names:
        state = "up" if up[name] else "down"
        print(f"{name:<11} {state:<5} {backend.TITLES[name]:<14} {backend.describe(name):<24} {known[name]}")
    return 0 if all(up.values()) else 1


def _report(failures: list[ServerError]) -> int:
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


_VERBS = {"start": _start, "stop": _stop, "restart": _restart, "kill": _kill, "status": _status}

if __name__ == "__main__":
    sys.exit(main())
