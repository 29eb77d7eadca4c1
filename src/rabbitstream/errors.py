"""The errors that the driver raises: every cause is in the text."""


class StreamError(Exception):
    """The base of the driver's errors."""


class StreamUnavailable(StreamError):  # noqa: N818 - read as "the stream is unavailable"
    """The broker can't be reached, has gone, or sent what can't be read; the same may go through later."""


class LoginRefused(StreamError):  # noqa: N818 - what happened
    """The broker does not take this login, or not for this virtual host."""
