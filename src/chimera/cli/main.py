"""The `chimera` command."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click

from chimera.cli.typed import (
    Commands,
    borrows_of,
    complete_services,
    completer,
    consumers_of,
    placed,
    shares_of,
    typed_place,
    views_of,
)
from chimera.errors import ChimeraError, Unavailable
from chimera.run.settings import Settings, read_settings

if TYPE_CHECKING:
    from chimera.cli.rebuilds import Way
    from chimera.parts import Mode
    from chimera.upkeep.parked import Wanted

Function = TypeVar("Function", bound=Callable[..., None])

WRONG = 2
TRY_AGAIN = 75
PORT_PATIENCE_S = 10.0
LAST_S = 15.0


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("--processes", is_flag=True, help="A process for each read and write head, started again when one dies.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="With --processes: a service's write heads.",
)
@click.option("--dev", is_flag=True, help="Nobody on this machine needs a key for /_chimera/.")
@click.option("--open", "is_open", is_flag=True, help="With --dev: no rule is asked either.")
@click.option("--reload", is_flag=True, help="Start again whenever a .py or .toml file below the settings is saved.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when standard input closes.")
@placed
@click.pass_obj
def up(
    config: str,
    port: int | None,
    processes: bool,
    workers: int,
    dev: bool,
    is_open: bool,
    reload: bool,
    with_parent: bool,
) -> None:
    """Run all services with both heads, in one process unless told otherwise."""
    from chimera.run.hosting import serve
    from chimera.run.supervisor import supervise

    if workers > 1 and not processes:
        raise click.UsageError("--workers are processes of their own; add --processes")
    if reload:
        from chimera.cli.reload import keep_reloading

        run(keep_reloading(_again("--reload", "--with-parent"), Path(config).absolute().parent))
        return
    settings = settings_of(config, port=port, dev=dev or None, open=is_open or None)
    if processes:
        os.environ.update(typed_place())  # for the processes
        run(supervise(settings, config, say_ready, workers=workers), with_parent=with_parent)
        return
    names = list(settings.services)
    run(
        serve(settings, names, read=True, write=True, fleet=False, ready=say_ready),
        with_parent=with_parent,
    )


def _again(without: str, instead: str) -> list[str]:
    """This command as it was typed, but for one option."""
    return [sys.executable, "-m", "chimera", *(instead if word == without else word for word in sys.argv[1:])]


@main.command("run")
@click.argument("service", shell_complete=complete_services)
@click.option("--read", is_flag=True, help="Only the read head.")
@click.option("--write", is_flag=True, help="Only the write head, which serves its health and metrics.")
@click.option("--port", type=click.IntRange(0, 65535), help="Its port; a write head alone takes any free one.")
@click.option("--with-parent", is_flag=True, hidden=True, help="Stop when standard input closes.")
@placed
@click.pass_obj
def run_service(config: str, service: str, read: bool, write: bool, port: int | None, with_parent: bool) -> None:
    """Run one service on its own port, with both heads or one."""
    from chimera.run.hosting import serve

    settings = settings_of(config)
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
            is_child=with_parent,
        ),
        with_parent=with_parent,
    )


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), help="The port that serves everything.")
@placed
@click.pass_obj
def gateway(config: str, port: int | None) -> None:
    """Serve all services' routes on one port, each from where its service runs (its `url`, or its own port)."""
    from chimera.run.front.gateway import serve_gateway

    run(serve_gateway(settings_of(config, port=port), say_ready))


@main.command()
@placed
@click.pass_obj
def status(config: str) -> None:
    """Show how far every consumer of every service is, and what is parked."""
    from chimera.cli.operations import show_status

    run(show_status(settings_of(config)))


@main.command()
@click.pass_obj
def names(config: str) -> None:
    """Pin the names under which services store and send in names.toml, to be committed."""
    from chimera.cli.names import write_names

    settings = settings_of(config)
    try:
        write_names(settings)
    except ChimeraError as error:
        fail(error)


@main.command()
@click.option("--offline", is_flag=True, help="Ask no engine: load the code, and compare it with names.toml.")
@placed
@click.pass_obj
def check(config: str, offline: bool) -> None:
    """Say whether the services would start, and as what: their declarations, settings, engines, limits and names.

    The status is 1 when something is wrong.
    """
    from chimera.cli.check import check_all

    settings, well = settings_of(config), []

    async def work() -> None:
        well.append(await check_all(settings, config, offline=offline))

    run(work())
    if not all(well):
        sys.exit(1)


