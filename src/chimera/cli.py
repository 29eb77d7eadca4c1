"""The `chimera` command."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, NoReturn

import click

from chimera.errors import ChimeraError, Unavailable
from chimera.settings import Settings, read_settings

WRONG = 2
TRY_AGAIN = 75
PORT_PATIENCE_S = 10.0
LAST_S = 15.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", default="chimera.toml", envvar="CHIMERA_CONFIG", show_default=True, help="The file with the services."
)
@click.option("--verbose", is_flag=True, help="Log what is retried as well.")
@click.version_option(package_name="chimera-kit")
@click.pass_context
def main(context: click.Context, config: str, verbose: bool) -> None:
    """Run and look after two-headed services."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    sys.path.insert(0, str(Path(config).absolute().parent))
    context.obj = config


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), help="The port that serves everything.")
@click.option("--state", help="The folder of the embedded engines.")
@click.option("--processes", is_flag=True, help="A process for each head, started again when one dies.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="With --processes: a service's write heads.",
)
@click.pass_obj
def up(config: str, port: int | None, state: str | None, processes: bool, workers: int) -> None:
    """Run all services with both heads, in one process unless told otherwise."""
    from chimera.serving import serve
    from chimera.supervisor import supervise

    if workers > 1 and not processes:
        raise click.UsageError("--workers are processes of their own; add --processes")
    settings = _settings(config, port=port, state=state)
    if processes:
        run(supervise(settings, config, say_ready, workers=workers))
    else:
        run(serve(settings, list(settings.services), read=True, write=True, fleet=False, ready=say_ready))


@main.command("run")
@click.argument("service")
@click.option("--read", is_flag=True, help="Only the read head.")
@click.option("--write", is_flag=True, help="Only the write head, which serves its health and metrics.")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; a write head alone takes any free one.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when standard input closes.")
@click.pass_obj
def run_service(config: str, service: str, read: bool, write: bool, port: int | None, with_parent: bool) -> None:
    """Run one service on its own port, with both heads or one."""
    from chimera.serving import serve

    settings = _settings(config)
    both = read == write
    patience = PORT_PATIENCE_S if with_parent else 0.0
    run(
        serve(
            settings,
            [service],
            read=read or both,
            write=write or both,
            fleet=True,
            ready=say_ready,
            port=port,
            patience=patience,
        ),
        with_parent=with_parent,
    )


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), help="The port that serves everything.")
@click.pass_obj
def gateway(config: str, port: int | None) -> None:
    """Serve all services' routes on one port, each from where its service runs (its `url`, or its own port)."""
    from chimera.gateway import serve_gateway

    run(serve_gateway(_settings(config, port=port), say_ready))


@main.command("deploy")
@click.option(
    "--out", type=click.Path(path_type=Path), default="deploy", show_default=True, help="The folder to write to."
)
@click.option("--image", help="The fleet's container image; without it one that is named after the title.")
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=2,
    show_default=True,
    help="A service's write heads in Kubernetes, at most one for each of its partitions.",
)
@click.option("--namespace", help="The namespace in Kubernetes; without it the current one.")
@click.option(
    "--stack",
    type=click.Choice(["rabbitmq", "kafka"]),
    default="rabbitmq",
    show_default=True,
    help="In place of embedded engines: RabbitMQ, MySQL, MongoDB and Redis, or Kafka and PostgreSQL.",
)
@click.pass_obj
def deploy_fleet(config: str, out: Path, image: str | None, workers: int, namespace: str | None, stack: Any) -> None:
    """Write a Docker Compose file and Kubernetes manifests, with a deployment for each head and a gateway."""
    from chimera.deploy import Options, deploy

    options = Options(image=image, workers=workers, namespace=namespace, stack=stack)
    try:
        for line in deploy(Path(config), out, options):
            click.echo(line)
    except ChimeraError as error:
        _fail(error)


