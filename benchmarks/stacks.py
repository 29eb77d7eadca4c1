"""The marketplace's real data on each stack: `python -m benchmarks.stacks --data DIR [--stack NAME] [--trouble WHAT]`.

The engines are those of `make services`. Each line of the table is one run on engines that nobody else uses, in one
process unless there are workers, loaded through the public API; then everything is compared with the source of truth.
"""

import asyncio
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import click

from marketplace.account import Account
from marketplace.olist import Olist
from tests.e2e.conftest import WATCHED, Chimera, Running
from tests.e2e.loading import load_all, strike
from tests.e2e.stacks import STACKS, TROUBLED, WATCHED_SERVICES, Compared, compared, restart, stack, take_away

COLUMNS = ("stack", "trouble", "commands/s", "events/s", "seconds", "orders", "differ", "events", "broken")
TROUBLE_AT = 40_000


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--stack", "names", multiple=True, type=click.Choice(sorted({*STACKS, *TROUBLED})), help="Without it, all of them."
)
@click.option("--trouble", type=click.Choice(["none", "workers", "broker"]), default="none", show_default=True)
def main(data: Path, names: tuple[str, ...], trouble: str) -> None:
    """Load the Olist orders on each stack and print a table."""
    click.echo(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name in names or (STACKS if trouble == "none" else TROUBLED):
        account, found = asyncio.run(_run(name, data, trouble))
        click.echo(_line(name, trouble, account, found))
        if not account.balances or found.differences or found.broken or found.events != account.events:
            raise click.ClickException("\n".join([*account.lines(), *map(str, found.differences[:5])]))


async def _run(name: str, data: Path, trouble: str) -> tuple[Account, Compared]:
    found = stack(name, f"b{uuid.uuid4().hex[:10]}")
    with tempfile.TemporaryDirectory() as folder:
        chimera = Chimera(Path(folder), WATCHED, found.environment)
        try:
            server = chimera.up(*(["--processes", "--workers", "3"] if trouble == "workers" else []))
            then = _trouble(trouble, name, server)
            account = await load_all(
                chimera, Olist(data), at=TROUBLE_AT, then=then, workers=64, patience=120, stall=120
            )
            return account, await compared(found, chimera)
        finally:
            chimera.end()
            await take_away(found)


def _trouble(trouble: str, name: str, server: Running) -> Callable[[], None] | None:
    match trouble:
        case "workers":
            return lambda: strike(server, WATCHED_SERVICES)
        case "broker":
            return lambda: restart(name.partition("-")[0])
    return None


def _line(name: str, trouble: str, account: Account, found: Compared) -> str:
    cells = [
        name.replace("-", " + "),
        trouble,
        f"{account.commands_per_s:,.0f}",
        f"{account.events_per_s:,.0f}",
        f"{account.seconds:.0f}",
        f"{found.orders:,}",
        f"{len(found.differences)} of {found.dashboards:,}",
        f"{found.events:,}",
        f"{found.broken}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