@main.command("retention")
@placed
@click.pass_obj
def show_retention(config: str) -> None:
    """Show how far back each journal goes, and which consumers hold it back."""
    from chimera.cli.operations import show_retention as show

    run(show(settings_of(config)))


@main.command()
@click.argument("service", shell_complete=complete_services)
@click.argument("view", required=False, shell_complete=completer(views_of))
@click.option("--reserved", is_flag=True, help="Make anew what is reserved, from the journal and the rows; no view.")
@click.option("--keep-old", is_flag=True, help="Keep the generation that serves now, for --back.")
@click.option("--force", is_flag=True, help="Flip whatever it lacks of what serves now.")
@click.option("--cancel", "way", flag_value="cancel", help="Stop a rebuild and drop what was built.")
@click.option("--back", "way", flag_value="back", help="Let the generation that was kept serve again.")
@click.option("--drop-old", "way", flag_value="drop-old", help="Drop the generation that was kept.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
@placed
@click.pass_obj
def rebuild(
    config: str,
    service: str,
    view: str | None,
    reserved: bool,
    keep_old: bool,
    force: bool,
    way: Way | None,
    as_json: bool,
) -> None:
    """Build a view, or the tables of a projection, anew beside what serves; compare the rows; let the new one serve."""
    from chimera.cli.rebuilds import rebuild_reserved, rebuild_view, steer_rebuild

    if way and (keep_old or force or as_json):
        raise click.UsageError(f"--{way} goes alone")
    if reserved == (view is not None) or (reserved and (way or keep_old or force)):
        raise click.UsageError(f"type chimera rebuild {service} VIEW, or chimera rebuild {service} --reserved [--json]")
    settings = settings_of(config)
    if view is None:
        run(rebuild_reserved(settings, service, as_json=as_json))
    elif way:
        run(steer_rebuild(settings, service, view, way))
    else:
        run(rebuild_view(settings, service, view, keep_old=keep_old, force=force, as_json=as_json))


@main.command()
@click.argument("service", required=False, shell_complete=complete_services)
@click.argument("share", required=False, shell_complete=completer(shares_of))
@click.option("--no-repair", is_flag=True, help="Only say what differs.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@placed
@click.pass_obj
def audit(config: str, service: str | None, share: str | None, no_repair: bool, as_json: bool) -> None:
    """Compare shares with what was emitted, copies with their owners, lists with their views; mend what differs.

    The status is 1 when something differs and was not repaired.
    """
    from chimera.cli.operations import audit as audit_shares

    settings, well = settings_of(config), []

    async def work() -> None:
        well.append(await audit_shares(settings, service, share, repair=not no_repair, as_json=as_json))

    run(work())
    if not all(well):
        sys.exit(1)


@main.command()
@click.argument("service", shell_complete=complete_services)
@click.option("--yes", is_flag=True, help="Mend it; else only say what there is.")
@click.option("--keep", multiple=True, metavar="REACTION=WHAT", help="Whose effects stay: all, none or positions.")
@click.option("--common", multiple=True, metavar="PARTITION@NUMBER", help="Where histories part, if no log tells.")
@click.option(
    "--wait",
    type=click.FloatRange(0, 86_400),
    default=120.0,
    show_default=True,
    help="Most seconds to wait.",
)
@placed
@click.pass_obj
def recover(config: str, service: str, yes: bool, keep: tuple[str, ...], common: tuple[str, ...], wait: float) -> None:
    """Say what a service lost whose journal was put back, and who has seen it; then mend all, with proof.

    The status is 1 when something is left to be mended or decided.
    """
    from chimera.cli.recover import recover as recover_service
    from chimera.cli.recover import wish_of

    settings, well = settings_of(config), []

    async def work() -> None:
        well.append(await recover_service(settings, service, wish_of(service, keep, common), yes=yes, wait_s=wait))

    run(work())
    if not all(well):
        sys.exit(1)


@main.command()
@click.argument("service", shell_complete=complete_services)
@click.argument("share", shell_complete=completer(borrows_of))
@click.argument("mode", type=click.Choice(["sync", "async", "hybrid"]))
@click.option(
    "--wait", type=click.FloatRange(0, 3600), default=60.0, show_default=True, help="Most seconds until it is in force."
)
@placed
@click.pass_obj
def mode(config: str, service: str, share: str, mode: Mode, wait: float) -> None:
    """Switch how a service borrows a share, and wait until that is in force."""
    from chimera.cli.operations import change_mode

    run(change_mode(settings_of(config), service, share, mode, wait_s=wait))


@main.group()
def parked() -> None:
    """See and settle messages that failed and are parked."""


def _which(command: Function) -> Function:
    """The options that choose keys, by the first message that each has parked."""
    for option in (
        click.option("--until", help="Parked until then."),
        click.option("--since", help="Parked since then: 2026-01-31T08:00 in UTC, or how long ago: 30m, 2h, 7d."),
        click.option("--cause", help="A part of its cause."),
        click.option("--key", help="The messages' key."),
        click.option(
            "--consumer",
            help="Who has parked it: commands, a view, a reaction.",
            shell_complete=completer(consumers_of),
        ),
        click.argument("service", required=False, shell_complete=complete_services),
    ):
        command = option(command)
    return command


_as_json = click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
_everything = click.option("--all", "everything", is_flag=True, help="Everything that is parked.")


@parked.command("list")
@_which
@_as_json
@placed
@click.pass_obj
def parked_list(config: str, /, as_json: bool, **which: str | None) -> None:
    """List what is parked: the first message of each key, with its cause."""
    from chimera.cli.parked import list_parked

    run(list_parked(settings_of(config), _wanted(which), as_json=as_json))


@parked.command("show")
@_which
@_as_json
@placed
@click.pass_obj
def parked_show(config: str, /, as_json: bool, **which: str | None) -> None:
    """Show the parked messages, as they came, with their causes."""
    from chimera.cli.parked import show_parked

    run(show_parked(settings_of(config), _wanted(which), as_json=as_json))


@parked.command("try")
@_which
@_as_json
@placed
@click.pass_obj
def parked_try(config: str, /, as_json: bool, **which: str | None) -> None:
    """Say what a retry would do: applied, duplicate, refused, or how it fails. Nothing of it is kept."""
    from chimera.cli.parked import try_parked

    run(try_parked(settings_of(config), _wanted(which), as_json=as_json))


@parked.command("retry")
@_which
@_everything
@_as_json
@placed
@click.pass_obj
def parked_retry(config: str, /, everything: bool, as_json: bool, **which: str | None) -> None:
    """Try again what is parked, of each key in order until one fails."""
    from chimera.cli.parked import retry_parked

    run(retry_parked(settings_of(config), _wanted(which, everything=everything), as_json=as_json))


@parked.command("drop")
@_which
@_everything
@click.option("--all-of-key", is_flag=True, help="Not only the first message of a key, but all.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@placed
@click.pass_obj
def parked_drop(config: str, /, everything: bool, all_of_key: bool, yes: bool, **which: str | None) -> None:
    """Give up the first message of a key; those behind it are tried next."""
    from chimera.cli.parked import drop_parked

    wanted = _wanted(which, everything=everything)
    run(
        drop_parked(
            settings_of(config), wanted, all_of_key=all_of_key, confirm=lambda question: yes or click.confirm(question)
        )
    )


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what lets a shell complete commands, services, views, shares: eval "$(chimera completion bash)"."""
    from click.shell_completion import get_completion_class

    known = get_completion_class(shell)
    assert known is not None
    click.echo(known(main, {}, "chimera", "_CHIMERA_COMPLETE").source())


def _wanted(which: Mapping[str, str | None], *, everything: bool | None = None) -> Wanted:
    from chimera.cli.parked import wanted_of

    try:
        return wanted_of(**which, everything=everything)
    except ChimeraError as error:
        fail(error)


def settings_of(config: str, **overrides: object) -> Settings:
    """The settings of a file, with these over them; what is wrong there ends the process in one line."""
    try:
        return read_settings(Path(config), {**os.environ, **typed_place()}, overrides)
    except ChimeraError as error:
        fail(error)


def say_ready(where: str) -> None:
    """Tell those who wait, on a line of its own."""
    click.echo(f"ready {where}")
    sys.stdout.flush()
    gc.collect()
    gc.freeze()  # what was loaded until now stays: to go through it again and again takes a tenth of a page's time


def run(work: Coroutine[object, None, None], *, with_parent: bool = False) -> None:
    """Run to the end on uvloop; an error of ours is one line that says what to do."""
    import asyncio

    import uvloop

    from chimera.run.serving import Died

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_parent_ends(work) if with_parent else work)
    except Unavailable as error:
        fail(error, TRY_AGAIN if with_parent else WRONG)
    except ChimeraError as error:
        fail(error)
    except Died:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


async def _until_parent_ends(work: Coroutine[object, None, None]) -> None:
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


def fail(error: ChimeraError, status: int = WRONG) -> NoReturn:
    """End the process with an error in one line."""
    click.echo(f"chimera: {error}", err=True)
    sys.exit(status)