@main.command()
@click.argument("service")
@click.argument("share")
@click.option("--keys", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Pages that there are.")
@click.option(
    "--known",
    type=float,
    multiple=True,
    default=(0.3,),
    show_default=True,
    help="The share of keys that the owner has a document for; may be repeated.",
)
@click.option("--reads", type=click.FloatRange(1, 5000), default=200, show_default=True, help="Pages a second.")
@click.option("--writes", type=click.FloatRange(0.1, 1000), default=20, show_default=True, help="Changes a second.")
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=10, show_default=True, help="How long each run is.")
@click.option("--owner-latency", default="5ms", show_default=True, help="How far away the owner is, such as 5ms.")
@click.option(
    "--trouble",
    type=click.Choice(["slow", "failing", "down", "garbage", "none"]),
    default="none",
    show_default=True,
    help="What the owner is in the middle of the run.",
)
@click.option("--trouble-share", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="For which part.")
@click.option("--deadline", help="After which a page counts as not answered; without it five times the budget.")
@click.option("--seed", type=int, default=1, show_default=True, help="The same seed makes the same load.")
@click.option("--out", type=click.Path(path_type=Path), help="The picture's folder; without it: comparison.")
@click.option("--json", is_flag=True, help="Print the rows for programs; no picture unless --out is given.")
@click.pass_obj
def compare(config: str, /, service: str, share: str, **options: Any) -> None:
    """Measure the three modes of a borrow, and a monolith, under one load on this machine."""
    from chimera.compare.command import run_comparison

    run(run_comparison(_settings(config), service, share, **options))


