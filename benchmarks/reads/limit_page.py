"""The page's limit: bare ASGI and the drivers; the gigs of one loop turn are one round trip, their sellers' another."""

import os
from typing import Any

import msgspec

from benchmarks.reads.by_hand import open_many
from benchmarks.reads.limit import Get, coalesced, reply


class OfSeller(msgspec.Struct):
    seller_id: str


class App:
    """GET /gigs/{key}."""

    gigs: Get
    clients: Get
    decode = msgspec.json.Decoder(OfSeller).decode

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        gig = await self.gigs(scope["path"].split("/")[2])
        clients = await self.clients(self.decode(gig).seller_id)
        await reply(send, b'%s,"top_clients":%s}' % (gig[:-1], clients))

    async def _live(self, receive: Any, send: Any) -> None:
        await receive()
        self.gigs = coalesced(await open_many(os.environ["BENCH_URL"]), "gig_documents")
        self.clients = coalesced(await open_many(os.environ["BENCH_CLIENTS_URL"]), "client_documents")
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


app = App()
