"""Value types that all six services speak."""

from datetime import datetime
from typing import Annotated

from msgspec import Meta

from chimera.entities import to_utc

_CONTROLS = r"\u0000-\u001f\u007f-\u009f"

Id = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._~:@-]*(?!\n)$")]
"""Fits one segment of a path as it is: no slash, no dot segment, nothing that must be escaped."""

Line = Annotated[
    str, Meta(min_length=1, max_length=200, pattern=rf"^[^{_CONTROLS}]*[^{_CONTROLS} \u00a0][^{_CONTROLS}]*(?!\n)$")
]
"""One line of text that is more than spaces: a name, a title."""

Prose = Annotated[str, Meta(max_length=4000, pattern=r"^[^\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]*$")]
"""Text of several lines."""

Price = Annotated[int, Meta(ge=0, le=10**12)]
Amount = Annotated[int, Meta(gt=0, le=10**12)]
Moment = Annotated[datetime, Meta(tz=True)]


def check_moment(moment: datetime | None) -> None:
    """For `__post_init__`: a time near either end of the calendar may have no UTC value. Raises ValueError."""
    if moment is not None:
        to_utc(moment)