@main.command()
@click.argument("service")
@click.argument("share", required=False)
@click.option("--url", help="Where the service answers; without it as the settings say.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=10, show_default=True, help="How long to watch.")
@click.option("--fresh", is_flag=True, help="Reads must show what the owner has at that moment.")
@click.pass_obj
def advise(config: str, service: str, share: str | None, url: str | None, seconds: float, fresh: bool) -> None:
    """Say which mode fits what a running service borrows, from its own metrics, with reasons."""
    from chimera.advise import show_advice

    run(show_advice(_settings(config), service, share, url=url, seconds=seconds, fresh=fresh))


@main.command()
@click.pass_obj
def status(config: str) -> None:
    """Show how far every consumer of every service is, and what is parked."""
    from chimera.operations import show_status

    run(show_status(_settings(config)))


@main.command("retention")
@click.pass_obj
def show_retention(config: str) -> None:
    """Show how far back each journal goes, and which consumers hold it back."""
    from chimera.retained import show_retention as show

    run(show(_settings(config)))


@main.command()
@click.argument("service")
@click.argument("view")
@click.option("--keep-old", is_flag=True, help="Keep the generation that serves now, for --back.")
@click.option("--force", is_flag=True, help="Flip though events were set aside that were folded before.")
@click.option("--cancel", "way", flag_value="cancel", help="Stop a rebuild and drop what was built.")
@click.option("--back", "way", flag_value="back", help="Let the generation that was kept serve again.")
@click.option("--drop-old", "way", flag_value="drop-old", help="Drop the generation that was kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@click.pass_obj
def rebuild(config: str, service: str, view: str, keep_old: bool, force: bool, way: Any, as_json: bool) -> None:
    """Build a view anew beside the one that serves, compare them row by row, and let the new one serve."""
    from chimera.rebuilds import rebuild_view, steer_rebuild

    if way and (keep_old or force or as_json):
        raise click.UsageError(f"--{way} goes alone")
    settings = _settings(config)
    if way:
        run(steer_rebuild(settings, service, view, way))
    else:
        run(rebuild_view(settings, service, view, keep_old=keep_old, force=force, as_json=as_json))


@main.command()
@click.argument("service", required=False)
@click.argument("share", required=False)
@click.option("--no-repair", is_flag=True, help="Only say what differs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def audit(config: str, service: str | None, share: str | None, no_repair: bool, as_json: bool) -> None:
    """Compare shares with what was emitted of them, and copies with their owners; mend what differs.

    The status is 1 when something differs and was not repaired.
    """
    from chimera.operations import audit as audit_shares

    settings, well = _settings(config), []

    async def work() -> None:
        well.append(await audit_shares(settings, service, share, repair=not no_repair, as_json=as_json))

    run(work())
    if not all(well):
        sys.exit(1)


@main.command()
@click.argument("service")
@click.argument("share")
@click.argument("mode", type=click.Choice(["sync", "async", "hybrid"]))
@click.option(
    "--wait", type=click.FloatRange(0, 3600), default=60.0, show_default=True, help="Most seconds until it is in force."
)
@click.pass_obj
def mode(config: str, service: str, share: str, mode: Any, wait: float) -> None:
    """Switch how a service borrows a share, and wait until that is in force."""
    from chimera.operations import change_mode

    run(change_mode(_settings(config), service, share, mode, wait_s=wait))


@main.group()
def parked() -> None:
    """See and settle messages that failed and were set aside."""


def _which(command: Any) -> Any:
    """The options that say which keys are meant, by the first message that each has set aside."""
    for option in (
        click.option("--until", help="Set aside until then."),
        click.option("--since", help="Set aside since then: 2026-01-31T08:00 in UTC, or how long ago: 30m, 2h, 7d."),
        click.option("--cause", help="A part of its cause."),
        click.option("--key", help="The messages' key."),
        click.option("--consumer", help="Who has set it aside: commands, a view, a reaction."),
        click.argument("service", required=False),
    ):
        command = option(command)
    return command


_as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
_everything = click.option("--all", "everything", is_flag=True, help="Everything that is set aside.")


@parked.command("list")
@_which
@_as_json
@click.pass_obj
def parked_list(config: str, /, as_json: bool, **which: Any) -> None:
    """List what is set aside: the first message of each key, with its cause."""
    from chimera.parked import list_parked

    run(list_parked(_settings(config), _wanted(which), as_json=as_json))


@parked.command("show")
@_which
@_as_json
@click.pass_obj
def parked_show(config: str, /, as_json: bool, **which: Any) -> None:
    """Show the messages that are set aside, as they came, with their causes."""
    from chimera.parked import show_parked

    run(show_parked(_settings(config), _wanted(which), as_json=as_json))


@parked.command("try")
@_which
@_as_json
@click.pass_obj
def parked_try(config: str, /, as_json: bool, **which: Any) -> None:
    """Say what a retry would do: applied, duplicate, refused, or how it fails. Nothing of it is kept."""
    from chimera.parked import try_parked

    run(try_parked(_settings(config), _wanted(which), as_json=as_json))


@parked.command("retry")
@_which
@_everything
@_as_json
@click.pass_obj
def parked_retry(config: str, /, everything: bool, as_json: bool, **which: Any) -> None:
    """Try again what is set aside, of each key in order until one fails."""
    from chimera.parked import retry_parked

    run(retry_parked(_settings(config), _wanted(which, everything=everything), as_json=as_json))


@parked.command("drop")
@_which
@_everything
@click.option("--all-of-key", is_flag=True, help="Not only the first message of a key, but all.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@click.pass_obj
def parked_drop(config: str, /, everything: bool, all_of_key: bool, yes: bool, **which: Any) -> None:
    """Give up the first message of a key; those behind it are tried next."""
    from chimera.parked import drop_parked

    wanted = _wanted(which, everything=everything)
    run(
        drop_parked(
            _settings(config), wanted, all_of_key=all_of_key, confirm=lambda question: yes or click.confirm(question)
        )
    )


def _wanted(which: Mapping[str, Any], *, everything: bool | None = None) -> Any:
    from chimera.parked import wanted_of

    try:
        return wanted_of(**which, everything=everything)
    except ChimeraError as error:
        _fail(error)


def _settings(config: str, **overrides: Any) -> Settings:
    try:
        return read_settings(Path(config), os.environ, overrides)
    except ChimeraError as error:
        _fail(error)


def say_ready(where: str) -> None:
    """Tell those who wait, on a line of its own."""
    click.echo(f"ready {where}")
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # what was loaded until now stays: to look through it again and again takes a tenth of a page's time


def run(work: Coroutine[Any, Any, None], *, with_parent: bool = False) -> None:
    """Run to the end on uvloop; an error of ours is one line that says what to do."""
    import asyncio

    import uvloop

    from chimera.serving import Died

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_parent_ends(work) if with_parent else work)
    except Unavailable as error:
        _fail(error, TRY_AGAIN if with_parent else WRONG)
    except ChimeraError as error:
        _fail(error)
    except Died:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


async def _until_parent_ends(work: Coroutine[Any, Any, None]) -> None:
    """Stop, as if by SIGTERM, when the parent's end of standard input closes: no child outlives its supervisor."""
    import asyncio
    import signal

    loop = asyncio.get_running_loop()

    def look() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            os.kill(os.getpid(), signal.SIGTERM)
            loop.call_later(LAST_S, os._exit, 1)

    loop.add_reader(0, look)
    await work


def _fail(error: ChimeraError, status: int = WRONG) -> NoReturn:
    click.echo(f"chimera: {error}", err=True)
    sys.exit(status)
