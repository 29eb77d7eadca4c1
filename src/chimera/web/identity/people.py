"""The settings of an issuer for development: whom one can log in as, and whether it is served."""

from __future__ import annotations

from typing import Annotated

import msgspec

PATH = "/_issuer"
"""Where it is, on the port of all services."""
CLIENT = "chimera-pages"
"""The client as which services log people in."""
AUDIENCE = "chimera-services"
"""Whom its access tokens are for."""


class Person(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """Somebody to log in as, without a password."""

    subject: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    name: str = ""
    roles: list[str] = []

    @property
    def shown(self) -> str:
        """How people are told of her."""
        return f"{self.name} ({self.subject})" if self.name else self.subject


class People(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """An issuer of tokens for development and demonstrations: anybody on this machine is whom she says she is.

    `serve`: it is served at `/_issuer`, and what it issues is believed; on this machine only.
    """

    people: list[Person] = []
    serve: bool = False
