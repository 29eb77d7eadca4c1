"""`chimera deploy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chimera.cli.main import fail
from chimera.errors import ChimeraError

if TYPE_CHECKING:
    from chimera_deploy.engines import Stack


@click.command("deploy")
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
def deploy_fleet(config: str, out: Path, image: str | None, workers: int, namespace: str | None, stack: Stack) -> None:
    """Write a Docker Compose file and Kubernetes manifests, with deployments for read and write heads and a gateway."""
    from chimera_deploy import Options, deploy

    options = Options(image=image, workers=workers, namespace=namespace, stack=stack)
    try:
        for line in deploy(Path(config), out, options):
            click.echo(line)
    except ChimeraError as error:
        fail(error)
