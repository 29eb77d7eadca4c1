"""`chimera token`."""

from __future__ import annotations

import click

from chimera.cli.main import fail, run, settings_of
from chimera.errors import SettingsError
from chimera.web.identity.people import People, Person


@click.command("token")
@click.argument("who")
@click.option("--port", type=click.IntRange(1, 65535), help="The port of the services, where it is not the set one.")
@click.pass_obj
def token(config: str, who: str, port: int | None) -> None:
    """Print an access token of the issuer for development, for WHO: a subject, or the role of one person only.

    curl -H "Authorization: Bearer $(chimera token seller)" …
    """
    from chimera_issuer.shell import token_of

    settings = settings_of(config, port=port)
    try:
        person = one_of(settings.issuer, who)
    except SettingsError as error:
        fail(error)

    async def work() -> None:
        scheme = "https" if settings.http.certificate else "http"
        click.echo(await token_of(f"{scheme}://{settings.host}:{settings.port}", person.subject))

    run(work())


def one_of(people: People, who: str) -> Person:
    """The person with this subject, else the only one with this role. Raises SettingsError."""
    named = [each for each in people.people if each.subject == who]
    found = named or [each for each in people.people if who in each.roles]
    if len(found) == 1:
        return found[0]
    if not people.people:
        raise SettingsError("there is nobody to log in as; add [[issuer.people]] with subject, name and roles")
    known = ", ".join(f"{each.subject} ({', '.join(each.roles)})" for each in people.people)
    raise SettingsError(f"{who!r} is {'several people' if found else 'nobody'}; there are: {known}")
