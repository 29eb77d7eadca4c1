"""The pages of the issuer: whom one can log in as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from chimera.web.home import STYLE
from chimera.web.identity.people import Person

OWN = """
main{max-width:32rem}form{display:grid;gap:.5rem;margin:1rem 0}
button{font:inherit;text-align:left;padding:.75rem 1rem;border:1px solid var(--line);border-radius:.5rem;
background:var(--soft);color:inherit;cursor:pointer}
button:hover,button:focus-visible{border-color:var(--accent);outline:2px solid var(--accent)}
button span{display:block;font-size:.9rem;opacity:.8}
"""


def choosing(people: Sequence[Person], given: Mapping[str, str], action: str) -> str:
    """The page on which one clicks who one is; what the client asked for goes along."""
    kept = "".join(_kept(name, value) for name, value in given.items() if name != "subject")
    choices = "".join(map(_choice, people))
    return _page(
        "Log in",
        f"""<p>This is for development: there are no passwords. Whom do you want to be?</p>
<form method="post" action="{escape(action)}">{kept}{choices}</form>""",
    )


def left() -> str:
    """The page for somebody who has logged out, where the client has none."""
    return _page("Logged out", "<p>You are logged out.</p>")


def _kept(name: str, value: str) -> str:
    return f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'


def _choice(person: Person) -> str:
    roles = ", ".join(person.roles) or "no role"
    return f"""<button name="subject" value="{escape(person.subject)}">{escape(person.name or person.subject)}
<span>{escape(person.subject)} · {escape(roles)}</span></button>"""


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>{STYLE}{OWN}</style></head><body><main><h1>{title}</h1>
{body}</main></body></html>
"""
