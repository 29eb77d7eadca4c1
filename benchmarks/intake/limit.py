"""The limit: bare ASGI; the orders that came in together are one append to the log, and one confirm."""

import os
from typing import Any

import msgspec

from chimera.core.aio.coalesce import Coalescer
from chimera.messages import Message, partition_of
from chimera.ports import Log
from chimera.run.engines import open_engine

PARTITIONS = 8
TOPIC = "bench-orders.commands"


class PlaceOrder(msgspec.Struct):
    order_id: str
    seller_id: str
    gig_id: str
    amount_cents: int
    note: str = ""


class App:
    """POST /orders."""

    log: Log
    decode = msgspec.json.Decoder(PlaceOrder).decode

    def __init__(self) -> None:
        self._appends: Coalescer[Message, None] = Coalescer(self._append)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        data = (await receive())["body"]
        key = self.decode(data).order_id
        message = Message(key, "bench-orders", "orders.PlaceOrder", key, "", data, partition_of(key, PARTITIONS))
        await self._appends.submit(message)
        body = b'{"order_id":"%s"}' % key.encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 201, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _append(self, messages: list[Message]) -> list[None]:
        await self.log.append(TOPIC, messages)
        return [None] * len(messages)

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self.log = open_engine("log", os.environ["CHIMERA_LOG"])
        await self.log.create(TOPIC, PARTITIONS)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.log.close()
        await send({"type": "lifespan.shutdown.complete"})


app = App()
