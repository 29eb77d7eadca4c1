"""What it costs to read and write a command and a document as a struct, a dataclass and a pydantic model.

    python -m benchmarks.models

prints a table of microseconds of processor time, the fastest of five runs each. Writing an event reads it once, to see
that it can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

from msgspec import Meta, Struct
from pydantic import BaseModel, Field

from chimera.forms import decoder_of, encode, form_of

RUNS, TIMES = 5, 5_000


class LineStruct(Struct):
    sku: Annotated[str, Meta(min_length=1)]
    count: Annotated[int, Meta(gt=0)]


class AsStruct(Struct):
    order_id: str
    mail: str
    amount: Annotated[int, Meta(gt=0)]
    note: str = ""
    lines: list[LineStruct] = []


@dataclass
class LineData:
    sku: Annotated[str, Meta(min_length=1)]
    count: Annotated[int, Meta(gt=0)]


@dataclass
class AsDataclass:
    order_id: str
    mail: str
    amount: Annotated[int, Meta(gt=0)]
    note: str = ""
    lines: list[LineData] = field(default_factory=list)


class LineModel(BaseModel):
    sku: str = Field(min_length=1)
    count: int = Field(gt=0)


class AsModel(BaseModel):
    order_id: str
    mail: str
    amount: int = Field(gt=0)
    note: str = ""
    lines: list[LineModel] = []


BODY = (
    b'{"order_id":"o-123456","mail":"ann@example.org","amount":1200,"note":"as soon as you can","lines":'
    b'[{"sku":"AB-1","count":1},{"sku":"AB-2","count":2},{"sku":"AB-3","count":3}]}'
)


def microseconds(work: Callable[[], object]) -> float:
    """The time of one, of the fastest run."""
    found = []
    for _ in range(RUNS):
        began = time.process_time()
        for _ in range(TIMES):
            work()
        found.append((time.process_time() - began) / TIMES * 1e6)
    return min(found)


def main() -> None:
    print("| | read | write | write an event |\n|---|---|---|---|")
    for name, type_ in (("struct", AsStruct), ("dataclass", AsDataclass), ("pydantic model", AsModel)):
        decoder, form = decoder_of(type_), form_of(type_)
        value = decoder.decode(BODY)
        figures = [partial(decoder.decode, BODY), partial(encode, value), partial(form.encode, value)]
        print(f"| {name} | {' | '.join(f'{microseconds(work):.1f}' for work in figures)} |")


if __name__ == "__main__":
    main()
