from chimera import Command, Event
from marketplace.types import Id, Line, Prose


class ChangeUser(Command, key="user_id"):
    user_id: Id
    name: Line
    city: Line | None = None
    about: Prose | None = None


class UserChanged(Event, source="user-page", key="user_id"):
    user_id: str
    name: str
    city: str | None = None
